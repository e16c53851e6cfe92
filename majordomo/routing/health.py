"""The health records of the targets that chains call, and the listeners to their changes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from majordomo.backend_status import Health
from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import MajordomoError, UnsupportedError
from majordomo.routing.circuit_breaker import (
    BreakerConfig,
    BreakerOutcome,
    CircuitBreaker,
    State,
    outcome_of,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """The circuit breaker of a target changed its state."""

    target: str
    """The target: provider, model and URL."""
    operation: str
    """The kind of call, "chat" or "image"."""
    before: State
    """The state before the change."""
    after: State
    """The state after the change."""
    remaining: float = 0.0
    """Seconds of the cooldown left; 0 unless `after` is "open"."""
    code: str = ""
    """The code of the last error; "" when there was none."""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """The health of one member of a chain, as calls have found it."""

    provider: str
    """The name of its provider."""
    model: str
    """The id of the model."""
    target: str
    """The target: provider, model and URL."""
    operation: str
    """The kind of call, "chat" or "image"."""
    state: State = "closed"
    """The state of its circuit breaker.

    "closed": it is called as usual. "open": it is cooling down. "half_open": the cooldown is over,
    and one call at a time probes it.
    """
    failures: int = 0
    """Number of consecutive failures that count."""
    remaining: float = 0.0
    """Seconds of the cooldown left; 0 when it is not cooling down."""
    until: float | None = None
    """End of the cooldown on the clock of the `ChainHealth`; None when it is not cooling down."""
    code: str = ""
    """The code of the last error; "" when there was none."""
    attempts: int = 0
    """Number of calls since the start. Calls beyond `successes` and `errors` are still running or
    were cancelled."""
    successes: int = 0
    """Number of calls that were answered."""
    errors: int = 0
    """Number of calls that failed."""


@dataclass(slots=True)
class _TargetRecord:
    """The circuit breaker and the counters of one target and operation."""

    breaker: CircuitBreaker
    code: str = ""
    attempts: int = 0
    successes: int = 0
    errors: int = 0


class ChainHealth:
    """The health records of targets (a model at a URL), one circuit breaker for each.

    A target that fails `failures` times in a row (overloaded, unreachable or timed out) is skipped
    during a cooldown. The cooldown doubles each time, up to `max_cooldown`, plus a random part of
    up to one tenth. Afterwards one call at a time probes the target, and the first successful call
    ends the failure. A response with a status from 400 to 499 counts as an answer. A rate limit
    that names a time skips the target for that time.

    Chains may share one: it can be used from several threads and event loops.

    Args:
        cooldown: Seconds of the first cooldown. Default: 30.
        failures: Number of consecutive failures that start a cooldown, 1 or more. Default: 5.
        max_cooldown: Upper limit of the doubled cooldown in seconds. Default: 900.
        listeners: Functions that are called with each HealthChanged, in the thread in which it
            happens. An exception that a listener raises is ignored.
        clock: Returns the current time in seconds. It may jump.
        fraction: Returns a number from 0 to 1, the random part of the cooldown.

    Raises:
        ConfigurationError: A number is out of range.
    """

    def __init__(
        self,
        cooldown: float = 30.0,
        *,
        failures: int = 5,
        max_cooldown: float = 900.0,
        listeners: Iterable[Callable[[HealthChanged], object]] = (),
        clock: Callable[[], float] = time.monotonic,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        self._config = BreakerConfig(cooldown, failures, max_cooldown, fraction)
        self._listeners = tuple(listeners)
        self._clock = clock
        self._lock = Lock()
        self._records: dict[tuple[str, str], _TargetRecord] = {}

    def admit(self, target: str, operation: str) -> MemberPermit | None:
        """Return a permit to call the target now.

        The permit must be closed with its `succeeded` or `failed`. None means that the target is
        cooling down or that another call probes it.
        """

        def change(record: _TargetRecord, now: float) -> int | None:
            return _count_attempt(record, record.breaker.admit(now))

        return self._permit(target, operation, change)

    def admit_probe(self, targets: Sequence[str], operation: str) -> MemberPermit | None:
        """Return a permit for the target whose cooldown ends first, although all are cooling down.

        None means that another call probes that target.
        """
        now = self._clock()
        with self._lock:
            # A target that is being probed has no cooldown left, so it is chosen first and keeps
            # the others from being probed as well.
            target = min(
                targets, key=lambda name: self._record(name, operation).breaker.remaining(now)
            )

        def change(record: _TargetRecord, now: float) -> int | None:
            return _count_attempt(record, record.breaker.admit_probe(now))

        return self._permit(target, operation, change)

    def record_health(self, target: str, operation: str, health: Health) -> None:
        """Record the result of the provider's own `health()`."""
        if not health.ok and health.error is not None and outcome_of(health.error) != "failed":
            # The server answered, even if it does not support the health check.
            return

        def change(record: _TargetRecord, now: float) -> None:
            record.breaker.record_health(health.ok, now)
            if health.error is not None:
                record.code = health.error.code

        self._change(target, operation, change)

    def status(
        self, target: str, operation: str, provider: str = "", model: str = ""
    ) -> MemberStatus:
        """Return the status of a target, without changing it.

        `provider` and `model` are copied to the status.
        """
        now = self._clock()
        with self._lock:
            record = self._records.get((target, operation))
            if record is None:
                return MemberStatus(provider, model, target, operation)
            breaker = record.breaker
            remaining = breaker.remaining(now)
            # The breaker changes its state only when the next call is admitted.
            state: State = (
                "half_open" if breaker.state == "open" and not remaining else breaker.state
            )
            return MemberStatus(
                provider,
                model,
                target,
                operation,
                state,
                breaker.failures,
                remaining,
                breaker.until if remaining else None,
                record.code,
                record.attempts,
                record.successes,
                record.errors,
            )

    def _permit(
        self,
        target: str,
        operation: str,
        change: Callable[[_TargetRecord, float], int | None],
    ) -> MemberPermit | None:
        epoch = self._change(target, operation, change)
        return None if epoch is None else MemberPermit(self, target, operation, epoch)

    def _record(self, target: str, operation: str) -> _TargetRecord:
        return self._records.setdefault(
            (target, operation), _TargetRecord(CircuitBreaker(self._config))
        )

    def _change(
        self, target: str, operation: str, change: Callable[[_TargetRecord, float], T]
    ) -> T:
        """Change a record under the lock, then notify the listeners of a new state."""
        now = self._clock()
        with self._lock:
            record = self._record(target, operation)
            breaker = record.breaker
            before = breaker.state
            result = change(record, now)
            if breaker.state == before:
                return result
            event = HealthChanged(
                target, operation, before, breaker.state, breaker.remaining(now), record.code
            )
        for listener in self._listeners:
            # An error of a listener must not break the call.
            with suppress(Exception):
                listener(event)
        return result


@dataclass(slots=True)
class MemberPermit:
    """The permit for one call of a target.

    It is closed by `succeeded` or `failed`; only the first of them counts.
    """

    health: ChainHealth
    target: str
    operation: str
    epoch: int
    """The epoch of the circuit breaker in which the call was admitted."""
    _recorded: bool = field(default=False, repr=False)

    def on_first_event(self) -> None:
        """Record that the first part of the answer arrived."""
        self.health._change(
            self.target,
            self.operation,
            lambda record, now: record.breaker.on_first_event(self.epoch),
        )

    def succeeded(self) -> None:
        """Record a success and close the permit."""
        self._record_outcome("answered")

    def failed(self, error: BaseException) -> None:
        """Record an error and close the permit; a cancellation is not counted as an error."""
        self._record_outcome(outcome_of(error), error)

    def _record_outcome(self, outcome: BreakerOutcome, error: BaseException | None = None) -> None:
        if self._recorded:
            return
        self._recorded = True
        wait = error.retry_after or 0.0 if isinstance(error, MajordomoError) else 0.0

        def change(record: _TargetRecord, now: float) -> None:
            record.breaker.record(self.epoch, outcome, now, wait)
            if error is None:
                record.successes += 1
            elif isinstance(error, UnsupportedError) and error.status is None:
                # Nothing was sent, so this was no attempt.
                record.attempts -= 1
            elif isinstance(error, MajordomoError):
                record.errors += 1
                record.code = error.code

        self.health._change(self.target, self.operation, change)


def _count_attempt(record: _TargetRecord, epoch: int | None) -> int | None:
    record.attempts += epoch is not None
    return epoch
