"""What a model answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from majordomo.errors import CallWarning, Tried
from majordomo.llm.messages import Message
from majordomo.llm.parts import ImagePart, TextPart, ThinkingPart, ToolCallPart, ToolResultPart

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error", "unknown"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the backend counted them; None where it did not say, never 0 for unknown.

    `input_tokens` includes the cached ones, `output_tokens` the reasoning ones.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `message` goes back into the conversation as it is.

    `model` is what the backend says answered (often more precise than what was asked), `raw` the backend's own JSON with picture
    bytes elided, `output` the validated value when `output=` was asked for (of an unfinished stream: what can be read so far, not
    validated), `raw_finish_reason` the backend's own word. `tried` says which members of a chain were passed over before this one answered.
    """

    message: Message
    finish_reason: FinishReason = "unknown"
    usage: Usage = Usage()
    model: str = ""
    provider: str = ""
    output: Any = None
    warnings: tuple[CallWarning, ...] = ()
    raw: Any = field(default=None, repr=False, compare=False)
    raw_finish_reason: str | None = None
    new_messages: tuple[Message, ...] = ()
    tried: tuple[Tried, ...] = ()

    def __post_init__(self) -> None:
        if not self.new_messages:
            object.__setattr__(self, "new_messages", (self.message,))

    @property
    def text(self) -> str:
        """All text of the answer; "" when there is none."""
        return self.message.text

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """Every picture that this call added, those of tools included, in order."""
        return tuple(
            piece
            for message in self.new_messages
            for part in message.parts
            for piece in (part.parts if isinstance(part, ToolResultPart) else (part,))
            if isinstance(piece, ImagePart)
        )

    @property
    def thinking(self) -> str:
        """What the model thought aloud; "" when it did not."""
        return "".join(part.text for part in self.message.parts if isinstance(part, ThinkingPart))

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        return tuple(part for part in self.message.parts if isinstance(part, ToolCallPart))


def empty_reply(model: str, provider: str) -> Reply:
    """What a stream's reply is before anything has arrived."""
    return Reply(Message("assistant", (TextPart(""),)), model=model, provider=provider)
