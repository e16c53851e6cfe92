"""A bot's own door: how much of it one person may take up, and in which order people are served.

It stands before the calls, knows nothing of backends, and belongs to one event loop.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterator
from inspect import isawaitable
from itertools import islice
from typing import TypeVar

import anyio

from majordomo.bots.clock import Clock
from majordomo.errors import (
    ConfigurationError,
    InvalidRequestError,
    JobCancelledError,
    OverloadedError,
    RateLimitError,
)
from majordomo.validation import check_number, check_user_id

T = TypeVar("T")
ALWAYS_NOTIFIED = 10  # so many at the front hear of every move; those behind of every so many


class _Job:
    """One call of somebody, waiting or running."""

    __slots__ = ("admitted", "cancelled", "listens", "moved", "position", "scope", "user_id")

    def __init__(self, user_id: str, listens: bool) -> None:
        self.user_id = user_id
        self.listens = listens
        self.scope = anyio.CancelScope()
        self.moved = anyio.Event()
        self.position = 0
        self.admitted = False
        self.cancelled = False


class UserQueue:
    """At most `places` jobs run at once, and one caller has at most `per_caller` of them, waiting and running together.

    Places go round: each caller with something waiting gets one before anybody gets a second. `cooldown` seconds must pass between two
    jobs that one caller brings. `most` jobs may wait in all. It holds a few hundred bytes for each job, and for each caller who is
    cooling down.

    Raises ConfigurationError for numbers that make no sense.
    """

    def __init__(
        self,
        max_concurrency: int = 1,
        per_user: int = 2,
        *,
        cooldown: float = 0.0,
        max_queue: int = 10_000,
        clock: Clock | None = None,
    ) -> None:
        try:
            for name, value in (
                ("max_concurrency", max_concurrency),
                ("per_user", per_user),
                ("max_queue", max_queue),
            ):
                check_number(name, value, 1, 10**9, whole=True)
            check_number("cooldown", cooldown, 0, 10**9)
        except InvalidRequestError as error:
            raise ConfigurationError(error.message, details=error.details) from None
        self.places = max_concurrency
        self.per_user_id = per_user
        self.cooldown = cooldown
        self.most = max_queue
        self._clock = clock or Clock()
        self._free = max_concurrency
        self._jobs: dict[str, dict[_Job, None]] = {}  # of each caller, in the order they came
        self._lines: OrderedDict[str, deque[_Job]] = (
            OrderedDict()
        )  # what waits, callers in the order of their turns
        self._waiting = 0
        self._moves = 0  # since everybody was told
        self._brought: OrderedDict[str, float] = (
            OrderedDict()
        )  # when a caller's last job came, the oldest first

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return self._waiting

    @property
    def running(self) -> int:
        return self.places - self._free

    def positions(self, user_id: str) -> tuple[int, ...]:
        """Where this caller's waiting jobs stand in the whole line, from 1."""
        mine = set(self._lines.get(user_id, ()))
        return (
            tuple(number for number, job in enumerate(self._order(), 1) if job in mine)
            if mine
            else ()
        )

    async def run(
        self,
        user_id: str,
        job: Callable[[], Awaitable[T]],
        on_position: Callable[[int], object] | None = None,
    ) -> T:
        """`await job()` when this caller's turn has come, and what it returns or raises.

        `tell` hears the place in the line when it changes, from 1, not at all when there is no wait; it may be an async function. Beyond
        the first 10 places not every move is told.

        Raises OverloadedError when this caller has `per_caller` jobs here (code TOO_MANY_JOBS) or the whole line is full (QUEUE_FULL),
        RateLimitError with `retry_after` (COOLING_DOWN), JobCancelledError after `cancel`, InvalidRequestError (field `caller`). The
        first two and the last leave no trace. Cancelled from outside it gives its place back.
        """
        check_user_id(user_id)
        mine = self._bring(user_id, listens=on_position is not None)
        try:
            with mine.scope:
                await self._turn(mine, on_position)
                return await job()
        finally:
            self._leave(mine)
        raise JobCancelledError("cancelled by its caller", code="CANCELED_BY_USER")

    def cancel(self, user_id: str) -> int:
        """Cancel everything this caller has here, waiting or running. Returns how many jobs that were."""
        jobs = [job for job in self._jobs.get(user_id, ()) if not job.cancelled]
        for job in jobs:
            job.cancelled = True
            job.scope.cancel()
        return len(jobs)

    def _bring(self, user_id: str, *, listens: bool) -> _Job:
        now = self._clock.now()
        while self._brought and next(iter(self._brought.values())) + self.cooldown <= now:
            self._brought.popitem(last=False)
        held = len(self._jobs.get(user_id, ()))
        if held >= self.per_user_id:
            raise OverloadedError(
                f"this caller has {held} jobs here already",
                code="TOO_MANY_JOBS",
                details={"jobs": held},
            )
        if self._waiting >= self.most:
            raise OverloadedError(
                f"{self._waiting:,} jobs wait already",
                code="QUEUE_FULL",
                details={"waiting": self._waiting},
            )
        if (since := self._brought.get(user_id)) is not None:
            left = since + self.cooldown - now
            raise RateLimitError(
                f"this caller may come again in {math.ceil(left)} s",
                code="COOLING_DOWN",
                retry_after=left,
            )
        if self.cooldown:
            self._brought[user_id] = now
        job = _Job(user_id, listens)
        self._jobs.setdefault(user_id, {})[job] = None
        self._lines.setdefault(user_id, deque()).append(job)
        self._waiting += 1
        self._advance(came=job)
        return job

    async def _turn(self, mine: _Job, emit: Callable[[int], object] | None) -> None:
        told = 0
        while not mine.admitted:
            mine.moved = anyio.Event()
            if emit is not None and mine.position != told:
                told = mine.position
                said = emit(told)
                if isawaitable(said):
                    await said
                continue  # much may have moved meanwhile
            await mine.moved.wait()

    def _leave(self, mine: _Job) -> None:
        jobs = self._jobs[mine.user_id]
        del jobs[mine]
        if not jobs:
            del self._jobs[mine.user_id]
        if mine.admitted:
            self._free += 1
        else:
            line = self._lines[mine.user_id]
            line.remove(mine)
            self._waiting -= 1
            if not line:
                del self._lines[mine.user_id]
        self._advance()

    def _advance(self, came: _Job | None = None) -> None:
        """Give free places to those whose turn it is, and let those who wait know where they stand."""
        while self._free and self._lines:
            user_id, line = self._lines.popitem(last=False)
            job = line.popleft()
            if line:
                self._lines[user_id] = line  # behind everybody else
            self._waiting -= 1
            self._free -= 1
            job.admitted = True
            job.moved.set()
        self._moves += 1
        # All positions cost as much as the line is long: that is paid once in so many moves that each pays for NEAR of them.
        everybody = self._moves * ALWAYS_NOTIFIED >= self._waiting
        if everybody:
            self._moves = 0
        for position, job in enumerate(
            islice(self._order(), None if everybody else ALWAYS_NOTIFIED), 1
        ):
            if job.position != position:
                job.position = position
                if job.listens:
                    job.moved.set()
        if (
            came is not None and not came.admitted and not came.position
        ):  # exact for a caller's first; for a further one as bad as it can be
            came.position = (
                len(self._lines) if len(self._lines[came.user_id]) == 1 else self._waiting
            )

    def _order(self) -> Iterator[_Job]:
        """Everybody who waits, in the order in which places will be given if nobody else comes."""
        for line in self._lines.values():  # not copied: most who ask look at the front alone
            yield line[0]
        depth, lines = 1, [line for line in self._lines.values() if len(line) > 1]
        while lines:
            for line in lines:
                yield line[depth]
            depth += 1
            lines = [line for line in lines if len(line) > depth]
