"""A queue in front of a bot's own calls: how much one user may request, and who is served next.

Theory of operation
-------------------
The queue knows nothing of backends and belongs to one event loop; it needs no lock.

* A job waits, runs, and ends. `_jobs` has all jobs of a user, `_waiting_by_user` only the waiting
  ones, and `_free` is the number of free slots.
* Slots are assigned round-robin over users, first in, first out per user: the first key of
  `_waiting_by_user` is served next and then moves to the end.
* `run` always passes through `_leave`, which frees the slot or the queue position of its job. A job
  is never in the queue and running at the same time.
* Positions: the first `ALWAYS_NOTIFIED` jobs are notified of every move. All others are notified
  once in so many moves that the cost per move stays constant.
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
# The number of jobs at the front that are notified of every move.
ALWAYS_NOTIFIED = 10


class _Job:
    """One call of a user, waiting or running."""

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
    """A fair queue for jobs of users.

    Slots are assigned in turn: each user with a waiting job gets one before any user gets a second.
    The queue needs a few hundred bytes for each job, and for each user who is in a cooldown.

    Args:
        max_concurrency: Maximum number of jobs that run at once.
        per_user: Maximum number of jobs of one user, waiting and running together.
        cooldown: Seconds that must pass between the arrivals of two jobs of one user.
        max_queue: Maximum number of waiting jobs of all users.
        clock: The clock, for tests.

    Raises:
        ConfigurationError: A number is out of range.

    Example:
        ```python
        queue = UserQueue(max_concurrency=2, per_user=2, cooldown=3)
        reply = await queue.run(str(message.author.id), lambda: chat.generate(message.text))
        ```
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
                check_number(name, value, 1, 10**9, integer=True)
            check_number("cooldown", cooldown, 0, 10**9)
        except InvalidRequestError as error:
            raise ConfigurationError(error.message, details=error.details) from None
        self.max_concurrency = max_concurrency
        self.per_user = per_user
        self.cooldown = cooldown
        self.max_queue = max_queue
        self._clock = clock or Clock()
        self._free = max_concurrency
        # All jobs of each user, in the order of their arrival.
        self._jobs: dict[str, dict[_Job, None]] = {}
        # The waiting jobs of each user; the users are in the order in which they are served.
        self._waiting_by_user: OrderedDict[str, deque[_Job]] = OrderedDict()
        self._waiting = 0
        # Moves since all waiting jobs were notified.
        self._moves = 0
        # The arrival of each user's last job, the oldest first; only with a cooldown.
        self._last_arrivals: OrderedDict[str, float] = OrderedDict()

    @property
    def waiting(self) -> int:
        """The number of waiting jobs."""
        return self._waiting

    @property
    def running(self) -> int:
        """The number of running jobs."""
        return self.max_concurrency - self._free

    def positions(self, user_id: str) -> tuple[int, ...]:
        """Return the queue positions of a user's waiting jobs, from 1.

        Args:
            user_id: The user.
        """
        jobs = set(self._waiting_by_user.get(user_id, ()))
        return (
            tuple(number for number, job in enumerate(self._order(), 1) if job in jobs)
            if jobs
            else ()
        )

    async def run(
        self,
        user_id: str,
        job: Callable[[], Awaitable[T]],
        on_position: Callable[[int], object] | None = None,
    ) -> T:
        """Wait for a slot, then run a job.

        A job that is rejected (every error below but JobCancelledError) does not count for the
        cooldown. When the task is cancelled from outside, the job gives up its slot or position.

        Args:
            user_id: The user: printable text of at most 256 characters.
            job: A function without arguments that returns an awaitable.
            on_position: Called with the queue position, from 1, when it changes; not called if the
                job does not have to wait. It may be an async function. Beyond position 10 not every
                move is reported.

        Returns:
            What the job returns. What it raises is raised unchanged.

        Raises:
            OverloadedError: The user has `per_user` jobs already (code TOO_MANY_JOBS), or
                `max_queue` jobs are waiting (code QUEUE_FULL).
            RateLimitError: The user is in the cooldown (code COOLING_DOWN); `retry_after` is the
                time left.
            JobCancelledError: The job was cancelled with `cancel` (code CANCELLED_BY_USER).
            InvalidRequestError: `user_id` is invalid.
        """
        check_user_id(user_id)
        entry = self._add_job(user_id, listens=on_position is not None)
        try:
            with entry.scope:
                await self._wait_for_slot(entry, on_position)
                return await job()
        finally:
            self._leave(entry)
        raise JobCancelledError("the job was cancelled by its user", code="CANCELLED_BY_USER")

    def cancel(self, user_id: str) -> int:
        """Cancel all jobs of a user, waiting or running.

        Args:
            user_id: The user.

        Returns:
            The number of jobs that were cancelled.
        """
        jobs = [job for job in self._jobs.get(user_id, ()) if not job.cancelled]
        for job in jobs:
            job.cancelled = True
            job.scope.cancel()
        return len(jobs)

    def _add_job(self, user_id: str, *, listens: bool) -> _Job:
        """Add a job, or raise when the user or the queue has too many."""
        now = self._clock.now()
        while (
            self._last_arrivals and next(iter(self._last_arrivals.values())) + self.cooldown <= now
        ):
            self._last_arrivals.popitem(last=False)
        count = len(self._jobs.get(user_id, ()))
        if count >= self.per_user:
            raise OverloadedError(
                f"a user can have at most {self.per_user} jobs; this user has {count}, "
                "wait until one of them has finished",
                code="TOO_MANY_JOBS",
                details={"jobs": count},
            )
        if self._waiting >= self.max_queue:
            raise OverloadedError(
                f"the queue is full with {self._waiting:,} waiting jobs; try again later",
                code="QUEUE_FULL",
                details={"waiting": self._waiting},
            )
        if (arrival := self._last_arrivals.get(user_id)) is not None:
            remaining = arrival + self.cooldown - now
            raise RateLimitError(
                f"this user must wait another {math.ceil(remaining)} s before the next job",
                code="COOLING_DOWN",
                retry_after=remaining,
            )
        if self.cooldown:
            self._last_arrivals[user_id] = now
        job = _Job(user_id, listens)
        self._jobs.setdefault(user_id, {})[job] = None
        self._waiting_by_user.setdefault(user_id, deque()).append(job)
        self._waiting += 1
        self._advance(new_job=job)
        return job

    async def _wait_for_slot(self, job: _Job, on_position: Callable[[int], object] | None) -> None:
        """Wait until the job is admitted, and report its positions."""
        reported = 0
        while not job.admitted:
            job.moved = anyio.Event()
            if on_position is not None and job.position != reported:
                reported = job.position
                result = on_position(reported)
                if isawaitable(result):
                    await result
                # The queue may have moved meanwhile.
                continue
            await job.moved.wait()

    def _leave(self, job: _Job) -> None:
        """Remove a job, and free its slot or its position."""
        jobs = self._jobs[job.user_id]
        del jobs[job]
        if not jobs:
            del self._jobs[job.user_id]
        if job.admitted:
            self._free += 1
        else:
            waiting = self._waiting_by_user[job.user_id]
            waiting.remove(job)
            self._waiting -= 1
            if not waiting:
                del self._waiting_by_user[job.user_id]
        self._advance()

    def _advance(self, new_job: _Job | None = None) -> None:
        """Assign free slots to the next jobs, and update the positions of waiting ones."""
        while self._free and self._waiting_by_user:
            user_id, waiting = self._waiting_by_user.popitem(last=False)
            job = waiting.popleft()
            if waiting:
                # Behind all other users.
                self._waiting_by_user[user_id] = waiting
            self._waiting -= 1
            self._free -= 1
            job.admitted = True
            job.moved.set()
        self._moves += 1
        # Updating all positions takes time in proportion to the queue. It is done once in so many
        # moves that the average cost of a move is that of ALWAYS_NOTIFIED positions.
        update_all = self._moves * ALWAYS_NOTIFIED >= self._waiting
        if update_all:
            self._moves = 0
        for position, job in enumerate(
            islice(self._order(), None if update_all else ALWAYS_NOTIFIED), 1
        ):
            if job.position != position:
                job.position = position
                if job.listens:
                    job.moved.set()
        if new_job is not None and not new_job.admitted and not new_job.position:
            # Exact for the first waiting job of a user; an upper bound for a further one.
            is_first = len(self._waiting_by_user[new_job.user_id]) == 1
            new_job.position = len(self._waiting_by_user) if is_first else self._waiting

    def _order(self) -> Iterator[_Job]:
        """Yield the waiting jobs in the order in which they get slots if no other job arrives."""
        # The dictionary is not copied: most callers read only the first positions.
        for waiting in self._waiting_by_user.values():
            yield waiting[0]
        depth = 1
        queues = [waiting for waiting in self._waiting_by_user.values() if len(waiting) > 1]
        while queues:
            for waiting in queues:
                yield waiting[depth]
            depth += 1
            queues = [waiting for waiting in queues if len(waiting) > depth]
