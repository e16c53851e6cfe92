"""Image models: the public methods, checks, and the call to an HTTP backend.

Theory of operation:

`ImageModelBase` writes the four public methods once; `ImageModel` is the base of every model that
makes its images itself, and a subclass adds `_generate` (see `majordomo.models.base`). Chains are
`ImageModelBase`s too, with requests of their own kind. There is one code path: `_generate(request,
call)` makes the images and calls `call.emit`, unless None, with each event. A stream runs the same
coroutine in a `TaskStream`, and `EventOrderFilter` keeps its events in the order that all backends
share: `Queued`, `Loading`, then `Step` and `Preview`, then one `Done`.

`HTTPImageModel._generate` is the outline of a call to a backend:

1. `_adapt_request`: the codec drops or translates fields (with warnings), inputs are converted.
   Nothing has been sent to the backend but free queries, and nothing has been generated.
2. `_run_batches`: one call, or several when the backend makes fewer images per call. Each call
   waits for its own slot, and releases it when its `_generate_batch` ends (`_make_batch`).
3. `_generate_batch`: the conversation with one kind of backend. Subclasses: `ReplyImageModel` (one
   request), `StreamedImageModel` (progress in the reply), `PolledImageModel` (progress on a second
   route), `JobImageModel` and `QueuedImageModel` (submit, poll, fetch). They send the request that
   starts a generation with `_send_job`, which repeats it only when the backend has not accepted it,
   and they cancel on the server what they started when they are cancelled.
4. `_complete_result`: sizes, warnings and generation parameters that only the request knows.

All batches and all steps share one start time and one total limit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar, Unpack, cast

from anyio import create_task_group, move_on_after, to_thread

from majordomo import imagegen
from majordomo.backend_status import Loading, Queued
from majordomo.concurrency import portal
from majordomo.concurrency.task_stream import TaskStream
from majordomo.dialects.image_fields import ImageInputFormat
from majordomo.dialects.request_body import check_extra, refuse_unsupported
from majordomo.dialects.samplers import SamplerCatalog
from majordomo.errors import CallWarning, MajordomoError
from majordomo.imagegen.request import check_request
from majordomo.models.base import ForUser, HTTPModel, ModelBase
from majordomo.models.batching import Batch, MergedProgress, merge_results
from majordomo.models.call_context import Emit
from majordomo.models.client import BackendCall, BackendClient, read_into
from majordomo.observability.observed_call import ObservedCall
from majordomo.observability.observer import Operation
from majordomo.observability.request_settings import request_settings
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest, HTTPStream

R = TypeVar("R", bound=ForUser)
T = TypeVar("T")
SamplerQuery = Callable[[str, imagegen.Request, BackendCall], Awaitable[SamplerCatalog]]
"""Returns the samplers of a model, from a query within the call for a request."""


class ImageCodec(Protocol):
    """The client side of an image dialect."""

    def input_format(self, model: str) -> ImageInputFormat:
        """Return the form in which this model takes input images and masks."""

    def adapt(
        self, model: str, request: imagegen.Request, catalog: SamplerCatalog | None = None
    ) -> tuple[imagegen.Request, list[CallWarning]]:
        """Return the request as this backend can take it, and its warnings.

        There is a warning for everything that is lost. Raises UnsupportedError where the rest would
        be a different image: for input images or a mask that the backend cannot use.
        """

    def max_per_call(self, model: str, request: imagegen.Request) -> int:
        """Return the largest number of images that one call makes."""

    def encode_request(self, model: str, request: imagegen.Request) -> HTTPRequest:
        """Return the HTTP request that starts the generation."""


class ReplyImageCodec(ImageCodec, Protocol):
    """The client side of an image dialect whose reply contains the images."""

    def reply_decoder(self, limits: Limits) -> Any:
        """Return a decoder to feed the body of the reply to."""

    def decode_reply(
        self, reply: Any, request: imagegen.Request, limits: Limits
    ) -> imagegen.Result:
        """Return the result from a decoder that has got the whole body."""


class ImageModelBase(ModelBase[R, imagegen.Result], imagegen.Model):
    """The public methods of all image models, over requests of type R."""

    operation: ClassVar[Operation] = "image"

    @property
    def provider_instance(self) -> imagegen.Provider | None:
        """The provider of this model, if it is known."""
        return cast("imagegen.Provider | None", self._owned_provider)

    @abstractmethod
    def _build_request(
        self,
        prompt: str | imagegen.Request,
        options: Sequence[imagegen.Option],
        overrides: imagegen.Overrides,
    ) -> R:
        """Return the checked request, with all options applied. Raises InvalidRequestError."""

    def _open_source(self, request: R) -> TaskStream[imagegen.ImageEvent, imagegen.Result]:
        """Return the source of a stream: the generation, with its events in the common order."""
        return TaskStream(
            lambda emit: self._run(request, EventOrderFilter(emit)), last_event=imagegen.Done
        )

    def _listener(self, emit: Emit | None, observed: ObservedCall | None) -> Emit | None:
        if observed is None:
            return emit
        report = EventOrderFilter(observed.emit)

        def emit_both(event: imagegen.ImageEvent) -> None:
            if isinstance(event, (Queued, Loading, imagegen.Step)):
                report(event)
            if emit is not None:
                emit(event)

        return emit_both

    async def generate(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.Result:
        """Generate images and return them. See `imagegen.Model.generate`."""
        return await self._run(self._build_request(prompt, options, overrides))

    def stream(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.Stream:
        """Generate images and stream the progress. See `imagegen.Model.stream`."""
        request = self._build_request(prompt, options, overrides)
        return imagegen.Stream(lambda: self._open_source(request))

    def generate_sync(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.Result:
        """Generate images and return them (blocking)."""
        request = self._build_request(prompt, options, overrides)
        return portal.run(lambda: self._run(request))

    def stream_sync(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.SyncStream:
        """Generate images and stream the progress (blocking)."""
        request = self._build_request(prompt, options, overrides)
        return imagegen.SyncStream(lambda: self._open_source(request))


class ImageModel(ImageModelBase[imagegen.Request]):
    """The base of image models that make their images themselves. A subclass adds `_generate`."""

    def _build_request(
        self,
        prompt: str | imagegen.Request,
        options: Sequence[imagegen.Option],
        overrides: imagegen.Overrides,
    ) -> imagegen.Request:
        def build() -> imagegen.Request:
            request = prompt if isinstance(prompt, imagegen.Request) else imagegen.Request(prompt)
            request = request.with_defaults(self._options).apply(*options).override(**overrides)
            check_request(request, self._limits)
            check_extra(request.extra)
            return request

        return self._checked(build)

    def _settings(self, request: imagegen.Request) -> Mapping[str, Any]:
        return request_settings(request)


class EventOrderFilter:
    """Passes on Queued, then Loading, then Step and Preview, and every step once.

    Events that come too late or twice are dropped.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._rank = 0
        self._last: imagegen.ImageEvent | None = None
        self._step = 0

    def __call__(self, event: imagegen.ImageEvent) -> None:
        """Emit the event, unless it is late or a repetition."""
        rank = 0 if isinstance(event, Queued) else 1 if isinstance(event, Loading) else 2
        if rank < self._rank or event == self._last:
            return
        if isinstance(event, imagegen.Step):
            if event.step <= self._step:
                return
            self._step = event.step
        self._rank, self._last = rank, event
        self._emit(event)


class HTTPImageModel(HTTPModel[imagegen.Request, imagegen.Result], ImageModel):
    """An image model of an HTTP backend. A subclass adds `_generate_batch`."""

    def __init__(
        self,
        client: BackendClient,
        codec: ImageCodec,
        id: str,
        options: Sequence[imagegen.Option] = (),
        *,
        timeout: Timeout,
        strict: bool = False,
        sampler_catalog: SamplerQuery | None = None,
    ) -> None:
        super().__init__(client, id, options, timeout=timeout, strict=strict)
        self._image_codec = codec
        self._sampler_catalog = sampler_catalog

    @abstractmethod
    async def _generate_batch(
        self, request: imagegen.Request, call: BackendCall
    ) -> imagegen.Result:
        """Make the images of one call of the backend.

        The caller holds a slot; `n` is at most the codec's limit per call.
        """

    async def _resolve_model(self, call: BackendCall) -> str:
        """Return the backend's name of the model; a subclass may have to query it."""
        return self.id

    async def _generate(self, request: imagegen.Request, call: BackendCall) -> imagegen.Result:
        try:
            own_request = replace(request, extra=self._own_extra(request.extra))
            with move_on_after(call.deadline.remaining()) as scope:
                adapted, warnings = await self._adapt_request(own_request, call)
            if scope.cancelled_caught:
                raise call.deadline.exceeded()
            result = await self._run_batches(adapted, call)
        except MajordomoError as error:
            # The frames of the traceback hold the body, which may quote a key.
            raise self._client.with_context(error, self.id).with_traceback(
                None
            ) from error.__cause__
        return self._complete_result(result, request, adapted, warnings)

    async def _adapt_request(
        self, request: imagegen.Request, call: BackendCall
    ) -> tuple[imagegen.Request, list[CallWarning]]:
        """Return the request as the codec can encode it, with converted inputs, and warnings.

        Nothing has been generated when this raises.
        """
        codec = self._image_codec
        model = await self._resolve_model(call)
        catalog = (
            await self._sampler_catalog(model, request, call)
            if self._sampler_catalog is not None and (request.sampler or request.scheduler)
            else None
        )
        adapted, warnings = codec.adapt(model, request, catalog)
        refuse_unsupported(warnings, self._strict)
        if adapted.images:
            adapted = await _convert_inputs(adapted, codec.input_format(model), self._limits)
        return adapted, warnings

    async def _run_batches(self, request: imagegen.Request, call: BackendCall) -> imagegen.Result:
        """Make all images in as many calls as needed; a failed batch does not cost the others."""
        limit = self._image_codec.max_per_call(self.id, request)
        if request.n <= limit:
            return await self._make_batch(replace(request, n=request.n if limit > 1 else 0), call)
        batches = [
            Batch(first, min(limit, request.n - first)) for first in range(0, request.n, limit)
        ]
        progress = MergedProgress(batches, call.emit) if call.emit is not None else None

        async def run_batch(batch: Batch) -> None:
            seed = None if request.seed is None else request.seed + batch.first
            batch_request = replace(request, n=batch.size if limit > 1 else 0, seed=seed)
            emit_batch = (lambda event: progress(batch, event)) if progress is not None else None
            try:
                batch.result = await self._make_batch(batch_request, call.parallel(emit_batch))
            except Exception as error:
                # Kept here because a task group would raise it inside an ExceptionGroup.
                batch.error = error

        queued = iter(batches)

        # Each worker takes the next batch only when its last one is done. So batches run in order,
        # and other calls get a slot between them.
        async def run_worker() -> None:
            for batch in queued:
                if not any(other.is_permanent_failure for other in batches):
                    await run_batch(batch)

        max_concurrency = self._client.admission.max_concurrency or len(batches)
        async with create_task_group() as group:
            for _ in range(min(len(batches), max_concurrency)):
                group.start_soon(run_worker)
        return merge_results(batches)

    async def _make_batch(self, request: imagegen.Request, call: BackendCall) -> imagegen.Result:
        return await self._run_admitted(
            call,
            lambda: self._generate_batch(request, call),
            lambda result: (result.usage.input_tokens or 0) + (result.usage.output_tokens or 0),
        )

    async def _send_job(
        self,
        http_request: HTTPRequest,
        read: Callable[[HTTPStream], Awaitable[T]],
        call: BackendCall,
    ) -> T:
        """Send the request that starts a generation, and return what `read` makes of the reply.

        Sent again only when the backend has provably not accepted it, or while the model loads.
        """
        return await call.retry(lambda: call.read(http_request, read), image_job=True)

    def _complete_result(
        self,
        result: imagegen.Result,
        request: imagegen.Request,
        adapted: imagegen.Request,
        warnings: Sequence[CallWarning],
    ) -> imagegen.Result:
        """Return the result with what only the request knows: sizes, warnings, parameters."""
        images = result.images[: self._limits.max_images]
        details = tuple(
            replace(
                detail,
                requested_size=request.pixels,
                sent_size=detail.sent_size or adapted.pixels,
                actual_size=(image.width, image.height),
            )
            for detail, image in zip(result.details, images, strict=False)
        )
        all_warnings = [*warnings, *result.warnings]
        if len(images) < len(result.images):
            all_warnings.append(
                CallWarning(
                    "IMAGES_NOT_FETCHED",
                    f"the backend returned {len(result.images)} images; "
                    f"the first {len(images)} were kept",
                    "n",
                )
            )
        if request.n and len(images) != request.n:
            all_warnings.append(
                CallWarning(
                    "COUNT_DIFFERS",
                    f"{request.n} images were requested; the backend returned {len(images)}",
                    "n",
                )
            )
        requested_size = request.pixels or adapted.pixels
        sizes = {(image.width, image.height) for image in images}
        if (
            requested_size is not None
            and sizes != {requested_size}
            and not any(w.field == "size" for w in all_warnings)
        ):
            requested = f"{requested_size[0]}x{requested_size[1]}"
            received = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
            all_warnings.append(
                CallWarning(
                    "SIZE_DIFFERS",
                    f"size {requested} was requested; the backend returned {received}",
                    "size",
                )
            )
        model = result.model or self.id
        images_with_parameters = tuple(
            image.with_parameters(_detail_settings(request, detail, model))
            for image, detail in zip(images, details, strict=True)
        )
        return replace(
            result,
            images=images_with_parameters,
            details=details,
            usage=result.usage.with_image_counts(images_with_parameters),
            provider=self.provider,
            model=model,
            warnings=tuple(dict.fromkeys(all_warnings)),
        )


def _detail_settings(
    request: imagegen.Request, detail: imagegen.ImageDetails, model: str
) -> dict[str, Any]:
    """Return the generation parameters of one image: those requested, with the seed really used."""
    names = ("prompt", "negative_prompt", "steps", "sampler", "scheduler", "cfg_scale", "strength")
    values = {name: getattr(request, name) for name in names}
    width, height = detail.actual_size or (0, 0)
    return values | {"seed": detail.seed, "size": f"{width}x{height}", "model": model}


class ReplyImageModel(HTTPImageModel):
    """An image model of a backend whose reply contains the images, without progress."""

    def __init__(
        self, client: BackendClient, codec: ReplyImageCodec, *args: Any, **settings: Any
    ) -> None:
        super().__init__(client, codec, *args, **settings)
        self._codec = codec

    async def _generate_batch(
        self, request: imagegen.Request, call: BackendCall
    ) -> imagegen.Result:
        async def read(reply: HTTPStream) -> imagegen.Result:
            decoder = await read_into(self._codec.reply_decoder(self._limits), reply)
            return self._codec.decode_reply(decoder, request, self._limits)

        return await self._send_job(self._codec.encode_request(self.id, request), read, call)


async def _convert_inputs(
    request: imagegen.Request, input_format: ImageInputFormat, limits: Limits
) -> imagegen.Request:
    """Return the request with its images in the backend's form.

    Runs in a worker thread, because decoding a large image would block the event loop.
    """
    if not input_format.rgb_png and request.mask is None:
        return request

    def convert() -> imagegen.Request:
        # Imported here so that Pillow is only loaded when an image has to be converted.
        from majordomo.imaging.prepare import mask_for, rgb_png

        images = (
            tuple(rgb_png(image, limits) for image in request.images)
            if input_format.rgb_png
            else request.images
        )
        mask = request.mask
        if mask is not None and input_format.mask is not None:
            mask = mask_for(mask, (images[0].width, images[0].height), input_format.mask, limits)
        return replace(request, images=images, mask=mask)

    return await to_thread.run_sync(convert, abandon_on_cancel=True)
