"""Task stream: a background task that emits events, and a reader that receives them in batches.

Theory of operation:

* States: not started, running, finished. The first `next_events` starts the task; it finishes with
  a result or an error. `finished` never changes back.
* The task belongs to the event loop, not to a cancel scope or task group of the reader. So a stream
  may be read from several tasks in turn (the sync API does that), nothing yields inside a cancel
  scope, and an exception in the reader's code does not propagate into the task.
* Events are collected in a list. The reader takes all of them at once; it waits only if there are
  none. When the task is finished and all events are taken, `next_events` returns an empty batch.
* Who closes what: the code that starts the stream must close it with `aclose`. That cancels the
  task and waits (shielded) for its clean-up, which limits its own time. The task's error is not
  raised by `aclose`; `result` raises it.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

import anyio

from majordomo.concurrency.loop_wakeup import running_trio

E = TypeVar("E")
T = TypeVar("T")
Emit = Callable[[E], None]
"""A function that emits one event."""


class TaskStream(Generic[E, T]):
    """Runs `function(emit)` in a task of its own, from the first `next_events` on."""

    def __init__(self, function: Callable[[Emit[E]], Awaitable[T]]) -> None:
        self._function = function
        self._events: list[E] = []
        self._wakeup: anyio.Event | None = None
        self._done: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._error: BaseException | None = None
        self._task: Any = None
        self._result: T | None = None
        self.finished: bool = False

    @property
    def result(self) -> T:
        """The result of the finished task. Raises the task's error."""
        assert self.finished
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # finished without an error

    @property
    def started(self) -> bool:
        """Whether the task was started."""
        return self._done is not None

    @property
    def value(self) -> T | None:
        """The result so far; None until the task has finished successfully.

        If the result is a resource, a reader that stops early must close it.
        """
        return self._result

    async def next_events(self) -> Sequence[E]:
        """Return the events since the last call, at least one; empty at the end."""
        if self._done is None:
            self._start()
        while not self._events and not self.finished:
            self._wakeup = anyio.Event()
            await self._wakeup.wait()
        events, self._events = self._events, []
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
        self._task = spawn_loop_task(self._run)

    async def _run(self) -> None:
        assert self._scope is not None
        assert self._done is not None
        try:
            with self._scope:
                self._result = await self._function(self._emit)
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


def spawn_loop_task(function: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    """Start a task that belongs to the running event loop itself, and return it.

    anyio has no tasks outside a task group, and a task group must not outlive the task that opened
    it.
    """
    trio = running_trio()
    if trio is not None:
        return trio.lowlevel.spawn_system_task(function, context=contextvars.copy_context())
    # The running loop has imported it already. At the head of this module the import would cost
    # every program 20 ms at its start.
    import asyncio

    return asyncio.get_running_loop().create_task(function(), name="majordomo-task-stream")
