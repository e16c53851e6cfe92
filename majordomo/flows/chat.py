"""Chat: a request in, a reply or its events out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol, Unpack, cast

from majordomo import llm
from majordomo.dialects.bodies import UNSUPPORTED, own_extra
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    ConnectionFailedError,
    InvalidRequestError,
    MajordomoError,
    StreamBrokenError,
    UnsupportedError,
)
from majordomo.flows import portal
from majordomo.flows.background import Telling
from majordomo.flows.call import Caller, Tries, read_all
from majordomo.flows.gate import Place
from majordomo.flows.sight import Sight
from majordomo.flows.streams import EventStream, SyncEventStream
from majordomo.llm.messages import as_messages
from majordomo.llm.reply import empty_reply
from majordomo.llm.request import check_request
from majordomo.media import Readable
from majordomo.observing import Observer
from majordomo.observing.observed import Observed, ObservedSource, current
from majordomo.observing.settings import chat_settings
from majordomo.progress import Loading, Queued
from majordomo.settings import Limits, Timeout
from majordomo.wire import WireRequest, WireStream

Messages = str | llm.Message | Sequence[llm.Message]


class ChatDecoder(Protocol):
    """A dialect's reading of a streamed answer."""

    @property
    def reply(self) -> llm.Reply: ...

    @property
    def complete(self) -> bool: ...

    failure: MajordomoError | None  # what went wrong right behind the events given last

    def feed(self, chunk: bytes) -> list[llm.ChatEvent]: ...

    def finish(self) -> list[llm.ChatEvent]: ...


class ChatDoor(Protocol):
    """A dialect's client side."""

    @property
    def reads(self) -> Readable: ...

    def encode(self, model: str, request: llm.Request, *, stream: bool = False) -> tuple[WireRequest, list[CallWarning]]: ...

    def decode(self, body: bytes, request: llm.Request, limits: Limits) -> llm.Reply: ...

    def stream_decoder(self, request: llm.Request, limits: Limits) -> ChatDecoder: ...

    def reply_limit(self, request: llm.Request, limits: Limits) -> int: ...


class ChatModel(llm.Model):
    """Everything about a chat model but the asking: options, checks, both colours. A kind of backend adds `ask` and `listen`."""

    def __init__(
        self,
        provider: str,
        id: str,  # noqa: A002 (the word of the design)
        options: Sequence[llm.Option] = (),
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
    def served_by(self) -> llm.Provider | None:
        return cast("llm.Provider | None", self._owner)

    @abstractmethod
    async def ask(self, request: llm.Request) -> llm.Reply:
        """The answer to a checked request."""

    @abstractmethod
    def listen(self, request: llm.Request) -> llm.ChatSource:
        """The same, while it arrives. Makes the source; does not ask yet."""

    def prepare(self, messages: Messages | llm.Request, options: Sequence[llm.Option], overrides: llm.Overrides) -> llm.Request:
        """The request as it will be asked: all options applied, checked."""
        try:
            given = messages if isinstance(messages, llm.Request) else llm.Request(as_messages(messages))
            request = given.over(self._options).apply(*options).override(**overrides)
            if not request.messages:
                raise InvalidRequestError("messages is empty", field="messages")
            check_request(request, self._limits)
        except MajordomoError as error:
            error.about(self.provider, self.id)
            raise
        return request

    async def _answered(self, request: llm.Request) -> llm.Reply:
        if not self._observers:
            return await self._fitting(request)
        observed = self._observed(request)
        observed.start()
        return await observed.run(lambda: self._fitting(request))

    def _listened(self, request: llm.Request) -> llm.ChatSource:
        if not self._observers:
            return self.listen(request)
        return ObservedSource(self._observed(request, streamed=True), lambda: self.listen(request))

    def _observed(self, request: llm.Request, *, streamed: bool = False) -> Observed:
        about = {"caller": request.caller, "streamed": streamed, "address": self._address, "settings": chat_settings(request)}
        return Observed(self._observers, "chat", self.provider, self.id, request, **about)

    async def _fitting(self, request: llm.Request) -> llm.Reply:
        """The answer; where it does not fit the output asked for, and `reask` allows it, the answer to why."""
        try:
            return await self.ask(request)
        except BadResponseError as error:
            if error.code != "BAD_OUTPUT" or not request.reask:
                raise
            if (observed := current()) is not None:
                observed.attempt(1, error, 0.0)
            said = str(error.details.get("text") or "(nothing)")
            correction = f"That does not fit: {error.message}. Answer again, with the JSON alone."
            return await self.ask(replace(request, messages=(*request.messages, llm.assistant(said), llm.user(correction)), reask=False))

    async def generate(self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]) -> llm.Reply:
        return await self._answered(self.prepare(messages, options, overrides))

    def stream(
        self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]
    ) -> AbstractAsyncContextManager[llm.Stream]:
        request = self.prepare(messages, options, overrides)
        return cast("AbstractAsyncContextManager[llm.Stream]", EventStream(lambda: self._listened(request)))

    def generate_sync(self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]) -> llm.Reply:
        request = self.prepare(messages, options, overrides)
        return portal.run(lambda: self._answered(request))

    def stream_sync(
        self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]
    ) -> AbstractContextManager[llm.SyncStream]:
        request = self.prepare(messages, options, overrides)
        return cast("AbstractContextManager[llm.SyncStream]", SyncEventStream(lambda: self._listened(request)))

    async def aclose(self) -> None:
        if self._owner is not None:
            await self._owner.aclose()

    def __repr__(self) -> str:
        return f"<chat model {self.provider}/{self.id}>"


class HTTPChatModel(ChatModel):
    """A chat model behind a door and a wire."""

    def __init__(
        self,
        caller: Caller,
        door: ChatDoor,
        id: str,  # noqa: A002 (the word of the design)
        options: Sequence[llm.Option] = (),
        *,
        timeout: Timeout,
        strict: bool = False,
        owner: Any = None,
    ) -> None:
        super().__init__(
            caller.provider, id, options, limits=caller.limits, owner=owner, observers=caller.observers, address=caller.address
        )
        self._caller = caller
        self._door = door
        self._timeout = timeout
        self._strict = strict
        self._sight = Sight(door.reads, caller.limits)

    async def _shown(self, request: llm.Request) -> tuple[llm.Request, list[CallWarning]]:
        try:
            return await self._sight.shown(request)
        except MajordomoError as error:
            raise error.about(self.provider, self.id) from None

    @property
    def served_by(self) -> llm.Provider | None:
        return cast("llm.Provider | None", self._caller.served_by)

    def _encode(self, request: llm.Request, *, stream: bool) -> tuple[WireRequest, list[CallWarning]]:
        try:
            request = replace(request, extra=own_extra(request.extra, self.provider, self._caller.peers)) if request.extra else request
            wire, warnings = self._door.encode(self.id, request, stream=stream)
            refuse_unsupported(warnings, self._strict)
        except MajordomoError as error:
            raise error.about(self.provider, self.id) from None
        return wire, warnings

    def _named(self, reply: llm.Reply, warnings: Sequence[CallWarning]) -> llm.Reply:
        return replace(reply, provider=self.provider, model=reply.model or self.id, warnings=(*warnings, *reply.warnings))

    async def ask(self, request: llm.Request) -> llm.Reply:
        deadline = self._caller.deadline(self._timeout, self.id)
        request, changed = await self._shown(request)
        wire, warnings = self._encode(request, stream=False)
        limit = self._door.reply_limit(request, self._limits)

        async def once() -> llm.Reply:
            try:
                return self._door.decode(await self._caller.fetch(wire, deadline, limit), request, self._limits)
            except MajordomoError as error:
                raise error.with_traceback(None) from error.__cause__  # its frames hold the answer, which may quote a key

        place = await self._caller.enter(deadline, self.id, request.caller)
        try:
            reply = await self._caller.repeat(once, Tries(self._caller, deadline, self.id))
            place.leave(tokens_of(reply))
        finally:
            place.leave()
        return self._named(reply, [*changed, *warnings])

    def listen(self, request: llm.Request) -> llm.ChatSource:
        warnings: list[CallWarning] = []

        def encoded(request: llm.Request, changed: Sequence[CallWarning] = ()) -> WireRequest:
            wire, found = self._encode(request, stream=True)
            warnings.extend([*changed, *found])
            return wire

        async def ready() -> WireRequest:
            return encoded(*await self._shown(request))

        # At once where nothing has to be converted: what is wrong is then said on entering
        wire = encoded(request) if self._sight.takes(request) else ready
        return _HTTPChatSource(self._caller, self._door, request, wire, self._timeout, self.id, lambda reply: self._named(reply, warnings))


class _HTTPChatSource:
    """Events from the wire, one batch per piece of network."""

    def __init__(
        self,
        caller: Caller,
        door: ChatDoor,
        request: llm.Request,
        wire: WireRequest | Callable[[], Awaitable[WireRequest]],
        timeout: Timeout,
        model: str,
        named: Callable[[llm.Reply], llm.Reply],
    ) -> None:
        self._caller = caller
        self._door = door
        self._request = request
        self._wire = wire
        self._model = model
        self._named = named
        self._decoder = door.stream_decoder(request, caller.limits)
        self._deadline = caller.deadline(timeout, model, self._loads)
        self._tries = Tries(caller, self._deadline, model)
        self._opening: Telling[llm.ChatEvent, WireStream] = Telling(self._opened)
        self._tell: Callable[[llm.ChatEvent], None] | None = None
        self._news: list[Loading] = []
        self._pause = 0.0
        self._stream: WireStream | None = None
        self._whole: llm.Reply | None = None
        self._place: Place | None = None

    @property
    def reply(self) -> llm.Reply:
        if self._whole is not None:
            return self._whole
        if self._stream is None:
            return empty_reply(self._model, self._caller.provider)
        return self._named(self._decoder.reply)

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        if self._whole is not None:
            return ()
        try:
            if self._stream is None and (told := await self._open()):
                return told
            events = await self._read()
            if self._whole is not None:
                self._leave()
            return events
        except MajordomoError as error:
            if isinstance(error, StreamBrokenError) and isinstance(error.partial, llm.Reply):
                error.partial = self._named(error.partial)
            # Without its frames: they hold the answer, which may quote a key
            raise self._caller.about(error, self._model).with_traceback(None) from error.__cause__

    async def _open(self) -> Sequence[llm.ChatEvent]:
        """What is told until the stream is open; nothing once it is.

        Where there may be something to tell, a task of its own waits. Most streams open at once and do without.
        """
        if not isinstance(self._wire, WireRequest):
            self._wire = await self._wire()
        if not self._opening.begun and not self._caller.talks:
            self._place = await self._caller.enter(self._deadline, self._model, self._request.caller)
            try:
                self._stream = await self._caller.open(self._wire, self._deadline)
            except MajordomoError as error:
                self._failed(error)
            else:
                return ()
        if told := await self._opening.told():
            return told
        self._stream = self._opening.result
        return ()

    async def _opened(self, tell: Callable[[llm.ChatEvent], None]) -> WireStream:
        """The stream, once it is this call's turn and the model is loaded; what happens meanwhile is told."""
        from anyio import sleep

        assert isinstance(self._wire, WireRequest)
        self._tell = tell
        if self._place is None:
            self._place = await self._caller.enter(
                self._deadline, self._model, self._request.caller, lambda position: tell(Queued(position))
            )
        while True:
            for event in self._news:
                tell(event)
            self._news.clear()
            await sleep(self._pause)
            try:
                return await self._caller.open(self._wire, self._deadline)
            except MajordomoError as error:
                self._failed(error)

    def _failed(self, error: MajordomoError) -> None:
        """Decide on another try; raises the error when there is none."""
        self._pause = self._tries.decide(self._caller.about(error, self._model))
        if error.code == "MODEL_LOADING":
            self._news.append(Loading(error.message, self._deadline.elapsed()))

    def _loads(self, event: Loading) -> None:
        if self._tell is not None:
            self._tell(event)

    async def _read(self) -> Sequence[llm.ChatEvent]:
        stream = self._stream
        assert stream is not None
        kind = stream.headers.get("content-type", "")
        if "json" in kind and "ndjson" not in kind:
            return await self._read_whole(stream)
        if "html" in kind:
            raise BadResponseError("the answer is a web page, not a stream", code="NOT_JSON")
        decoder = self._decoder
        while True:
            if decoder.failure is not None:
                raise decoder.failure
            try:
                piece = await stream.read()
            except MajordomoError as error:
                if decoder.complete:
                    piece = b""  # the finish reason was there: what is missing is only the farewell
                elif isinstance(error, ConnectionFailedError):
                    raise StreamBrokenError(
                        f"the stream broke off: {error.message}", partial=decoder.reply, details=error.details
                    ) from None
                else:
                    raise
            events = decoder.feed(piece) if piece else decoder.finish()
            if events:
                if isinstance(events[-1], llm.Done):
                    self._whole = self._named(events[-1].reply)
                    events[-1] = llm.Done(self._whole)
                    await stream.finish()
                return events

    async def _read_whole(self, stream: WireStream) -> Sequence[llm.ChatEvent]:
        """The server ignored `stream` and answered at once; or it tells an error with status 200."""
        body = await read_all(stream, self._door.reply_limit(self._request, self._caller.limits))
        reply = self._whole = self._named(self._door.decode(body, self._request, self._caller.limits))
        events: list[llm.ChatEvent] = []
        if reply.thinking:
            events.append(llm.ThinkingDelta(reply.thinking))
        if reply.text:
            events.append(llm.TextDelta(reply.text))
        events += [llm.ImageReady(image) for image in reply.images]
        for index, call in enumerate(reply.tool_calls):
            events += [llm.ToolCallStarted(index, call.id, call.name), llm.ToolCall(index, call)]
        return [*events, llm.Done(reply)]

    async def aclose(self) -> None:
        try:
            await self._opening.aclose()
            stream = self._stream or self._opening.value
            if stream is not None:
                await stream.aclose()
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._place is not None:
            self._place.leave(tokens_of(self._whole) if self._whole is not None else None)


def tokens_of(reply: llm.Reply) -> int:
    """What counts for a rate."""
    return (reply.usage.input_tokens or 0) + (reply.usage.output_tokens or 0)


def refuse_unsupported(warnings: Sequence[CallWarning], strict: bool) -> None:
    """Under `strict`, raise UnsupportedError for the first field that would have no effect. Nothing has been sent then."""
    if strict:
        for warning in warnings:
            if warning.code == UNSUPPORTED:
                raise UnsupportedError(warning.message, field=warning.field)
