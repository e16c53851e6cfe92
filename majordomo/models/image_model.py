"""Pictures: a request in, a result or its events out. Each kind of backend is one story, told whether or not somebody listens."""

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
from majordomo.concurrency.task_stream import Telling
from majordomo.dialects.image_fields import Forms
from majordomo.dialects.request_body import check_extra, own_extra, refuse_unsupported
from majordomo.dialects.samplers import Lists
from majordomo.errors import CallWarning, MajordomoError
from majordomo.imagegen.request import check_request
from majordomo.models.batching import Portion, Together, joined
from majordomo.models.client import Caller, Tries
from majordomo.observability import Observer
from majordomo.observability.observed_call import Observed, hearing
from majordomo.observability.request_settings import image_settings
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import Deadline, WireRequest, WireStream

T = TypeVar("T")
Tell = Callable[[imagegen.ImageEvent], None]


class ImageDoor(Protocol):
    """A dialect's client side: what it can do of a request, in its backend's words, and how that looks on the wire."""

    def forms(self, model: str) -> Forms: ...

    def fit(self, model: str, request: imagegen.Request, lists: Lists | None = None) -> tuple[imagegen.Request, list[CallWarning]]:
        """The request as this backend can take it, and a warning for all that got lost. Raises UnsupportedError where the rest would be
        another picture than the one asked for: no pictures to begin with, no mask."""

    def most(self, model: str, request: imagegen.Request) -> int:
        """How many pictures one call gives."""

    def encode(self, model: str, request: imagegen.Request) -> WireRequest: ...


class AnsweringDoor(ImageDoor, Protocol):
    """The pictures come in the answer to the request."""

    def reply_decoder(self, limits: Limits) -> Any: ...

    def decode(self, reply: Any, request: imagegen.Request, limits: Limits) -> imagegen.Result: ...


class ImageModel(imagegen.Model):
    """Everything about a picture model but the drawing: options, checks, both colours. A kind of backend adds `draw`."""

    def __init__(
        self,
        provider: str,
        id: str,  # noqa: A002 (the word of the design)
        options: Sequence[imagegen.Option] = (),
        *,
        limits: Limits,
        owner: Any = None,
        observers: Sequence[Observer] = (),
        address: str = "",
    ) -> None:
        self.provider = provider
        self.id = id
        self._observers = observers
        self._address = address
        self._options = tuple(options)
        self._limits = limits
        self._owner = owner

    @property
    def served_by(self) -> imagegen.Provider | None:
        return cast("imagegen.Provider | None", self._owner)

    @abstractmethod
    async def draw(self, request: imagegen.Request, tell: Tell | None) -> imagegen.Result:
        """The result of a checked request; `tell`, when somebody listens, hears what happens on the way."""

    def prepare(
        self, prompt: str | imagegen.Request, options: Sequence[imagegen.Option], overrides: imagegen.Overrides
    ) -> imagegen.Request:
        """The request as it will be drawn: all options applied, checked."""
        try:
            given = prompt if isinstance(prompt, imagegen.Request) else imagegen.Request(prompt)
            request = given.over(self._options).apply(*options).override(**overrides)
            check_request(request, self._limits)
            check_extra(request.extra)
        except MajordomoError as error:
            error.about(self.provider, self.id)
            raise
        return request

    def _watched(self, request: imagegen.Request) -> Watching:
        return Watching(lambda tell: self._drawn(request, tell))

    async def _drawn(self, request: imagegen.Request, tell: Tell | None) -> imagegen.Result:
        """`draw`, with the observers told."""
        if not self._observers:
            return await self.draw(request, tell)
        about = {"caller": request.caller, "streamed": tell is not None, "address": self._address, "settings": image_settings(request)}
        observed = Observed(self._observers, "image", self.provider, self.id, request, **about)
        hear = observed.hear = InOrder(lambda event: observed.tell(event) if isinstance(event, (Queued, Loading, imagegen.Step)) else None)

        def both(event: imagegen.ImageEvent) -> None:
            hear(event)
            if tell is not None:
                tell(event)

        observed.start()
        return await observed.run(lambda: self.draw(request, None if tell is None else both))

    async def generate(
        self, prompt: str | imagegen.Request, *options: imagegen.Option, **overrides: Unpack[imagegen.Overrides]
    ) -> imagegen.Result:
        return await self._drawn(self.prepare(prompt, options, overrides), None)

    def stream(
        self, prompt: str | imagegen.Request, *options: imagegen.Option, **overrides: Unpack[imagegen.Overrides]
    ) -> AbstractAsyncContextManager[imagegen.Stream]:
        request = self.prepare(prompt, options, overrides)
        return cast("AbstractAsyncContextManager[imagegen.Stream]", EventStream(lambda: self._watched(request)))

    def generate_sync(
        self, prompt: str | imagegen.Request, *options: imagegen.Option, **overrides: Unpack[imagegen.Overrides]
    ) -> imagegen.Result:
        request = self.prepare(prompt, options, overrides)
        return portal.run(lambda: self._drawn(request, None))

    def stream_sync(
        self, prompt: str | imagegen.Request, *options: imagegen.Option, **overrides: Unpack[imagegen.Overrides]
    ) -> AbstractContextManager[imagegen.SyncStream]:
        request = self.prepare(prompt, options, overrides)
        return cast("AbstractContextManager[imagegen.SyncStream]", SyncEventStream(lambda: self._watched(request)))

    async def aclose(self) -> None:
        if self._owner is not None:
            await self._owner.aclose()

    def __repr__(self) -> str:
        return f"<picture model {self.provider}/{self.id}>"


class Watching:
    """A drawing as a source of events, in the one order that all backends keep."""

    def __init__(self, draw: Callable[[Tell], Awaitable[imagegen.Result]]) -> None:
        self._telling: Telling[imagegen.ImageEvent, imagegen.Result] = Telling(lambda tell: draw(InOrder(tell)))
        self._ended = False
        self.result: imagegen.Result | None = None

    async def next_events(self) -> Sequence[imagegen.ImageEvent]:
        if self._ended:
            return ()
        if events := await self._telling.told():
            return events
        self._ended = True
        self.result = self._telling.result
        return [imagegen.Done(self.result)] if self.result is not None else ()

    async def aclose(self) -> None:
        await self._telling.aclose()


class InOrder:
    """Lets through Queued, then Loading, then Step and Preview, each step once; what comes late or twice is no news."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
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
        self._tell(event)


class HTTPImageModel(ImageModel):
    """A picture model behind a door and a wire. A kind of conversation adds `work`."""

    def __init__(
        self,
        caller: Caller,
        door: ImageDoor,
        id: str,  # noqa: A002 (the word of the design)
        options: Sequence[imagegen.Option] = (),
        *,
        timeout: Timeout,
        strict: bool = False,
        lists: Callable[[str, imagegen.Request], Awaitable[Lists]] | None = None,
        owner: Any = None,
    ) -> None:
        super().__init__(
            caller.provider, id, options, limits=caller.limits, owner=owner, observers=caller.observers, address=caller.address
        )
        self._caller = caller
        self._any_door = door
        self._timeout = timeout
        self._strict = strict
        self._lists = lists

    @property
    def served_by(self) -> imagegen.Provider | None:
        return cast("imagegen.Provider | None", self._caller.served_by)

    @abstractmethod
    async def work(self, request: imagegen.Request, deadline: Deadline, tell: Tell | None) -> imagegen.Result:
        """One call for at most as many pictures as the backend gives at once. Its place in the line is held already."""

    async def named(self) -> str:
        """The model's name for the backend; a kind of backend may have to ask for it."""
        return self.id

    async def draw(self, request: imagegen.Request, tell: Tell | None) -> imagegen.Result:
        began = self._caller.deadline(self._timeout, self.id)
        try:
            ours = replace(request, extra=own_extra(request.extra, self.provider, self._caller.peers))
            with move_on_after(began.left()) as scope:
                fitted, warnings = await self._fitted(ours)
            if scope.cancelled_caught:
                raise began.exceeded()
            result = await self._portions(fitted, began, tell)
        except MajordomoError as error:
            # Without its frames: they hold the answer, which may quote a key
            raise self._caller.about(error, self.id).with_traceback(None) from error.__cause__
        return self._finished(result, request, fitted, warnings)

    async def _fitted(self, request: imagegen.Request) -> tuple[imagegen.Request, list[CallWarning]]:
        """In the backend's words, with its pictures in the backend's form. Nothing has been drawn when this raises."""
        door = self._any_door
        model = await self.named()
        lists = await self._lists(model, request) if self._lists is not None and (request.sampler or request.scheduler) else None
        fitted, warnings = door.fit(model, request, lists)
        refuse_unsupported(warnings, self._strict)
        if fitted.images:
            fitted = await _converted(fitted, door.forms(model), self._limits)
        return fitted, warnings

    async def _portions(self, request: imagegen.Request, began: Deadline, tell: Tell | None) -> imagegen.Result:
        """All pictures, in as many calls as that takes; some that fail do not cost the others."""
        most = self._any_door.most(self.id, request)
        if request.n <= most:
            deadline = self._caller.deadline(self._timeout, self.id, tell, since=began)
            return await self._placed(replace(request, n=request.n if most > 1 else 0), deadline, tell)
        parts = [Portion(first, min(most, request.n - first)) for first in range(0, request.n, most)]
        told = Together(parts, tell) if tell is not None else None

        async def draw(part: Portion) -> None:
            seed = None if request.seed is None else request.seed + part.first
            piece = replace(request, n=part.size if most > 1 else 0, seed=seed)
            hear = (lambda event: told(part, event)) if told is not None else None
            deadline = self._caller.deadline(self._timeout, self.id, hear, since=began)
            try:
                part.result = await self._placed(piece, deadline, hear)
            except Exception as error:  # a group would wrap it
                part.error = error

        waiting = iter(parts)

        async def work() -> None:  # the next part only when one is done: in order, and other calls get their turn between
            for part in waiting:
                if not any(other.hopeless for other in parts):
                    await draw(part)

        async with create_task_group() as group:
            for _ in range(min(len(parts), self._caller.gate.places or len(parts))):
                group.start_soon(work)
        return joined(parts)

    async def _placed(self, request: imagegen.Request, deadline: Deadline, tell: Tell | None) -> imagegen.Result:
        hear = tell or hearing()
        heard = None if hear is None else lambda position: hear(Queued(position))
        place = await self._caller.enter(deadline, self.id, request.caller, heard)
        try:
            result = await self.work(request, deadline, tell)
            place.leave((result.usage.input_tokens or 0) + (result.usage.output_tokens or 0))
        finally:
            place.leave()
        return result

    async def exchange(self, wire: WireRequest, read: Callable[[WireStream], Awaitable[T]], deadline: Deadline, tell: Tell | None) -> T:
        """Send a job once, again only when it was proved refused or the model still loads, and `read` the answer."""
        tries = Tries(self._caller, deadline, self.id, picture=True)
        hear = tell or hearing()
        while True:
            try:
                reply = await self._caller.open(wire, deadline)
                try:
                    result = await read(reply)
                finally:
                    await reply.aclose()
            except MajordomoError as error:
                pause = tries.decide(error.about(self.provider, self.id))
                if error.code == "MODEL_LOADING" and hear is not None:
                    hear(Loading(error.message, deadline.elapsed()))
            else:
                self._caller.budget.success()
                return result
            await sleep(pause)

    def _finished(
        self, result: imagegen.Result, request: imagegen.Request, fitted: imagegen.Request, warnings: Sequence[CallWarning]
    ) -> imagegen.Result:
        """The result with what only the request knows: whom it was for, and what was asked for and sent."""
        images = result.images[: self._limits.images]
        details = tuple(
            replace(detail, size_asked=request.pixels, size_sent=detail.size_sent or fitted.pixels, size_got=(image.width, image.height))
            for detail, image in zip(result.details, images, strict=False)
        )
        warned = [*warnings, *result.warnings]
        if len(images) < len(result.images):
            warned.append(CallWarning("PICTURES_LEFT", f"{len(result.images)} pictures came; the first {len(images)} were kept", "n"))
        if request.n and len(images) != request.n:
            warned.append(CallWarning("COUNT_DIFFERS", f"{request.n} pictures were asked for, {len(images)} came", "n"))
        asked = request.pixels or fitted.pixels
        got = {(image.width, image.height) for image in images}
        if asked is not None and got != {asked} and not any(w.field == "size" for w in warned):
            words = ", ".join(f"{width}x{height}" for width, height in sorted(got))
            warned.append(CallWarning("SIZE_DIFFERS", f"size {asked[0]}x{asked[1]} was asked for, {words} came", "size"))
        model = result.model or self.id
        noted = tuple(image.noted(_made_with(request, detail, model)) for image, detail in zip(images, details, strict=True))
        return replace(
            result,
            images=noted,
            details=details,
            usage=result.usage.drew(noted),
            provider=self.provider,
            model=model,
            warnings=tuple(dict.fromkeys(warned)),
        )


def _made_with(request: imagegen.Request, detail: imagegen.ImageDetails, model: str) -> dict[str, Any]:
    """What a picture's own text should say: what was asked for, and the seed it was really drawn from."""
    names = ("prompt", "negative_prompt", "steps", "sampler", "scheduler", "cfg_scale", "strength")
    values = {name: getattr(request, name) for name in names}
    width, height = detail.size_got or (0, 0)
    return values | {"seed": detail.seed, "size": f"{width}x{height}", "model": model}


class AnsweredImageModel(HTTPImageModel):
    """A backend that answers one request with the finished pictures, and tells nothing while it draws."""

    def __init__(self, caller: Caller, door: AnsweringDoor, *args: Any, **settings: Any) -> None:
        super().__init__(caller, door, *args, **settings)
        self._door = door

    async def work(self, request: imagegen.Request, deadline: Deadline, tell: Tell | None) -> imagegen.Result:
        async def read(reply: WireStream) -> imagegen.Result:
            decoder = self._door.reply_decoder(self._limits)
            while piece := await reply.read():
                decoder.feed(piece)
            return self._door.decode(decoder, request, self._limits)

        return await self.exchange(self._door.encode(self.id, request), read, deadline, tell)


async def _converted(request: imagegen.Request, forms: Forms, limits: Limits) -> imagegen.Request:
    """The request's pictures in the backend's form, in a worker thread: decoding a large one would hold up the event loop."""
    if not forms.rgb_png and request.mask is None:
        return request

    def convert() -> imagegen.Request:
        from majordomo.imaging.prepare import mask_for, rgb_png  # Pillow, only when there is something to convert

        images = tuple(rgb_png(image, limits) for image in request.images) if forms.rgb_png else request.images
        mask = request.mask
        if mask is not None and forms.mask is not None:
            mask = mask_for(mask, (images[0].width, images[0].height), forms.mask, limits)
        return replace(request, images=images, mask=mask)

    return await to_thread.run_sync(convert, abandon_on_cancel=True)
