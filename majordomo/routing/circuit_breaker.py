"""Circuit breaker: a state machine that decides whether one backend may be called.

Theory of operation
-------------------
The time is an argument of every method, so the machine has no clock, does no I/O and can be tested
without waiting. It is not thread-safe; `ChainHealth` calls it under a lock.

                failures in a row                 cooldown is over, or a last resort
                or a failed health check          (admit, admit_probe)
    +--------+                         +------+                         +-----------+
    | closed | ----------------------> | open | ----------------------> | half_open |
    +--------+                         +------+                         +-----------+
        ^                                  ^                               |     |
        |                                  |   the probe failed, or was    |     |
        |                                  |   a last resort of no use     |     |
        |                                  +-------------------------------+     |
        |   the probe began to answer (on_first_event) or answered (record)      |
        +------------------------------------------------------------------------+

* closed: every call is admitted.
* open: no call is admitted until `until`. A rate limit that names a time opens the breaker too
  (`limited`). A successful health check moves it to half_open early, unless it is rate limited.
* half_open: one call, the probe, is admitted at a time. A probe that runs longer than
  `MAX_PROBE_SECONDS` no longer blocks a second one.

A last resort (`admit_probe`) is a probe before the cooldown is over. When it fails, the breaker
returns to open and the cooldown starts again, but does not grow.

Epochs: every admitted call carries the epoch in which it was admitted. Opening the breaker,
admitting a probe, recording the outcome of a probe, and a health check that changes the state start
a new epoch. An outcome counts only while its epoch lasts, because a call that started before the
last change says nothing about the present. `on_first_event` closes the breaker within the same
epoch, so the outcome of that call still counts.

Invariants:
* `failures` counts consecutive failures; a complete answer or a rate limit resets it to 0.
* `openings` counts the openings since the last complete answer; the cooldown doubles with it.
* `_probe_started` and `_early_probe` are set only while the state is half_open.
* `remaining` is at most the cooldown, also when the clock was set back.
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
# A longer Retry-After is cut to this: one call then asks again and gets a new Retry-After.
MAX_RATE_LIMIT_SECONDS = 3600.0
# After this time a second call may probe although the first probe has not finished.
MAX_PROBE_SECONDS = 300.0
# Fraction of a cooldown that is added at random, so that clients do not return at the same moment.
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """The thresholds and cooldown times of a circuit breaker."""

    cooldown: float = 30.0
    """Seconds of the first cooldown. It doubles with every further opening."""
    failures: int = 5
    """Number of consecutive failures that open the breaker, 1 or more."""
    max_cooldown: float = 900.0
    """Upper limit of the doubled cooldown in seconds, before the jitter of up to one tenth."""
    fraction: Callable[[], float] = random.random
    """Returns a number from 0 to 1, the random part of the jitter."""

    def __post_init__(self) -> None:
        for name in ("cooldown", "max_cooldown"):
            check_seconds(name, getattr(self, name))
        if (
            isinstance(self.failures, bool)
            or not isinstance(self.failures, int)
            or self.failures < 1
        ):
            raise ConfigurationError(
                f"failures must be an integer from 1; got {self.failures!r}",
                details={"field": "failures"},
            )

    def cooldown_seconds(self, openings: int) -> float:
        """Return the cooldown after `openings` openings (from 1) without an answer in between."""
        doubled = self.cooldown * float(1 << min(max(openings, 1) - 1, 40))
        return min(doubled, max(self.max_cooldown, self.cooldown)) * (1 + JITTER * self.fraction())


@dataclass(slots=True)
class CircuitBreaker:
    """The circuit breaker of one target and operation. All times are on the caller's clock."""

    config: BreakerConfig
    state: State = "closed"
    failures: int = 0
    """Number of consecutive failures."""
    openings: int = 0
    """Number of openings since the last complete answer."""
    until: float = 0.0
    """End of the cooldown; meaningful while the state is open."""
    epoch: int = 0
    """Increases when the outcomes of earlier calls no longer count."""
    limited: bool = False
    """Whether the breaker is open because the server asked to wait, not because calls failed."""
    _cooldown: float = 0.0
    # When the probe of a half-open breaker started.
    _probe_started: float | None = None
    # Whether that probe started before the cooldown was over.
    _early_probe: bool = False

    def remaining(self, now: float) -> float:
        """Return the seconds of cooldown left.

        A clock that was set back does not make a cooldown longer than it was.
        """
        if self.state != "open":
            return 0.0
        if self.until - now > self._cooldown:
            self.until = now + self._cooldown
        return min(max(0.0, self.until - now), self._cooldown)

    def is_probing(self, now: float) -> bool:
        """Return whether a probe is running."""
        if self._probe_started is None:
            return False
        if now < self._probe_started:
            self._probe_started = now
        return now - self._probe_started < MAX_PROBE_SECONDS

    def admit(self, now: float) -> int | None:
        """Return the epoch of a call that may start now.

        None means that the backend is cooling down or that another call probes it.
        """
        if self.state == "closed":
            return self.epoch
        if self.remaining(now) > 0 or self.is_probing(now):
            return None
        return self._probe(now, early=False)

    def admit_probe(self, now: float) -> int | None:
        """Return the epoch of a last-resort call, admitted even before the cooldown is over.

        None means that another call probes the backend.
        """
        if self.state == "open" and self.remaining(now) > 0:
            return self._probe(now, early=True)
        return self.admit(now)

    def on_first_event(self, epoch: int) -> None:
        """Close the breaker when a probe begins to answer.

        Until that answer is complete, one more failure opens the breaker again.
        """
        if epoch == self.epoch and self.state == "half_open":
            if not self.limited:
                self.failures = self.config.failures - 1
            self._transition("closed", epoch)

    def record(self, epoch: int, outcome: BreakerOutcome, now: float, wait: float = 0.0) -> None:
        """Record the outcome of a call.

        Args:
            epoch: The epoch in which the call was admitted; an outdated one is ignored.
            outcome: What the call says about the backend, as `outcome_of` returns it.
            now: The current time.
            wait: The seconds that the error asked to wait; 0 when it named no time.
        """
        if epoch != self.epoch:
            return
        if outcome == "answered" or (outcome == "limited" and wait <= 0):
            self.failures = self.openings = 0
            self._transition("closed", epoch if self.state == "closed" else epoch + 1)
        elif outcome == "limited":
            self.failures = 0
            self._open(now, min(wait, MAX_RATE_LIMIT_SECONDS), limited=True)
        elif self._early_probe:
            self._resume_cooldown(now, failed=outcome == "failed")
        elif outcome == "failed":
            self._record_failure(now, wait)
        elif self.state == "half_open":
            self._probe_started = None
            self.epoch += 1

    def record_health(self, ok: bool, now: float) -> None:
        """Record the result of a health check.

        A good result ends a cooldown early, so that the next call probes the backend. A bad one
        starts a cooldown.
        """
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
        elif self.state == "half_open":
            # The backend was only rate limited, so one failure counts as one failure.
            self._transition("closed", self.epoch + 1)

    def _resume_cooldown(self, now: float, *, failed: bool) -> None:
        """Return to open after a last resort without success; the cooldown does not grow."""
        if failed and not self.limited:
            self.failures += 1
            self.until = now + self._cooldown
        self.state, self._probe_started, self._early_probe = "open", None, False
        self.epoch += 1

    def _open(self, now: float, seconds: float, *, limited: bool = False) -> None:
        self._transition("open", self.epoch + 1)
        self._cooldown, self.until, self.limited = seconds, now + seconds, limited

    def _probe(self, now: float, *, early: bool) -> int:
        self.state, self._probe_started, self._early_probe = "half_open", now, early
        self.epoch += 1
        return self.epoch

    def _transition(self, state: State, epoch: int) -> None:
        self.state, self.epoch = state, epoch
        self._probe_started, self._early_probe, self.limited = None, False, False


def outcome_of(error: BaseException) -> BreakerOutcome:
    """Return what an error says about the backend's health.

    "failed": the backend does not work. "answered": it works, whatever it answered. "limited": it
    asked to slow down. "nothing": the error has another cause.
    """
    if not isinstance(error, MajordomoError):
        return "nothing"
    if error.status is None and error.code in ("QUEUE_FULL", "LOCAL_RATE_LIMIT"):
        # Our own queue is full or our own rate limit is used up.
        return "nothing"
    if isinstance(error, RateLimitError):
        return "limited"
    if error.status is not None and 400 <= error.status < 500:
        return "answered"
    match error:
        case OverloadedError():
            return "failed"
        case DeadlineExceededError():
            return "nothing" if error.phase == "queue" else "failed"
        case ConnectionFailedError() | StreamBrokenError():
            return "failed"
        case ContentRefusedError():
            return "answered"
        case BackendError():
            # 502 and 504 mean that a gateway has no upstream; other 5xx may be caused by this
            # request.
            return "failed" if error.status in (502, 504) else "nothing"
    return "nothing"
