"""Several calls for the images of one request: their events as those of one call, their results as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from majordomo import imagegen
from majordomo.errors import CallWarning, ContentRefusedError, MajordomoError


@dataclass(slots=True)
class Batch:
    """One of several calls for the images of one request: `size` of them, from number `first` on."""

    first: int
    size: int
    result: imagegen.Result | None = None
    error: Exception | None = None
    done: int = 0
    total: int = 0

    @property
    def is_permanent_failure(self) -> bool:
        """Whether the other calls would fail alike: neither bad luck nor this seed's image being refused."""
        error = self.error
        return (
            isinstance(error, MajordomoError)
            and not error.retryable
            and not isinstance(error, ContentRefusedError)
        )


class MergedProgress:
    """The events of several calls as those of one: steps are added up, previews count through."""

    def __init__(self, parts: Sequence[Batch], emit: Callable[[imagegen.ImageEvent], None]) -> None:
        self._parts = parts
        self._emit = emit

    def __call__(self, part: Batch, event: imagegen.ImageEvent) -> None:
        if isinstance(event, imagegen.Preview):
            event = imagegen.Preview(event.image, event.index + part.first)
        elif isinstance(event, imagegen.Step):
            part.done, part.total = event.step, event.total
            total = sum(other.total or event.total for other in self._parts)
            event = imagegen.Step(sum(other.done for other in self._parts), total)
        self._emit(event)


def merge_results(parts: Sequence[Batch]) -> imagegen.Result:
    """One result of several. Raises the first error when no call gave an image."""
    for part in parts:
        if part.error is not None and not isinstance(part.error, MajordomoError):
            raise part.error
    good = [part.result for part in parts if part.result is not None]
    failed = [part for part in parts if part.result is None]
    if not good:
        raise next(part.error for part in parts if part.error is not None)
    warnings = [warning for result in good for warning in result.warnings]
    for part in failed:
        which = (
            f"image {part.first + 1}"
            if part.size == 1
            else f"images {part.first + 1} to {part.first + part.size}"
        )
        reason = (
            "not tried, the others had failed for good" if part.error is None else str(part.error)
        )
        warnings.append(CallWarning("IMAGE_FAILED", f"{which} failed: {reason}", "n"))
    return imagegen.Result(
        tuple(image for result in good for image in result.images),
        tuple(detail for result in good for detail in result.details),
        tuple(warnings),
        imagegen.Usage.sum(result.usage for result in good),
        good[0].model,
        raw=[result.raw for result in good],
    )
