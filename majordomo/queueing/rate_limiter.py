"""Rate limits for calls and tokens per minute, as token buckets.

Time is an argument; only `RateLimiter` reads a clock and waits.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import RateLimitError
from majordomo.queueing.slot_queue import queue_full_error
from majordomo.settings import Rate
from majordomo.transport_types import Deadline

# The number of users whose buckets are kept. The least recently active user is dropped first.
MAX_USERS = 10_000
MINUTE_SECONDS = 60.0


@dataclass(slots=True)
class TokenBucket:
    """A token bucket that holds at most `size` and is refilled with `size` per minute.

    Its level may be negative: what was taken in advance must be refilled first.
    """

    size: float
    """Capacity, and refill per minute."""
    level: float = field(init=False)
    """Current level. It begins at `size`."""
    _refilled_at: float | None = None

    def __post_init__(self) -> None:
        self.level = self.size

    def refill(self, now: float) -> None:
        """Refill for the time since the last refill."""
        # A clock that is set back neither adds nor removes anything.
        if self._refilled_at is not None and now > self._refilled_at:
            self.level = min(
                self.size, self.level + (now - self._refilled_at) * self.size / MINUTE_SECONDS
            )
        self._refilled_at = now

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` can be taken.

        An amount above the capacity waits for a full bucket.
        """
        self.refill(now)
        missing = min(amount, self.size) - self.level
        return max(0.0, missing * MINUTE_SECONDS / self.size)

    def take(self, amount: float) -> None:
        """Take `amount`, even below zero."""
        self.level -= amount


class UserRate:
    """The limits for calls and tokens of one user, or of all users together."""

    __slots__ = ("_calls", "_tokens")

    def __init__(self, calls: float | None, tokens: float | None) -> None:
        self._calls = TokenBucket(calls) if calls is not None else None
        self._tokens = TokenBucket(tokens) if tokens is not None else None

    def wait(self, now: float) -> float:
        """Return the seconds until one more call may start.

        At least one call and one token must be left.
        """
        waits = [0.0]
        if self._calls is not None:
            waits.append(self._calls.wait(1, now))
        if self._tokens is not None:
            waits.append(self._tokens.wait(1, now))
        return max(waits)

    def take_call(self) -> None:
        """Count a call."""
        if self._calls is not None:
            self._calls.take(1)

    def return_call(self) -> None:
        """Undo `take_call` for a call that did not start."""
        if self._calls is not None:
            self._calls.take(-1)

    def take_tokens(self, tokens: int) -> None:
        """Count tokens after a call."""
        if self._tokens is not None:
            self._tokens.take(tokens)


class RateLimiter:
    """The rate limits of a provider, for all users together and for each user. Thread-safe."""

    def __init__(
        self, rate: Rate, max_queue: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._max_queue = max_queue
        self._clock = clock
        self._waiting = 0
        self._lock = Lock(self._reset_after_fork)
        self._all = UserRate(rate.requests_per_minute, rate.tokens_per_minute)
        self._users: OrderedDict[str, UserRate] = OrderedDict()

    async def acquire(self, deadline: Deadline, user_id: str = "") -> Callable[[], None]:
        """Wait until the rate limits allow one more call, and count it.

        Returns:
            A function that undoes the counting, for a call that does not start after all.

        Raises:
            RateLimitError: At once, when the wait would exceed the time limits of the call
                (`LOCAL_RATE_LIMIT`).
            OverloadedError: At once, when too many calls are waiting (`QUEUE_FULL`).
        """
        with self._lock:
            now = self._clock()
            rates = self._rates_for(user_id)
            wait = max(rate.wait(now) for rate in rates)
            # Count the call now, so that later calls wait behind it. A call whose turn would come
            # only after its time limit is not counted.
            if wait > 0:
                deadline.start_phase("queue")
            if wait > deadline.next_timeout():
                raise RateLimitError(
                    f"the client-side rate limit allows the next call in {wait:.1f} s",
                    code="LOCAL_RATE_LIMIT",
                    retry_after=wait,
                    details={"local": True},
                )
            if wait > 0 and self._max_queue is not None and self._waiting >= self._max_queue:
                raise queue_full_error(self._waiting)
            for rate in rates:
                rate.take_call()
            self._waiting += wait > 0

        def undo() -> None:
            with self._lock:
                for rate in rates:
                    rate.return_call()

        if wait <= 0:
            return undo
        try:
            await anyio.sleep(wait)
        except BaseException:
            undo()
            raise
        finally:
            with self._lock:
                self._waiting -= 1
        return undo

    def record_tokens(self, user_id: str, tokens: int | None) -> None:
        """Count the tokens that a call used; None when the backend did not report them."""
        if tokens:
            with self._lock:
                for rate in self._rates_for(user_id):
                    rate.take_tokens(tokens)

    def _reset_after_fork(self) -> None:
        """Reset the waiting calls in a forked child. The levels stay."""
        self._waiting = 0

    def _rates_for(self, user_id: str) -> list[UserRate]:
        limits = self._rate
        if limits.user_requests_per_minute is None and limits.user_tokens_per_minute is None:
            return [self._all]
        user_rate = self._users.get(user_id)
        if user_rate is None:
            user_rate = self._users[user_id] = UserRate(
                limits.user_requests_per_minute, limits.user_tokens_per_minute
            )
            if len(self._users) > MAX_USERS:
                self._users.popitem(last=False)
        self._users.move_to_end(user_id)
        return [self._all, user_rate]
