"""Task stream: an event source whose events are emitted by a background task.

Theory of operation:

* States: not started, running, finished. The first `next_events` starts the task; it finishes with
  a result or an error. `finished` never changes back.
* The task belongs to the event loop, not to a cancel scope or task group of the reader. So a stream
  may be read from several tasks in turn (the sync API does that), nothing yields inside a cancel
  scope, and an exception in the reader's code does not propagate into the task.
* Events are collected in a list. The reader takes all of them at once; it waits only if there are
  none. When the task is finished and all events are taken, `next_events` raises the task's error,
  or returns the last event, and after it an empty batch.
* A task that is cancelled before its first step ends too (`_end_before_start`); otherwise the
  reader would wait for it for ever.
* Who closes what: the code that starts the stream must close it with `aclose`. That cancels the
  task and waits (shielded) for its clean-up, which limits its own time. The task's error is not
  raised by `aclose`; `next_events` and `result` raise it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

import anyio

from majordomo.concurrency.event_stream import no_result_yet
from majordomo.concurrency.loop_wakeup import running_trio

E = TypeVar("E")
R = TypeVar("R")
Emit = Callable[[E], None]
"""A function that emits one event."""


class TaskStream(Generic[E, R]):
    """Runs `function(emit)` in a task of its own, from the first `next_events` on.

    Args:
        function: Receives a function that emits one event; returns the result.
        last_event: Makes the last event of the result. None emits none.
        partial: Returns the result so far while the task runs. Without it there is none.
    """

    def __init__(
        self,
        function: Callable[[Emit[E]], Awaitable[R]],
        *,
        last_event: Callable[[R], E] | None = None,
        partial: Callable[[], R] | None = None,
    ) -> None:
        self._function = function
        self._last_event = last_event
        self._partial = partial
        self._events: list[E] = []
        self._wakeup: anyio.Event | None = None
        self._done: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._error: BaseException | None = None
        self._task: Any = None
        # Holds the result once the function has returned it.
        self._results: list[R] = []
        self.finished: bool = False
        """Whether the task has ended."""

    @property
    def result(self) -> R:
        """The result, or the result so far.

        Without partial results, raises the task's error, and RuntimeError while there is neither.
        """
        if self._results:
            return self._results[0]
        if self._partial is not None:
            return self._partial()
        if self._error is not None:
            raise self._error
        raise no_result_yet()

    @property
    def started(self) -> bool:
        """Whether the task was started."""
        return self._done is not None

    async def next_events(self) -> Sequence[E]:
        """Return the events since the last call, at least one; empty at the end.

        Raises the task's error after its last event.
        """
        if self._done is None:
            self._start()
        while not self._events and not self.finished:
            self._wakeup = anyio.Event()
            await self._wakeup.wait()
        events, self._events = self._events, []
        if not events:
            if self._error is not None:
                raise self._error
            if self._last_event is not None and self._results:
                events = [self._last_event(self._results[0])]
                self._last_event = None
        return events

    async def aclose(self) -> None:
        """Cancel the task unless it is finished, and wait for its clean-up.

        The clean-up limits its own time.
        """
        if self._done is None or self.finished:
            return
        assert self._scope is not None
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._done.wait()

    def _start(self) -> None:
        self._done = anyio.Event()
        self._scope = anyio.CancelScope()
        self._task = spawn_loop_task(self._run, self._end_before_start)

    def _end_before_start(self, error: BaseException) -> None:
        assert self._done is not None
        self._error, self.finished = error, True
        self._done.set()
        self._wake()

    async def _run(self) -> None:
        assert self._scope is not None
        assert self._done is not None
        try:
            with self._scope:
                self._results.append(await self._function(self._emit))
        except Exception as error:
            self._error = error
        except BaseException as error:
            # Cancelled from outside. The reader receives the cancellation as the task's error.
            self._error = error
            raise
        finally:
            self.finished = True
            self._done.set()
            self._wake()

    def _emit(self, event: E) -> None:
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()


def spawn_loop_task(
    function: Callable[[], Coroutine[Any, Any, None]],
    on_cancelled_early: Callable[[BaseException], None],
) -> Any:
    """Start a task that belongs to the running event loop itself, and return it.

    anyio has no tasks outside a task group, and a task group must not outlive the task that opened
    it. asyncio may cancel a task before its first step, and then runs nothing of `function`, not
    even a `finally`; `on_cancelled_early` is called instead, with the cancellation.
    """
    trio = running_trio()
    if trio is not None:
        return trio.lowlevel.spawn_system_task(function, context=contextvars.copy_context())
    # The running loop has imported it already. At the head of this module the import would cost
    # every program 20 ms at its start.
    import asyncio

    started = False

    async def run() -> None:
        nonlocal started
        started = True
        await function()

    def on_end(task: asyncio.Task[None]) -> None:
        if not started:
            on_cancelled_early(asyncio.CancelledError())

    task = asyncio.get_running_loop().create_task(run(), name="majordomo-task-stream")
    task.add_done_callback(on_end)
    return task
