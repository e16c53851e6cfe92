from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from majordomo.queueing.fair_queue import ALWAYS_NOTIFIED, FairQueue, Waiter


def ticket(user_id: str, *, listens: bool = False) -> Waiter:
    return Waiter(user_id, lambda: True, listens=listens)


def test_callers_take_turns_however_many_calls_one_of_them_makes() -> None:
    line = FairQueue(1)
    line.acquire(ticket(""))
    served: list[str] = []
    for user_id in ("greedy", "greedy", "greedy", "modest"):
        line.acquire(Waiter(user_id, lambda user_id=user_id: served.append(user_id) is None))  # type: ignore[misc]  # mypy sees no default
    for _ in range(4):
        line.release()
    assert served == ["greedy", "modest", "greedy", "greedy"]


def test_positions_say_who_goes_before() -> None:
    line = FairQueue(1)
    line.acquire(ticket(""))
    first, second = ticket("a", listens=True), ticket("a", listens=True)
    other = ticket("b", listens=True)
    for one in (first, second, other):
        line.acquire(one)
    assert (first.position, other.position, second.position) == (1, 2, 3)
    line.release()
    assert (other.position, second.position) == (1, 2)
    line.withdraw(other)
    assert second.position == 1


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_who_comes_last_hears_at_once_how_many_go_before(callers: list[str]) -> None:
    line = FairQueue(1)
    line.acquire(ticket(""))
    for user_id in callers[:-1]:
        line.acquire(ticket(user_id))
    last = ticket(callers[-1], listens=True)
    line.acquire(last)
    told = last.position
    passed = 0
    while not last.admitted:
        line.release()
        passed += 1
    assert told == passed


def test_a_long_line_tells_the_first_of_each_move_and_the_others_now_and_then() -> None:
    length = 2_000
    line = FairQueue(1)
    line.acquire(ticket(""))
    wakes = 0

    def wake() -> bool:
        nonlocal wakes
        wakes += 1
        return True

    waiting = [Waiter(f"caller {number}", wake, listens=True) for number in range(length)]
    for one in waiting:
        line.acquire(one)
    for gone in range(1, length + 1):
        line.release()
        assert waiting[gone - 1].admitted
        near = [one.position for one in waiting[gone : gone + ALWAYS_NOTIFIED]]
        assert near == list(range(1, len(near) + 1))
        for place in (20, 50, 300, 1_000):
            if gone + place <= length:
                assert place <= waiting[gone + place - 1].position <= place * 5 / 4
    assert wakes < 100 * length, (
        "each listener is woken a few times for each halving of the line, not at every move"
    )


def test_who_is_not_there_any_more_is_passed_over() -> None:
    line = FairQueue(1)
    line.acquire(ticket(""))
    gone = Waiter("a", lambda: False)
    alive = ticket("b")
    line.acquire(gone)
    line.acquire(alive)
    line.release()
    assert alive.admitted
    assert not gone.admitted
    line.withdraw(gone)
    line.release()
    assert line.free == 1


class LineMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order, places are neither lost nor made."""

    def __init__(self) -> None:
        super().__init__()
        self.line = FairQueue(3)
        self.tickets: list[Waiter] = []
        self.running = 0

    def settle(self) -> None:
        for one in [one for one in self.tickets if one.admitted]:
            self.tickets.remove(one)
            self.running += 1

    @rule(user_id=st.sampled_from("abc"), listens=st.booleans())
    def enter(self, user_id: str, listens: bool) -> None:
        one = ticket(user_id, listens=listens)
        if self.line.acquire(one):
            self.running += 1
        else:
            self.tickets.append(one)

    @precondition(lambda self: self.running)
    @rule()
    def leave(self) -> None:
        self.running -= 1
        self.line.release()
        self.settle()

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.tickets))
        self.tickets.remove(one)
        self.line.withdraw(one)
        self.settle()

    @invariant()
    def every_place_is_accounted_for(self) -> None:
        assert self.line.free + self.running == 3
        assert self.line.waiting == len(self.tickets)
        assert not (self.line.free and self.tickets), "nobody waits beside a free place"

    @invariant()
    def positions_are_counted_without_gaps_for_those_who_listen(self) -> None:
        positions = [one.position for one in self.tickets if one.listens]
        if len(self.tickets) <= ALWAYS_NOTIFIED:
            assert len(set(positions)) == len(positions)
            assert all(1 <= position <= len(self.tickets) for position in positions)
        assert all(1 <= position <= len(self.tickets) * 5 / 4 for position in positions)


TestLine = LineMachine.TestCase


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40))
def test_nobody_is_passed_twice_by_another_user_id_while_it_waits(callers: list[str]) -> None:
    line = FairQueue(1)
    line.acquire(ticket(""))
    waiting = [ticket(user_id) for user_id in callers]
    for one in waiting:
        line.acquire(one)
    served: list[str] = []
    left = list(waiting)
    while left:
        line.release()
        now = [one for one in left if one.admitted]
        assert len(now) == 1
        served.append(now[0].user_id)
        left.remove(now[0])
    assert Counter(served) == Counter(callers)
    for caller in set(callers):
        first = served.index(caller)
        assert all(count <= 1 for count in Counter(served[:first]).values()), (
            "each other caller went at most once before"
        )
