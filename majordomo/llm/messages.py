"""Messages, their short constructors, and the versioned JSON a conversation is kept in."""

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
    """One turn. `parts` may be given as any sequence; a str in it becomes a TextPart."""

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidRequestError(f"a role is one of {', '.join(ROLES)}", field="messages")
        given: Iterable[object] = [self.parts] if isinstance(self.parts, str) else self.parts
        object.__setattr__(self, "parts", tuple([as_part(part) for part in given]))

    @property
    def text(self) -> str:
        """The text parts, joined without anything between them."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        return tuple(part for part in self.parts if isinstance(part, ImagePart))


def system(*parts: str | Part) -> Message:
    """What the model is told before anybody speaks."""
    return Message("system", tuple(as_part(part) for part in parts))


def user(*parts: str | Part) -> Message:
    """A user's turn: `user("What mood is this?", image)`."""
    return Message("user", tuple(as_part(part) for part in parts))


def user_parts(*parts: str | Part) -> Message:
    """The same as `user`, for code that has parts."""
    return user(*parts)


def assistant(*parts: str | Part) -> Message:
    """A turn of the model; it may have images."""
    return Message("assistant", tuple(as_part(part) for part in parts))


def tool_result(
    call: ToolCallPart, *parts: str | TextPart | ImagePart | FilePart, is_error: bool = False
) -> Message:
    """The answer to one tool call; text and images."""
    content = tuple(as_part(part) for part in parts)
    for part in content:
        if not isinstance(part, (TextPart, ImagePart, FilePart)):
            raise InvalidRequestError(
                f"a tool answers with text, images and files, not {type(part).__name__}",
                field="messages",
            )
    return Message("tool", (ToolResultPart(call.id, call.name, content, is_error),))  # type: ignore[arg-type]  # the loop narrowed each element


def as_messages(given: str | Message | Sequence[Message]) -> tuple[Message, ...]:
    """One str is a user's turn. Raises InvalidRequestError (field `messages`) for an empty list or anything else in it."""
    if isinstance(given, str):
        return (user(given),)
    if isinstance(given, Message):
        return (given,)
    messages = as_tuple(given, "messages")
    if not messages:
        raise InvalidRequestError("messages is empty", field="messages")
    for message in messages:
        if not isinstance(message, Message):
            raise InvalidRequestError(
                f"messages holds Message values, not {type(message).__name__}", field="messages"
            )
    return messages


def dump_messages(messages: Sequence[Message]) -> str:
    """A conversation as JSON text, images included as base64; `load_messages` gives the same values back."""
    document = {
        "majordomo": "messages",
        "version": VERSION,
        "messages": [_dump_message(message) for message in messages],
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def load_messages(text: str) -> list[Message]:
    """The conversation that `dump_messages` wrote. Raises InvalidRequestError (field `text`) for anything else."""
    try:
        document = json.loads(text)
        if document["majordomo"] != "messages":
            raise KeyError("majordomo")
        if document["version"] != VERSION:
            raise InvalidRequestError(
                f"this conversation has version {document['version']!r}; this library reads {VERSION}",
                field="text",
            )
        return [_load_message(message) for message in document["messages"]]
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
            f"this is no saved conversation: {type(error).__name__}", field="text"
        ) from None


def _dump_message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "parts": [_dump_part(part) for part in message.parts]}


def _load_message(saved: dict[str, Any]) -> Message:
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
            content = [_dump_part(piece) for piece in part.parts]
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
            content = tuple(_load_part(piece) for piece in saved["parts"])
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
        raise TypeError("text expected")
    return value
