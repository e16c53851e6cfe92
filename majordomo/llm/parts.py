"""The parts of a message."""

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
    """Text of a message."""

    text: str
    """The text; up to `Limits.max_prompt_characters` (1,000,000 by default) characters."""


@dataclass(frozen=True, slots=True, repr=False)
class FilePart:
    """A document, such as a PDF."""

    data: bytes
    """Content of the file; up to `Limits.max_image_bytes` (32 MiB by default)."""
    mime: str
    """Media type, for example `"application/pdf"`; with `name` at most 1,000 characters."""
    name: str = ""
    """Name of the file."""

    def __repr__(self) -> str:
        return f"<FilePart {self.mime} {self.name!r}, {len(self.data):,} bytes>"


@dataclass(frozen=True, slots=True)
class ThinkingPart:
    """Reasoning that a model emitted before its reply."""

    text: str
    """The text of the reasoning."""
    provider: str = ""
    """Name of the provider that produced it. It is never sent to another provider."""
    opaque: dict[str, Any] = field(default_factory=dict)
    """Data that the provider needs back unchanged (signatures, encrypted items), as JSON values."""


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A tool call that a model requests."""

    id: str
    """Id of the call; the result refers to it."""
    name: str
    """Name of the tool."""
    arguments_json: str = "{}"
    """The arguments as the model wrote them; not necessarily valid JSON."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The parsed arguments; empty if the model wrote none.

        Raises:
            BadResponseError: The arguments are not a JSON object (code BAD_TOOL_ARGUMENTS), or
                would use too much memory (code TOO_MANY_VALUES).
        """
        if not self.arguments_json.strip():
            return {}
        # Imported here because a program that only generates images does not need it.
        from majordomo.json_budget import text_exceeds_budget

        if text_exceeds_budget(self.arguments_json):
            raise BadResponseError(
                f"the arguments for tool {self.name!r} contain too many values",
                code="TOO_MANY_VALUES",
            )
        try:
            parsed = json.loads(self.arguments_json)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise BadResponseError(
                f"the arguments for tool {self.name!r} must be a JSON object",
                code="BAD_TOOL_ARGUMENTS",
            )
        return parsed


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """The result of a tool call."""

    call_id: str
    """Id of the call."""
    name: str
    """Name of the tool."""
    parts: tuple[TextPart | ImagePart | FilePart, ...] = ()
    """Content of the result: text, images and files."""
    is_error: bool = False
    """Whether the tool failed."""


Part = TextPart | ImagePart | FilePart | ThinkingPart | ToolCallPart | ToolResultPart
_PARTS = (TextPart, ImagePart, FilePart, ThinkingPart, ToolCallPart, ToolResultPart)


def as_part(value: object) -> Part:
    """Return `value` as a part; a str becomes a TextPart.

    Raises:
        InvalidRequestError: Field `messages`: the value is neither a str nor a part.
    """
    if isinstance(value, str):
        return TextPart(value)
    if isinstance(value, _PARTS):
        return value
    raise InvalidRequestError(
        f"the parts of a message must be str or parts; got {type(value).__name__}",
        field="messages",
    )
