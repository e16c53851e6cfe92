"""An answer of Ollama's that comes in JSON lines: read once, for the call that waits, for its stream, and for both colors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

from majordomo.concurrency.event_stream import EventStream, SyncEventStream
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
from majordomo.models.client import BackendClient
from majordomo.queueing.admission import Admission
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest, HTTPStream

E = TypeVar("E")
R = TypeVar("R")
E_co = TypeVar("E_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


class FrameReader(Protocol[E_co, R_co]):
    """What the frames of one kind of answer mean."""

    @property
    def whole(self) -> bool: ...

    @property
    def partial(self) -> Any:
        """What there is so far, for an error to keep."""
        ...

    def take(self, frame: Mapping[str, Any]) -> E_co | None: ...

    def result(self) -> R_co:
        """What all frames came to. Raises StreamBrokenError unless `whole`."""
        ...


class TaskEventStream(Protocol[E_co, R_co]):
    """Work while it goes on: iterate it once, inside its `async with`; leaving stops the work. `result` is None until it is done."""

    @property
    def result(self) -> R_co | None: ...

    def __aiter__(self) -> AsyncIterator[E_co]: ...

    async def __anext__(self) -> E_co: ...


class SyncTaskEventStream(Protocol[E_co, R_co]):
    """The same, blocking."""

    @property
    def result(self) -> R_co | None: ...

    def __iter__(self) -> Iterator[E_co]: ...

    def __next__(self) -> E_co: ...


@dataclass(frozen=True, slots=True)
class JSONLinesRun(Generic[E, R]):
    """A request, and how its answer is read; `source` begins it anew. `gated`: it is one of the calls that `max_concurrency` counts.
    `first` is awaited before anything is sent, and may raise."""

    client: BackendClient
    request: HTTPRequest
    reading: Callable[[], FrameReader[E, R]]
    timeout: Timeout
    model: str
    counts_as_call: bool = False
    first: Callable[[], Awaitable[None]] | None = None

    def source(self) -> JSONLinesSource[E, R]:
        return JSONLinesSource(self)

    async def result(self, on_event: Callable[[E], None] | None) -> R:
        """The result, `tell` called with each event on the way."""
        source = self.source()
        try:
            while await _told(source, on_event):
                pass
        finally:
            await source.aclose()
        assert source.result is not None
        return source.result

    def stream(self) -> AbstractAsyncContextManager[TaskEventStream[E, R]]:
        return cast("AbstractAsyncContextManager[TaskEventStream[E, R]]", EventStream(self.source))

    def stream_sync(self) -> AbstractContextManager[SyncTaskEventStream[E, R]]:
        return cast(
            "AbstractContextManager[SyncTaskEventStream[E, R]]", SyncEventStream(self.source)
        )


class JSONLinesSource(Generic[E, R]):
    """Events in batches, one batch for each piece of network that holds any."""

    def __init__(self, work: JSONLinesRun[E, R]) -> None:
        self.result: R | None = None
        self._work = work
        self._client = work.client
        self._reading = work.reading()
        self._deadline = work.client.deadline(work.timeout, work.model)
        self._lines = JSONLinesDecoder(work.client.limits.max_event_bytes)
        self._stream: HTTPStream | None = None
        self._failure: MajordomoError | None = None
        self._place: Admission | None = None
        self._tie: LoopGuard | None = None

    async def next_events(self) -> Sequence[E]:
        try:
            if self._failure is not None:
                raise self._failure
            if self.result is not None:
                return ()
            if self._stream is None:
                self._stream = await self._opened()
                self._tie = await close_with_loop(self._stream, self._place)
            return await self._read(self._stream)
        except MajordomoError as error:
            # Without its frames: they hold the answer, which may quote a key
            raise self._client.with_context(error, self._work.model).with_traceback(None) from None

    async def _opened(self) -> HTTPStream:
        if self._work.first is not None:
            await self._work.first()
        if self._work.counts_as_call:
            self._place = await self._client.admit(self._deadline, self._work.model)
        return await self._client.open(self._work.request, self._deadline)

    async def _read(self, stream: HTTPStream) -> Sequence[E]:
        events: list[E] = []
        while not events and self.result is None:
            piece = await self._piece(stream)
            try:
                for line in self._lines.feed(piece) if piece else self._lines.finish():
                    event = self._reading.take(decode_frame(line, self._client.limits))
                    if event is not None:
                        events.append(event)
                    if self._reading.whole:
                        break
                if self._reading.whole or not piece:
                    self.result = self._reading.result()
                    await stream.finish()
                    self._leave()
            except MajordomoError as error:
                if not events:
                    raise
                self._failure = error  # what came before it in the same piece is told first
        return events

    async def _piece(self, stream: HTTPStream) -> bytes:
        try:
            return await stream.read()
        except ConnectionFailedError as error:
            broken = f"the stream broke off: {error.message}"
            raise StreamBrokenError(
                broken, partial=self._reading.partial, details=error.details
            ) from None

    async def aclose(self) -> None:
        try:
            if self._stream is not None:
                await self._stream.aclose()
        finally:
            self._leave()
            if self._tie is not None:
                await self._tie.aclose()

    def _leave(self) -> None:
        if self._place is not None:
            self._place.release()


async def _told(source: JSONLinesSource[E, R], emit: Callable[[E], None] | None) -> bool:
    """Whether there was something to tell. In a frame of its own, so that an error's traceback holds nothing of what came before it."""
    events = await source.next_events()
    if emit is not None:
        for event in events:
            emit(event)
    return bool(events)


class ProgressReader:
    """Pull, push and create: whole at `success`, and that is the result."""

    def __init__(self) -> None:
        self.whole: bool = False
        self._last = PullProgress("")

    def take(self, frame: Mapping[str, Any]) -> PullProgress:
        self._last = decode_progress(frame)
        self.whole = self._last.status == "success"
        return self._last

    @property
    def partial(self) -> str:
        return self._last.status

    def result(self) -> PullProgress:
        if not self.whole:
            raise StreamBrokenError(
                f"the work ended without success, at: {self.partial or 'nothing'}",
                partial=self.partial,
            )
        return self._last


class TextReader:
    """`/api/generate`: pieces of text, and the whole of it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._generation = GenerationAccumulator()

    @property
    def whole(self) -> bool:
        return self._generation.done is not None

    @property
    def partial(self) -> Generated:
        return self._generation.partial

    def take(self, frame: Mapping[str, Any]) -> str | None:
        return self._generation.feed(frame, self._limits) or None

    def result(self) -> Generated:
        return self._generation.result()
