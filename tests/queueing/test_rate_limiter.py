from __future__ import annotations

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import majordomo as md
from majordomo.queueing.rate_limiter import MAX_USERS, RateLimiter, TokenBucket
from majordomo.settings import Rate
from majordomo.transport_types import Deadline


class Clock:
    """A clock that moves only when a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def queue_deadline(seconds: float = 5) -> Deadline:
    return Deadline(md.Timeout(queue=seconds))


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(-50, 120)), max_size=50))
def test_a_bucket_never_yields_more_than_its_size_and_its_refill(
    steps: list[tuple[float, float]],
) -> None:
    bucket, now, earliest, latest, total_taken = TokenBucket(60), 1000.0, 1000.0, 1000.0, 0.0
    for amount, seconds in steps:
        if bucket.wait(amount, now) == 0 and amount <= bucket.level:
            bucket.take(amount)
            total_taken += amount
        now += seconds
        earliest, latest = min(earliest, now), max(latest, now)
        assert bucket.level <= 60
    # A clock that jumps back and forth refills at most for its forward steps.
    forward_seconds = sum(seconds for _, seconds in steps if seconds > 0)
    assert total_taken <= 60 + forward_seconds + 1e-6


def test_an_amount_above_the_capacity_waits_for_a_full_bucket() -> None:
    bucket = TokenBucket(60)
    bucket.refill(0.0)
    bucket.take(60)
    assert bucket.wait(1_000_000, 0.0) == pytest.approx(60)


@pytest.mark.anyio
async def test_a_call_whose_turn_is_beyond_its_queue_limit_raises_rate_limit_error() -> None:
    clock = Clock()
    rate_limiter = RateLimiter(Rate(requests_per_minute=2), clock=clock)
    await rate_limiter.acquire(queue_deadline())
    await rate_limiter.acquire(queue_deadline())
    with pytest.raises(md.RateLimitError) as caught:
        await rate_limiter.acquire(queue_deadline(5))
    assert (caught.value.code, caught.value.retryable, caught.value.retry_after) == (
        "LOCAL_RATE_LIMIT",
        True,
        pytest.approx(30),
    )
    clock.now += 30
    await rate_limiter.acquire(queue_deadline(5))


@pytest.mark.anyio
async def test_a_call_within_its_queue_limit_waits_and_a_cancelled_one_returns_its_turn() -> None:
    # One call each 20 ms after the first 3,000.
    rate_limiter = RateLimiter(Rate(requests_per_minute=60 * 50), clock=Clock())
    for _ in range(3_000):
        await rate_limiter.acquire(queue_deadline())
    with anyio.fail_after(5):
        await rate_limiter.acquire(queue_deadline())
        with anyio.move_on_after(0.001) as scope:
            await rate_limiter.acquire(queue_deadline())
        await rate_limiter.acquire(queue_deadline())
    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_each_user_has_its_own_rate() -> None:
    rate_limiter = RateLimiter(Rate(user_requests_per_minute=1), clock=Clock())
    await rate_limiter.acquire(queue_deadline(), "a")
    await rate_limiter.acquire(queue_deadline(), "b")
    with pytest.raises(md.RateLimitError):
        await rate_limiter.acquire(queue_deadline(), "a")


@pytest.mark.anyio
async def test_tokens_count_after_the_call_and_delay_the_next() -> None:
    clock = Clock()
    rate_limiter = RateLimiter(Rate(tokens_per_minute=600), clock=clock)
    await rate_limiter.acquire(queue_deadline())
    rate_limiter.record_tokens("", 900)
    with pytest.raises(md.RateLimitError) as caught:
        await rate_limiter.acquire(queue_deadline())
    assert caught.value.retry_after == pytest.approx(30, abs=0.2)
    clock.now += 31
    await rate_limiter.acquire(queue_deadline())
    rate_limiter.record_tokens("", None)


@pytest.mark.anyio
async def test_the_least_recently_active_users_are_dropped() -> None:
    rate_limiter = RateLimiter(Rate(user_requests_per_minute=1), clock=Clock())
    for number in range(MAX_USERS + 5):
        await rate_limiter.acquire(queue_deadline(), str(number))
    assert len(rate_limiter._users) == MAX_USERS
    await rate_limiter.acquire(queue_deadline(), "0")
    with pytest.raises(md.RateLimitError):
        await rate_limiter.acquire(queue_deadline(), str(MAX_USERS))


@pytest.mark.anyio
async def test_a_full_queue_raises_overloaded_error() -> None:
    rate_limiter = RateLimiter(Rate(requests_per_minute=1), 0, clock=Clock())
    await rate_limiter.acquire(queue_deadline(100))
    with pytest.raises(md.OverloadedError) as caught:
        await rate_limiter.acquire(queue_deadline(100))
    assert caught.value.code == "QUEUE_FULL"


@pytest.mark.parametrize("value", [0, -1, 0.5, float("nan"), float("inf"), True, "60"])
def test_an_invalid_rate_names_its_field(value: object) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        Rate(tokens_per_minute=value)  # type: ignore[arg-type]
    assert caught.value.details["field"] == "tokens_per_minute"
