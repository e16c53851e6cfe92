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
from tests.support.hypothesis_effort import tries
from tests.support.scripted_members import House, Voice

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heard() -> list[HealthChanged]:
    return []


@pytest.fixture
def health(clock: Clock, heard: list[HealthChanged]) -> ChainHealth:
    return ChainHealth(30, clock=clock, fraction=lambda: 0.5, listeners=[heard.append])


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


def test_it_rests_after_five_failures_in_a_row_and_one_call_tries_it_again(
    health: ChainHealth, clock: Clock, heard: list[HealthChanged]
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
    assert [(change.before, change.after) for change in heard] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    assert heard[0] == HealthChanged("a", "chat", "closed", "open", 31.5, "CONNECTION_FAILED")


def test_it_rests_twice_as_long_each_time_up_to_a_bound(health: ChainHealth, clock: Clock) -> None:
    fail(health, 5)
    rests = []
    for _ in range(8):
        rests.append(health.status("a", "chat").remaining / 1.05)
        clock.now += 10_000
        fail(health, 1)
    assert rests == pytest.approx([30, 60, 120, 240, 480, 900, 900, 900])
    clock.now += 10_000
    permit = health.admit("a", "chat")
    assert permit is not None
    permit.succeeded()
    fail(health, 5)
    assert health.status("a", "chat").remaining == 31.5


def test_a_success_between_them_starts_the_count_anew(health: ChainHealth) -> None:
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
    (md.OverloadedError("our own line", code="QUEUE_FULL"), "nothing"),
    (md.RateLimitError("our own rate", code="LOCAL_RATE_LIMIT", retry_after=30), "nothing"),
    (md.OverloadedError("conflict", status=409), "answered"),
    (md.OverloadedError("time-out", status=408), "answered"),
    (md.DeadlineExceededError("slow", phase="first_byte"), "failed"),
    (md.DeadlineExceededError("our own line", phase="queue"), "nothing"),
    (md.StreamBrokenError("cut"), "failed"),
    (md.BackendError("nobody there", status=502), "failed"),
    (md.BackendError("nobody answers", status=504), "failed"),
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


@pytest.mark.parametrize(("error", "what"), OUTCOMES, ids=lambda value: repr(value)[:40])
def test_it_knows_a_sick_backend_from_an_answer_and_from_no_news(
    error: BaseException, what: BreakerOutcome, health: ChainHealth
) -> None:
    assert outcome_of(error) == what
    if isinstance(error, Exception):
        for _ in range(5):
            permit = health.admit("a", "chat")
            assert permit is not None
            permit.failed(error)
        assert state(health) == ("open" if what == "failed" else "closed")


def test_a_rate_limit_rests_it_as_long_as_it_asks_and_no_longer(
    health: ChainHealth, clock: Clock
) -> None:
    fail(health, 1, md.RateLimitError("slowly", status=429, retry_after=7))
    assert health.status("a", "chat").remaining == 7
    clock.now += 7
    fail(health, 1)  # out of reach once is not five times
    assert state(health) == "closed"
    fail(health, 1, md.RateLimitError("tomorrow", status=429, retry_after=1e9))
    assert health.status("a", "chat").remaining == MAX_RATE_LIMIT_SECONDS


def test_what_was_asked_before_the_last_change_says_nothing(
    health: ChainHealth, clock: Clock
) -> None:
    early = [health.admit("a", "chat") for _ in range(20)]
    for permit in early[:5]:
        assert permit is not None
        permit.failed(down())
    left = health.status("a", "chat").remaining
    for permit in early[5:10]:
        assert permit is not None
        permit.failed(down())
    assert early[10] is not None
    early[10].succeeded()
    assert (state(health), health.status("a", "chat").remaining) == ("open", left)
    clock.now += 100
    probe = health.admit("a", "chat")
    assert probe is not None
    for permit in early[11:]:
        assert permit is not None
        permit.failed(down())
    probe.succeeded()
    probe.failed(down())
    assert (state(health), health.status("a", "chat").failures) == ("closed", 0)


def test_a_trial_that_was_given_up_leaves_the_place_to_the_next(
    health: ChainHealth, clock: Clock
) -> None:
    fail(health, 5)
    clock.now += 100
    for _ in range(3):
        permit = health.admit("a", "chat")
        assert permit is not None
        permit.failed(KeyboardInterrupt())


def test_an_answer_that_begins_lets_the_others_in_and_its_end_decides(
    health: ChainHealth, clock: Clock
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


def test_the_last_resort_is_who_rests_shortest_one_call_at_a_time(
    health: ChainHealth, clock: Clock
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
    assert health.status("a", "chat").remaining == 31.5  # anew, but no longer
    for what in (KeyboardInterrupt(), None):
        permit = health.admit_probe(["a", "b"], "chat")
        assert permit is not None
        assert permit.target == "b"
        if what is not None:
            permit.failed(what)
            assert health.status("b", "chat").remaining == 30.5
    permit.succeeded()
    assert (state(health, "a"), state(health, "b")) == ("open", "closed")


def test_a_last_resort_changes_no_rest_that_was_asked_for(
    health: ChainHealth, clock: Clock
) -> None:
    fail(health, 1, md.RateLimitError("slowly", status=429, retry_after=60))
    permit = health.admit_probe(["a"], "chat")
    assert permit is not None
    clock.now += 5
    permit.failed(down())
    assert (state(health), health.status("a", "chat").remaining) == ("open", 55)


@pytest.mark.parametrize("jump", [-1e9, -3600.0, -31.0, 3600.0, 1e9])
def test_a_clock_that_jumps_leaves_nothing_stuck(
    health: ChainHealth, clock: Clock, jump: float
) -> None:
    fail(health, 5)
    clock.now += jump
    assert health.status("a", "chat").remaining <= 31.5
    clock.now += 32
    assert health.admit("a", "chat") is not None
    clock.now += jump
    health.admit("a", "chat")  # somebody looks
    clock.now += MAX_PROBE_SECONDS + 1
    permit = health.admit("a", "chat")
    assert permit is not None
    permit.succeeded()
    assert state(health) == "closed"


def test_operations_and_targets_are_kept_apart(health: ChainHealth) -> None:
    fail(health, 5)
    assert health.admit("a", "image") is not None
    assert health.admit("b", "chat") is not None


def test_a_listener_that_raises_breaks_nothing(clock: Clock) -> None:
    heard: list[HealthChanged] = []

    def broken(change: HealthChanged) -> None:
        raise ZeroDivisionError

    health = ChainHealth(clock=clock, listeners=[broken, heard.append])
    fail(health, 5)
    assert len(heard) == 1


def test_it_is_safe_across_threads(clock: Clock) -> None:
    health = ChainHealth(clock=clock)
    fail(health, 5)
    clock.now += 100
    begin = threading.Barrier(8)
    found: list[MemberPermit | None] = []

    def ask() -> None:
        begin.wait()
        for _ in range(200):
            found.append(health.admit("a", "chat"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([permit for permit in found if permit is not None]) == 1


@pytest.mark.parametrize(
    "figures",
    [
        {"failures": 0},
        {"failures": True},
        {"failures": 1.5},
        {"max_cooldown": 0},
        {"cooldown": float("inf")},
    ],
    ids=str,
)
def test_it_refuses_figures_that_cannot_be(figures: dict[str, Any]) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        ChainHealth(**figures)
    assert caught.value.details["field"] in figures


class Machine(RuleBasedStateMachine):
    """Any history of calls, free questions and jumps of the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.pace = BreakerConfig(30, 3, 120, lambda: 1.0)
        self.condition = CircuitBreaker(self.pace)
        self.under_way: list[int] = []
        self.in_a_row = 0  # failures since anything else
        self.trial: int | None = None
        self.trial_began = 0.0

    @rule(early=st.booleans())
    def ask(self, early: bool) -> None:
        before, left = self.condition.state, self.condition.remaining(self.now)
        epoch = self.condition.admit_probe(self.now) if early else self.condition.admit(self.now)
        if before == "closed":
            assert epoch is not None
        if epoch is None:
            return
        assert early or not left
        if self.condition.state == "half_open":
            if self.trial is not None:  # a second trial only after the first has had its time
                assert self.now - self.trial_began >= MAX_PROBE_SECONDS
            self.trial, self.trial_began = epoch, self.now
        self.under_way.append(epoch)

    @precondition(lambda self: self.under_way)
    @rule(
        data=st.data(),
        what=st.sampled_from(["answered", "failed", "limited", "nothing"]),
        wait=st.sampled_from([0.0, 5.0, 1e9]),
    )
    def hear(self, data: st.DataObject, what: BreakerOutcome, wait: float) -> None:
        epoch = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        before, current = self.condition.state, epoch == self.condition.epoch
        self.condition.record(epoch, what, self.now, wait)
        if not current:
            assert self.condition.state == before
        elif what == "answered":
            assert (self.condition.state, self.condition.failures) == ("closed", 0)
        elif what == "nothing":
            assert self.condition.state != "closed" or before == "closed"
        elif what == "failed" and before == "closed":
            self.in_a_row += 1
            assert (self.condition.state == "open") == (
                self.condition.failures >= self.pace.failures
            )
        if epoch == self.trial:
            self.trial = None

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        epoch = data.draw(st.sampled_from(self.under_way))
        before = self.condition.state
        self.condition.on_first_event(epoch)
        if self.condition.state != before:
            assert (before, self.condition.state) == ("half_open", "closed")
            self.trial = None

    @rule(ok=st.booleans())
    def look(self, ok: bool) -> None:
        before = self.condition.state
        self.condition.record_health(ok, self.now)
        assert self.condition.state != "closed" or before == "closed"
        if before == "half_open" and self.condition.state == "open":
            self.trial = None  # it had had its time

    @rule(
        seconds=st.sampled_from([0.1, 10.0, 33.0, 400.0, 5000.0, -0.1, -50.0, -5000.0, 1e12, -1e12])
    )
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.condition.remaining(self.now)
        self.condition.is_probing(self.now)
        if seconds < 0:
            self.trial_began = min(self.trial_began, self.now)

    @invariant()
    def rests_are_bounded(self) -> None:
        longest = (
            MAX_RATE_LIMIT_SECONDS
            if self.condition.limited
            else max(self.pace.max_cooldown * (1 + JITTER), MAX_RATE_LIMIT_SECONDS)
        )
        assert 0 <= self.condition.remaining(self.now) <= longest

    @invariant()
    def nothing_is_stuck(self) -> None:
        """After the longest rest and the longest trial somebody may ask, whatever happened before."""
        twin = CircuitBreaker(self.pace)
        for name in CircuitBreaker.__slots__:
            setattr(twin, name, getattr(self.condition, name))
        later = self.now + MAX_RATE_LIMIT_SECONDS + MAX_PROBE_SECONDS
        twin.remaining(self.now)
        twin.is_probing(self.now)
        epoch = twin.admit(later)
        assert epoch is not None
        twin.record(epoch, "answered", later)
        assert twin.state == "closed"


Machine.TestCase.settings = settings(max_examples=tries(60), stateful_step_count=30, deadline=None)
TestMachine = Machine.TestCase


# In a chain


async def test_a_member_that_rests_is_passed_over_and_said_to_be(
    health: ChainHealth, clock: Clock
) -> None:
    first = Voice("a", down())
    chain = Chain([first, Voice("b")], health=health)
    for _ in range(5):
        await chain.generate("hi")
    reply = await chain.generate("hi")
    assert len(first.asked) == 5
    (tried,) = reply.failed_attempts
    assert (tried.code, tried.skipped) == ("COOLING_DOWN", True)
    assert tried.message == "own/a is cooling down for another 31.5 s after CONNECTION_FAILED"
    assert [(status.model, status.state, status.attempts) for status in chain.status()] == [
        ("a", "open", 5),
        ("b", "closed", 6),
    ]
    clock.now += 40
    first.script = ("hello again",)
    first.asked.clear()
    assert (await chain.generate("hi")).model == "a"
    assert chain.status()[0].state == "closed"


async def test_a_last_member_that_rests_is_told_of_in_the_failures(health: ChainHealth) -> None:
    second = Voice("b", down())
    chain = Chain([Voice("a", md.BackendError("crashed", status=500)), second], health=health)
    for _ in range(6):
        with pytest.raises(md.ChainExhaustedError) as caught:
            await chain.generate("hi")
    assert len(second.asked) == 5
    assert [type(error) for error in caught.value.failures] == [md.BackendError, md.OverloadedError]
    assert caught.value.failures[1].retry_after == 31.5


async def test_when_all_rest_one_call_at_a_time_asks_the_one_whose_rest_ends_first(
    health: ChainHealth, clock: Clock
) -> None:
    go = anyio.Event()
    first, second = Voice("a", down()), Voice("b", down())
    chain = Chain([first, second], health=health)
    for _ in range(5):
        with pytest.raises(md.ChainExhaustedError):
            await Chain([first], health=health).generate("hi")
    clock.now += 3
    for _ in range(5):
        with pytest.raises(md.ChainExhaustedError):
            await Chain([second], health=health).generate("hi")
    first.asked.clear()
    second.asked.clear()
    first.script = ([go.wait, "back again"],)
    replies: list[md.Reply] = []
    failures: list[md.ChainExhaustedError] = []

    async def ask() -> None:
        try:
            replies.append(await chain.generate("hi"))
        except md.ChainExhaustedError as error:
            failures.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert len(failures) == 49
        go.set()
    (reply,) = replies
    assert (reply.text, [(tried.model, tried.code) for tried in reply.failed_attempts]) == (
        "back again",
        [("b", "COOLING_DOWN")],
    )
    assert (len(first.asked), len(second.asked)) == (1, 0)
    assert {error.code for failed in failures for error in failed.failures} == {"COOLING_DOWN"}
    assert all(failed.retryable for failed in failures)
    assert [status.state for status in chain.status()] == ["closed", "open"]


async def test_the_last_resorts_own_error_takes_its_place_among_the_failures(
    health: ChainHealth,
) -> None:
    chain = Chain([Voice("a", down()), Voice("b", down())], health=health)
    for _ in range(6):
        with pytest.raises(md.ChainExhaustedError) as caught:
            await chain.generate("hi")
    assert [error.code for error in caught.value.failures] == ["CONNECTION_FAILED", "COOLING_DOWN"]


async def test_a_trial_that_is_cancelled_is_left_to_the_next(
    health: ChainHealth, clock: Clock
) -> None:
    first = Voice("a", *[down()] * 5, [anyio.sleep_forever], "hello again")
    chain = Chain([first, Voice("b")], health=health)
    for _ in range(5):
        await chain.generate("hi")
    clock.now += 40
    async with anyio.create_task_group() as group:
        group.start_soon(chain.generate, "hi")
        await anyio.wait_all_tasks_blocked()
        assert (await chain.generate("hi")).failed_attempts[
            0
        ].message == "another call is just trying own/a after CONNECTION_FAILED"
        group.cancel_scope.cancel()
    assert (await chain.generate("hi")).text == "hello again"


async def test_chains_share_a_health_by_the_names_of_their_members(health: ChainHealth) -> None:
    for _ in range(5):
        await Chain([Voice("a", down()), Voice("b")], health=health).generate("hi")
    other = Voice("a")
    assert (await Chain([other, Voice("b")], health=health).generate("hi")).model == "b"
    assert other.asked == []


async def test_two_accounts_of_one_model_have_two_healths_and_one_model_twice_has_one() -> None:
    first, second = Voice("a"), Voice("a")
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


async def test_a_free_question_ends_a_rest_or_begins_one(health: ChainHealth) -> None:
    house, away, unknown = (
        House(),
        House(health=md.Health(False, "refused", error=down()), name="away"),
        Voice("c"),
    )
    chain = Chain(
        [
            Voice("a", down(), house=house),
            Voice("b", house=away),
            unknown,
            Chain([Voice("d", house=away)], health=health),
        ],
        health=health,
    )
    fail(health, 5, target="house/a")
    found = await chain.probe()
    assert [(status.model, status.state) for status in found] == [
        ("a", "half_open"),
        ("b", "open"),
        ("c", "closed"),
        ("d", "open"),
    ]
    assert (house.visits, away.visits, unknown.asked) == (1, 2, [])
    reply = await chain.generate("hi")
    assert (reply.model, [tried.skipped for tried in reply.failed_attempts]) == ("c", [False, True])
    assert health.status("house/a", "chat").state == "open"
    assert await anyio.to_thread.run_sync(chain.probe_sync) == chain.status()


async def test_a_free_question_that_is_answered_with_no_begins_no_rest(health: ChainHealth) -> None:
    for found in (
        md.Health(False, "which route?", error=md.NotFoundError("x", status=404)),
        md.NotFoundError("x", status=404),
    ):
        chain = Chain([Voice("a", house=House(health=found))], health=health)
        assert [status.state for status in await chain.probe()] == ["closed"]
    for found in (ZeroDivisionError(), md.Health(False)):
        chain = Chain([Voice(str(found)[:3], house=House(health=found))], health=health)
        assert [status.state for status in await chain.probe()] == ["open"]


async def test_a_free_question_shortens_no_rest_that_was_asked_for(health: ChainHealth) -> None:
    chain = Chain(
        [Voice("a", md.RateLimitError("slowly", status=429, retry_after=9), house=House())],
        health=health,
    )
    with pytest.raises(md.ChainExhaustedError):
        await chain.generate("hi")
    assert [(status.state, status.remaining) for status in await chain.probe()] == [("open", 9)]
