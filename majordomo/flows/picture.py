"""Pictures: a request in, a result or its events out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol, Unpack, cast

from majordomo import imagegen
from majordomo.errors import CallWarning, MajordomoError
from majordomo.flows import portal
from majordomo.flows.call import Caller, Tries
from majordomo.flows.chat import refuse_unsupported
from majordomo.flows.streams import EventStream, SyncEventStream
from majordomo.framing.pictures import PictureReplyDecoder
from majordomo.imagegen.request import check_request
from majordomo.progress import Loading
from majordomo.settings import Limits, Timeout
from majordomo.wire import Deadline, WireRequest


class ImageDoor(Protocol):
    """A dialect's client side."""

    def encode(self, model: str, request: imagegen.Request) -> tuple[WireRequest, list[CallWarning]]: ...

    def reply_decoder(self, limits: Limits) -> PictureReplyDecoder: ...

    def decode(self, reply: PictureReplyDecoder, request: imagegen.Request, limits: Limits) -> imagegen.Result: ...


class ImageModel(imagegen.Model):
    """Everything about a picture model but the drawing: options, checks, both colours. A kind of backend adds `draw` and `watch`."""

    def __init__(
        self,
        provider: str,
        id: str,  # noqa: A002 (the word of the design)
        options: Sequence[imagegen.Option] = (),
        *,
        limits: Limits,
        owner: Any = None,
    ) -> None:
        self.provider = provider
        self.id = id
        self._options = tuple(options)
        self._limits = limits
        self._owner = owner

    @abstractmethod
    async def draw(self, request: imagegen.Request) -> imagegen.Result:
        """The result of a checked request."""

    @abstractmethod
    def watch(self, request: imagegen.Request) -> imagegen.ImageSource:
        """The same, while it is drawn. Makes the source; does not begin yet."""

    def prepare(
        self, prompt: str | imagegen.Request, options: Sequence[imagegen.Option], overrides: imagegen.Overrides
    ) -> imagegen.Request:
        """The request as it will be drawn: all options applied, checked."""
        try:
            given = prompt if isinstance(prompt, imagegen.Request) else imagegen.Request(prompt)
            request = given.over(self._options).apply(*options).override(**overrides)
            check_request(request, self._limits)
        except MajordomoError as error:
            error.about(self.provider, self.id)
            raise
        return request

    async def generate(
        self, prompt: str | imagegen.Request, *options: imagegen.Option, **overrides: Unpack[imagegen.Overrides]
    ) -> imagegen.Result:
        return await self.draw(self.prepare(prompt, options, overrides))

    def stream(
        self, prompt: str | imagegen.Request, *options: imagegen.Option, **overrides: Unpack[imagegen.Overrides]
    ) -> AbstractAsyncContextManager[imagegen.Stream]:
        request = self.prepare(prompt, options, overrides)
        return cast("AbstractAsyncContextManager[imagegen.Stream]", EventStream(lambda: self.watch(request)))

    def generate_sync(
        self, prompt: str | imagegen.Request, *options: imagegen.Option, **overrides: Unpack[imagegen.Overrides]
    ) -> imagegen.Result:
        request = self.prepare(prompt, options, overrides)
        return portal.run(lambda: self.draw(request))

    def stream_sync(
        self, prompt: str | imagegen.Request, *options: imagegen.Option, **overrides: Unpack[imagegen.Overrides]
    ) -> AbstractContextManager[imagegen.SyncStream]:
        request = self.prepare(prompt, options, overrides)
        return cast("AbstractContextManager[imagegen.SyncStream]", SyncEventStream(lambda: self.watch(request)))

    async def aclose(self) -> None:
        if self._owner is not None:
            await self._owner.aclose()

    def __repr__(self) -> str:
        return f"<picture model {self.provider}/{self.id}>"


class HTTPImageModel(ImageModel):
    """A picture model whose backend answers one request with the finished pictures."""

    def __init__(
        self,
        caller: Caller,
        door: ImageDoor,
        id: str,  # noqa: A002 (the word of the design)
        options: Sequence[imagegen.Option] = (),
        *,
        timeout: Timeout,
        strict: bool = False,
        owner: Any = None,
    ) -> None:
        super().__init__(caller.provider, id, options, limits=caller.limits, owner=owner)
        self._caller = caller
        self._door = door
        self._timeout = timeout
        self._strict = strict

    def _encode(self, request: imagegen.Request) -> tuple[WireRequest, list[CallWarning]]:
        try:
            wire, warnings = self._door.encode(self.id, request)
            refuse_unsupported(warnings, self._strict)
        except MajordomoError as error:
            raise error.about(self.provider, self.id) from None
        return wire, warnings

    async def _once(self, wire: WireRequest, request: imagegen.Request, deadline: Deadline, warnings: list[CallWarning]) -> imagegen.Result:
        reply = await self._caller.open(wire, deadline)
        try:
            decoder = self._door.reply_decoder(self._limits)
            while piece := await reply.read():
                decoder.feed(piece)
        finally:
            await reply.aclose()
        result = self._door.decode(decoder, request, self._limits)
        return replace(
            result, provider=self.provider, model=result.model or self.id, warnings=tuple(dict.fromkeys((*warnings, *result.warnings)))
        )

    async def draw(self, request: imagegen.Request) -> imagegen.Result:
        wire, warnings = self._encode(request)
        deadline = self._caller.deadline(self._timeout, self.id)
        tries = Tries(self._caller, deadline, self.id, picture=True)
        return await self._caller.repeat(lambda: self._once(wire, request, deadline, warnings), tries)

    def watch(self, request: imagegen.Request) -> imagegen.ImageSource:
        wire, warnings = self._encode(request)
        deadline = self._caller.deadline(self._timeout, self.id)
        return _OneAnswerSource(self, wire, request, deadline, warnings)


class _OneAnswerSource:
    """A backend that tells nothing while it draws: Loading where it says so, then Done."""

    def __init__(
        self, model: HTTPImageModel, wire: WireRequest, request: imagegen.Request, deadline: Deadline, warnings: list[CallWarning]
    ) -> None:
        self._model = model
        self._wire = wire
        self._request = request
        self._deadline = deadline
        self._warnings = warnings
        self._tries = Tries(model._caller, deadline, model.id, picture=True)
        self._pause = 0.0
        self.result: imagegen.Result | None = None

    async def next_events(self) -> Sequence[imagegen.ImageEvent]:
        from anyio import sleep

        if self.result is not None:
            return ()
        while True:
            if self._pause:
                await sleep(self._pause)
                self._pause = 0.0
            try:
                self.result = await self._model._once(self._wire, self._request, self._deadline, self._warnings)
            except MajordomoError as error:
                self._pause = self._tries.decide(error.about(self._model.provider, self._model.id))
                if error.code == "MODEL_LOADING":
                    return [Loading(error.message, self._deadline.elapsed())]
            else:
                return [imagegen.Done(self.result)]

    async def aclose(self) -> None:
        """Nothing is open between two batches: a cancelled wait has closed its own connection."""
