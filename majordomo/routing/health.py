"""The health of everything that chains ask: who rests, who is tried again, and who wants to hear of it."""

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
    """A target has changed its state; `left` is the seconds of its rest, `code` that of its last error ("" when it had none)."""

    target: str
    operation: str
    before: State
    after: State
    remaining: float = 0.0
    code: str = ""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """How a member of a chain is, as calls have found it.

    `state`: "closed" is asked as usual, "open" rests, "half_open" has rested and is tried by one call at a time. `failures` are those in
    a row that count, `left` the seconds of rest left and `until` its end on the health's clock (None when it does not rest), `code` that
    of the last error. Since the beginning it was `asked` so often, `answered` and `failed`; the others are under way or were given up.
    """

    provider: str
    model: str
    target: str
    operation: str
    state: State = "closed"
    failures: int = 0
    remaining: float = 0.0
    until: float | None = None
    code: str = ""
    attempts: int = 0
    successes: int = 0
    errors: int = 0


@dataclass(slots=True)
class _TargetRecord:
    breaker: CircuitBreaker
    code: str = ""
    attempts: int = 0
    successes: int = 0
    errors: int = 0


class ChainHealth:
    """A target (a model at an address) that failed `failures` times in a row, overloaded, out of reach or out of time, rests: `cooldown`
    seconds at first, twice as long each further time, at most `longest`, and up to a tenth more. Then one call at a time tries it, and
    the first that goes well ends it. An answer with a status of 400 to 499 is an answer; a rate limit that names a time rests that long.

    Chains may share one: it is safe across threads and event loops. `listeners` hear each HealthChanged, in the thread where it happens;
    what they raise is ignored. `clock` gives seconds and may jump. Raises ConfigurationError for figures that cannot be.
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
        """Leave to ask now, which must be given back; None while the target rests or another call tries it."""

        def ask(record: _TargetRecord, now: float) -> int | None:
            return _count_attempt(record, record.breaker.admit(now))

        epoch = self._change(target, operation, ask)
        return None if epoch is None else MemberPermit(self, target, operation, epoch)

    def admit_probe(self, targets: Sequence[str], operation: str) -> MemberPermit | None:
        """Leave to ask the one whose rest ends first, when all rest; None while a call tries any of them."""
        now = self._clock()
        with self._lock:
            # One that is tried just now has no rest left: it comes first, and keeps the others out
            target = min(
                targets, key=lambda name: self._record(name, operation).breaker.remaining(now)
            )

        def ask(record: _TargetRecord, now: float) -> int | None:
            return _count_attempt(record, record.breaker.admit_probe(now))

        epoch = self._change(target, operation, ask)
        return None if epoch is None else MemberPermit(self, target, operation, epoch)

    def record_health(self, target: str, operation: str, found: Health) -> None:
        """What the provider's own `health()` said."""
        if not found.ok and found.error is not None and outcome_of(found.error) != "failed":
            return  # it answered, if only to say that it does not know the question

        def note(record: _TargetRecord, now: float) -> None:
            record.breaker.record_health(found.ok, now)
            if found.error is not None:
                record.code = found.error.code

        self._change(target, operation, note)

    def status(
        self, target: str, operation: str, provider: str = "", model: str = ""
    ) -> MemberStatus:
        """How a target is now. Asking changes nothing."""
        now = self._clock()
        with self._lock:
            record = self._records.get((target, operation))
            if record is None:
                return MemberStatus(provider, model, target, operation)
            condition = record.breaker
            left = condition.remaining(now)
            state: State = (
                "half_open" if condition.state == "open" and not left else condition.state
            )
            return MemberStatus(
                provider,
                model,
                target,
                operation,
                state,
                condition.failures,
                left,
                condition.until if left else None,
                record.code,
                record.attempts,
                record.successes,
                record.errors,
            )

    def _record(self, target: str, operation: str) -> _TargetRecord:
        return self._records.setdefault(
            (target, operation), _TargetRecord(CircuitBreaker(self._config))
        )

    def _change(
        self, target: str, operation: str, change: Callable[[_TargetRecord, float], T]
    ) -> T:
        now = self._clock()
        with self._lock:
            record = self._record(target, operation)
            condition = record.breaker
            before = condition.state
            given = change(record, now)
            if condition.state == before:
                return given
            news = HealthChanged(
                target, operation, before, condition.state, condition.remaining(now), record.code
            )
        for listener in self._listeners:
            with suppress(Exception):  # whoever listens never breaks a call
                listener(news)
        return given


@dataclass(slots=True)
class MemberPermit:
    """Leave to ask a target once. It is given back by saying what became of it; saying it twice is fine, the first time counts."""

    health: ChainHealth
    target: str
    operation: str
    epoch: int
    _given_back: bool = field(default=False, repr=False)

    def on_first_event(self) -> None:
        """A part of the answer is there."""
        self.health._change(
            self.target,
            self.operation,
            lambda record, now: record.breaker.on_first_event(self.epoch),
        )

    def succeeded(self) -> None:
        self._record("answered")

    def failed(self, error: BaseException) -> None:
        """An error, or a cancellation, which says nothing."""
        self._record(outcome_of(error), error)

    def _record(self, what: BreakerOutcome, error: BaseException | None = None) -> None:
        if self._given_back:
            return
        self._given_back = True
        wait = error.retry_after or 0.0 if isinstance(error, MajordomoError) else 0.0

        def note(record: _TargetRecord, now: float) -> None:
            record.breaker.record(self.epoch, what, now, wait)
            if error is None:
                record.successes += 1
            elif isinstance(error, UnsupportedError) and error.status is None:
                record.attempts -= 1  # nothing was sent
            elif isinstance(error, MajordomoError):
                record.errors += 1
                record.code = error.code

        self.health._change(self.target, self.operation, note)


def _count_attempt(record: _TargetRecord, epoch: int | None) -> int | None:
    record.attempts += epoch is not None
    return epoch
