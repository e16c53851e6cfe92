from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from majordomo.queueing.fair_queue import ALWAYS_NOTIFIED, FairQueue, Waiter


def make_waiter(user_id: str, *, listens: bool = False) -> Waiter:
    return Waiter(user_id, lambda: True, listens=listens)


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


class FairQueueMachine(RuleBasedStateMachine):
    """Slots are neither lost nor created, in any order of operations."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = FairQueue(3)
        self.waiters: list[Waiter] = []
        self.running = 0

    def count_admitted(self) -> None:
        for waiter in [waiter for waiter in self.waiters if waiter.admitted]:
            self.waiters.remove(waiter)
            self.running += 1

    @rule(user_id=st.sampled_from("abc"), listens=st.booleans())
    def acquire(self, user_id: str, listens: bool) -> None:
        waiter = make_waiter(user_id, listens=listens)
        if self.queue.acquire(waiter):
            self.running += 1
        else:
            self.waiters.append(waiter)

    @precondition(lambda self: self.running)
    @rule()
    def release(self) -> None:
        self.running -= 1
        self.queue.release()
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
        assert self.queue.free + self.running == 3
        assert self.queue.waiting == len(self.waiters)
        assert not (self.queue.free and self.waiters), "no call waits while a slot is free"

    @invariant()
    def listeners_have_distinct_positions_within_the_queue(self) -> None:
        positions = [waiter.position for waiter in self.waiters if waiter.listens]
        if len(self.waiters) <= ALWAYS_NOTIFIED:
            assert len(set(positions)) == len(positions)
            assert all(1 <= position <= len(self.waiters) for position in positions)
        assert all(1 <= position <= len(self.waiters) * 5 / 4 for position in positions)


TestFairQueue = FairQueueMachine.TestCase


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
