from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from majordomo.queueing import fair_queue
from majordomo.queueing.fair_queue import ALWAYS_NOTIFIED, FairQueue
from majordomo.queueing.waiter import ProviderLimit, Waiter
from tests.support.hypothesis_effort import max_examples


def make_waiter(
    user_id: str,
    model: str | None = None,
    *,
    limit: ProviderLimit | None = None,
    listens: bool = False,
) -> Waiter:
    return Waiter(user_id, lambda: True, model=model, limit=limit, listens=listens)


def admit_all(queue: FairQueue, waiting: list[Waiter], now: float = 0.0) -> list[Waiter]:
    """Release one slot after the other, and return the waiters in the order of admission."""
    admitted: list[Waiter] = []
    while len(admitted) < len(waiting):
        queue.release(now)
        admitted += [waiter for waiter in waiting if waiter.admitted and waiter not in admitted]
    return admitted


def test_users_take_turns_however_many_calls_one_of_them_makes() -> None:
    queue = FairQueue(1)
    queue.acquire(make_waiter(""))
    admitted_users: list[str] = []
    for user_id in ("greedy", "greedy", "greedy", "modest"):
        queue.acquire(
            Waiter(user_id, lambda user_id=user_id: admitted_users.append(user_id) is None)
        )  # type: ignore[misc]  # mypy does not see the default
    for _ in range(4):
        queue.release()
    assert admitted_users == ["greedy", "modest", "greedy", "greedy"]


def test_positions_count_the_waiters_that_are_admitted_before() -> None:
    queue = FairQueue(1)
    queue.acquire(make_waiter(""))
    first, second = make_waiter("a", listens=True), make_waiter("a", listens=True)
    other = make_waiter("b", listens=True)
    for waiter in (first, second, other):
        queue.acquire(waiter)
    assert (first.position, other.position, second.position) == (1, 2, 3)
    queue.release()
    assert (other.position, second.position) == (1, 2)
    queue.withdraw(other)
    assert second.position == 1


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_the_initial_position_is_the_number_of_releases_until_admission(
    user_ids: list[str],
) -> None:
    queue = FairQueue(1)
    queue.acquire(make_waiter(""))
    for user_id in user_ids[:-1]:
        queue.acquire(make_waiter(user_id))
    last = make_waiter(user_ids[-1], listens=True)
    queue.acquire(last)
    reported = last.position
    releases = 0
    while not last.admitted:
        queue.release()
        releases += 1
    assert reported == releases


def test_a_long_queue_notifies_the_front_of_each_move_and_others_less_often() -> None:
    length = 2_000
    queue = FairQueue(1)
    queue.acquire(make_waiter(""))
    wakes = 0

    def wake() -> bool:
        nonlocal wakes
        wakes += 1
        return True

    waiting = [Waiter(f"user {number}", wake, listens=True) for number in range(length)]
    for waiter in waiting:
        queue.acquire(waiter)
    for admitted in range(1, length + 1):
        queue.release()
        assert waiting[admitted - 1].admitted
        front = [waiter.position for waiter in waiting[admitted : admitted + ALWAYS_NOTIFIED]]
        assert front == list(range(1, len(front) + 1))
        for position in (20, 50, 300, 1_000):
            if admitted + position <= length:
                assert position <= waiting[admitted + position - 1].position <= position * 5 / 4
    assert wakes < 100 * length, (
        "each listener is woken a few times for each halving of the queue, not at every move"
    )


def test_a_waiter_whose_event_loop_has_ended_is_skipped() -> None:
    queue = FairQueue(1)
    queue.acquire(make_waiter(""))
    ended = Waiter("a", lambda: False)
    alive = make_waiter("b")
    queue.acquire(ended)
    queue.acquire(alive)
    queue.release()
    assert alive.admitted
    assert not ended.admitted
    queue.withdraw(ended)
    queue.release()
    assert queue.free == 1


LIMITS = [None, ProviderLimit(), ProviderLimit(1), ProviderLimit(2)]


class FairQueueMachine(RuleBasedStateMachine):
    """Slots are neither lost nor created, in any order of operations."""

    limits: Sequence[ProviderLimit | None] = [None]
    models = "x"

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(3, 2)
        self.waiters: list[Waiter] = []
        self.running: list[Waiter] = []

    def count_admitted(self) -> None:
        for waiter in [waiter for waiter in self.waiters if waiter.admitted]:
            self.waiters.remove(waiter)
            self.running.append(waiter)

    @rule(user_id=st.sampled_from("abc"), listens=st.booleans(), data=st.data())
    def acquire(self, user_id: str, listens: bool, data: st.DataObject) -> None:
        limit, model = (
            data.draw(st.sampled_from(self.limits)),
            data.draw(st.sampled_from(self.models)),
        )
        waiter = make_waiter(user_id, model, limit=limit, listens=listens)
        if self.queue.acquire(waiter):
            self.running.append(waiter)
        else:
            self.waiters.append(waiter)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cancelled=st.booleans())
    def release(self, data: st.DataObject, cancelled: bool) -> None:
        waiter = data.draw(st.sampled_from(self.running))
        self.running.remove(waiter)
        if cancelled:
            # It was admitted and cancelled in the same moment.
            self.queue.withdraw(waiter)
        else:
            self.queue.release(limit=waiter.limit)
        self.count_admitted()

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiters))
        self.waiters.remove(waiter)
        self.queue.withdraw(waiter)
        self.count_admitted()

    @invariant()
    def every_slot_is_accounted_for(self) -> None:
        assert self.queue.free + len(self.running) == 3
        assert self.queue.waiting == len(self.waiters)
        running = Counter(waiter.limit for waiter in self.running)
        ready = [
            waiter
            for waiter in self.waiters
            if waiter.limit is None
            or waiter.limit.max_concurrency is None
            or running[waiter.limit] < waiter.limit.max_concurrency
        ]
        assert not (self.queue.free and ready), "no call that may run waits while a slot is free"
        for limit, count in running.items():
            assert limit is None or count <= (limit.max_concurrency or 3)

    @invariant()
    def listeners_have_distinct_positions_within_the_queue(self) -> None:
        positions = [waiter.position for waiter in self.waiters if waiter.listens]
        if len(self.waiters) <= ALWAYS_NOTIFIED:
            assert len(set(positions)) == len(positions)
            assert all(1 <= position <= len(self.waiters) for position in positions)
        assert all(1 <= position <= len(self.waiters) * 5 / 4 for position in positions)


class LimitsMachine(FairQueueMachine):
    """Calls of several providers, some with limits of their own, and of several models."""

    limits = LIMITS
    models = "xyz"


TestFairQueue = FairQueueMachine.TestCase
TestLimits = LimitsMachine.TestCase


def test_a_call_whose_provider_is_busy_lets_others_go_first() -> None:
    queue, one = FairQueue(2), ProviderLimit(max_concurrency=1)
    assert queue.acquire(make_waiter("a", limit=one))
    second, third = make_waiter("a", limit=one), make_waiter("b", limit=one)
    assert not queue.acquire(second)
    assert not queue.acquire(third)
    assert queue.waiting_with(one) == 2
    other = make_waiter("c")
    assert queue.acquire(other), "a slot is free, and its provider is not busy"
    queue.release(limit=other.limit)
    assert not second.admitted
    queue.release(limit=one)
    assert (second.admitted, third.admitted) == (True, False)


def test_a_batch_goes_on_while_the_providers_of_other_models_are_busy() -> None:
    queue, one = FairQueue(2, max_batch_calls=1), ProviderLimit(max_concurrency=1)
    assert queue.acquire(make_waiter("a", "image", limit=one))
    assert queue.acquire(make_waiter("a", "chat"))
    image = make_waiter("b", "image", limit=one)
    chats = [make_waiter("c", "chat"), make_waiter("c", "chat")]
    for waiter in (image, *chats):
        assert not queue.acquire(waiter)
    queue.release()
    assert (image.admitted, chats[0].admitted) == (False, True)
    queue.release(limit=one)
    assert (image.admitted, chats[1].admitted) == (True, False), "the batch of chats was over"


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_no_user_is_admitted_twice_before_a_waiting_user(user_ids: list[str]) -> None:
    queue = FairQueue(1)
    queue.acquire(make_waiter(""))
    waiting = [make_waiter(user_id) for user_id in user_ids]
    for waiter in waiting:
        queue.acquire(waiter)
    admitted_users: list[str] = []
    remaining = list(waiting)
    while remaining:
        queue.release()
        admitted = [waiter for waiter in remaining if waiter.admitted]
        assert len(admitted) == 1
        admitted_users.append(admitted[0].user_id)
        remaining.remove(admitted[0])
    assert Counter(admitted_users) == Counter(user_ids)
    for user_id in set(user_ids):
        first = admitted_users.index(user_id)
        assert all(count <= 1 for count in Counter(admitted_users[:first]).values()), (
            "each other user was admitted at most once before"
        )


def busy_queue(
    model: str, *, max_batch_calls: int = 20, max_batch_seconds: float = 60.0
) -> FairQueue:
    """Return a queue whose only slot a call of this model has."""
    queue = FairQueue(1, max_batch_calls, max_batch_seconds)
    assert queue.acquire(make_waiter("", model))
    return queue


def enqueue(queue: FairQueue, *calls: str, now: float = 0.0) -> list[Waiter]:
    """Queue calls named "user/model"."""
    waiting = []
    for call in calls:
        user_id, _, model = call.partition("/")
        waiting.append(make_waiter(user_id, model))
        assert not queue.acquire(waiting[-1], now)
    return waiting


def names(waiters: list[Waiter]) -> list[str]:
    return [f"{waiter.user_id}/{waiter.model}" for waiter in waiters]


def test_calls_of_the_loaded_model_go_first() -> None:
    queue = busy_queue("chat")
    waiting = enqueue(queue, "a/image", "b/chat", "c/image", "d/chat", "e/embed")
    assert names(admit_all(queue, waiting)) == ["b/chat", "d/chat", "a/image", "c/image", "e/embed"]


def test_users_take_turns_within_a_batch() -> None:
    queue = busy_queue("chat")
    waiting = enqueue(queue, "a/image", "b/chat", "b/chat", "b/chat", "c/chat")
    assert names(admit_all(queue, waiting)) == ["b/chat", "c/chat", "b/chat", "b/chat", "a/image"]


def test_after_max_batch_calls_the_model_that_has_waited_longest_is_next() -> None:
    queue = busy_queue("chat", max_batch_calls=2)
    calls = ["x/image", *["a/chat"] * 5, "x/embed", *["x/image"] * 2]
    assert names(admit_all(queue, enqueue(queue, *calls))) == [
        *["a/chat"] * 2,
        *["x/image"] * 2,
        "x/embed",
        *["a/chat"] * 2,
        "x/image",
        "a/chat",
    ]


def test_after_max_batch_seconds_the_model_that_has_waited_longest_is_next() -> None:
    queue = busy_queue("chat", max_batch_seconds=10)
    first, image, second, third = enqueue(queue, "a/chat", "x/image", "a/chat", "a/chat", now=100)
    queue.release(now=109.9)
    assert first.admitted
    queue.release(now=110)
    assert (image.admitted, second.admitted) == (True, False)
    # No other model than the loaded one waits for now: its time begins when one does.
    queue.release(now=500)
    assert second.admitted
    enqueue(queue, "x/image", now=600)
    queue.release(now=609)
    assert third.admitted


def test_the_limits_of_a_batch_begin_when_a_call_of_another_model_waits() -> None:
    queue = busy_queue("chat", max_batch_calls=2)
    for waiter in enqueue(queue, *["a/chat"] * 5):
        queue.release()
        assert waiter.admitted
    waiting = enqueue(queue, "a/chat", "x/image", "a/chat", "a/chat")
    assert names(admit_all(queue, waiting)) == ["a/chat", "a/chat", "x/image", "a/chat"]


def test_a_withdrawn_call_of_another_model_lifts_the_limits() -> None:
    queue = busy_queue("chat", max_batch_calls=1)
    image, first, second = enqueue(queue, "x/image", "a/chat", "a/chat")
    queue.release()
    assert first.admitted
    queue.withdraw(image)
    (later,) = enqueue(queue, "x/embed")
    queue.release()
    assert (second.admitted, later.admitted) == (True, False), "the batch of chats began anew"


CALLS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=30)


@settings(max_examples=max_examples(800))
@given(CALLS, st.integers(1, 4), st.integers(0, 5))
def test_initial_positions_and_the_order_of_waiters_predict_the_admissions(
    calls: list[tuple[str, str]], max_batch_calls: int, releases: int
) -> None:
    queue = busy_queue("x", max_batch_calls=max_batch_calls)
    for user_id, model in calls[:-1]:
        queue.acquire(make_waiter(user_id, model))
    for _ in range(min(releases, queue.waiting)):
        queue.release()
    last = make_waiter(*calls[-1], listens=True)
    with pytest.MonkeyPatch.context() as patch:
        # The position is the one that was computed on entry, not one that a move has corrected.
        patch.setattr(fair_queue, "ALWAYS_NOTIFIED", 0)
        if queue.acquire(last):
            return
    reported, predicted = last.position, list(queue.waiters())
    assert predicted.index(last) + 1 == reported
    assert queue.positions(last.user_id) == tuple(
        position for position, waiter in enumerate(predicted, 1) if waiter.user_id == last.user_id
    )
    assert admit_all(queue, predicted) == predicted


def test_positions_change_when_a_call_of_another_model_takes_a_slot_that_is_free() -> None:
    queue, limit = FairQueue(2), ProviderLimit(1)
    queue.acquire(make_waiter("a", "chat", limit=limit))
    chat, image = (
        make_waiter("a", model, limit=limit, listens=True) for model in ("chat", "image")
    )
    for waiter in (chat, image):
        assert not queue.acquire(waiter)
    assert (chat.position, image.position) == (1, 2)
    assert queue.acquire(make_waiter("a", "speech"))
    assert (chat.position, image.position) == (2, 1)


@dataclass
class Call:
    """A waiting call, and since when it could run: it has come, and its provider has a slot."""

    waiter: Waiter
    ready_since: float
    admissions_before: int
    # The number of calls of its model that may be admitted up to it, including itself.
    rank: int


USERS, MODELS = "abc", "xyz"


class BatchingMachine(RuleBasedStateMachine):
    """No call waits longer than the limits of the batches allow, whatever other users request.

    Its wait counts from when its provider has a free slot, and again if that is taken by another
    call.
    """

    @initialize(
        slots=st.integers(1, 3),
        max_batch_calls=st.integers(1, 3),
        max_batch_seconds=st.sampled_from([0.0, 3.0, 20.0]),
        longest_call=st.sampled_from([0.5, 4.0]),
        max_concurrency=st.tuples(*[st.sampled_from([None, 1, 2])] * 2),
    )
    def create(
        self,
        slots: int,
        max_batch_calls: int,
        max_batch_seconds: float,
        longest_call: float,
        max_concurrency: tuple[int | None, int | None],
    ) -> None:
        self.queue = FairQueue(slots, max_batch_calls, max_batch_seconds)
        self.longest_call = longest_call
        # The most calls, and seconds, between two batches of a model, and before its first one.
        others = len(MODELS) - 1
        self.calls_of_others = others * max_batch_calls
        self.seconds_of_others = others * (max_batch_seconds + longest_call)
        self.now = self.last_move = 0.0
        self.waiting: list[Call] = []
        # When each running call ends at the latest, and its limit.
        self.running: list[tuple[float, ProviderLimit]] = []
        self.admissions = 0
        # Two models belong to one provider, and the third to another one.
        first, second = (ProviderLimit(maximum) for maximum in max_concurrency)
        self.limits = dict(zip(MODELS, (first, first, second), strict=True))

    def reset_calls_that_are_not_ready(self) -> None:
        for call in self.waiting:
            if not self.queue.is_ready(call.waiter.limit):
                call.ready_since, call.admissions_before = self.now, self.admissions

    def count_admitted(self) -> None:
        for call in [call for call in self.waiting if call.waiter.admitted]:
            self.waiting.remove(call)
            self.check_wait(call)
            self.begin_call(call.waiter)
        self.last_move = self.now

    def check_wait(self, call: Call) -> None:
        # Each batch of its model admits at least one call.
        admissions, seconds = self.admissions - call.admissions_before, self.now - call.ready_since
        assert admissions <= call.rank * self.calls_of_others + call.rank - 1
        assert seconds <= call.rank * (self.seconds_of_others + self.longest_call) + 1e-6

    def begin_call(self, waiter: Waiter) -> None:
        assert waiter.limit is not None
        self.running.append((self.now + self.longest_call, waiter.limit))
        self.admissions += 1

    def end_call(self, number: int) -> None:
        _, limit = self.running.pop(number)
        self.reset_calls_that_are_not_ready()
        self.queue.release(self.now, limit)
        self.count_admitted()

    @rule(
        user_id=st.sampled_from(USERS),
        model=st.sampled_from(MODELS),
        count=st.integers(1, 5),
        listens=st.booleans(),
    )
    def acquire(self, user_id: str, model: str, count: int, listens: bool) -> None:
        for _ in range(count):
            waiter = make_waiter(user_id, model, limit=self.limits[model], listens=listens)
            same_model = [call.waiter for call in self.waiting if call.waiter.model == model]
            own_calls = 1 + sum(other.user_id == user_id for other in same_model)
            if self.queue.acquire(waiter, self.now):
                self.begin_call(waiter)
            else:
                rank = own_calls * len(USERS) if same_model else 1
                self.waiting.append(Call(waiter, self.now, self.admissions, rank))
        self.last_move = self.now

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.end_call(data.draw(st.integers(0, len(self.running) - 1)))

    @rule(seconds=st.sampled_from([0.4, 2.0, 12.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (ends := [end for end, _ in self.running]) and min(ends) <= until:
            self.now = min(ends)
            self.end_call(ends.index(self.now))
        self.now = until

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(call)
        self.queue.withdraw(call.waiter, self.now)
        self.count_admitted()

    @invariant()
    def every_slot_is_accounted_for(self) -> None:
        assert self.queue.free + len(self.running) == self.queue.slots
        assert self.queue.waiting == len(self.waiting)
        ready = any(self.queue.is_ready(call.waiter.limit) for call in self.waiting)
        assert not (self.queue.free and ready), "no call waits while a slot is free"
        used = Counter(limit for _, limit in self.running)
        assert all(used[limit] <= (limit.max_concurrency or 3) for limit in used)

    @invariant()
    def no_call_waits_too_long(self) -> None:
        self.reset_calls_that_are_not_ready()
        for call in self.waiting:
            self.check_wait(call)

    @invariant()
    def the_first_positions_are_exact(self) -> None:
        for position, waiter in enumerate(self.queue.waiters(self.last_move), 1):
            if waiter.listens and position <= ALWAYS_NOTIFIED:
                assert waiter.position == position


def test_no_call_waits_longer_than_the_batches_allow() -> None:
    run_state_machine_as_test(
        BatchingMachine,
        settings=settings(max_examples=max_examples(400), stateful_step_count=60),
    )


@pytest.mark.parametrize("users", ["abc", "a"])
@pytest.mark.parametrize(
    ("max_batch_calls", "max_batch_seconds", "seconds_per_call"),
    [(20, 60.0, 1.0), (1, 60.0, 1.0), (20, 60.0, 7.0), (20, 60.0, 100.0), (20, 0.0, 1.0)],
)
def test_the_first_call_of_a_model_waits_for_no_more_than_one_batch_of_each_busy_model(
    users: str, max_batch_calls: int, max_batch_seconds: float, seconds_per_call: float
) -> None:
    busy_models = ("chat", "embed", "speech")
    queue = busy_queue("chat", max_batch_calls=max_batch_calls, max_batch_seconds=max_batch_seconds)
    for model in busy_models:
        enqueue(queue, *[f"{user_id}/{model}" for user_id in users] * 30)
    (image,) = enqueue(queue, "x/image")
    now, admissions_before = 0.0, 0
    while not image.admitted and admissions_before <= len(busy_models) * max_batch_calls:
        for model in busy_models:
            enqueue(queue, f"a/{model}", now=now)
        now += seconds_per_call
        queue.release(now)
        admissions_before += not image.admitted
    assert admissions_before <= len(busy_models) * max_batch_calls
    assert now <= len(busy_models) * (max_batch_seconds + seconds_per_call)
    if seconds_per_call == 1 and max_batch_seconds:
        assert admissions_before == len(busy_models) * max_batch_calls, "the bound is reached"
