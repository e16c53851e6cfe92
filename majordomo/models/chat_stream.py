"""The source of a chat stream's events: opening, reading and closing a streamed reply.

Theory of operation:

`HTTPChatSource` serves one stream. `EventStream` calls `next_events` until it returns nothing, then
`aclose`; it never calls them concurrently. The states, in order:

1. *New.* Nothing is sent and no slot is taken. The encoded request may still be an awaitable, when
   images have to be converted first.
2. *Opening.* The call waits for a slot, sends the request, and repeats it as `RetryState` allows.
   Events (`Queued`, `Loading`) can only occur here when the client queues calls or checks for
   loading (`BackendClient.may_emit_early`). In that case, and after a first failed attempt, the
   waiting happens in a `TaskStream`, so that events can be delivered meanwhile. Otherwise the
   stream opens inside `next_events`, without a task.
3. *Open.* Each `next_events` reads until at least one event is complete. A large chunk is decoded
   in slices, so that its first events are delivered before the rest of it is parsed. An open stream
   is never repeated: a failure raises, with the reply so far as `partial` of a StreamBrokenError.
4. *Finished.* The decoder gave `Done`; the connection goes back to its pool.

The slot is released in `next_events` as soon as the reply is complete, with its token count for the
rate limiter, else in `aclose`. `aclose` also ends the task of state 2 and closes the HTTP stream,
also one that the task opened and this source has not taken over. A stream that is abandoned without
`aclose` is closed, and its slot released, by the `LoopGuard` when its event loop shuts down.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from anyio import sleep

from majordomo import llm
from majordomo.backend_status import Loading
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
from majordomo.models.client import BackendCall, read_all
from majordomo.models.sliced_stream import SlicedStream
from majordomo.queueing.admission import Admission
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest, HTTPStream


class ChatDecoder(Protocol):
    """A dialect's decoder of one streamed reply."""

    @property
    def reply(self) -> llm.Reply:
        """The reply so far."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the finish reason has arrived."""
        ...

    failure: MajordomoError | None
    """An error that followed the events returned last, to be raised after them."""

    def feed(self, chunk: bytes) -> list[llm.ChatEvent]:
        """Return the events that these bytes complete."""
        ...

    def finish(self) -> list[llm.ChatEvent]:
        """Return the last events, at the end of the body."""
        ...


class ChatCodec(Protocol):
    """The client side of a chat dialect."""

    @property
    def image_support(self) -> ImageSupport:
        """The formats and sizes of images that the backend can read."""
        ...

    def encode_request(
        self, model: str, request: llm.Request, *, stream: bool = False
    ) -> tuple[HTTPRequest, list[CallWarning]]:
        """Return the HTTP request, and a warning for each field that the backend cannot honor."""
        ...

    def decode_reply(self, body: bytes, request: llm.Request, limits: Limits) -> llm.Reply:
        """Return the reply in a complete body."""
        ...

    def stream_decoder(self, request: llm.Request, limits: Limits) -> ChatDecoder:
        """Return a decoder for one streamed reply to this request."""
        ...

    def reply_limit(self, request: llm.Request, limits: Limits) -> int:
        """Return the largest size of a complete body to accept, in bytes."""
        ...


class HTTPChatSource:
    """The events of a streamed reply, one batch per chunk from the network."""

    def __init__(
        self,
        call: BackendCall,
        codec: ChatCodec,
        request: llm.Request,
        encoded: HTTPRequest | Callable[[], Awaitable[HTTPRequest]],
        with_context: Callable[[llm.Reply], llm.Reply],
    ) -> None:
        self._call = call
        self._client = call.client
        self._codec = codec
        self._request = request
        self._encoded = encoded
        self._with_context = with_context
        self._decoder = codec.stream_decoder(request, call.client.limits)
        self._retry_state = call.retry_state()
        # Made when events may occur before the stream is open.
        self._opening: TaskStream[llm.ChatEvent, None] | None = None
        self._pending_events: list[Loading] = []
        self._delay = 0.0
        self._stream: HTTPStream | None = None
        # The stream while the task of `_opening` has opened it and this source has not taken it.
        self._opened: HTTPStream | None = None
        self._reader: SlicedStream | None = None
        self._complete_reply: llm.Reply | None = None
        self._admission: Admission | None = None
        self._guard: LoopGuard | None = None

    @property
    def result(self) -> llm.Reply:
        """The complete reply, or as much of it as has arrived."""
        if self._complete_reply is not None:
            return self._complete_reply
        if self._stream is None:
            return empty_reply(self._call.model, self._client.provider)
        return self._with_context(self._decoder.reply)

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        """Return the next events; nothing after `Done`."""
        if self._complete_reply is not None:
            return ()
        try:
            if self._stream is None and (events := await self._open()):
                return events
            events = await self._read()
            if self._complete_reply is not None:
                self._release()
            return events
        except MajordomoError as error:
            if isinstance(error, StreamBrokenError) and isinstance(error.partial, llm.Reply):
                error.partial = self._with_context(error.partial)
            # The frames of the traceback hold the body, which may quote a key.
            raise self._client.with_context(error, self._call.model).with_traceback(
                None
            ) from error.__cause__

    async def _open(self) -> Sequence[llm.ChatEvent]:
        """Return the next events before the stream is open; nothing once it is."""
        if not isinstance(self._encoded, HTTPRequest):
            self._encoded = await self._encoded()
        if self._opening is None and not self._client.may_emit_early:
            self._admission = await self._call.admit()
            try:
                self._stream = await self._call.open(self._encoded)
            except MajordomoError as error:
                self._prepare_retry(error)
        if self._stream is None:
            if self._opening is None:
                self._opening = TaskStream(self._open_stream)
            if events := await self._opening.next_events():
                return events
            self._stream = self._opened
        assert self._stream is not None
        self._guard = await close_with_loop(self._stream, self._admission)
        return ()

    async def _open_stream(self, emit: Callable[[llm.ChatEvent], None]) -> None:
        """Wait for a slot, send the request until it succeeds, and emit events meanwhile."""
        self._call.emit = emit
        try:
            await self._open_admitted(emit)
        except BaseException:
            # Also when the event loop ends and nothing closes this source.
            self._release()
            raise

    async def _open_admitted(self, emit: Callable[[llm.ChatEvent], None]) -> None:
        assert isinstance(self._encoded, HTTPRequest)
        if self._admission is None:
            self._admission = await self._call.admit()
        while self._opened is None:
            for event in self._pending_events:
                emit(event)
            self._pending_events.clear()
            await sleep(self._delay)
            try:
                self._opened = await self._call.open(self._encoded)
            except MajordomoError as error:
                self._prepare_retry(error)

    def _prepare_retry(self, error: MajordomoError) -> None:
        """Set the delay before the next attempt. Raises the error when there is none."""
        self._delay = self._retry_state.next_delay(
            self._client.with_context(error, self._call.model)
        )
        if error.code == "MODEL_LOADING":
            self._pending_events.append(Loading(error.message, self._call.deadline.elapsed()))

    async def _read(self) -> Sequence[llm.ChatEvent]:
        stream = self._stream
        assert stream is not None
        content_type = stream.headers.get("content-type", "")
        if "json" in content_type and "ndjson" not in content_type:
            return await self._read_body(stream)
        if "html" in content_type:
            raise BadResponseError("the response is a web page, not a stream", code="NOT_JSON")
        if self._reader is None:
            self._reader = SlicedStream(stream)
        decoder, reader = self._decoder, self._reader
        while True:
            if decoder.failure is not None:
                raise decoder.failure
            try:
                chunk = await reader.read()
            except MajordomoError as error:
                if decoder.complete:
                    # The finish reason has arrived; only the end marker of the stream is missing.
                    chunk = b""
                elif isinstance(error, ConnectionFailedError):
                    raise StreamBrokenError(
                        f"the stream broke off: {error.message}",
                        partial=decoder.reply,
                        details=error.details,
                    ) from None
                else:
                    raise
            events = decoder.feed(chunk) if chunk else decoder.finish()
            if events:
                if isinstance(events[-1], llm.Done):
                    self._complete_reply = self._with_context(events[-1].reply)
                    self._client.budget.record_success()
                    events[-1] = llm.Done(self._complete_reply)
                    await stream.finish()
                return events

    async def _read_body(self, stream: HTTPStream) -> Sequence[llm.ChatEvent]:
        """Return the events of a reply that came as one JSON body.

        Some servers ignore `stream`, and some report an error this way with status 200.
        """
        body = await read_all(stream, self._codec.reply_limit(self._request, self._client.limits))
        reply = self._complete_reply = self._with_context(
            self._codec.decode_reply(body, self._request, self._client.limits)
        )
        self._client.budget.record_success()
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
        """Stop opening, close the HTTP stream and release the slot, whatever the state."""
        try:
            if self._opening is not None:
                await self._opening.aclose()
            if (stream := self._stream or self._opened) is not None:
                await stream.aclose()
        finally:
            self._release()
            if self._guard is not None:
                await self._guard.aclose()

    def _release(self) -> None:
        if self._admission is not None:
            reply = self._complete_reply
            self._admission.release(total_tokens(reply) if reply is not None else None)


def total_tokens(reply: llm.Reply) -> int:
    """Return the tokens of a reply that count against a rate limit: input and output."""
    return (reply.usage.input_tokens or 0) + (reply.usage.output_tokens or 0)
