"""Events of a chat stream.

`Loading` and `Queued` come first, if at all; `Done` is last and is emitted exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass

from majordomo.backend_status import Loading, Queued
from majordomo.llm.parts import ImagePart, ToolCallPart, ToolResultPart
from majordomo.llm.reply import Reply

__all__ = [
    "ChatEvent",
    "Done",
    "ImageReady",
    "Loading",
    "Queued",
    "TextDelta",
    "ThinkingDelta",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallStarted",
    "ToolReturned",
]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next part of the reply's text."""

    text: str
    """The new text, to be appended."""


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """The next part of the model's reasoning."""

    text: str
    """The new text, to be appended."""


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model has started to write a tool call."""

    index: int
    """Index of the call within this reply, counted from 0."""
    id: str
    """Id of the call."""
    name: str
    """Name of the tool."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """The next part of a tool call's arguments."""

    index: int
    """Index of the call within this reply, counted from 0."""
    arguments_json: str
    """The new JSON text, to be appended."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call is complete."""

    index: int
    """Index of the call within this reply, counted from 0."""
    call: ToolCallPart
    """The complete call."""


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """A tool has returned; emitted only by a tool loop, between two replies of the model."""

    call: ToolCallPart
    """The call."""
    result: ToolResultPart
    """The result of the tool."""


@dataclass(frozen=True, slots=True)
class ImageReady:
    """An image of the reply or of a tool result is complete."""

    image: ImagePart
    """The image."""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of the stream; always the last event."""

    reply: Reply
    """The complete reply."""


ChatEvent = (
    TextDelta
    | ThinkingDelta
    | ToolCallStarted
    | ToolCallDelta
    | ToolCall
    | ToolReturned
    | ImageReady
    | Loading
    | Queued
    | Done
)
