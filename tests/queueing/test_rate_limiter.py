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
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def waiting(seconds: float = 5) -> Deadline:
    return Deadline(md.Timeout(queue=seconds))


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(-50, 120)), max_size=50))
def test_a_bucket_never_gives_more_than_its_size_and_what_time_brought(
    steps: list[tuple[float, float]],
) -> None:
    bucket, now, earliest, latest, taken = TokenBucket(60), 1000.0, 1000.0, 1000.0, 0.0
    for amount, passes in steps:
        if bucket.wait(amount, now) == 0 and amount <= bucket.level:
            bucket.take(amount)
            taken += amount
        now += passes
        earliest, latest = min(earliest, now), max(latest, now)
        assert bucket.level <= 60
    # A clock that jumps back and forth gives at most what its forward steps bring
    forward = sum(passes for _, passes in steps if passes > 0)
    assert taken <= 60 + forward + 1e-6


def test_what_never_fits_waits_for_a_full_bucket_instead_of_for_ever() -> None:
    bucket = TokenBucket(60)
    bucket.refill(0.0)
    bucket.take(60)
    assert bucket.wait(1_000_000, 0.0) == pytest.approx(60)


@pytest.mark.anyio
async def test_a_call_beyond_the_rate_fails_at_once_when_its_turn_is_beyond_its_limit() -> None:
    clock = Clock()
    meters = RateLimiter(Rate(requests_per_minute=2), clock=clock)
    await meters.acquire(waiting())
    await meters.acquire(waiting())
    with pytest.raises(md.RateLimitError) as caught:
        await meters.acquire(waiting(5))
    assert (caught.value.code, caught.value.retryable, caught.value.retry_after) == (
        "LOCAL_RATE_LIMIT",
        True,
        pytest.approx(30),
    )
    clock.now += 30
    await meters.acquire(waiting(5))


@pytest.mark.anyio
async def test_a_call_within_its_limit_waits_and_one_that_gives_up_gives_its_turn_back() -> None:
    meters = RateLimiter(
        Rate(requests_per_minute=60 * 50)
    )  # one each 20 ms once the first 3,000 are gone
    meters._all._calls.take(3_000)  # type: ignore[union-attr]
    with anyio.fail_after(5):
        await meters.acquire(waiting())
        with anyio.move_on_after(0.001) as scope:
            await meters.acquire(waiting())
        await meters.acquire(waiting())
    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_each_user_id_has_a_rate_of_its_own() -> None:
    meters = RateLimiter(Rate(user_requests_per_minute=1), clock=Clock())
    await meters.acquire(waiting(), "a")
    await meters.acquire(waiting(), "b")
    with pytest.raises(md.RateLimitError):
        await meters.acquire(waiting(), "a")


@pytest.mark.anyio
async def test_tokens_count_after_the_call_and_hold_back_the_next() -> None:
    clock = Clock()
    meters = RateLimiter(Rate(tokens_per_minute=600), clock=clock)
    await meters.acquire(waiting())
    meters.record_tokens("", 900)
    with pytest.raises(md.RateLimitError) as caught:
        await meters.acquire(waiting())
    assert caught.value.retry_after == pytest.approx(30, abs=0.2)
    clock.now += 31
    await meters.acquire(waiting())
    meters.record_tokens("", None)


@pytest.mark.anyio
async def test_callers_without_number_are_forgotten_in_order() -> None:
    meters = RateLimiter(Rate(user_requests_per_minute=1), clock=Clock())
    for number in range(MAX_USERS + 5):
        await meters.acquire(waiting(), str(number))
    assert len(meters._users) == MAX_USERS
    await meters.acquire(waiting(), "0")
    with pytest.raises(md.RateLimitError):
        await meters.acquire(waiting(), str(MAX_USERS))


@pytest.mark.anyio
async def test_it_lets_only_so_many_wait() -> None:
    meters = RateLimiter(Rate(requests_per_minute=1), 0, clock=Clock())
    await meters.acquire(waiting(100))
    with pytest.raises(md.OverloadedError) as caught:
        await meters.acquire(waiting(100))
    assert caught.value.code == "QUEUE_FULL"


@pytest.mark.parametrize("value", [0, -1, 0.5, float("nan"), float("inf"), True, "60"])
def test_a_rate_that_cannot_be_names_its_field(value: object) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        Rate(tokens_per_minute=value)  # type: ignore[arg-type]
    assert caught.value.details["field"] == "tokens_per_minute"
