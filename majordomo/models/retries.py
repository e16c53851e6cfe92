"""Retries: which failures of a call are repeated, how often, and after what delay.

Theory of operation:

A call makes one `RetryState` (`BackendCall.retry_state`) and passes every failure to
`RetryState.next_delay`, which either returns the seconds to wait before the next attempt or raises
the error. Nothing here sends anything; the loops that do are `BackendCall.retry` (replies that
are read to their end, and image jobs) and `HTTPChatSource` (until a stream has opened). A stream
that has opened is never repeated.

Four rules, in this order:

* A model that is loading (`MODEL_LOADING`) is asked again until the load limit of the deadline has
  passed. Such attempts are not counted and cost no budget.
* A kept connection that the server closed before the first byte of the reply is replaced once, at
  once, uncounted. An image job is not sent again in this case: the server may have read it.
* `may_retry` decides by the class of the error. An image job is only repeated when the failure
  proves that the server has not accepted it.
* The number of attempts, the longest delay, the total limit of the deadline and the `RetryBudget`,
  which all calls of a provider share, each end the retries.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from majordomo.errors import (
    BackendError,
    ConnectionFailedError,
    DeadlineExceededError,
    MajordomoError,
    OverloadedError,
    RateLimitError,
)
from majordomo.settings import Retries
from majordomo.transport_types import Deadline

LOADING_RETRY_SECONDS = 1.0
MIN_LOADING_RETRY_SECONDS = 0.05
REFILL_PER_SUCCESS = 0.1


@dataclass(slots=True)
class RetryBudget:
    """The number of retries that all calls of a provider share, to protect a failing backend.

    A retry costs 1; every successful call gives back a tenth of one, up to `size`.
    """

    size: float
    """Retries that are available at the start, and at most."""
    remaining: float = field(init=False)
    """Retries that are available now."""

    def __post_init__(self) -> None:
        self.remaining = self.size

    def spend(self) -> bool:
        """Take one retry from the budget, and return whether there was one."""
        if self.remaining < 1:
            return False
        self.remaining -= 1
        return True

    def record_success(self) -> None:
        """Give back a part of a retry after a successful call."""
        self.remaining = min(self.size, self.remaining + REFILL_PER_SUCCESS)


@dataclass(slots=True)
class RetryState:
    """The failed attempts of one call so far, and whether another one is allowed."""

    retries: Retries
    budget: RetryBudget
    deadline: Deadline
    provider: str = ""
    model: str = ""
    image_job: bool = False
    """Whether the request starts an image job: one that may have started is never sent twice."""
    fraction: Callable[[], float] = random.random
    """Returns a number from 0 to 1 by which each delay is multiplied (jitter)."""
    report_retry: Callable[[int, MajordomoError, float], None] | None = None
    """Called with the number, the error and the delay of each failed attempt that is repeated."""
    attempts: int = 0
    """Failed attempts that count against `retries.attempts`."""
    reconnected: bool = False
    """Whether a stale connection has been replaced already."""
    failed: int = 0
    """All failed attempts but those during loading, as reported to observers."""

    def next_delay(self, error: MajordomoError) -> float:
        """Count a failure, and return the seconds to wait before the next attempt.

        Raises `error` itself when there is no next attempt, and DeadlineExceededError (phase
        `load`) when the model has been loading for too long.
        """
        if error.code == "MODEL_LOADING" and error.retryable:
            return self._loading_delay(error)
        delay = self._delay(error)
        self.failed += 1
        if self.report_retry is not None:
            self.report_retry(self.failed, error, delay)
        return delay

    def _delay(self, error: MajordomoError) -> float:
        if self._is_stale_connection(error):
            self.reconnected = True
            return 0.0
        self.attempts += 1
        retries = self.retries
        if self.attempts >= retries.attempts or not may_retry(error, image_job=self.image_job):
            raise error
        # The backend behind a gateway died twice: most likely it is out of memory and would again.
        if error.code == "UPSTREAM_DIED" and self.attempts > 1:
            raise error
        delay = self.fraction() * min(
            retries.max_delay, retries.initial_delay * float(1 << (self.attempts - 1))
        )
        if error.retry_after is not None:
            delay = error.retry_after
        total = self.deadline.timeout.total
        remaining = float("inf") if total is None else total - self.deadline.elapsed()
        if delay > min(retries.max_retry_after, remaining) or not self.budget.spend():
            raise error
        return delay

    def _loading_delay(self, error: MajordomoError) -> float:
        self.deadline.start_phase("load")
        remaining = self.deadline.remaining()
        if remaining <= 0:
            raise self.deadline.exceeded().with_context(self.provider, self.model) from error
        delay = error.retry_after or LOADING_RETRY_SECONDS
        return min(max(delay, MIN_LOADING_RETRY_SECONDS), remaining)

    def _is_stale_connection(self, error: MajordomoError) -> bool:
        """Return whether a kept connection was closed before the first byte of the reply.

        The server had given the connection up, which says nothing about the request.
        """
        if self.reconnected or self.image_job or not isinstance(error, ConnectionFailedError):
            return False
        return error.details.get("reused") is True and error.details.get("replied") is False


def may_retry(error: MajordomoError, *, image_job: bool = False) -> bool:
    """Return whether the same request may be sent to the same backend once more."""
    if not error.retryable:
        return False
    if isinstance(error, DeadlineExceededError):
        return error.phase == "connect"
    if isinstance(error, ConnectionFailedError):
        return not image_job or error.details.get("sent") is False
    if isinstance(error, (RateLimitError, OverloadedError)):
        # These two statuses prove that the server has refused the job.
        return not image_job or error.status in (429, 503)
    return isinstance(error, BackendError) and not image_job
