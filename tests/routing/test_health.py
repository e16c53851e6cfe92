"""Chain health: the circuit breaker alone, and in chains."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import majordomo as md
from majordomo.routing.chain import Chain
from majordomo.routing.circuit_breaker import (
    JITTER,
    MAX_PROBE_SECONDS,
    MAX_RATE_LIMIT_SECONDS,
    BreakerConfig,
    BreakerOutcome,
    CircuitBreaker,
    outcome_of,
)
from majordomo.routing.health import ChainHealth, HealthChanged, MemberPermit
from tests.support.hypothesis_effort import max_examples
from tests.support.scripted_members import FakeChatModel, FakeProvider

pytestmark = pytest.mark.anyio


class ManualClock:
    """A clock that tests move by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def changes() -> list[HealthChanged]:
    return []


@pytest.fixture
def health(clock: ManualClock, changes: list[HealthChanged]) -> ChainHealth:
    return ChainHealth(30, clock=clock, fraction=lambda: 0.5, listeners=[changes.append])


def down() -> md.ConnectionFailedError:
    return md.ConnectionFailedError("refused")


def fail(
    health: ChainHealth, times: int, error: md.MajordomoError | None = None, target: str = "a"
) -> None:
    for _ in range(times):
        permit = health.admit(target, "chat")
        assert permit is not None
        permit.failed(error or down())


def state(health: ChainHealth, target: str = "a") -> str:
    return health.status(target, "chat").state


# The state machine


def test_five_consecutive_failures_open_the_breaker_and_one_call_probes(
    health: ChainHealth, clock: ManualClock, changes: list[HealthChanged]
) -> None:
    fail(health, 4)
    assert state(health) == "closed"
    fail(health, 1)
    status = health.status("a", "chat")
    assert (status.state, status.failures, status.remaining, status.until, status.code) == (
        "open",
        5,
        31.5,
        1031.5,
        "CONNECTION_FAILED",
    )
    assert (status.attempts, status.successes, status.errors) == (5, 0, 5)
    assert health.admit("a", "chat") is None
    clock.now += 31.6
    assert state(health) == "half_open"
    permit = health.admit("a", "chat")
    assert permit is not None
    assert health.admit("a", "chat") is None
    permit.succeeded()
    assert health.status("a", "chat").failures == 0
    assert health.admit("a", "chat") is not None
    assert [(change.before, change.after) for change in changes] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    assert changes[0] == HealthChanged("a", "chat", "closed", "open", 31.5, "CONNECTION_FAILED")


def test_the_cooldown_doubles_up_to_the_maximum(health: ChainHealth, clock: ManualClock) -> None:
    fail(health, 5)
    cooldowns = []
    for _ in range(8):
        cooldowns.append(health.status("a", "chat").remaining / 1.05)
        clock.now += 10_000
        fail(health, 1)
    assert cooldowns == pytest.approx([30, 60, 120, 240, 480, 900, 900, 900])
    clock.now += 10_000
    permit = health.admit("a", "chat")
    assert permit is not None
    permit.succeeded()
    fail(health, 5)
    assert health.status("a", "chat").remaining == 31.5


def test_a_success_resets_the_failure_count(health: ChainHealth) -> None:
    for _ in range(3):
        fail(health, 4)
        permit = health.admit("a", "chat")
        assert permit is not None
        permit.succeeded()
    assert state(health) == "closed"


OUTCOMES: list[tuple[BaseException, BreakerOutcome]] = [
    (down(), "failed"),
    (md.OverloadedError("busy", status=503), "failed"),
    (md.OverloadedError("busy", status=529), "failed"),
    (md.OverloadedError("busy"), "failed"),
    (md.OverloadedError("our own queue", code="QUEUE_FULL"), "nothing"),
    (md.RateLimitError("our own rate", code="LOCAL_RATE_LIMIT", retry_after=30), "nothing"),
    (md.OverloadedError("conflict", status=409), "answered"),
    (md.OverloadedError("time-out", status=408), "answered"),
    (md.DeadlineExceededError("slow", phase="first_byte"), "failed"),
    (md.DeadlineExceededError("our own queue", phase="queue"), "nothing"),
    (md.StreamBrokenError("cut"), "failed"),
    (md.BackendError("no upstream", status=502), "failed"),
    (md.BackendError("upstream timed out", status=504), "failed"),
    (md.BackendError("crashed", status=500), "nothing"),
    (md.BadResponseError("gibberish"), "nothing"),
    (md.InvalidRequestError("bad", status=400), "answered"),
    (md.InvalidRequestError("never sent", field="seed"), "nothing"),
    (md.AuthenticationError("who?", status=401), "answered"),
    (md.NotFoundError("which?", status=404), "answered"),
    (md.ContentRefusedError("no"), "answered"),
    (md.RateLimitError("slowly", status=429), "limited"),
    (md.UnsupportedError("cannot"), "nothing"),
    (ZeroDivisionError(), "nothing"),
    (KeyboardInterrupt(), "nothing"),
]


@pytest.mark.parametrize(("error", "outcome"), OUTCOMES, ids=lambda value: repr(value)[:40])
def test_outcome_of_an_error(
    error: BaseException, outcome: BreakerOutcome, health: ChainHealth
) -> None:
    assert outcome_of(error) == outcome
    if isinstance(error, Exception):
        for _ in range(5):
            permit = health.admit("a", "chat")
            assert permit is not None
            permit.failed(error)
        assert state(health) == ("open" if outcome == "failed" else "closed")


def test_a_rate_limit_opens_the_breaker_for_retry_after_seconds(
    health: ChainHealth, clock: ManualClock
) -> None:
    fail(health, 1, md.RateLimitError("slowly", status=429, retry_after=7))
    assert health.status("a", "chat").remaining == 7
    clock.now += 7
    # One failure to connect does not open the breaker.
    fail(health, 1)
    assert state(health) == "closed"
    fail(health, 1, md.RateLimitError("tomorrow", status=429, retry_after=1e9))
    assert health.status("a", "chat").remaining == MAX_RATE_LIMIT_SECONDS


def test_outcomes_of_earlier_epochs_are_ignored(health: ChainHealth, clock: ManualClock) -> None:
    early = [health.admit("a", "chat") for _ in range(20)]
    for permit in early[:5]:
        assert permit is not None
        permit.failed(down())
    remaining = health.status("a", "chat").remaining
    for permit in early[5:10]:
        assert permit is not None
        permit.failed(down())
    assert early[10] is not None
    early[10].succeeded()
    assert (state(health), health.status("a", "chat").remaining) == ("open", remaining)
    clock.now += 100
    probe = health.admit("a", "chat")
    assert probe is not None
    for permit in early[11:]:
        assert permit is not None
        permit.failed(down())
    probe.succeeded()
    probe.failed(down())
    assert (state(health), health.status("a", "chat").failures) == ("closed", 0)


def test_after_a_cancelled_probe_the_next_call_probes(
    health: ChainHealth, clock: ManualClock
) -> None:
    fail(health, 5)
    clock.now += 100
    for _ in range(3):
        permit = health.admit("a", "chat")
        assert permit is not None
        permit.failed(KeyboardInterrupt())


def test_the_first_event_of_a_probe_closes_the_breaker(
    health: ChainHealth, clock: ManualClock
) -> None:
    fail(health, 5)
    clock.now += 100
    probe = health.admit("a", "chat")
    assert probe is not None
    probe.on_first_event()
    assert (state(health), health.status("a", "chat").failures) == ("closed", 4)
    other = health.admit("a", "chat")
    assert other is not None
    probe.failed(md.StreamBrokenError("cut"))
    assert (state(health), health.status("a", "chat").remaining) == ("open", 63)
    clock.now += 100
    probe = health.admit("a", "chat")
    assert probe is not None
    probe.on_first_event()
    probe.succeeded()
    fail(health, 4)
    assert state(health) == "closed"


def test_the_last_resort_is_the_target_with_the_shortest_cooldown(
    health: ChainHealth, clock: ManualClock
) -> None:
    fail(health, 5, target="a")
    clock.now += 5
    fail(health, 5, target="b")
    permit = health.admit_probe(["b", "a"], "chat")
    assert permit is not None
    assert permit.target == "a"
    assert health.admit_probe(["a", "b"], "chat") is None
    clock.now += 1
    permit.failed(down())
    # The cooldown started again, but did not grow.
    assert health.status("a", "chat").remaining == 31.5
    for error in (KeyboardInterrupt(), None):
        permit = health.admit_probe(["a", "b"], "chat")
        assert permit is not None
        assert permit.target == "b"
        if error is not None:
            permit.failed(error)
            assert health.status("b", "chat").remaining == 30.5
    permit.succeeded()
    assert (state(health, "a"), state(health, "b")) == ("open", "closed")


def test_a_failed_last_resort_keeps_the_time_of_a_rate_limit(
    health: ChainHealth, clock: ManualClock
) -> None:
    fail(health, 1, md.RateLimitError("slowly", status=429, retry_after=60))
    permit = health.admit_probe(["a"], "chat")
    assert permit is not None
    clock.now += 5
    permit.failed(down())
    assert (state(health), health.status("a", "chat").remaining) == ("open", 55)


@pytest.mark.parametrize("jump", [-1e9, -3600.0, -31.0, 3600.0, 1e9])
def test_a_clock_jump_does_not_block_a_target(
    health: ChainHealth, clock: ManualClock, jump: float
) -> None:
    fail(health, 5)
    clock.now += jump
    assert health.status("a", "chat").remaining <= 31.5
    clock.now += 32
    assert health.admit("a", "chat") is not None
    clock.now += jump
    # Any call makes the breaker notice the jump.
    health.admit("a", "chat")
    clock.now += MAX_PROBE_SECONDS + 1
    permit = health.admit("a", "chat")
    assert permit is not None
    permit.succeeded()
    assert state(health) == "closed"


def test_operations_and_targets_have_breakers_of_their_own(health: ChainHealth) -> None:
    fail(health, 5)
    assert health.admit("a", "image") is not None
    assert health.admit("b", "chat") is not None


def test_an_exception_of_a_listener_is_ignored(clock: ManualClock) -> None:
    changes: list[HealthChanged] = []

    def broken(change: HealthChanged) -> None:
        raise ZeroDivisionError

    health = ChainHealth(clock=clock, listeners=[broken, changes.append])
    fail(health, 5)
    assert len(changes) == 1


def test_one_probe_is_admitted_across_threads(clock: ManualClock) -> None:
    health = ChainHealth(clock=clock)
    fail(health, 5)
    clock.now += 100
    start = threading.Barrier(8)
    permits: list[MemberPermit | None] = []

    def request_permits() -> None:
        start.wait()
        for _ in range(200):
            permits.append(health.admit("a", "chat"))

    threads = [threading.Thread(target=request_permits) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([permit for permit in permits if permit is not None]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"failures": 0},
        {"failures": True},
        {"failures": 1.5},
        {"max_cooldown": 0},
        {"cooldown": float("inf")},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_rejected(arguments: dict[str, Any]) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        ChainHealth(**arguments)
    assert caught.value.details["field"] in arguments


class BreakerMachine(RuleBasedStateMachine):
    """Any history of calls, health checks and clock jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.config = BreakerConfig(30, 3, 120, lambda: 1.0)
        self.breaker = CircuitBreaker(self.config)
        self.running: list[int] = []
        self.probe: int | None = None
        self.probe_started = 0.0

    @rule(early=st.booleans())
    def admit(self, early: bool) -> None:
        before, remaining = self.breaker.state, self.breaker.remaining(self.now)
        epoch = self.breaker.admit_probe(self.now) if early else self.breaker.admit(self.now)
        if before == "closed":
            assert epoch is not None
        if epoch is None:
            return
        assert early or not remaining
        if self.breaker.state == "half_open":
            # A second probe is admitted only after the time limit of the first.
            if self.probe is not None:
                assert self.now - self.probe_started >= MAX_PROBE_SECONDS
            self.probe, self.probe_started = epoch, self.now
        self.running.append(epoch)

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["answered", "failed", "limited", "nothing"]),
        wait=st.sampled_from([0.0, 5.0, 1e9]),
    )
    def record(self, data: st.DataObject, outcome: BreakerOutcome, wait: float) -> None:
        epoch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        before, current = self.breaker.state, epoch == self.breaker.epoch
        self.breaker.record(epoch, outcome, self.now, wait)
        if not current:
            assert self.breaker.state == before
        elif outcome == "answered":
            assert (self.breaker.state, self.breaker.failures) == ("closed", 0)
        elif outcome == "nothing":
            assert self.breaker.state != "closed" or before == "closed"
        elif outcome == "failed" and before == "closed":
            assert (self.breaker.state == "open") == (self.breaker.failures >= self.config.failures)
        if epoch == self.probe:
            self.probe = None

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def first_event(self, data: st.DataObject) -> None:
        epoch = data.draw(st.sampled_from(self.running))
        before = self.breaker.state
        self.breaker.on_first_event(epoch)
        if self.breaker.state != before:
            assert (before, self.breaker.state) == ("half_open", "closed")
            self.probe = None

    @rule(ok=st.booleans())
    def check_health(self, ok: bool) -> None:
        before = self.breaker.state
        self.breaker.record_health(ok, self.now)
        assert self.breaker.state != "closed" or before == "closed"
        if before == "half_open" and self.breaker.state == "open":
            # The time limit of the probe was over.
            self.probe = None

    @rule(
        seconds=st.sampled_from([0.1, 10.0, 33.0, 400.0, 5000.0, -0.1, -50.0, -5000.0, 1e12, -1e12])
    )
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.breaker.remaining(self.now)
        self.breaker.is_probing(self.now)
        if seconds < 0:
            self.probe_started = min(self.probe_started, self.now)

    @invariant()
    def cooldowns_are_bounded(self) -> None:
        max_remaining = (
            MAX_RATE_LIMIT_SECONDS
            if self.breaker.limited
            else max(self.config.max_cooldown * (1 + JITTER), MAX_RATE_LIMIT_SECONDS)
        )
        assert 0 <= self.breaker.remaining(self.now) <= max_remaining

    @invariant()
    def nothing_is_stuck(self) -> None:
        """After the longest cooldown and the longest probe a call is always admitted."""
        copy = CircuitBreaker(self.config)
        for name in CircuitBreaker.__slots__:
            setattr(copy, name, getattr(self.breaker, name))
        later = self.now + MAX_RATE_LIMIT_SECONDS + MAX_PROBE_SECONDS
        copy.remaining(self.now)
        copy.is_probing(self.now)
        epoch = copy.admit(later)
        assert epoch is not None
        copy.record(epoch, "answered", later)
        assert copy.state == "closed"


BreakerMachine.TestCase.settings = settings(
    max_examples=max_examples(60), stateful_step_count=30, deadline=None
)
TestBreakerMachine = BreakerMachine.TestCase


# In chains


async def test_a_member_in_cooldown_is_skipped_and_reported(
    health: ChainHealth, clock: ManualClock
) -> None:
    first = FakeChatModel("a", down())
    chain = Chain([first, FakeChatModel("b")], health=health)
    for _ in range(5):
        await chain.generate("hi")
    reply = await chain.generate("hi")
    assert len(first.requests) == 5
    (attempt,) = reply.failed_attempts
    assert (attempt.code, attempt.skipped) == ("COOLING_DOWN", True)
    assert attempt.message == "own/a is cooling down for another 31.5 s after CONNECTION_FAILED"
    assert [(status.model, status.state, status.attempts) for status in chain.status()] == [
        ("a", "open", 5),
        ("b", "closed", 6),
    ]
    clock.now += 40
    first.script = ("hello again",)
    first.requests.clear()
    assert (await chain.generate("hi")).model == "a"
    assert chain.status()[0].state == "closed"


async def test_a_skipped_last_member_is_among_the_failures(health: ChainHealth) -> None:
    second = FakeChatModel("b", down())
    chain = Chain(
        [FakeChatModel("a", md.BackendError("crashed", status=500)), second], health=health
    )
    for _ in range(6):
        with pytest.raises(md.ChainExhaustedError) as caught:
            await chain.generate("hi")
    assert len(second.requests) == 5
    assert [type(error) for error in caught.value.failures] == [md.BackendError, md.OverloadedError]
    assert caught.value.failures[1].retry_after == 31.5


async def test_when_all_are_in_cooldown_one_call_probes_the_shortest(
    health: ChainHealth, clock: ManualClock
) -> None:
    proceed = anyio.Event()
    first, second = FakeChatModel("a", down()), FakeChatModel("b", down())
    chain = Chain([first, second], health=health)
    for _ in range(5):
        with pytest.raises(md.ChainExhaustedError):
            await Chain([first], health=health).generate("hi")
    clock.now += 3
    for _ in range(5):
        with pytest.raises(md.ChainExhaustedError):
            await Chain([second], health=health).generate("hi")
    first.requests.clear()
    second.requests.clear()
    first.script = ([proceed.wait, "back again"],)
    replies: list[md.Reply] = []
    failures: list[md.ChainExhaustedError] = []

    async def call() -> None:
        try:
            replies.append(await chain.generate("hi"))
        except md.ChainExhaustedError as error:
            failures.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        assert len(failures) == 49
        proceed.set()
    (reply,) = replies
    assert (reply.text, [(attempt.model, attempt.code) for attempt in reply.failed_attempts]) == (
        "back again",
        [("b", "COOLING_DOWN")],
    )
    assert (len(first.requests), len(second.requests)) == (1, 0)
    assert {error.code for failed in failures for error in failed.failures} == {"COOLING_DOWN"}
    assert all(failed.retryable for failed in failures)
    assert [status.state for status in chain.status()] == ["closed", "open"]


async def test_the_error_of_the_last_resort_replaces_its_cooldown_error(
    health: ChainHealth,
) -> None:
    chain = Chain([FakeChatModel("a", down()), FakeChatModel("b", down())], health=health)
    for _ in range(6):
        with pytest.raises(md.ChainExhaustedError) as caught:
            await chain.generate("hi")
    assert [error.code for error in caught.value.failures] == ["CONNECTION_FAILED", "COOLING_DOWN"]


async def test_after_a_cancelled_probe_the_next_call_of_a_chain_probes(
    health: ChainHealth, clock: ManualClock
) -> None:
    first = FakeChatModel("a", *[down()] * 5, [anyio.sleep_forever], "hello again")
    chain = Chain([first, FakeChatModel("b")], health=health)
    for _ in range(5):
        await chain.generate("hi")
    clock.now += 40
    async with anyio.create_task_group() as group:
        group.start_soon(chain.generate, "hi")
        await anyio.wait_all_tasks_blocked()
        assert (await chain.generate("hi")).failed_attempts[
            0
        ].message == "another call is already probing own/a after CONNECTION_FAILED"
        group.cancel_scope.cancel()
    assert (await chain.generate("hi")).text == "hello again"


async def test_chains_with_one_health_share_targets_by_name(health: ChainHealth) -> None:
    for _ in range(5):
        await Chain([FakeChatModel("a", down()), FakeChatModel("b")], health=health).generate("hi")
    other = FakeChatModel("a")
    assert (await Chain([other, FakeChatModel("b")], health=health).generate("hi")).model == "b"
    assert other.requests == []


async def test_two_accounts_are_two_targets_and_one_model_twice_is_one() -> None:
    first, second = FakeChatModel("a"), FakeChatModel("a")
    assert [status.target for status in Chain([first, second, first]).status()] == [
        "own/a",
        "own/a #2",
        "own/a",
    ]
    here, there = md.LlamaSwap("http://here:1/x"), md.LlamaSwap("http://there")
    chain = Chain([here.model("m"), there.model("m"), here.model("m")])
    assert [status.target for status in chain.status()] == [
        "llamaswap/m at http://here:1/x",
        "llamaswap/m at http://there",
        "llamaswap/m at http://here:1/x",
    ]


async def test_probe_ends_or_starts_a_cooldown(health: ChainHealth) -> None:
    available, unreachable, unknown = (
        FakeProvider(),
        FakeProvider(health=md.Health(False, "refused", error=down()), name="unreachable"),
        FakeChatModel("c"),
    )
    chain = Chain(
        [
            FakeChatModel("a", down(), fake_provider=available),
            FakeChatModel("b", fake_provider=unreachable),
            unknown,
            Chain([FakeChatModel("d", fake_provider=unreachable)], health=health),
        ],
        health=health,
    )
    fail(health, 5, target="fake/a")
    statuses = await chain.probe()
    assert [(status.model, status.state) for status in statuses] == [
        ("a", "half_open"),
        ("b", "open"),
        ("c", "closed"),
        ("d", "open"),
    ]
    assert (available.health_calls, unreachable.health_calls, unknown.requests) == (1, 2, [])
    reply = await chain.generate("hi")
    assert (reply.model, [attempt.skipped for attempt in reply.failed_attempts]) == (
        "c",
        [False, True],
    )
    assert health.status("fake/a", "chat").state == "open"
    assert await anyio.to_thread.run_sync(chain.probe_sync) == chain.status()


async def test_probe_starts_no_cooldown_when_the_server_answers(health: ChainHealth) -> None:
    for result in (
        md.Health(False, "which route?", error=md.NotFoundError("x", status=404)),
        md.NotFoundError("x", status=404),
    ):
        chain = Chain(
            [FakeChatModel("a", fake_provider=FakeProvider(health=result))], health=health
        )
        assert [status.state for status in await chain.probe()] == ["closed"]
    for result in (ZeroDivisionError(), md.Health(False)):
        chain = Chain(
            [FakeChatModel(str(result)[:3], fake_provider=FakeProvider(health=result))],
            health=health,
        )
        assert [status.state for status in await chain.probe()] == ["open"]


async def test_probe_does_not_shorten_a_rate_limit(health: ChainHealth) -> None:
    chain = Chain(
        [
            FakeChatModel(
                "a",
                md.RateLimitError("slowly", status=429, retry_after=9),
                fake_provider=FakeProvider(),
            )
        ],
        health=health,
    )
    with pytest.raises(md.ChainExhaustedError):
        await chain.generate("hi")
    assert [(status.state, status.remaining) for status in await chain.probe()] == [("open", 9)]
