"""Streams as a chat shows them: a message that is edited now and then, not at every word.

Theory of operation
-------------------
A `TaskStream` task enters the stream, reads it, applies its events to a state object, and leaves
it. The caller takes snapshots of the state, at most one per interval. So reading is never cancelled
to look at a clock, and a slow edit only means fewer edits.

* The task emits one item per change since the last snapshot, so the queue between them holds at
  most one.
* `_complete` is set when the stream came to its own end. The snapshot after that is the last.
* When the task failed, its error is raised after a snapshot with everything that arrived before.
* The task owns the stream: a stream that was not entered yet is entered and closed in the task,
  also when the caller leaves early. A stream that was entered before is only read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from majordomo import imagegen, llm
from majordomo.bots.clock import Clock
from majordomo.bots.snapshots import (
    ChatState,
    ChatStatus,
    ImageSnapshot,
    ImageState,
    ImageStatus,
    Snapshot,
    chat_status,
    image_status,
)
from majordomo.concurrency.task_stream import TaskStream
from majordomo.errors import InvalidRequestError, StreamBrokenError
from majordomo.validation import check_number

S_co = TypeVar("S_co", covariant=True)


class SnapshotState(Protocol[S_co]):
    """Collects the events of a stream."""

    def update(self, event: Any, now: float) -> bool:
        """Apply an event, and return whether it is worth showing."""
        ...

    def snapshot(self, now: float, *, finished: bool) -> S_co:
        """Return the state as a value."""
        ...


class ThrottledStream(Generic[S_co]):
    """The snapshots of a stream: enter it with `async with`, then iterate with `async for`.

    Leaving closes the stream, also before its end. The first snapshot comes at once. Each further
    one comes `interval` seconds after the one before or later, and only when something has changed
    or a heartbeat is due. The last one has `finished` set. When the stream fails, a snapshot of
    what arrived before comes first, and then the error is raised unchanged.

    Use `throttle` or `throttle_image` to create one.
    """

    def __init__(
        self,
        stream: Any,
        create_state: Callable[[float], SnapshotState[S_co]],
        interval: float,
        heartbeat: float | None,
        clock: Clock | None,
    ) -> None:
        check_number("interval", interval, 0, 3600)
        check_number("heartbeat", heartbeat, 0.001, 3600)
        if not hasattr(stream, "__aenter__") and not hasattr(stream, "__anext__"):
            raise InvalidRequestError(
                "stream must be the result of `model.stream(...)` or an async iterator; "
                f"got {type(stream).__name__}",
                field="stream",
            )
        self._stream = stream
        self._create_state = create_state
        self._interval = interval
        self._heartbeat = heartbeat
        self.clock: Clock = clock or Clock()
        self._task_stream: TaskStream[None, None] = TaskStream(self._read)
        self._state: SnapshotState[S_co] | None = None
        # The time of the clock before which no snapshot is returned.
        self._not_before = 0.0
        # Whether there was a change since the last snapshot.
        self._changed = False
        # Whether the stream came to its own end.
        self._complete = False
        # Whether the iteration is over.
        self._finished = False

    def pause_for(self, seconds: float) -> None:
        """Return no snapshot for `seconds`, as after a rate limit of the platform.

        Args:
            seconds: The length of the pause.
        """
        self._not_before = max(self._not_before, self.clock.now() + seconds)

    async def __aenter__(self) -> Self:
        if self._state is not None:
            raise RuntimeError("a throttled stream can be entered only once")
        self._not_before = self.clock.now()
        self._state = self._create_state(self._not_before)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._finished = True
        await self._task_stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> S_co:
        if self._state is None:
            raise RuntimeError("a throttled stream must be read inside its `async with`")
        if self._finished:
            raise StopAsyncIteration
        await self._wait_for_change()
        self._raise_failure()
        if (wait := self._not_before - self.clock.now()) > 0:
            await self.clock.sleep(wait)
            self._raise_failure()
        now = self.clock.now()
        self._changed = False
        self._not_before = now + self._interval
        self._finished = self._complete
        return self._state.snapshot(now, finished=self._complete)

    async def _wait_for_change(self) -> None:
        """Wait until there is something to show, the task has ended, or a heartbeat is due."""
        started_at = self.clock.now()
        while not self._changed and not self._task_stream.finished:
            if self._heartbeat is None:
                await self._task_stream.next_events()
            elif (remaining := started_at + self._heartbeat - self.clock.now()) > 0:
                await self.clock.wait_for(remaining, self._task_stream.next_events)
            else:
                return

    def _raise_failure(self) -> None:
        """Raise the error of the stream, once everything that arrived before it was returned."""
        if self._task_stream.finished and not self._complete and not self._changed:
            self._finished = True
            # Reading the result raises the error of the failed task.
            _ = self._task_stream.result
            raise StreamBrokenError("the task that read the stream was stopped with its event loop")

    async def _read(self, emit: Callable[[None], None]) -> None:
        """Read the stream. Everything that uses the stream happens in this task."""
        async with self._open_stream() as stream:
            async for event in stream:
                assert self._state is not None
                if self._state.update(event, self.clock.now()) and not self._changed:
                    self._changed = True
                    emit(None)
        self._complete = self._changed = True

    def _open_stream(self) -> AbstractAsyncContextManager[Any]:
        """Return a context manager that enters and closes the stream, as far as it is ours."""
        stream = self._stream
        if getattr(stream, "entered", False):
            # The code that entered the stream closes it.
            return nullcontext(stream)
        if hasattr(stream, "__aenter__"):
            return stream  # type: ignore[no-any-return]  # the stream of a model, entered here
        return aclosing(stream) if hasattr(stream, "aclose") else nullcontext(stream)


def throttle(
    stream: AbstractAsyncContextManager[llm.Stream]
    | AsyncIterator[llm.ChatEvent]
    | AsyncIterator[str],
    interval: float = 1.2,
    *,
    heartbeat: float | None = None,
    formatter: ChatStatus = chat_status,
    clock: Clock | None = None,
) -> ThrottledStream[Snapshot]:
    """Return the snapshots of a chat stream, each with the whole answer so far.

    The last state of the answer is always returned.

    Args:
        stream: The result of `model.stream(...)` or `md.stream_tools(...)`, or an async iterator of
            events or of whole texts so far. A stream that is not entered yet is entered here and
            closed on leaving; one that was entered before is read and left open.
        interval: Minimum number of seconds between two snapshots, 0 to 3600.
        heartbeat: Seconds after which a snapshot is returned although nothing has changed, 0.001 to
            3600, for typing indicators that expire. None returns none.
        formatter: Returns the status text for an event, or None for no change.
        clock: The clock, for tests.

    Raises:
        InvalidRequestError: `stream`, `interval` or `heartbeat` is invalid (raised at once). The
            iteration raises what the stream raises, unchanged.

    Example:
        ```python
        async with throttle(chat.stream(question)) as answer:
            async for snapshot in answer:
                await message.edit(snapshot.display_text)
        ```
    """
    return ThrottledStream(
        stream, lambda now: ChatState(formatter, now), interval, heartbeat, clock
    )


def throttle_image(
    stream: AbstractAsyncContextManager[imagegen.Stream] | AsyncIterator[imagegen.ImageEvent],
    interval: float = 1.2,
    *,
    preview_interval: float = 5.0,
    heartbeat: float | None = None,
    formatter: ImageStatus = image_status,
    clock: Clock | None = None,
) -> ThrottledStream[ImageSnapshot]:
    """Return the snapshots of an image stream; the last one has the result.

    Args:
        stream: The result of `image_model.stream(...)`, or an async iterator of events. A stream
            that is not entered yet is entered here and closed on leaving; one that was entered
            before is read and left open.
        interval: Minimum number of seconds between two snapshots, 0 to 3600.
        preview_interval: Minimum number of seconds between two snapshots with a new preview, 0 to
            3600.
        heartbeat: Seconds after which a snapshot is returned although nothing has changed, 0.001 to
            3600. None returns none.
        formatter: Returns the status text for an event, or None for no change.
        clock: The clock, for tests.

    Raises:
        InvalidRequestError: `stream`, `interval`, `preview_interval` or `heartbeat` is invalid
            (raised at once). The iteration raises what the stream raises, unchanged.
    """
    check_number("preview_interval", preview_interval, 0, 3600)
    return ThrottledStream(
        stream, lambda now: ImageState(formatter, now, preview_interval), interval, heartbeat, clock
    )
