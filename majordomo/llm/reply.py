"""Replies of a chat model."""

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
    """The resources that a reply used, as counted by the backend.

    None means that the backend did not report the value; an unknown value is never 0. Durations are
    reported by Ollama, llama.cpp and Groq.
    """

    input_tokens: int | None = None
    """All input tokens, including those read from or written to a cache."""
    output_tokens: int | None = None
    """All output tokens, including reasoning tokens."""
    cached_tokens: int | None = None
    """The tokens in `input_tokens` that were read from a cache."""
    reasoning_tokens: int | None = None
    """The reasoning tokens in `output_tokens`."""
    cache_write_tokens: int | None = None
    """The tokens in `input_tokens` that were written to a cache."""
    cache_write_1h_tokens: int | None = None
    """The tokens in `cache_write_tokens` that are kept for an hour, at another price."""
    text_input_tokens: int | None = None
    """The text tokens in `input_tokens`."""
    image_input_tokens: int | None = None
    """The image tokens in `input_tokens`."""
    audio_input_tokens: int | None = None
    """The audio tokens in `input_tokens`."""
    text_output_tokens: int | None = None
    """The text tokens in `output_tokens`."""
    image_output_tokens: int | None = None
    """The image tokens in `output_tokens`."""
    audio_output_tokens: int | None = None
    """The audio tokens in `output_tokens`."""
    load_seconds: float | None = None
    """Time to load the model, in seconds."""
    prompt_seconds: float | None = None
    """Time to process the prompt, in seconds."""
    output_seconds: float | None = None
    """Time to generate the reply, in seconds."""

    @classmethod
    def sum(cls, usages: Iterable[Usage]) -> Usage:
        """Return the sum of each field; None if any of the usages does not know it."""
        return sum_known(cls, usages)

    @property
    def input_tokens_per_second(self) -> float | None:
        """Prompt processing speed without cached tokens; None if not known."""
        return _rate(
            None if self.input_tokens is None else self.input_tokens - (self.cached_tokens or 0),
            self.prompt_seconds,
        )

    @property
    def output_tokens_per_second(self) -> float | None:
        """Generation speed; None if not known."""
        return _rate(self.output_tokens, self.output_seconds)


def _rate(tokens: int | None, seconds: float | None) -> float | None:
    return tokens / seconds if tokens is not None and seconds else None


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of a chat model."""

    message: Message
    """The assistant message; append it to the conversation unchanged."""
    finish_reason: FinishReason = "unknown"
    """Why the reply ended."""
    usage: Usage = Usage()
    """The resources that the reply used."""
    model: str = ""
    """Id of the model as reported by the backend, often more precise than the requested id."""
    provider: str = ""
    """Name of the provider."""
    output: Any = None
    """The validated value if the request has `output`. In an unfinished stream: what can be parsed
    so far, not validated."""
    warnings: tuple[CallWarning, ...] = ()
    """What the backend could not do as requested."""
    raw: Any = field(default=None, repr=False, compare=False)
    """The backend's own JSON without image bytes."""
    raw_finish_reason: str | None = None
    """The backend's own finish reason."""
    new_messages: tuple[Message, ...] = ()
    """The messages that the call added to the conversation. Default: only `message`."""
    failed_attempts: tuple[FailedAttempt, ...] = ()
    """The models of a chain that failed or were skipped before this one."""

    def __post_init__(self) -> None:
        if not self.new_messages:
            object.__setattr__(self, "new_messages", (self.message,))

    @property
    def text(self) -> str:
        """All text of the reply; empty if there is none."""
        return self.message.text

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """All images that the call added, including those of tools, in order."""
        return tuple(
            inner
            for message in self.new_messages
            for part in message.parts
            for inner in (part.parts if isinstance(part, ToolResultPart) else (part,))
            if isinstance(inner, ImagePart)
        )

    @property
    def thinking(self) -> str:
        """The model's reasoning; empty if there is none."""
        return "".join(part.text for part in self.message.parts if isinstance(part, ThinkingPart))

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        """The tool calls of the reply, in order."""
        return tuple(part for part in self.message.parts if isinstance(part, ToolCallPart))


def empty_reply(model: str, provider: str) -> Reply:
    """Return the reply of a stream before anything has arrived."""
    return Reply(Message("assistant", (TextPart(""),)), model=model, provider=provider)
