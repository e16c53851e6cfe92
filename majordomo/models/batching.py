"""Batches: several calls for the images of one request, with merged events and one result.

A backend that makes at most N images per call gets several calls. Each is a `Batch`; the steps of
all batches are added up for the user, and failed batches become warnings of the merged result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from majordomo import imagegen
from majordomo.errors import CallWarning, ContentRefusedError, MajordomoError


@dataclass(slots=True)
class Batch:
    """One of several calls for the images of one request."""

    first: int
    """Index of its first image in the request, from 0."""
    size: int
    """Number of its images."""
    result: imagegen.Result | None = None
    """The result, once the call has succeeded."""
    error: Exception | None = None
    """The error, once the call has failed."""
    done: int = 0
    """Steps that are done."""
    total: int = 0
    """Steps of this call; 0 until they are known."""

    @property
    def is_permanent_failure(self) -> bool:
        """Whether the other batches would fail alike.

        Not for retryable errors, and not for a refusal, which may be due to one image only.
        """
        error = self.error
        return (
            isinstance(error, MajordomoError)
            and not error.retryable
            and not isinstance(error, ContentRefusedError)
        )


class MergedProgress:
    """Merges the events of several batches: adds up steps and renumbers previews."""

    def __init__(
        self, batches: Sequence[Batch], emit: Callable[[imagegen.ImageEvent], None]
    ) -> None:
        self._batches = batches
        self._emit = emit

    def __call__(self, batch: Batch, event: imagegen.ImageEvent) -> None:
        """Emit the event of one batch as an event of the whole request."""
        if isinstance(event, imagegen.Preview):
            event = imagegen.Preview(event.image, event.index + batch.first)
        elif isinstance(event, imagegen.Step):
            batch.done, batch.total = event.step, event.total
            total = sum(other.total or event.total for other in self._batches)
            event = imagegen.Step(sum(other.done for other in self._batches), total)
        self._emit(event)


def merge_results(batches: Sequence[Batch]) -> imagegen.Result:
    """Return one result for all batches. Raises the first error when no batch has a result."""
    for batch in batches:
        if batch.error is not None and not isinstance(batch.error, MajordomoError):
            raise batch.error
    results = [batch.result for batch in batches if batch.result is not None]
    failed = [batch for batch in batches if batch.result is None]
    if not results:
        raise next(batch.error for batch in batches if batch.error is not None)
    warnings = [warning for result in results for warning in result.warnings]
    for batch in failed:
        images = (
            f"image {batch.first + 1}"
            if batch.size == 1
            else f"images {batch.first + 1} to {batch.first + batch.size}"
        )
        reason = (
            "not tried because another call failed permanently"
            if batch.error is None
            else str(batch.error)
        )
        warnings.append(CallWarning("IMAGE_FAILED", f"{images} failed: {reason}", "n"))
    return imagegen.Result(
        tuple(image for result in results for image in result.images),
        tuple(detail for result in results for detail in result.details),
        tuple(warnings),
        imagegen.Usage.sum(result.usage for result in results),
        results[0].model,
        raw=[result.raw for result in results],
    )
