"""A queue in front of a bot's own calls: how much one user may request, and who is served next.

Theory of operation
-------------------
The order, the slots and the positions are those of a `SlotQueue`. This module adds what belongs to
users: the limit per user, the cooldown, and cancellation. It knows nothing of backends.

* `_jobs` has all jobs of a user, waiting and running. `run` always removes its job.
* A job is in the queue, or it owns a slot, within `run` only.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
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
from majordomo.queueing.slot_queue import SlotQueue
from majordomo.settings import Timeout
from majordomo.transport_types import Deadline
from majordomo.validation import check_number, check_user_id

T = TypeVar("T")


class _Job:
    """One call of a user, waiting or running."""

    __slots__ = ("cancelled", "scope")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.cancelled = False


class UserQueue:
    """A fair queue for jobs of users.

    Slots are assigned in turn: each user with a waiting job gets one before any user gets a second.
    The queue needs about five kilobytes for each waiting job, and a few hundred bytes for each user
    who is in a cooldown.

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
        self._slots = SlotQueue(max_concurrency, max_queue)
        # All jobs of each user, in the order of their arrival.
        self._jobs: dict[str, dict[_Job, None]] = {}
        # The arrival of each user's last job, the oldest first; only with a cooldown.
        self._last_arrivals: OrderedDict[str, float] = OrderedDict()

    @property
    def waiting(self) -> int:
        """The number of waiting jobs."""
        return self._slots.waiting

    @property
    def running(self) -> int:
        """The number of running jobs."""
        return self._slots.running

    def positions(self, user_id: str) -> tuple[int, ...]:
        """Return the queue positions of a user's waiting jobs, from 1.

        Args:
            user_id: The user.
        """
        return self._slots.positions(user_id)

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
        entry = self._add_job(user_id)
        try:
            with entry.scope:
                await self._slots.acquire(Deadline(Timeout()), user_id, on_position)
                try:
                    return await job()
                finally:
                    self._slots.release()
        finally:
            self._remove_job(user_id, entry)
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

    def _add_job(self, user_id: str) -> _Job:
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
        # Before the cooldown begins: a job that is rejected does not count.
        self._slots.check_not_full()
        if (arrival := self._last_arrivals.get(user_id)) is not None:
            remaining = arrival + self.cooldown - now
            raise RateLimitError(
                f"this user must wait another {math.ceil(remaining)} s before the next job",
                code="COOLING_DOWN",
                retry_after=remaining,
            )
        if self.cooldown:
            self._last_arrivals[user_id] = now
        job = _Job()
        self._jobs.setdefault(user_id, {})[job] = None
        return job

    def _remove_job(self, user_id: str, job: _Job) -> None:
        jobs = self._jobs[user_id]
        del jobs[job]
        if not jobs:
            del self._jobs[user_id]
