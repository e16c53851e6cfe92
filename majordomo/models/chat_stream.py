"""A chat answer while it arrives: the source of a stream's events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from anyio import sleep

from majordomo import llm
from majordomo.backend_status import Loading, Queued
from majordomo.concurrency.loop_lifetime import Tie, tied
from majordomo.concurrency.task_stream import Telling
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    ConnectionFailedError,
    MajordomoError,
    StreamBrokenError,
)
from majordomo.llm.reply import empty_reply
from majordomo.media.image_part import Readable
from majordomo.models.client import Caller, Tries, read_all
from majordomo.queueing.admission import Place
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import WireRequest, WireStream


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


class HTTPChatSource:
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
        self._tie: Tie | None = None

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
                self._tie = await tied(self._stream, self._place)
                return ()
        if told := await self._opening.told():
            return told
        self._stream = self._opening.result
        self._tie = await tied(self._stream, self._place)
        return ()

    async def _opened(self, tell: Callable[[llm.ChatEvent], None]) -> WireStream:
        """The stream, once it is this call's turn and the model is loaded; what happens meanwhile is told."""
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
            if self._tie is not None:
                await self._tie.aclose()

    def _leave(self) -> None:
        if self._place is not None:
            self._place.leave(tokens_of(self._whole) if self._whole is not None else None)


def tokens_of(reply: llm.Reply) -> int:
    """What counts for a rate."""
    return (reply.usage.input_tokens or 0) + (reply.usage.output_tokens or 0)
