"""A chat answer while it arrives: the source of a stream's events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from anyio import sleep

from majordomo import llm
from majordomo.backend_status import Loading, Queued
from majordomo.concurrency.loop_lifetime import LoopGuard, close_with_loop
from majordomo.concurrency.task_stream import TaskStream
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    ConnectionFailedError,
    MajordomoError,
    StreamBrokenError,
)
from majordomo.llm.reply import empty_reply
from majordomo.media.image_limits import ImageSupport
from majordomo.models.client import BackendClient, RetryState, read_all
from majordomo.queueing.admission import Admission
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest, HTTPStream


class ChatDecoder(Protocol):
    """A dialect's reading of a streamed answer."""

    @property
    def reply(self) -> llm.Reply: ...

    @property
    def complete(self) -> bool: ...

    failure: MajordomoError | None  # what went wrong right behind the events given last

    def feed(self, chunk: bytes) -> list[llm.ChatEvent]: ...

    def finish(self) -> list[llm.ChatEvent]: ...


class ChatCodec(Protocol):
    """A dialect's client side."""

    @property
    def image_support(self) -> ImageSupport: ...

    def encode_request(
        self, model: str, request: llm.Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]: ...

    def decode_reply(self, body: bytes, request: llm.Request, limits: Limits) -> llm.Reply: ...

    def stream_decoder(self, request: llm.Request, limits: Limits) -> ChatDecoder: ...

    def reply_limit(self, request: llm.Request, limits: Limits) -> int: ...


class HTTPChatSource:
    """Events from the wire, one batch per piece of network."""

    def __init__(
        self,
        client: BackendClient,
        codec: ChatCodec,
        request: llm.Request,
        encoded: HTTPRequest | Callable[[], Awaitable[HTTPRequest]],
        timeout: Timeout,
        model: str,
        named: Callable[[llm.Reply], llm.Reply],
    ) -> None:
        self._client = client
        self._codec = codec
        self._request = request
        self._wire = encoded
        self._model = model
        self._named = named
        self._decoder = codec.stream_decoder(request, client.limits)
        self._deadline = client.deadline(timeout, model, self._loads)
        self._tries = RetryState(client, self._deadline, model)
        self._opening: TaskStream[llm.ChatEvent, HTTPStream] = TaskStream(self._open_stream)
        self._emit: Callable[[llm.ChatEvent], None] | None = None
        self._news: list[Loading] = []
        self._pause = 0.0
        self._stream: HTTPStream | None = None
        self._whole: llm.Reply | None = None
        self._place: Admission | None = None
        self._tie: LoopGuard | None = None

    @property
    def reply(self) -> llm.Reply:
        if self._whole is not None:
            return self._whole
        if self._stream is None:
            return empty_reply(self._model, self._client.provider)
        return self._named(self._decoder.reply)

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        if self._whole is not None:
            return ()
        try:
            if self._stream is None and (told := await self._open()):
                return told
            events = await self._read()
            if self._whole is not None:
                self._release()
            return events
        except MajordomoError as error:
            if isinstance(error, StreamBrokenError) and isinstance(error.partial, llm.Reply):
                error.partial = self._named(error.partial)
            # Without its frames: they hold the answer, which may quote a key
            raise self._client.with_context(error, self._model).with_traceback(
                None
            ) from error.__cause__

    async def _open(self) -> Sequence[llm.ChatEvent]:
        """What is told until the stream is open; nothing once it is.

        Where there may be something to tell, a task of its own waits. Most streams open at once and do without.
        """
        if not isinstance(self._wire, HTTPRequest):
            self._wire = await self._wire()
        if not self._opening.started and not self._client.may_emit_early:
            self._place = await self._client.admit(
                self._deadline, self._model, self._request.user_id
            )
            try:
                self._stream = await self._client.open(self._wire, self._deadline)
            except MajordomoError as error:
                self._failed(error)
            else:
                self._tie = await close_with_loop(self._stream, self._place)
                return ()
        if told := await self._opening.next_events():
            return told
        self._stream = self._opening.result
        self._tie = await close_with_loop(self._stream, self._place)
        return ()

    async def _open_stream(self, emit: Callable[[llm.ChatEvent], None]) -> HTTPStream:
        """The stream, once it is this call's turn and the model is loaded; what happens meanwhile is told."""
        assert isinstance(self._wire, HTTPRequest)
        self._emit = emit
        if self._place is None:
            self._place = await self._client.admit(
                self._deadline,
                self._model,
                self._request.user_id,
                lambda position: emit(Queued(position)),
            )
        while True:
            for event in self._news:
                emit(event)
            self._news.clear()
            await sleep(self._pause)
            try:
                return await self._client.open(self._wire, self._deadline)
            except MajordomoError as error:
                self._failed(error)

    def _failed(self, error: MajordomoError) -> None:
        """Decide on another try; raises the error when there is none."""
        self._pause = self._tries.next_delay(self._client.with_context(error, self._model))
        if error.code == "MODEL_LOADING":
            self._news.append(Loading(error.message, self._deadline.elapsed()))

    def _loads(self, event: Loading) -> None:
        if self._emit is not None:
            self._emit(event)

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
                        f"the stream broke off: {error.message}",
                        partial=decoder.reply,
                        details=error.details,
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

    async def _read_whole(self, stream: HTTPStream) -> Sequence[llm.ChatEvent]:
        """The server ignored `stream` and answered at once; or it tells an error with status 200."""
        body = await read_all(stream, self._codec.reply_limit(self._request, self._client.limits))
        reply = self._whole = self._named(
            self._codec.decode_reply(body, self._request, self._client.limits)
        )
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
            self._release()
            if self._tie is not None:
                await self._tie.aclose()

    def _release(self) -> None:
        if self._place is not None:
            self._place.release(total_tokens(self._whole) if self._whole is not None else None)


def total_tokens(reply: llm.Reply) -> int:
    """What counts for a rate."""
    return (reply.usage.input_tokens or 0) + (reply.usage.output_tokens or 0)
