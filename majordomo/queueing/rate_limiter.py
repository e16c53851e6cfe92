"""How many calls and tokens a minute: buckets that fill with time. The clock is an argument; only `Meters` waits."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from majordomo.concurrency.fork_safety import register_fork_aware
from majordomo.errors import OverloadedError, RateLimitError
from majordomo.settings import Rate
from majordomo.transport_types import Deadline

MAX_USERS = 10_000  # whose buckets are kept; the one that was quiet for longest is forgotten first
MINUTE = 60.0


@dataclass(slots=True)
class TokenBucket:
    """Holds `size` at the most and gets that much a minute. It may owe: what was taken in advance is waited for."""

    size: float
    level: float = field(init=False)
    _at: float | None = None

    def __post_init__(self) -> None:
        self.level = self.size

    def refill(self, now: float) -> None:
        if (
            self._at is not None and now > self._at
        ):  # a clock that goes back gives nothing and takes nothing
            self.level = min(self.size, self.level + (now - self._at) * self.size / MINUTE)
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken; what never fits is waited for as a full bucket."""
        self.refill(now)
        missing = min(amount, self.size) - self.level
        return max(0.0, missing * MINUTE / self.size)

    def take(self, amount: float) -> None:
        self.level -= amount


class UserRate:
    """Calls and tokens of one party."""

    __slots__ = ("_calls", "_tokens")

    def __init__(self, calls: float | None, tokens: float | None) -> None:
        self._calls = TokenBucket(calls) if calls is not None else None
        self._tokens = TokenBucket(tokens) if tokens is not None else None

    def wait(self, now: float) -> float:
        """Seconds until one more call may go: there is a call left, and no token is owed."""
        waits = [0.0]
        if self._calls is not None:
            waits.append(self._calls.wait(1, now))
        if self._tokens is not None:
            waits.append(self._tokens.wait(1, now))
        return max(waits)

    def take_call(self) -> None:
        if self._calls is not None:
            self._calls.take(1)

    def return_call(self) -> None:
        if self._calls is not None:
            self._calls.take(-1)

    def take_tokens(self, tokens: int) -> None:
        if self._tokens is not None:
            self._tokens.take(tokens)


def queue_full_error(waiting: int, where: str = "") -> OverloadedError:
    """Said at once, instead of a long wait for nothing."""
    return OverloadedError(
        f"{waiting} calls wait{where} already", code="QUEUE_FULL", details={"waiting": waiting}
    )


class RateLimiter:
    """The meter of a provider, and one for each caller. Safe between threads."""

    def __init__(
        self, rate: Rate, max_queue: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._most = max_queue
        self._clock = clock
        self._waiting = 0
        self._lock = threading.Lock()
        self._all = UserRate(rate.requests_per_minute, rate.tokens_per_minute)
        self._users: OrderedDict[str, UserRate] = OrderedDict()
        register_fork_aware(self)

    async def acquire(self, deadline: Deadline, user_id: str = "") -> Callable[[], None]:
        """Wait until the rate allows one more call; what is returned takes it back, for a call that is not made after all.

        Raises RateLimitError (`LOCAL_RATE_LIMIT`) at once when that is beyond the limits of the call, and OverloadedError (`QUEUE_FULL`)
        when as many wait as may.
        """
        with self._lock:
            now = self._clock()
            parties = self._rates_for(user_id)
            wait = max(party.wait(now) for party in parties)
            # Taken now, so that those who come later wait behind; a call whose turn lies beyond its limits takes nothing
            if wait > 0:
                deadline.start_phase("queue")
            if wait > deadline.next_timeout():
                raise RateLimitError(
                    f"our own rate allows the next call in {wait:.1f} s",
                    code="LOCAL_RATE_LIMIT",
                    retry_after=wait,
                    details={"local": True},
                )
            if wait > 0 and self._most is not None and self._waiting >= self._most:
                raise queue_full_error(self._waiting)
            for party in parties:
                party.take_call()
            self._waiting += wait > 0

        def undo() -> None:
            with self._lock:
                for party in parties:
                    party.return_call()

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
        """What a call has used, as far as the backend told."""
        if tokens:
            with self._lock:
                for party in self._rates_for(user_id):
                    party.take_tokens(tokens)

    def reset_after_fork(self) -> None:
        """In a forked child: nobody waits there yet. What was used up is used up for the child as well."""
        self._lock = threading.Lock()
        self._waiting = 0

    def _rates_for(self, user_id: str) -> list[UserRate]:
        rate = self._rate
        if rate.user_requests_per_minute is None and rate.user_tokens_per_minute is None:
            return [self._all]
        own = self._users.get(user_id)
        if own is None:
            own = self._users[user_id] = UserRate(
                rate.user_requests_per_minute, rate.user_tokens_per_minute
            )
            if len(self._users) > MAX_USERS:
                self._users.popitem(last=False)
        self._users.move_to_end(user_id)
        return [self._all, own]
