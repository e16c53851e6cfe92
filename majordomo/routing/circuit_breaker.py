"""Whether one backend may be asked: a state machine that is told the time.

    closed --failures in a row--> open --its rest is over--> half_open --one call that went well--> closed
                                   ^                             |
                                   '------- that call failed ----'

Every question carries the epoch in which it was allowed. An outcome counts only while that epoch lasts: what was asked before the last
change says nothing about now.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from majordomo.errors import (
    BackendError,
    ConfigurationError,
    ConnectionFailedError,
    ContentRefusedError,
    DeadlineExceededError,
    MajordomoError,
    OverloadedError,
    RateLimitError,
    StreamBrokenError,
)
from majordomo.validation import check_seconds

State = Literal["closed", "open", "half_open"]
BreakerOutcome = Literal["answered", "failed", "limited", "nothing"]
MAX_RATE_LIMIT_SECONDS = (
    3600.0  # seconds that a Retry-After is believed: after it one call asks, and is told again
)
MAX_PROBE_SECONDS = (
    300.0  # seconds after which a second call may try what the first is still trying
)
JITTER = 0.1  # of a rest, so that those who rest together do not come back together


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """How patient a health is: `failures` in a row open, the rests last `cooldown` x 2^k seconds up to `longest`, and a random tenth."""

    cooldown: float = 30.0
    failures: int = 5
    max_cooldown: float = 900.0
    fraction: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        for name in ("cooldown", "max_cooldown"):
            check_seconds(name, getattr(self, name))
        if (
            isinstance(self.failures, bool)
            or not isinstance(self.failures, int)
            or self.failures < 1
        ):
            raise ConfigurationError(
                "failures is a whole number above 0", details={"field": "failures"}
            )

    def cooldown_seconds(self, openings: int) -> float:
        """Seconds of the rest after this many openings (from 1) without a success between them."""
        doubled = self.cooldown * float(1 << min(max(openings, 1) - 1, 40))
        return min(doubled, max(self.max_cooldown, self.cooldown)) * (1 + JITTER * self.fraction())


@dataclass(slots=True)
class CircuitBreaker:
    """One target and operation. `failures` are those in a row, `until` and `since` moments of the caller's clock."""

    config: BreakerConfig
    state: State = "closed"
    failures: int = 0
    openings: int = 0
    until: float = 0.0
    epoch: int = 0
    limited: bool = False  # it rests because it asked for that, not because it failed
    _cooldown: float = 0.0
    _probe_started: float | None = None  # when the call began that tries a half-open one
    _early_probe: bool = False  # that call began before the rest was over

    def remaining(self, now: float) -> float:
        """Seconds of rest left. A clock that was put back makes no rest longer than it was."""
        if self.state != "open":
            return 0.0
        if self.until - now > self._cooldown:
            self.until = now + self._cooldown
        return min(max(0.0, self.until - now), self._cooldown)

    def is_probing(self, now: float) -> bool:
        """Whether a call is trying it just now."""
        if self._probe_started is None:
            return False
        if now < self._probe_started:
            self._probe_started = now
        return now - self._probe_started < MAX_PROBE_SECONDS

    def admit(self, now: float) -> int | None:
        """The epoch of a question that may be asked now; None while it rests or another call tries it."""
        if self.state == "closed":
            return self.epoch
        if self.remaining(now) > 0 or self.is_probing(now):
            return None
        return self._probe(now, early=False)

    def admit_probe(self, now: float) -> int | None:
        """The same for a last resort: before the rest is over, but still one call at a time."""
        if self.state == "open" and self.remaining(now) > 0:
            return self._probe(now, early=True)
        return self.admit(now)

    def on_first_event(self, epoch: int) -> None:
        """The answer began. One that was being tried is open to all again, and one failure from resting until an answer was whole."""
        if epoch == self.epoch and self.state == "half_open":
            if not self.limited:
                self.failures = self.config.failures - 1
            self._transition("closed", epoch)

    def record(self, epoch: int, outcome: BreakerOutcome, now: float, wait: float = 0.0) -> None:
        """What became of a question; `wait` is the seconds its error asked for."""
        if epoch != self.epoch:
            return
        if outcome == "answered" or (outcome == "limited" and wait <= 0):
            self.failures = self.openings = 0
            self._transition("closed", epoch if self.state == "closed" else epoch + 1)
        elif outcome == "limited":
            self.failures = 0
            self._open(now, min(wait, MAX_RATE_LIMIT_SECONDS), limited=True)
        elif self._early_probe:
            self._resume(now, failed=outcome == "failed")
        elif outcome == "failed":
            self._record_failure(now, wait)
        elif self.state == "half_open":
            self._probe_started = None
            self.epoch += 1

    def record_health(self, ok: bool, now: float) -> None:
        """What a free question said: good news ends a rest, so that the next call tries it; bad news begins one."""
        if ok:
            if self.state == "open" and not self.limited:
                self._transition("half_open", self.epoch + 1)
        elif self.state == "closed" or (self.state == "half_open" and not self.is_probing(now)):
            self.openings = max(self.openings, 1)
            self._open(now, self.config.cooldown_seconds(self.openings))

    def _record_failure(self, now: float, wait: float) -> None:
        self.failures += 1
        if self.failures >= self.config.failures or (
            self.state == "half_open" and not self.limited
        ):
            self.openings += 1
            self._open(
                now,
                max(self.config.cooldown_seconds(self.openings), min(wait, MAX_RATE_LIMIT_SECONDS)),
            )
        elif (
            self.state == "half_open"
        ):  # it had only been asked to slow down: one failure is one failure
            self._transition("closed", self.epoch + 1)

    def _resume(self, now: float, *, failed: bool) -> None:
        """A last resort that did not help. The rest does not grow by it: it was not over."""
        if failed and not self.limited:
            self.failures += 1
            self.until = now + self._cooldown
        self.state, self._probe_started, self._early_probe = "open", None, False
        self.epoch += 1

    def _open(self, now: float, rest: float, *, limited: bool = False) -> None:
        self._transition("open", self.epoch + 1)
        self._cooldown, self.until, self.limited = rest, now + rest, limited

    def _probe(self, now: float, *, early: bool) -> int:
        self.state, self._probe_started, self._early_probe = "half_open", now, early
        self.epoch += 1
        return self.epoch

    def _transition(self, state: State, epoch: int) -> None:
        self.state, self.epoch = state, epoch
        self._probe_started, self._early_probe, self.limited = None, False, False


def outcome_of(error: BaseException) -> BreakerOutcome:
    """What an error tells of the backend's health: that it failed, that it answered, or nothing at all."""
    if not isinstance(error, MajordomoError):
        return "nothing"
    if error.status is None and error.code in ("QUEUE_FULL", "LOCAL_RATE_LIMIT"):
        return "nothing"  # our own line being full, our own rate being used up, is no news of the backend
    if isinstance(error, RateLimitError):
        return "limited"
    if error.status is not None and 400 <= error.status < 500:
        return "answered"  # whatever it said, it is there
    match error:
        case OverloadedError():
            return "failed"
        case DeadlineExceededError():
            return "nothing" if error.phase == "queue" else "failed"
        case ConnectionFailedError() | StreamBrokenError():
            return "failed"
        case ContentRefusedError():
            return "answered"
        case BackendError():  # a gateway's word that nobody is behind it; other 5xx may be this request's own doing
            return "failed" if error.status in (502, 504) else "nothing"
    return "nothing"
