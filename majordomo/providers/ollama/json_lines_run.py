"""Replies of Ollama that come in JSON lines: progress of long operations, and generated text.

A `JSONLinesRun` describes one request and how its reply is read. It can be awaited (`result`) or
streamed, sync and async; all of these read a `JSONLinesSource`. The source owns the HTTP stream and
the slot: both are released at the end of the reply, in `aclose`, or, when the source is abandoned,
at the end of the event loop (`LoopGuard`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from majordomo.concurrency.event_stream import EventStream, SyncEventStream, no_result_yet
from majordomo.concurrency.loop_lifetime import LoopGuard, close_with_loop
from majordomo.dialects.ollama.admin import (
    Generated,
    GenerationAccumulator,
    PullProgress,
    decode_frame,
    decode_progress,
)
from majordomo.errors import ConnectionFailedError, MajordomoError, StreamBrokenError
from majordomo.framing.lines import JSONLinesDecoder
from majordomo.models.client import BackendCall, BackendClient
from majordomo.models.sliced_stream import SlicedStream
from majordomo.queueing.admission import Admission
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest, HTTPStream

E = TypeVar("E")
R = TypeVar("R")
E_co = TypeVar("E_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


class FrameReader(Protocol[E_co, R_co]):
    """Decodes the frames of one kind of reply."""

    @property
    def complete(self) -> bool:
        """Whether the last frame has arrived."""

    @property
    def partial(self) -> Any:
        """The result so far, for an error to hold."""
        ...

    def feed(self, frame: Mapping[str, Any]) -> E_co | None:
        """Return the event in a frame; None when it has none."""

    def result(self) -> R_co:
        """Return the result of all frames. Raises StreamBrokenError unless `complete`."""
        ...


@dataclass(frozen=True, slots=True)
class JSONLinesRun(Generic[E, R]):
    """A request, and how its reply is read. Each use sends the request anew."""

    client: BackendClient
    request: HTTPRequest
    make_reader: Callable[[], FrameReader[E, R]]
    """Returns a new reader for each use."""
    timeout: Timeout
    model: str
    needs_slot: bool = False
    """Whether it counts against `max_concurrency`."""
    prepare: Callable[[BackendCall], Awaitable[None]] | None = None
    """Awaited before anything is sent; it may raise."""

    def source(self) -> JSONLinesSource[E, R]:
        """Return a new source of events. Nothing is sent yet."""
        return JSONLinesSource(self)

    async def result(self, on_event: Callable[[E], None] | None) -> R:
        """Return the result, and call `on_event`, unless None, with each event."""
        source = self.source()
        try:
            while await _emit_next(source, on_event):
                pass
        finally:
            await source.aclose()
        return source.result

    def stream(self) -> EventStream[E, R]:
        """Return a stream of the events."""
        return EventStream(self.source)

    def stream_sync(self) -> SyncEventStream[E, R]:
        """Return a blocking stream of the events."""
        return SyncEventStream(self.source)


class JSONLinesSource(Generic[E, R]):
    """Events in batches, one batch per chunk from the network that completes any."""

    def __init__(self, run: JSONLinesRun[E, R]) -> None:
        self._run = run
        self._client = run.client
        self._reader = run.make_reader()
        self._call = run.client.call(run.timeout, run.model)
        self._ended = False
        self._sliced: SlicedStream | None = None
        self._decoder = JSONLinesDecoder(run.client.limits.max_event_bytes)
        self._stream: HTTPStream | None = None
        self._failure: MajordomoError | None = None
        self._raised: MajordomoError | None = None
        self._admission: Admission | None = None
        self._guard: LoopGuard | None = None

    @property
    def result(self) -> R:
        """The result. Raises the error of the operation, and RuntimeError until it is complete."""
        if self._raised is not None:
            raise self._raised
        if not self._reader.complete:
            raise no_result_yet()
        return self._reader.result()

    async def next_events(self) -> Sequence[E]:
        """Return the next events; nothing after the last."""
        try:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return ()
            if self._stream is None:
                self._stream = await self._open()
                self._guard = await close_with_loop(self._stream, self._admission)
            return await self._read(self._stream)
        except MajordomoError as error:
            # The frames of the traceback hold the body, which may quote a key.
            self._raised = self._client.with_context(error, self._run.model)
            raise self._raised.with_traceback(None) from None

    async def _open(self) -> HTTPStream:
        if self._run.prepare is not None:
            await self._run.prepare(self._call)
        if self._run.needs_slot:
            self._admission = await self._call.admit()
        return await self._call.open(self._run.request)

    async def _read(self, stream: HTTPStream) -> Sequence[E]:
        events: list[E] = []
        while not events and not self._ended:
            chunk = await self._read_chunk(stream)
            try:
                for line in self._decoder.feed(chunk) if chunk else self._decoder.finish():
                    event = self._reader.feed(decode_frame(line, self._client.limits))
                    if event is not None:
                        events.append(event)
                    if self._reader.complete:
                        break
                if self._reader.complete or not chunk:
                    # Raises when the reply ended too early.
                    self._reader.result()
                    self._ended = True
                    await stream.finish()
                    self._release()
            except MajordomoError as error:
                if not events:
                    raise
                # Raised by the next call, after the events that preceded it in the same chunk.
                self._failure = error
        return events

    def _reader_of(self, stream: HTTPStream) -> SlicedStream:
        if self._sliced is None:
            self._sliced = SlicedStream(stream)
        return self._sliced

    async def _read_chunk(self, stream: HTTPStream) -> bytes:
        try:
            return await self._reader_of(stream).read()
        except ConnectionFailedError as error:
            raise StreamBrokenError(
                f"the stream broke off: {error.message}",
                partial=self._reader.partial,
                details=error.details,
            ) from None

    async def aclose(self) -> None:
        """Close the HTTP stream and release the slot."""
        try:
            if self._stream is not None:
                await self._stream.aclose()
        finally:
            self._release()
            if self._guard is not None:
                await self._guard.aclose()

    def _release(self) -> None:
        if self._admission is not None:
            self._admission.release()


async def _emit_next(source: JSONLinesSource[E, R], emit: Callable[[E], None] | None) -> bool:
    """Emit the next events, and return whether there were any.

    A function of its own, so that the traceback of an error holds no earlier events.
    """
    events = await source.next_events()
    if emit is not None:
        for event in events:
            emit(event)
    return bool(events)


class ProgressReader:
    """Reads pull, push and create: complete at status `success`, which is the result."""

    def __init__(self) -> None:
        self.complete: bool = False
        self._last = PullProgress("")

    def feed(self, frame: Mapping[str, Any]) -> PullProgress:
        """Return the progress in a frame."""
        self._last = decode_progress(frame)
        self.complete = self._last.status == "success"
        return self._last

    @property
    def partial(self) -> str:
        """The last status."""
        return self._last.status

    def result(self) -> PullProgress:
        """Return the last progress. Raises StreamBrokenError unless it is `success`."""
        if not self.complete:
            raise StreamBrokenError(
                f"the operation ended without success; last status: {self.partial or 'none'}",
                partial=self.partial,
            )
        return self._last


class TextReader:
    """Reads `/api/generate`: pieces of text, then the complete text and statistics."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._generation = GenerationAccumulator()

    @property
    def complete(self) -> bool:
        """Whether the last frame has arrived."""
        return self._generation.done is not None

    @property
    def partial(self) -> Generated:
        """The text so far."""
        return self._generation.partial

    def feed(self, frame: Mapping[str, Any]) -> str | None:
        """Return the text in a frame; None when it has none."""
        return self._generation.feed(frame, self._limits) or None

    def result(self) -> Generated:
        """Return the complete text and statistics."""
        return self._generation.result()
