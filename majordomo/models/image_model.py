"""Image models: options, checks, sync and async API, and the call to an HTTP backend.

Theory of operation:

`ImageModel` is everything that does not depend on how images are made; a subclass adds `_generate`.
There is one code path: `_generate(request, emit)` makes the images and calls `emit` with each
event, or gets None when the result alone is wanted. A stream runs the same coroutine in a
`TaskStream` (`ImageTaskSource`), and `EventOrderFilter` keeps its events in the order that all
backends share: `Queued`, `Loading`, then `Step` and `Preview`, then one `Done`.

`HTTPImageModel._generate` is the outline of a call to a backend:

1. `_adapt_request`: the codec drops or translates fields (with warnings), inputs are converted.
   Nothing has been sent to the backend but free queries, and nothing has been generated.
2. `_run_batches`: one call, or several when the backend makes fewer images per call. Each call
   waits for its own slot, and releases it when its `_run` ends (`_run_admitted`).
3. `_run`: the conversation with one kind of backend. Subclasses: `ReplyImageModel` (one request),
   `StreamedImageModel` (progress in the reply), `PolledImageModel` (progress on a second route),
   `JobImageModel` and `QueuedImageModel` (submit, poll, fetch). They send the request that starts a
   generation with `_send_job`, which repeats it only when the backend has not accepted it, and they
   cancel on the server what they started when they are cancelled.
4. `_complete_result`: sizes, warnings and generation parameters that only the request knows.

All batches and all steps share one start time and one total limit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol, TypeVar, Unpack, cast

from anyio import create_task_group, move_on_after, sleep, to_thread

from majordomo import imagegen
from majordomo.backend_status import Loading, Queued
from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream
from majordomo.concurrency.task_stream import TaskStream
from majordomo.dialects.image_fields import ImageInputFormat
from majordomo.dialects.request_body import check_extra, own_extra, refuse_unsupported
from majordomo.dialects.samplers import SamplerCatalog
from majordomo.errors import CallWarning, MajordomoError
from majordomo.imagegen.request import check_request
from majordomo.models.batching import Batch, MergedProgress, merge_results
from majordomo.models.client import BackendClient
from majordomo.observability import Observer
from majordomo.observability.observed_call import ObservedCall, current_emit
from majordomo.observability.request_settings import request_settings
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream

T = TypeVar("T")
Emit = Callable[[imagegen.ImageEvent], None]


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


class ImageModel(imagegen.Model):
    """The base of all image models: options, checks, observers, and the sync and async API.

    A subclass implements `_generate`.
    """

    def __init__(
        self,
        provider: str,
        id: str,
        options: Sequence[imagegen.Option] = (),
        *,
        limits: Limits,
        owned_provider: Any = None,
        observers: Sequence[Observer] = (),
        address: str = "",
    ) -> None:
        self.provider = provider
        self.id = id
        self._observers = observers
        self._address = address
        self._options = tuple(options)
        self._limits = limits
        self._owned_provider = owned_provider

    @property
    def provider_instance(self) -> imagegen.Provider | None:
        """The provider of this model, if it is known."""
        return cast("imagegen.Provider | None", self._owned_provider)

    @abstractmethod
    async def _generate(self, request: imagegen.Request, emit: Emit | None) -> imagegen.Result:
        """Return the result of a checked request; call `emit`, unless None, with each event."""

    def _build_request(
        self,
        prompt: str | imagegen.Request,
        options: Sequence[imagegen.Option],
        overrides: imagegen.Overrides,
    ) -> imagegen.Request:
        """Return the request with all options applied. Raises InvalidRequestError."""
        try:
            request = prompt if isinstance(prompt, imagegen.Request) else imagegen.Request(prompt)
            request = request.with_defaults(self._options).apply(*options).override(**overrides)
            check_request(request, self._limits)
            check_extra(request.extra)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return request

    def _stream_source(self, request: imagegen.Request) -> ImageTaskSource:
        return ImageTaskSource(lambda emit: self._generate_observed(request, emit))

    async def _generate_observed(
        self, request: imagegen.Request, emit: Emit | None
    ) -> imagegen.Result:
        """Generate, and report the call and its events to the observers."""
        if not self._observers:
            return await self._generate(request, emit)
        context = {
            "user_id": request.user_id,
            "streamed": emit is not None,
            "address": self._address,
            "settings": request_settings(request),
        }
        observed = ObservedCall(
            self._observers, "image", self.provider, self.id, request, **context
        )
        emit_observed = observed.on_event = EventOrderFilter(
            lambda event: (
                observed.emit(event)
                if isinstance(event, (Queued, Loading, imagegen.Step))
                else None
            )
        )

        def emit_both(event: imagegen.ImageEvent) -> None:
            emit_observed(event)
            if emit is not None:
                emit(event)

        observed.start()
        return await observed.run(
            lambda: self._generate(request, None if emit is None else emit_both)
        )

    async def generate(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.Result:
        """Generate images and return them. See `imagegen.Model.generate`."""
        return await self._generate_observed(self._build_request(prompt, options, overrides), None)

    def stream(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> AbstractAsyncContextManager[imagegen.Stream]:
        """Generate images and stream the progress. See `imagegen.Model.stream`."""
        request = self._build_request(prompt, options, overrides)
        return cast(
            "AbstractAsyncContextManager[imagegen.Stream]",
            EventStream(lambda: self._stream_source(request)),
        )

    def generate_sync(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.Result:
        """Generate images and return them (blocking)."""
        request = self._build_request(prompt, options, overrides)
        return portal.run(lambda: self._generate_observed(request, None))

    def stream_sync(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> AbstractContextManager[imagegen.SyncStream]:
        """Generate images and stream the progress (blocking)."""
        request = self._build_request(prompt, options, overrides)
        return cast(
            "AbstractContextManager[imagegen.SyncStream]",
            SyncEventStream(lambda: self._stream_source(request)),
        )

    async def aclose(self) -> None:
        """Close the provider if this model was created from a model string; else do nothing."""
        if self._owned_provider is not None:
            await self._owned_provider.aclose()

    def __repr__(self) -> str:
        return f"<image model {self.provider}/{self.id}>"


class ImageTaskSource:
    """A generation as an event source, with its events in the common order."""

    def __init__(self, generate: Callable[[Emit], Awaitable[imagegen.Result]]) -> None:
        self._task_stream: TaskStream[imagegen.ImageEvent, imagegen.Result] = TaskStream(
            lambda emit: generate(EventOrderFilter(emit))
        )
        self._ended = False
        self.result: imagegen.Result | None = None

    async def next_events(self) -> Sequence[imagegen.ImageEvent]:
        """Return the next events; nothing after `Done`. Raises what the generation raised."""
        if self._ended:
            return ()
        if events := await self._task_stream.next_events():
            return events
        self._ended = True
        self.result = self._task_stream.result
        return [imagegen.Done(self.result)] if self.result is not None else ()

    async def aclose(self) -> None:
        """Cancel the generation if it still runs, and wait until it has ended."""
        await self._task_stream.aclose()


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


class HTTPImageModel(ImageModel):
    """An image model of an HTTP backend. A subclass adds `_run`."""

    def __init__(
        self,
        client: BackendClient,
        codec: ImageCodec,
        id: str,
        options: Sequence[imagegen.Option] = (),
        *,
        timeout: Timeout,
        strict: bool = False,
        sampler_catalog: Callable[[str, imagegen.Request], Awaitable[SamplerCatalog]] | None = None,
        owned_provider: Any = None,
    ) -> None:
        super().__init__(
            client.provider,
            id,
            options,
            limits=client.limits,
            owned_provider=owned_provider,
            observers=client.observers,
            address=client.address,
        )
        self._client = client
        self._image_codec = codec
        self._timeout = timeout
        self._strict = strict
        self._sampler_catalog = sampler_catalog

    @property
    def provider_instance(self) -> imagegen.Provider | None:
        """The provider of this model."""
        return cast("imagegen.Provider | None", self._client.provider_instance)

    @abstractmethod
    async def _run(
        self, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        """Make the images of one call.

        The caller holds a slot; `n` is at most the codec's limit per call.
        """

    async def _resolve_model(self) -> str:
        """Return the backend's name of the model; a subclass may have to query it."""
        return self.id

    async def _generate(self, request: imagegen.Request, emit: Emit | None) -> imagegen.Result:
        first_deadline = self._client.deadline(self._timeout, self.id)
        try:
            own_request = replace(
                request, extra=own_extra(request.extra, self.provider, self._client.provider_names)
            )
            with move_on_after(first_deadline.remaining()) as scope:
                adapted, warnings = await self._adapt_request(own_request)
            if scope.cancelled_caught:
                raise first_deadline.exceeded()
            result = await self._run_batches(adapted, first_deadline, emit)
        except MajordomoError as error:
            # The frames of the traceback hold the body, which may quote a key.
            raise self._client.with_context(error, self.id).with_traceback(
                None
            ) from error.__cause__
        return self._complete_result(result, request, adapted, warnings)

    async def _adapt_request(
        self, request: imagegen.Request
    ) -> tuple[imagegen.Request, list[CallWarning]]:
        """Return the request as the codec can encode it, with converted inputs, and warnings.

        Nothing has been generated when this raises.
        """
        codec = self._image_codec
        model = await self._resolve_model()
        catalog = (
            await self._sampler_catalog(model, request)
            if self._sampler_catalog is not None and (request.sampler or request.scheduler)
            else None
        )
        adapted, warnings = codec.adapt(model, request, catalog)
        refuse_unsupported(warnings, self._strict)
        if adapted.images:
            adapted = await _convert_inputs(adapted, codec.input_format(model), self._limits)
        return adapted, warnings

    async def _run_batches(
        self, request: imagegen.Request, first_deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        """Make all images in as many calls as needed; a failed batch does not cost the others."""
        limit = self._image_codec.max_per_call(self.id, request)
        if request.n <= limit:
            deadline = self._client.deadline(self._timeout, self.id, emit, since=first_deadline)
            return await self._run_admitted(
                replace(request, n=request.n if limit > 1 else 0), deadline, emit
            )
        batches = [
            Batch(first, min(limit, request.n - first)) for first in range(0, request.n, limit)
        ]
        progress = MergedProgress(batches, emit) if emit is not None else None

        async def run_batch(batch: Batch) -> None:
            seed = None if request.seed is None else request.seed + batch.first
            batch_request = replace(request, n=batch.size if limit > 1 else 0, seed=seed)
            emit_batch = (lambda event: progress(batch, event)) if progress is not None else None
            deadline = self._client.deadline(
                self._timeout, self.id, emit_batch, since=first_deadline
            )
            try:
                batch.result = await self._run_admitted(batch_request, deadline, emit_batch)
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

    async def _run_admitted(
        self, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        emit_event = emit or current_emit()
        on_position = None if emit_event is None else lambda position: emit_event(Queued(position))
        admission = await self._client.admit(deadline, self.id, request.user_id, on_position)
        try:
            result = await self._run(request, deadline, emit)
            tokens = (result.usage.input_tokens or 0) + (result.usage.output_tokens or 0)
            admission.release(tokens)
        finally:
            admission.release()
        return result

    async def _send_job(
        self,
        http_request: HTTPRequest,
        read: Callable[[HTTPStream], Awaitable[T]],
        deadline: Deadline,
        emit: Emit | None,
    ) -> T:
        """Send the request that starts a generation, and return what `read` makes of the reply.

        Sent again only when the backend has provably not accepted it, or while the model loads.
        """
        retry_state = self._client.retry_state(deadline, self.id, image_job=True)
        emit_event = emit or current_emit()
        while True:
            try:
                reply = await self._client.open(http_request, deadline)
                try:
                    result = await read(reply)
                finally:
                    await reply.aclose()
            except MajordomoError as error:
                delay = retry_state.next_delay(error.with_context(self.provider, self.id))
                if error.code == "MODEL_LOADING" and emit_event is not None:
                    emit_event(Loading(error.message, deadline.elapsed()))
            else:
                self._client.budget.record_success()
                return result
            await sleep(delay)

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

    async def _run(
        self, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        async def read(reply: HTTPStream) -> imagegen.Result:
            decoder = self._codec.reply_decoder(self._limits)
            while chunk := await reply.read():
                decoder.feed(chunk)
            return self._codec.decode_reply(decoder, request, self._limits)

        return await self._send_job(
            self._codec.encode_request(self.id, request), read, deadline, emit
        )


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
