"""Images: a request in, a result or its events out. Each kind of backend is one story, told whether or not somebody listens."""

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
from majordomo.models.client import BackendClient, RetryState
from majordomo.observability import Observer
from majordomo.observability.observed_call import ObservedCall, current_emit
from majordomo.observability.request_settings import image_settings
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream

T = TypeVar("T")
Emit = Callable[[imagegen.ImageEvent], None]


class ImageCodec(Protocol):
    """A dialect's client side: what it can do of a request, in its backend's words, and how that looks on the wire."""

    def input_format(self, model: str) -> ImageInputFormat: ...

    def adapt(
        self, model: str, request: imagegen.Request, lists: SamplerCatalog | None = None
    ) -> tuple[imagegen.Request, list[CallWarning]]:
        """The request as this backend can take it, and a warning for all that got lost. Raises UnsupportedError where the rest would be
        another image than the one asked for: no images to begin with, no mask."""

    def max_per_call(self, model: str, request: imagegen.Request) -> int:
        """How many images one call gives."""

    def encode_request(self, model: str, request: imagegen.Request) -> HTTPRequest: ...


class ReplyImageCodec(ImageCodec, Protocol):
    """The images come in the answer to the request."""

    def reply_decoder(self, limits: Limits) -> Any: ...

    def decode_reply(
        self, reply: Any, request: imagegen.Request, limits: Limits
    ) -> imagegen.Result: ...


class ImageModel(imagegen.Model):
    """Everything about an image model but the drawing: options, checks, both colors. A kind of backend adds `draw`."""

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
        return cast("imagegen.Provider | None", self._owned_provider)

    @abstractmethod
    async def _generate(self, request: imagegen.Request, emit: Emit | None) -> imagegen.Result:
        """The result of a checked request; `tell`, when somebody listens, hears what happens on the way."""

    def _build_request(
        self,
        prompt: str | imagegen.Request,
        options: Sequence[imagegen.Option],
        overrides: imagegen.Overrides,
    ) -> imagegen.Request:
        """The request as it will be drawn: all options applied, checked."""
        try:
            given = prompt if isinstance(prompt, imagegen.Request) else imagegen.Request(prompt)
            request = given.with_defaults(self._options).apply(*options).override(**overrides)
            check_request(request, self._limits)
            check_extra(request.extra)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return request

    def _stream_source(self, request: imagegen.Request) -> ImageTaskSource:
        return ImageTaskSource(lambda tell: self._generate_observed(request, tell))

    async def _generate_observed(
        self, request: imagegen.Request, emit: Emit | None
    ) -> imagegen.Result:
        """`draw`, with the observers told."""
        if not self._observers:
            return await self._generate(request, emit)
        about = {
            "user_id": request.user_id,
            "streamed": emit is not None,
            "address": self._address,
            "settings": image_settings(request),
        }
        observed = ObservedCall(self._observers, "image", self.provider, self.id, request, **about)
        hear = observed.on_event = EventOrderFilter(
            lambda event: (
                observed.emit(event)
                if isinstance(event, (Queued, Loading, imagegen.Step))
                else None
            )
        )

        def both(event: imagegen.ImageEvent) -> None:
            hear(event)
            if emit is not None:
                emit(event)

        observed.start()
        return await observed.run(lambda: self._generate(request, None if emit is None else both))

    async def generate(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.Result:
        return await self._generate_observed(self._build_request(prompt, options, overrides), None)

    def stream(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> AbstractAsyncContextManager[imagegen.Stream]:
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
        request = self._build_request(prompt, options, overrides)
        return portal.run(lambda: self._generate_observed(request, None))

    def stream_sync(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> AbstractContextManager[imagegen.SyncStream]:
        request = self._build_request(prompt, options, overrides)
        return cast(
            "AbstractContextManager[imagegen.SyncStream]",
            SyncEventStream(lambda: self._stream_source(request)),
        )

    async def aclose(self) -> None:
        if self._owned_provider is not None:
            await self._owned_provider.aclose()

    def __repr__(self) -> str:
        return f"<image model {self.provider}/{self.id}>"


class ImageTaskSource:
    """A drawing as a source of events, in the one order that all backends keep."""

    def __init__(self, draw: Callable[[Emit], Awaitable[imagegen.Result]]) -> None:
        self._telling: TaskStream[imagegen.ImageEvent, imagegen.Result] = TaskStream(
            lambda tell: draw(EventOrderFilter(tell))
        )
        self._ended = False
        self.result: imagegen.Result | None = None

    async def next_events(self) -> Sequence[imagegen.ImageEvent]:
        if self._ended:
            return ()
        if events := await self._telling.next_events():
            return events
        self._ended = True
        self.result = self._telling.result
        return [imagegen.Done(self.result)] if self.result is not None else ()

    async def aclose(self) -> None:
        await self._telling.aclose()


class EventOrderFilter:
    """Lets through Queued, then Loading, then Step and Preview, each step once; what comes late or twice is no news."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._rank = 0
        self._last: imagegen.ImageEvent | None = None
        self._step = 0

    def __call__(self, event: imagegen.ImageEvent) -> None:
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
    """An image model behind a door and a wire. A kind of conversation adds `work`."""

    def __init__(
        self,
        client: BackendClient,
        codec: ImageCodec,
        id: str,
        options: Sequence[imagegen.Option] = (),
        *,
        timeout: Timeout,
        strict: bool = False,
        lists: Callable[[str, imagegen.Request], Awaitable[SamplerCatalog]] | None = None,
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
        self._any_codec = codec
        self._timeout = timeout
        self._strict = strict
        self._lists = lists

    @property
    def provider_instance(self) -> imagegen.Provider | None:
        return cast("imagegen.Provider | None", self._client.provider_instance)

    @abstractmethod
    async def _run(
        self, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        """One call for at most as many images as the backend gives at once. Its place in the line is held already."""

    async def _resolve_model(self) -> str:
        """The model's name for the backend; a kind of backend may have to ask for it."""
        return self.id

    async def _generate(self, request: imagegen.Request, emit: Emit | None) -> imagegen.Result:
        began = self._client.deadline(self._timeout, self.id)
        try:
            ours = replace(
                request, extra=own_extra(request.extra, self.provider, self._client.peers)
            )
            with move_on_after(began.remaining()) as scope:
                fitted, warnings = await self._adapt_request(ours)
            if scope.cancelled_caught:
                raise began.exceeded()
            result = await self._run_batches(fitted, began, emit)
        except MajordomoError as error:
            # Without its frames: they hold the answer, which may quote a key
            raise self._client.with_context(error, self.id).with_traceback(
                None
            ) from error.__cause__
        return self._complete_result(result, request, fitted, warnings)

    async def _adapt_request(
        self, request: imagegen.Request
    ) -> tuple[imagegen.Request, list[CallWarning]]:
        """In the backend's words, with its images in the backend's form. Nothing has been drawn when this raises."""
        codec = self._any_codec
        model = await self._resolve_model()
        lists = (
            await self._lists(model, request)
            if self._lists is not None and (request.sampler or request.scheduler)
            else None
        )
        fitted, warnings = codec.adapt(model, request, lists)
        refuse_unsupported(warnings, self._strict)
        if fitted.images:
            fitted = await _convert_inputs(fitted, codec.input_format(model), self._limits)
        return fitted, warnings

    async def _run_batches(
        self, request: imagegen.Request, began: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        """All images, in as many calls as that takes; some that fail do not cost the others."""
        most = self._any_codec.max_per_call(self.id, request)
        if request.n <= most:
            deadline = self._client.deadline(self._timeout, self.id, emit, since=began)
            return await self._run_admitted(
                replace(request, n=request.n if most > 1 else 0), deadline, emit
            )
        parts = [Batch(first, min(most, request.n - first)) for first in range(0, request.n, most)]
        told = MergedProgress(parts, emit) if emit is not None else None

        async def draw(part: Batch) -> None:
            seed = None if request.seed is None else request.seed + part.first
            piece = replace(request, n=part.size if most > 1 else 0, seed=seed)
            hear = (lambda event: told(part, event)) if told is not None else None
            deadline = self._client.deadline(self._timeout, self.id, hear, since=began)
            try:
                part.result = await self._run_admitted(piece, deadline, hear)
            except Exception as error:  # a group would wrap it
                part.error = error

        waiting = iter(parts)

        async def work() -> (
            None
        ):  # the next part only when one is done: in order, and other calls get their turn between
            for part in waiting:
                if not any(other.is_permanent_failure for other in parts):
                    await draw(part)

        async with create_task_group() as group:
            for _ in range(min(len(parts), self._client.admission.max_concurrency or len(parts))):
                group.start_soon(work)
        return merge_results(parts)

    async def _run_admitted(
        self, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        hear = emit or current_emit()
        heard = None if hear is None else lambda position: hear(Queued(position))
        place = await self._client.admit(deadline, self.id, request.user_id, heard)
        try:
            result = await self._run(request, deadline, emit)
            place.release((result.usage.input_tokens or 0) + (result.usage.output_tokens or 0))
        finally:
            place.release()
        return result

    async def _send_job(
        self,
        http_request: HTTPRequest,
        read: Callable[[HTTPStream], Awaitable[T]],
        deadline: Deadline,
        emit: Emit | None,
    ) -> T:
        """Send a job once, again only when it was proved refused or the model still loads, and `read` the answer."""
        tries = RetryState(self._client, deadline, self.id, image_job=True)
        hear = emit or current_emit()
        while True:
            try:
                reply = await self._client.open(http_request, deadline)
                try:
                    result = await read(reply)
                finally:
                    await reply.aclose()
            except MajordomoError as error:
                pause = tries.next_delay(error.with_context(self.provider, self.id))
                if error.code == "MODEL_LOADING" and hear is not None:
                    hear(Loading(error.message, deadline.elapsed()))
            else:
                self._client.budget.record_success()
                return result
            await sleep(pause)

    def _complete_result(
        self,
        result: imagegen.Result,
        request: imagegen.Request,
        fitted: imagegen.Request,
        warnings: Sequence[CallWarning],
    ) -> imagegen.Result:
        """The result with what only the request knows: whom it was for, and what was asked for and sent."""
        images = result.images[: self._limits.max_images]
        details = tuple(
            replace(
                detail,
                size_asked=request.pixels,
                size_sent=detail.size_sent or fitted.pixels,
                size_got=(image.width, image.height),
            )
            for detail, image in zip(result.details, images, strict=False)
        )
        warned = [*warnings, *result.warnings]
        if len(images) < len(result.images):
            warned.append(
                CallWarning(
                    "IMAGES_NOT_FETCHED",
                    f"{len(result.images)} images came; the first {len(images)} were kept",
                    "n",
                )
            )
        if request.n and len(images) != request.n:
            warned.append(
                CallWarning(
                    "COUNT_DIFFERS", f"{request.n} images were asked for, {len(images)} came", "n"
                )
            )
        asked = request.pixels or fitted.pixels
        got = {(image.width, image.height) for image in images}
        if asked is not None and got != {asked} and not any(w.field == "size" for w in warned):
            words = ", ".join(f"{width}x{height}" for width, height in sorted(got))
            warned.append(
                CallWarning(
                    "SIZE_DIFFERS",
                    f"size {asked[0]}x{asked[1]} was asked for, {words} came",
                    "size",
                )
            )
        model = result.model or self.id
        noted = tuple(
            image.with_parameters(_detail_settings(request, detail, model))
            for image, detail in zip(images, details, strict=True)
        )
        return replace(
            result,
            images=noted,
            details=details,
            usage=result.usage.with_image_counts(noted),
            provider=self.provider,
            model=model,
            warnings=tuple(dict.fromkeys(warned)),
        )


def _detail_settings(
    request: imagegen.Request, detail: imagegen.ImageDetails, model: str
) -> dict[str, Any]:
    """What an image's own text should say: what was asked for, and the seed it was really drawn from."""
    names = ("prompt", "negative_prompt", "steps", "sampler", "scheduler", "cfg_scale", "strength")
    values = {name: getattr(request, name) for name in names}
    width, height = detail.size_got or (0, 0)
    return values | {"seed": detail.seed, "size": f"{width}x{height}", "model": model}


class ReplyImageModel(HTTPImageModel):
    """A backend that answers one request with the finished images, and tells nothing while it draws."""

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
            while piece := await reply.read():
                decoder.feed(piece)
            return self._codec.decode_reply(decoder, request, self._limits)

        return await self._send_job(
            self._codec.encode_request(self.id, request), read, deadline, emit
        )


async def _convert_inputs(
    request: imagegen.Request, forms: ImageInputFormat, limits: Limits
) -> imagegen.Request:
    """The request's images in the backend's form, in a worker thread: decoding a large one would hold up the event loop."""
    if not forms.rgb_png and request.mask is None:
        return request

    def convert() -> imagegen.Request:
        from majordomo.imaging.prepare import (  # Pillow, only when there is something to convert
            mask_for,
            rgb_png,
        )

        images = (
            tuple(rgb_png(image, limits) for image in request.images)
            if forms.rgb_png
            else request.images
        )
        mask = request.mask
        if mask is not None and forms.mask is not None:
            mask = mask_for(mask, (images[0].width, images[0].height), forms.mask, limits)
        return replace(request, images=images, mask=mask)

    return await to_thread.run_sync(convert, abandon_on_cancel=True)
