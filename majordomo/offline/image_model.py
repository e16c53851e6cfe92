"""The image model of the offline provider: runs the renderer step by step in a worker thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from majordomo import imagegen
from majordomo.dialects.image_fields import drop_other_fields, resolve_size
from majordomo.dialects.request_body import UNSUPPORTED, own_extra, refuse_unsupported
from majordomo.errors import CallWarning, MajordomoError
from majordomo.imagegen.geometry import Geometry
from majordomo.media.image_containers import png_text
from majordomo.models.call_context import CallContext
from majordomo.models.image_model import ImageModel
from majordomo.offline.renderer.renderer import DEFAULT_SIZE, DEFAULT_STEPS, Renderer
from majordomo.providers.base import provider_names
from majordomo.queueing.resource_group import ModelLease

if TYPE_CHECKING:
    from majordomo.offline.provider import Offline

GEOMETRY = Geometry(pixels=512 * 512)
_FIELDS = (
    *("steps", "cfg_scale", "negative_prompt", "sampler", "seed", "scheduler", "strength"),
    *("output_format", "quality", "background", "previews"),
)


class OfflineImageModel(ImageModel):
    """The renderer as an image model. Create it with `Offline.image_model`."""

    def __init__(self, provider: Offline, id: str, options: Sequence[imagegen.Option]) -> None:
        super().__init__(
            provider.name, id, options, limits=provider._limits, observers=provider._observers
        )
        self._offline = provider
        self._timeout = provider._timeout

    @property
    def provider_instance(self) -> Offline:
        """The provider that created this model."""
        return self._offline

    async def _generate(self, request: imagegen.Request, call: CallContext) -> imagegen.Result:
        """Draw n images one after the other, image i from seed + i, as other backends do."""
        offline = self._offline
        try:
            adapted, warnings = _adapt_request(request, self.id, self.provider)
            refuse_unsupported(warnings, offline._strict)
            job = _ImageJob(adapted)
            lease = ModelLease(offline.name, self.id)
            async with offline.admission.admitted(
                call.deadline, call.on_position, user_id=call.user_id, lease=lease
            ):
                while not job.finished:
                    for event in await offline.run_in_thread(job.step, call.deadline):
                        if call.emit is not None:
                            call.emit(event)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return job.result(request, warnings, self.id, self.provider)


def _adapt_request(
    request: imagegen.Request, model: str, provider: str
) -> tuple[imagegen.Request, list[CallWarning]]:
    """Resolve the size, and return a warning for each field that has no effect."""
    request, warnings = drop_other_fields(request, _FIELDS, "the renderer has no such setting")
    if own_extra(request.extra, provider, provider_names):
        warnings.append(
            CallWarning(
                UNSUPPORTED, "extra has no effect: the renderer has no other settings", "extra"
            )
        )
    if request.background == "transparent" and request.output_format == "jpeg":
        warnings.append(
            CallWarning(
                UNSUPPORTED, "background has no effect: a JPEG cannot be transparent", "background"
            )
        )
    request, size_warnings = resolve_size(request, GEOMETRY, exactly=False)
    return request, warnings + size_warnings


class _ImageJob:
    """The images of one request. `step` does one step of the current image, in a worker thread."""

    def __init__(self, request: imagegen.Request) -> None:
        self._request = request
        self._seed = request.seed if request.seed is not None else 0
        self._count = max(request.n, 1)
        first_input = request.images[0] if request.images else None
        self._size = request.pixels or (
            (first_input.width, first_input.height) if first_input else DEFAULT_SIZE
        )
        self._steps = request.steps or DEFAULT_STEPS
        self._renderer: Renderer | None = None
        self._steps_done = 0
        self._images: list[imagegen.Image] = []

    @property
    def finished(self) -> bool:
        return len(self._images) == self._count

    def step(self) -> list[imagegen.ImageEvent]:
        """Do the next step and return its events."""
        index = len(self._images)
        if self._renderer is None:
            self._renderer = Renderer(
                self._request, seed=self._seed + index, size=self._size, steps=self._steps
            )
        step = self._renderer.step()
        self._steps_done += 1
        events: list[imagegen.ImageEvent] = [
            imagegen.Step(self._steps_done, self._steps * self._count)
        ]
        if step < self._steps and _has_preview(step, self._steps, self._request.previews):
            events.append(imagegen.Preview(self._renderer.preview(), index))
        if step >= self._steps:
            if self._request.previews and self._steps == 1:
                events.append(imagegen.Preview(self._renderer.preview(), index))
            self._images.append(self._renderer.finish())
            self._renderer = None
        return events

    def result(
        self, request: imagegen.Request, warnings: Sequence[CallWarning], model: str, provider: str
    ) -> imagegen.Result:
        """Return the result for `request`, the request before its size was resolved."""
        details = [
            imagegen.ImageDetails(
                seed=self._seed + index,
                requested_size=request.pixels,
                sent_size=self._size,
                actual_size=(image.width, image.height),
                settings=dict(png_text(image.data)),
            )
            for index, image in enumerate(self._images)
        ]
        raw = {
            "engine": "majordomo offline renderer",
            "neural_network": False,
            "note": "drawn by rules; no neural network drew this",
        }
        usage = imagegen.Usage().with_image_counts(self._images)
        return imagegen.Result(
            tuple(self._images),
            tuple(details),
            tuple(warnings),
            usage,
            model=model,
            provider=provider,
            raw=raw,
        )


def _has_preview(step: int, steps: int, previews: int) -> bool:
    """Return whether a preview follows this step: they are spread evenly before the last step."""
    count = min(previews, steps - 1)
    return count > 0 and step * (count + 1) // steps > (step - 1) * (count + 1) // steps
