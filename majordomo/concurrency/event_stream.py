"""Async and sync streams of events, over a source of event batches.

A stream creates its source when its `with` block is entered, not before, and closes it when the
block is left. Chat sources have a reply, image sources a result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from majordomo.concurrency import portal

E = TypeVar("E", covariant=True)


class EventSource(Protocol[E]):
    """What llm.ChatSource and imagegen.ImageSource have in common."""

    async def next_events(self) -> Sequence[E]:
        """Return the events since the last call, at least one; empty at the end."""
        ...

    async def aclose(self) -> None:
        """Close the source at any point."""
        ...


S = TypeVar("S", bound=EventSource[Any])


class _StreamBase(Generic[S]):
    """What the async and the sync stream share."""

    def __init__(self, make_source: Callable[[], S]) -> None:
        self._make_source = make_source
        self._source: S | None = None
        self._pending: deque[Any] = deque()
        self._ended = False

    def _open(self) -> None:
        if self._source is not None:
            raise RuntimeError("a stream can be entered only once; create a new one")
        self._source = self._make_source()

    @property
    def entered(self) -> bool:
        """Whether the stream was entered. The `with` block that entered it closes it."""
        return self._source is not None

    @property
    def source(self) -> S:
        """The source of the events. Raises RuntimeError before the stream is entered."""
        if self._source is None:
            raise RuntimeError("read the stream inside its `async with` (or `with`) block")
        return self._source

    @property
    def reply(self) -> Any:
        """The reply: complete after the Done event, and what has arrived so far before it."""
        return self.source.reply  # type: ignore[attr-defined]  # chat sources have it

    @property
    def result(self) -> Any:
        """The result after the Done event, None before it."""
        return self.source.result  # type: ignore[attr-defined]  # image sources have it


class EventStream(_StreamBase[S]):
    """An async stream of events.

    Example:
        ```python
        async with model.stream("Tell me a joke.") as stream:
            async for event in stream:
                ...
        ```
    """

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
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
    """A sync stream of events.

    It crosses into the portal's thread once per batch of events, not once per event.

    Example:
        ```python
        with model.stream_sync("Tell me a joke.") as stream:
            for event in stream:
                ...
        ```
    """

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
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
