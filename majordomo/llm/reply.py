"""What a model answered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from majordomo.errors import CallWarning, FailedAttempt
from majordomo.llm.messages import Message
from majordomo.llm.parts import ImagePart, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from majordomo.usage import sum_known

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "error", "unknown"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took, as the backend counted it; None where it did not say, never 0 for unknown.

    `input_tokens` includes the cached ones and those written to a cache, `output_tokens` the reasoning ones. Of the written ones,
    `cache_write_1h_tokens` are kept for an hour, at another price. Tokens by modality are parts of these two. The seconds are those of a
    backend that tells them (Ollama, llama.cpp, Groq): loading the model, reading the prompt, writing the answer.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    text_input_tokens: int | None = None
    image_input_tokens: int | None = None
    audio_input_tokens: int | None = None
    text_output_tokens: int | None = None
    image_output_tokens: int | None = None
    audio_output_tokens: int | None = None
    load_seconds: float | None = None
    prompt_seconds: float | None = None
    output_seconds: float | None = None

    @classmethod
    def sum(cls, usages: Iterable[Usage]) -> Usage:
        """Of each field the sum; None when any of them did not say."""
        return sum_known(cls, usages)

    @property
    def input_tokens_per_second(self) -> float | None:
        """How fast the prompt was read, what came from a cache left out; None when it is not known."""
        return _rate(
            None if self.input_tokens is None else self.input_tokens - (self.cached_tokens or 0),
            self.prompt_seconds,
        )

    @property
    def output_tokens_per_second(self) -> float | None:
        """How fast the answer was written; None when it is not known."""
        return _rate(self.output_tokens, self.output_seconds)


def _rate(tokens: int | None, seconds: float | None) -> float | None:
    return tokens / seconds if tokens is not None and seconds else None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `message` goes back into the conversation as it is.

    `model` is what the backend says answered (often more precise than what was asked), `raw` the backend's own JSON with image
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
    failed_attempts: tuple[FailedAttempt, ...] = ()

    def __post_init__(self) -> None:
        if not self.new_messages:
            object.__setattr__(self, "new_messages", (self.message,))

    @property
    def text(self) -> str:
        """All text of the answer; "" when there is none."""
        return self.message.text

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """Every image that this call added, those of tools included, in order."""
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
