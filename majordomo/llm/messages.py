"""Messages, functions that create them, and the versioned JSON format for conversations."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from majordomo.errors import InvalidRequestError
from majordomo.llm.parts import (
    FilePart,
    ImagePart,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    as_part,
)
from majordomo.validation import as_tuple

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)
VERSION = 1


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation.

    Raises:
        InvalidRequestError: Field `messages`: an unknown role, or something that is not a part.
    """

    role: Role
    """`"system"`, `"user"`, `"assistant"` or `"tool"`."""
    parts: tuple[Part, ...]
    """The content. Any iterable is accepted, and a str becomes a TextPart."""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidRequestError(
                f"role must be one of {', '.join(ROLES)}; got {repr(self.role)[:80]}",
                field="messages",
            )
        values: Iterable[object] = [self.parts] if isinstance(self.parts, str) else self.parts
        object.__setattr__(self, "parts", tuple([as_part(value) for value in values]))

    @property
    def text(self) -> str:
        """The text parts, joined without a separator."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The image parts, in order."""
        return tuple(part for part in self.parts if isinstance(part, ImagePart))


def system(*parts: str | Part) -> Message:
    """Return a system message: instructions that precede the conversation.

    Args:
        *parts: Text and other parts.
    """
    return Message("system", tuple(as_part(part) for part in parts))


def user(*parts: str | Part) -> Message:
    """Return a user message.

    Args:
        *parts: Text and other parts.

    Example:
        ```python
        user("What mood is this?", image)
        ```
    """
    return Message("user", tuple(as_part(part) for part in parts))


def user_parts(*parts: str | Part) -> Message:
    """Return a user message: an alias of `user` for code that already has parts.

    Args:
        *parts: Text and other parts.
    """
    return user(*parts)


def assistant(*parts: str | Part) -> Message:
    """Return an assistant message; it may contain images.

    Args:
        *parts: Text and other parts.
    """
    return Message("assistant", tuple(as_part(part) for part in parts))


def tool_result(
    call: ToolCallPart, *parts: str | TextPart | ImagePart | FilePart, is_error: bool = False
) -> Message:
    """Return a message with the result of a tool call.

    Args:
        call: The call.
        *parts: Text, images and files.
        is_error: Whether the tool failed.

    Raises:
        InvalidRequestError: Field `messages`: another kind of part.
    """
    content = tuple(as_part(part) for part in parts)
    for part in content:
        if not isinstance(part, (TextPart, ImagePart, FilePart)):
            raise InvalidRequestError(
                f"a tool result may contain text, images and files; got {type(part).__name__}",
                field="messages",
            )
    return Message("tool", (ToolResultPart(call.id, call.name, content, is_error),))  # type: ignore[arg-type]  # the loop narrowed each element


def as_messages(value: str | Message | Sequence[Message]) -> tuple[Message, ...]:
    """Return `value` as messages; a str becomes a user message.

    Raises:
        InvalidRequestError: Field `messages`: there are no messages, or one is not a Message.
    """
    if isinstance(value, str):
        return (user(value),)
    if isinstance(value, Message):
        return (value,)
    messages = as_tuple(value, "messages")
    if not messages:
        raise InvalidRequestError("messages must not be empty", field="messages")
    for message in messages:
        if not isinstance(message, Message):
            raise InvalidRequestError(
                f"messages must contain Message values; got {type(message).__name__}",
                field="messages",
            )
    return messages


def dump_messages(messages: Sequence[Message]) -> str:
    """Return a conversation as JSON text.

    Images and files are included as base64. `load_messages` restores equal messages.

    Args:
        messages: The conversation.
    """
    document = {
        "majordomo": "messages",
        "version": VERSION,
        "messages": [dump_message(message) for message in messages],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def load_messages(text: str) -> list[Message]:
    """Restore a conversation from the text that `dump_messages` returned.

    Args:
        text: The JSON text.

    Raises:
        InvalidRequestError: Field `text`: not a saved conversation, or one of another version.
    """
    try:
        document = json.loads(text)
        if document["majordomo"] != "messages":
            raise KeyError("majordomo")
        if document["version"] != VERSION:
            raise InvalidRequestError(
                f"the conversation has version {document['version']!r};"
                f" this library supports version {VERSION}",
                field="text",
            )
        return [load_message(message) for message in document["messages"]]
    except InvalidRequestError:
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        binascii.Error,
    ) as error:
        raise InvalidRequestError(
            f"text must be a saved conversation: {type(error).__name__}", field="text"
        ) from None


def dump_message(message: Message) -> dict[str, Any]:
    """Return a message as JSON values."""
    return {"role": message.role, "parts": [_dump_part(part) for part in message.parts]}


def load_message(saved: dict[str, Any]) -> Message:
    """Restore a message. Raises KeyError, TypeError, ValueError or InvalidRequestError."""
    return Message(saved["role"], tuple(_load_part(part) for part in saved["parts"]))


def _dump_part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text}
        case ImagePart():
            return {"type": "image", "mime": part.mime, "data": part.to_base64()}
        case FilePart():
            return {
                "type": "file",
                "mime": part.mime,
                "name": part.name,
                "data": base64.b64encode(part.data).decode("ascii"),
            }
        case ThinkingPart():
            return {
                "type": "thinking",
                "text": part.text,
                "provider": part.provider,
                "opaque": part.opaque,
            }
        case ToolCallPart():
            return {
                "type": "tool_call",
                "id": part.id,
                "name": part.name,
                "arguments": part.arguments_json,
            }
        case ToolResultPart():
            content = [_dump_part(inner) for inner in part.parts]
            return {
                "type": "tool_result",
                "call_id": part.call_id,
                "name": part.name,
                "parts": content,
                "is_error": part.is_error,
            }


def _load_part(saved: dict[str, Any]) -> Part:
    match saved["type"]:
        case "text":
            return TextPart(_text(saved["text"]))
        case "image":
            return ImagePart.from_base64(saved["data"])
        case "file":
            return FilePart(
                base64.b64decode(saved["data"], validate=True),
                _text(saved["mime"]),
                _text(saved["name"]),
            )
        case "thinking":
            return ThinkingPart(
                _text(saved["text"]), _text(saved["provider"]), dict(saved["opaque"])
            )
        case "tool_call":
            return ToolCallPart(_text(saved["id"]), _text(saved["name"]), _text(saved["arguments"]))
        case "tool_result":
            content = tuple(_load_part(inner) for inner in saved["parts"])
            return ToolResultPart(
                _text(saved["call_id"]),
                _text(saved["name"]),
                content,  # type: ignore[arg-type]  # only these parts were saved
                bool(saved["is_error"]),
            )
        case unknown:
            raise ValueError(f"unknown part {unknown!r}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text; got {type(value).__name__}")
    return value
