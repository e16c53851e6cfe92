"""How many calls of one provider run at once, and who is next: `max_concurrency`."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import RunVar

from majordomo.wire import Deadline

_lines: RunVar[WeakKeyDictionary[Gate, _Line]] = RunVar("majordomo-gates")


class _Waiting:
    """One in the line. `moved` is set when its position has changed, or its turn has come."""

    __slots__ = ("admitted", "moved")

    def __init__(self) -> None:
        self.admitted = False
        self.moved = anyio.Event()


class _Line:
    """The places of one event loop."""

    def __init__(self, places: int) -> None:
        self.free = places
        self.waiting: deque[_Waiting] = deque()

    def leave(self) -> None:
        self.free += 1
        self.advance()

    def advance(self) -> None:
        while self.free and self.waiting:
            self.free -= 1
            first = self.waiting.popleft()
            first.admitted = True
            first.moved.set()
        for waiting in self.waiting:
            waiting.moved.set()


class Gate:
    """`places` at once in each event loop, first come first served; None: no bound."""

    def __init__(self, places: int | None) -> None:
        self.places = places

    async def enter(self, deadline: Deadline, tell: Callable[[int], None] | None = None) -> None:
        """Wait for a place, at most as long as the queue limit allows; `leave` must follow. `tell` hears each new position, from 1.

        Raises DeadlineExceededError (phase queue).
        """
        if self.places is None:
            return
        line = self._line()
        if line.free and not line.waiting:
            line.free -= 1
            return
        deadline.enter("queue")
        mine = _Waiting()
        line.waiting.append(mine)
        told = 0
        try:
            while not mine.admitted:
                mine.moved = anyio.Event()
                position = line.waiting.index(mine) + 1
                if tell is not None and position != told:
                    told = position
                    tell(position)
                with anyio.move_on_after(deadline.wait()) as scope:
                    await mine.moved.wait()
                if scope.cancelled_caught and not mine.admitted:
                    raise deadline.exceeded()
        except BaseException:
            if mine.admitted:  # the place came together with the cancellation
                line.leave()
            else:
                line.waiting.remove(mine)
                line.advance()
            raise

    def leave(self) -> None:
        """Give the place to the next in line."""
        if self.places is not None:
            self._line().leave()

    @asynccontextmanager
    async def place(self, deadline: Deadline, tell: Callable[[int], None] | None = None) -> AsyncIterator[None]:
        await self.enter(deadline, tell)
        try:
            yield
        finally:
            self.leave()

    def _line(self) -> _Line:
        assert self.places is not None
        try:
            lines = _lines.get()
        except LookupError:
            lines = WeakKeyDictionary()
            _lines.set(lines)
        line = lines.get(self)
        if line is None:
            line = lines[self] = _Line(self.places)
        return line
