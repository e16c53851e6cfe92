"""A story told while it happens: one task that works, and a reader that takes what it has told so far.

The task belongs to the event loop, not to a scope of the caller's: a stream may be read from several tasks in turn (the blocking color
does), nothing yields inside a cancel scope, and an exception in the caller's body is nobody else's. What starts it must close it.
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


class TaskStream(Generic[E, T]):
    """`work(tell)` in a task of its own, begun at the first look."""

    def __init__(self, work: Callable[[Emit[E]], Awaitable[T]]) -> None:
        self._work = work
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
        """What the work gave. Raises what it raised."""
        assert self.finished
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # finished without an error

    @property
    def started(self) -> bool:
        return self._done is not None

    @property
    def value(self) -> T | None:
        """What the work gave, or None as long as it gave nothing; whoever leaves early has to close it."""
        return self._result

    async def next_events(self) -> Sequence[E]:
        """What was told since the last look, at least one; empty once the work is over and all is told."""
        if self._done is None:
            self._start()
        while not self._events and not self.finished:
            self._wakeup = anyio.Event()
            await self._wakeup.wait()
        taken, self._events = self._events, []
        return taken

    async def aclose(self) -> None:
        """Cancel the work, unless it is over, and wait for its clean-up, which bounds itself."""
        if self._done is None or self.finished:
            return
        assert self._scope is not None
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._done.wait()

    def _start(self) -> None:
        self._done = anyio.Event()
        self._scope = anyio.CancelScope()
        self._task = spawn(self._run)

    async def _run(self) -> None:
        assert self._scope is not None
        assert self._done is not None
        try:
            with self._scope:
                self._result = await self._work(self._emit)
        except Exception as error:
            self._error = error
        except BaseException as error:
            self._error = error  # cancelled by somebody else: whoever reads hears of it, as of any task that was cancelled
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


def spawn(work: Callable[[], Coroutine[Any, Any, None]]) -> Any:
    """A task of the running loop itself. anyio has none outside a task group, and a group may not outlive the task that opened it."""
    trio = running_trio()
    if trio is not None:
        return trio.lowlevel.spawn_system_task(work, context=contextvars.copy_context())
    import asyncio  # the running loop has loaded it; here it would cost every program 20 ms at its start

    return asyncio.get_running_loop().create_task(work(), name="majordomo-work")
