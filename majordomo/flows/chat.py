"""Chat: a request in, a reply or its events out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
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
from majordomo.flows.call import Caller, Tries, read_all
from majordomo.flows.streams import EventStream, SyncEventStream
from majordomo.llm.messages import as_messages
from majordomo.llm.reply import empty_reply
from majordomo.llm.request import check_request
from majordomo.progress import Loading
from majordomo.settings import Limits, Timeout
from majordomo.wire import WireRequest, WireStream

Messages = str | llm.Message | Sequence[llm.Message]


class ChatDecoder(Protocol):
    """A dialect's reading of a streamed answer."""

    @property
    def reply(self) -> llm.Reply: ...

    @property
    def complete(self) -> bool: ...

    def feed(self, chunk: bytes) -> list[llm.ChatEvent]: ...

    def finish(self) -> list[llm.ChatEvent]: ...


class ChatDoor(Protocol):
    """A dialect's client side."""

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
    ) -> None:
        self.provider = provider
        self.id = id
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
        try:
            return await self.ask(request)
        except BadResponseError as error:
            if error.code != "BAD_OUTPUT" or not request.reask:
                raise
            said = str(error.details.get("text") or "(nothing)")
            correction = f"That does not fit: {error.message}. Answer again, with the JSON alone."
            return await self.ask(replace(request, messages=(*request.messages, llm.assistant(said), llm.user(correction)), reask=False))

    async def generate(self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]) -> llm.Reply:
        return await self._answered(self.prepare(messages, options, overrides))

    def stream(
        self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]
    ) -> AbstractAsyncContextManager[llm.Stream]:
        request = self.prepare(messages, options, overrides)
        return cast("AbstractAsyncContextManager[llm.Stream]", EventStream(lambda: self.listen(request)))

    def generate_sync(self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]) -> llm.Reply:
        request = self.prepare(messages, options, overrides)
        return portal.run(lambda: self._answered(request))

    def stream_sync(
        self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]
    ) -> AbstractContextManager[llm.SyncStream]:
        request = self.prepare(messages, options, overrides)
        return cast("AbstractContextManager[llm.SyncStream]", SyncEventStream(lambda: self.listen(request)))

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
        super().__init__(caller.provider, id, options, limits=caller.limits, owner=owner)
        self._caller = caller
        self._door = door
        self._timeout = timeout
        self._strict = strict

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
        wire, warnings = self._encode(request, stream=False)
        deadline = self._caller.deadline(self._timeout, self.id)
        limit = self._door.reply_limit(request, self._limits)

        async def once() -> llm.Reply:
            return self._door.decode(await self._caller.fetch(wire, deadline, limit), request, self._limits)

        gate = self._caller.gate
        try:
            await gate.enter(deadline)
        except MajordomoError as error:
            raise error.about(self.provider, self.id) from None
        try:
            reply = await self._caller.repeat(once, Tries(self._caller, deadline, self.id))
        finally:
            gate.leave()
        return self._named(reply, warnings)

    def listen(self, request: llm.Request) -> llm.ChatSource:
        wire, warnings = self._encode(request, stream=True)
        return _HTTPChatSource(self._caller, self._door, request, wire, self._timeout, self.id, lambda reply: self._named(reply, warnings))


class _HTTPChatSource:
    """Events from the wire, one batch per piece of network."""

    def __init__(
        self,
        caller: Caller,
        door: ChatDoor,
        request: llm.Request,
        wire: WireRequest,
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
        self._deadline = caller.deadline(timeout, model)
        self._tries = Tries(caller, self._deadline, model)
        self._pause = 0.0
        self._stream: WireStream | None = None
        self._whole: llm.Reply | None = None
        self._inside = False  # holds a place of the gate

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
            if not self._inside:
                await self._caller.gate.enter(self._deadline)
                self._inside = True
            if self._stream is None and (loading := await self._open()) is not None:
                return [loading]
            events = await self._read()
            if self._whole is not None:
                self._leave()
            return events
        except MajordomoError as error:
            if isinstance(error, StreamBrokenError) and isinstance(error.partial, llm.Reply):
                error.partial = self._named(error.partial)
            error.about(self._caller.provider, self._model)
            raise

    async def _open(self) -> Loading | None:
        """Open the stream, or tell that the model loads; the next call then tries again."""
        from anyio import sleep

        while self._stream is None:
            if self._pause:
                await sleep(self._pause)
                self._pause = 0.0
            try:
                self._stream = await self._caller.open(self._wire, self._deadline)
            except MajordomoError as error:
                self._pause = self._tries.decide(error.about(self._caller.provider, self._model))
                if error.code == "MODEL_LOADING":
                    return Loading(error.message, self._deadline.elapsed())
            else:
                self._caller.budget.success()
        return None

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
            if self._stream is not None:
                await self._stream.aclose()
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            self._caller.gate.leave()


def refuse_unsupported(warnings: Sequence[CallWarning], strict: bool) -> None:
    """Under `strict`, raise UnsupportedError for the first field that would have no effect. Nothing has been sent then."""
    if strict:
        for warning in warnings:
            if warning.code == UNSUPPORTED:
                raise UnsupportedError(warning.message, field=warning.field)
