"""What a call took, as far as a price may ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from majordomo import imagegen, llm
from majordomo.observability import Call, CallResult

PricedOutput = llm.Reply | imagegen.Result | llm.Embeddings | CallResult


@dataclass(frozen=True, slots=True)
class Billable:
    """None is unknown, as in usages.

    `models` are the names by which it may be priced, the surest first. `address` is None when nobody said where the backend is, "" when
    it is in this process. `quality` is None when it is not known what was asked for. `writes`: whether tokens that come out are paid for.
    """

    provider: str
    models: tuple[str, ...]
    address: str | None
    quality: str | None
    began: float | None
    writes: bool
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None
    cache_write_1h_tokens: int | None
    image_input_tokens: int | None
    audio_input_tokens: int | None
    image_output_tokens: int | None
    audio_output_tokens: int | None
    sizes: tuple[tuple[int, int], ...]
    seconds: float | None

    @property
    def pixels(self) -> int:
        return sum(width * height for width, height in self.sizes)


def billable_from(answer: PricedOutput, call: Call | None) -> Billable:
    """`call` is what an observer was told of it, when that is known."""
    usage: Any = answer.usage
    provider = call.provider if call is not None else getattr(answer, "provider", "")
    models = (answer.model, call.model if call is not None else "")
    drawn = isinstance(usage, imagegen.Usage)
    embedded = call.operation == "embed" if call is not None else isinstance(answer, llm.Embeddings)
    return Billable(
        provider,
        tuple(dict.fromkeys(model for model in models if model)),
        call.address if call is not None else None,
        str(call.settings.get("quality", "")) if call is not None else None,
        call.started_at if call is not None else None,
        writes=not embedded,
        sizes=_sizes(answer),
        seconds=usage.seconds if drawn else _worked(usage),
        **{name: getattr(usage, name, None) for name in _COUNTS},
    )


_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "image_input_tokens",
    "audio_input_tokens",
    "image_output_tokens",
    "audio_output_tokens",
)


def _sizes(answer: PricedOutput) -> tuple[tuple[int, int], ...]:
    if isinstance(answer, CallResult):
        return answer.sizes
    if isinstance(answer, llm.Embeddings):
        return ()
    if isinstance(answer, imagegen.Result):
        images = answer.images
    else:  # what tools drew is not the model's
        spoken = (message.parts for message in answer.new_messages if message.role == "assistant")
        images = tuple(
            part for parts in spoken for part in parts if isinstance(part, llm.ImagePart)
        )
    return tuple((image.width, image.height) for image in images)


def _worked(usage: llm.Usage) -> float | None:
    """Seconds of the backend's work on a chat, loading left out: it serves whoever comes next."""
    if usage.prompt_seconds is None or usage.output_seconds is None:
        return None
    return usage.prompt_seconds + usage.output_seconds
