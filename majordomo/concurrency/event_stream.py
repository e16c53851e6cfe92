"""Streams as a caller holds them, over a source of event batches; async and blocking."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from majordomo.concurrency import portal

E = TypeVar("E", covariant=True)


class EventSource(Protocol[E]):
    """llm.ChatSource and imagegen.ImageSource, as far as they are alike."""

    async def next_events(self) -> Sequence[E]: ...

    async def aclose(self) -> None: ...


S = TypeVar("S", bound=EventSource[Any])


class _StreamBase(Generic[S]):
    """What both colors share: the source is made on entering, not before, and closed on leaving."""

    def __init__(self, make: Callable[[], S]) -> None:
        self._make = make
        self._source: S | None = None
        self._pending: deque[Any] = deque()
        self._ended = False

    def _open(self) -> None:
        if self._source is not None:
            raise RuntimeError("a stream is entered once")
        self._source = self._make()

    @property
    def entered(self) -> bool:
        """Whether somebody has begun to read it, and so will close it."""
        return self._source is not None

    @property
    def source(self) -> S:
        if self._source is None:
            raise RuntimeError("a stream is read inside its `async with` (or `with`)")
        return self._source

    @property
    def reply(self) -> Any:
        """The reply: whole after Done, what arrived so far before it."""
        return self.source.reply  # type: ignore[attr-defined]  # chat sources have it

    @property
    def result(self) -> Any:
        """The result after Done, None before it."""
        return self.source.result  # type: ignore[attr-defined]  # image sources have it


class EventStream(_StreamBase[S]):
    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.source.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._pending:
            return self._pending.popleft()
        if self._ended:
            raise StopAsyncIteration
        try:
            events = await self.source.next_events()
        except BaseException:
            self._ended = True
            raise
        if not events:
            self._ended = True
            raise StopAsyncIteration
        if len(events) > 1:
            self._pending.extend(events)
            return self._pending.popleft()
        return events[0]


class SyncEventStream(_StreamBase[S]):
    """Crosses into the portal's thread once per batch, not once per event."""

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        portal.run(self.source.aclose)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if not self._pending and not self._ended:
            try:
                self._pending.extend(portal.run(self.source.next_events))
            except BaseException:
                self._ended = True
                raise
        if not self._pending:
            self._ended = True
            raise StopIteration
        return self._pending.popleft()
