"""The pieces of a message."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from majordomo.errors import BadResponseError, InvalidRequestError
from majordomo.media.image_part import ImagePart

__all__ = [
    "FilePart",
    "ImagePart",
    "Part",
    "TextPart",
    "ThinkingPart",
    "ToolCallPart",
    "ToolResultPart",
]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text."""

    text: str


@dataclass(frozen=True, slots=True, repr=False)
class FilePart:
    """A document, such as a PDF, held as its bytes."""

    data: bytes
    mime: str
    name: str = ""

    def __repr__(self) -> str:
        return f"<FilePart {self.mime} {self.name!r}, {len(self.data):,} bytes>"


@dataclass(frozen=True, slots=True)
class ThinkingPart:
    """What a model thought aloud. `provider` says whose it is: it is never shown to another one.

    `opaque` holds what that provider wants back unchanged (signatures, encrypted items), as plain JSON values.
    """

    text: str
    provider: str = ""
    opaque: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A model's wish to call a tool. `arguments_json` is the text as the model wrote it, which may be wrong."""

    id: str
    name: str
    arguments_json: str = "{}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The parsed arguments; {} when the model wrote none. Raises BadResponseError when they are no JSON object, or one that would fill
        the memory."""
        if not self.arguments_json.strip():
            return {}
        from majordomo.json_budget import is_heavy_text  # not loaded for images alone

        if is_heavy_text(self.arguments_json):
            raise BadResponseError(
                f"the arguments for tool {self.name!r} hold more values than any have reason to",
                code="TOO_MANY_VALUES",
            )
        try:
            parsed = json.loads(self.arguments_json)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise BadResponseError(
                f"the arguments for tool {self.name!r} are no JSON object",
                code="BAD_TOOL_ARGUMENTS",
            )
        return parsed


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """What a tool answered: text, and images where it draws."""

    call_id: str
    name: str
    parts: tuple[TextPart | ImagePart | FilePart, ...] = ()
    is_error: bool = False


Part = TextPart | ImagePart | FilePart | ThinkingPart | ToolCallPart | ToolResultPart
_PARTS = (TextPart, ImagePart, FilePart, ThinkingPart, ToolCallPart, ToolResultPart)


def as_part(value: object) -> Part:
    """A str becomes a TextPart; anything that is no part is an InvalidRequestError (field `messages`)."""
    if isinstance(value, str):
        return TextPart(value)
    if isinstance(value, _PARTS):
        return value
    raise InvalidRequestError(
        f"a message holds text and parts, not {type(value).__name__}", field="messages"
    )
