"""How many calls and tokens a minute: buckets that fill with time. The clock is an argument; only `Meters` waits."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from majordomo.concurrency.fork_safety import forget_after_fork
from majordomo.errors import OverloadedError, RateLimitError
from majordomo.settings import Rate
from majordomo.transport_types import Deadline

MOST_CALLERS = 10_000  # whose buckets are kept; the one that was quiet for longest is forgotten first
MINUTE = 60.0


@dataclass(slots=True)
class Bucket:
    """Holds `size` at the most and gets that much a minute. It may owe: what was taken in advance is waited for."""

    size: float
    held: float = field(init=False)
    _at: float | None = None

    def __post_init__(self) -> None:
        self.held = self.size

    def fill(self, now: float) -> None:
        if self._at is not None and now > self._at:  # a clock that goes back gives nothing and takes nothing
            self.held = min(self.size, self.held + (now - self._at) * self.size / MINUTE)
        self._at = now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken; what never fits is waited for as a full bucket."""
        self.fill(now)
        missing = min(amount, self.size) - self.held
        return max(0.0, missing * MINUTE / self.size)

    def take(self, amount: float) -> None:
        self.held -= amount


class Meter:
    """Calls and tokens of one party."""

    __slots__ = ("_calls", "_tokens")

    def __init__(self, calls: float | None, tokens: float | None) -> None:
        self._calls = Bucket(calls) if calls is not None else None
        self._tokens = Bucket(tokens) if tokens is not None else None

    def wait(self, now: float) -> float:
        """Seconds until one more call may go: there is a call left, and no token is owed."""
        waits = [0.0]
        if self._calls is not None:
            waits.append(self._calls.wait(1, now))
        if self._tokens is not None:
            waits.append(self._tokens.wait(1, now))
        return max(waits)

    def call(self) -> None:
        if self._calls is not None:
            self._calls.take(1)

    def undo(self) -> None:
        if self._calls is not None:
            self._calls.take(-1)

    def spent(self, tokens: int) -> None:
        if self._tokens is not None:
            self._tokens.take(tokens)


def queue_full(waiting: int, where: str = "") -> OverloadedError:
    """Said at once, instead of a long wait for nothing."""
    return OverloadedError(f"{waiting} calls wait{where} already", code="QUEUE_FULL", details={"waiting": waiting})


class Meters:
    """The meter of a provider, and one for each caller. Safe between threads."""

    def __init__(self, rate: Rate, most: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._most = most
        self._clock = clock
        self._waiting = 0
        self._lock = threading.Lock()
        self._all = Meter(rate.requests_per_minute, rate.tokens_per_minute)
        self._callers: OrderedDict[str, Meter] = OrderedDict()
        forget_after_fork(self)

    async def enter(self, deadline: Deadline, caller: str = "") -> Callable[[], None]:
        """Wait until the rate allows one more call; what is returned takes it back, for a call that is not made after all.

        Raises RateLimitError (`LOCAL_RATE_LIMIT`) at once when that is beyond the limits of the call, and OverloadedError (`QUEUE_FULL`)
        when as many wait as may.
        """
        with self._lock:
            now = self._clock()
            parties = self._parties(caller)
            wait = max(party.wait(now) for party in parties)
            # Taken now, so that those who come later wait behind; a call whose turn lies beyond its limits takes nothing
            if wait > 0:
                deadline.enter("queue")
            if wait > deadline.wait():
                raise RateLimitError(
                    f"our own rate allows the next call in {wait:.1f} s", code="LOCAL_RATE_LIMIT", retry_after=wait, details={"local": True}
                )
            if wait > 0 and self._most is not None and self._waiting >= self._most:
                raise queue_full(self._waiting)
            for party in parties:
                party.call()
            self._waiting += wait > 0

        def undo() -> None:
            with self._lock:
                for party in parties:
                    party.undo()

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

    def spent(self, caller: str, tokens: int | None) -> None:
        """What a call has used, as far as the backend told."""
        if tokens:
            with self._lock:
                for party in self._parties(caller):
                    party.spent(tokens)

    def forget(self) -> None:
        """In a forked child: nobody waits there yet. What was used up is used up for the child as well."""
        self._lock = threading.Lock()
        self._waiting = 0

    def _parties(self, caller: str) -> list[Meter]:
        rate = self._rate
        if rate.caller_requests_per_minute is None and rate.caller_tokens_per_minute is None:
            return [self._all]
        own = self._callers.get(caller)
        if own is None:
            own = self._callers[caller] = Meter(rate.caller_requests_per_minute, rate.caller_tokens_per_minute)
            if len(self._callers) > MOST_CALLERS:
                self._callers.popitem(last=False)
        self._callers.move_to_end(caller)
        return [self._all, own]
