"""Async and sync streams of events, over a source of event batches.

A stream opens its source when its `with` block is entered, not before, and closes it when the block
is left. Events arrive in batches, one per network read, so that there is no overhead per event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from majordomo.concurrency import portal

E = TypeVar("E")
R = TypeVar("R")
E_co = TypeVar("E_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


class EventSource(Protocol[E_co, R_co]):
    """The source of a stream: events in batches, and a result."""

    @property
    def result(self) -> R_co:
        """The result.

        A source that has a partial result returns it before the end; others raise RuntimeError.
        """
        ...

    async def next_events(self) -> Sequence[E_co]:
        """Wait for the next events.

        Returns:
            At least one event; an empty sequence only at the end.
        """
        ...

    async def aclose(self) -> None:
        """Stop what makes the events, whether or not it has ended. May be called repeatedly."""
        ...


def no_result_yet() -> RuntimeError:
    """Return the error for reading a result before the end of its stream."""
    return RuntimeError("there is no result yet; read the stream to its last event")


class _StreamBase(Generic[E, R]):
    """The state of a stream, which async and sync streams read in their own way."""

    def __init__(self, open_source: Callable[[], EventSource[E, R]]) -> None:
        self._open_source = open_source
        self._source: EventSource[E, R] | None = None
        # The events of the last batch that were not returned yet.
        self._pending: Iterator[E] = iter(())
        self._ended = False
        self._cancelled = False

    def _open(self) -> None:
        if self._source is not None:
            raise RuntimeError("a stream can be entered only once; create a new one")
        self._source = self._open_source()

    def _end_after(self, error: BaseException) -> None:
        self._ended, self._cancelled = True, not isinstance(error, Exception)

    def _check_not_cancelled(self) -> None:
        """Raise RuntimeError after a cancelled read, whose events are lost."""
        if self._cancelled:
            raise RuntimeError("a read of this stream was cancelled; start a new stream")

    @property
    def entered(self) -> bool:
        """Whether the stream was entered. The `with` block that entered it closes it."""
        return self._source is not None

    @property
    def source(self) -> EventSource[E, R]:
        """The source of the events. Raises RuntimeError before the stream is entered."""
        if self._source is None:
            raise RuntimeError("read the stream inside its `async with` (or `with`) block")
        return self._source

    @property
    def result(self) -> R:
        """The result, complete after the last event.

        Raises RuntimeError before the stream is entered and, for a stream without partial results,
        before its last event.
        """
        return self.source.result


class EventStream(_StreamBase[E, R]):
    """An async stream of events, with a result.

    Iterate it once, inside its `async with` block. Leaving the block stops what makes the events.

    Args:
        open_source: Returns the source of the events. Called when the block is entered.

    Example:
        ```python
        async with model.stream("a red fox") as stream:
            async for event in stream:
                print(event)
        print(stream.result)
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

    async def __anext__(self) -> E:
        for event in self._pending:
            return event
        if self._ended:
            self._check_not_cancelled()
            raise StopAsyncIteration
        try:
            events = await self.source.next_events()
        except BaseException as error:
            self._end_after(error)
            raise
        if not events:
            self._ended = True
            raise StopAsyncIteration
        if len(events) > 1:
            self._pending = iter(events)
            return next(self._pending)
        return events[0]


class SyncEventStream(_StreamBase[E, R]):
    """The blocking version of `EventStream`: iterate it once, inside its `with` block.

    It crosses into the portal's thread once per batch of events, not once per event.

    Args:
        open_source: Returns the source of the events. Called when the block is entered.

    Example:
        ```python
        with model.stream_sync("a red fox") as stream:
            for event in stream:
                print(event)
        print(stream.result)
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

    def __next__(self) -> E:
        for event in self._pending:
            return event
        if not self._ended:
            try:
                self._pending = iter(portal.run(self.source.next_events))
            except BaseException as error:
                self._end_after(error)
                raise
        for event in self._pending:
            return event
        self._check_not_cancelled()
        self._ended = True
        raise StopIteration
