"""What a chat stream tells, in order: Loading or Queued first if at all, `Done` last and exactly once."""

from __future__ import annotations

from dataclasses import dataclass

from majordomo.backend_status import Loading, Queued
from majordomo.llm.parts import ImagePart, ToolCallPart, ToolResultPart
from majordomo.llm.reply import Reply


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """The next piece of the model's thoughts."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model begins a tool call; `index` counts the calls of this reply from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A further piece of the arguments' JSON text."""

    index: int
    arguments_json: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call is whole."""

    index: int
    call: ToolCallPart


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """A tool has answered; only in the stream of a tool loop, between two answers of the model."""

    call: ToolCallPart
    result: ToolResultPart


@dataclass(frozen=True, slots=True)
class ImageReady:
    """An image of the answer, or of a tool, is whole."""

    image: ImagePart


@dataclass(frozen=True, slots=True)
class Done:
    """The end; `reply` is the whole answer."""

    reply: Reply


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
