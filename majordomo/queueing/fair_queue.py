"""Fair queue: round-robin over users, first in, first out per user. No I/O.

Theory of operation:

* `FairQueue` counts free slots and keeps one deque of waiters per user (`_by_user`) and one deque
  of the users that have waiters, the next one first (`_turns`). A user is in `_turns` if and only
  if its deque exists and is not empty.
* A waiter is waiting, admitted (it owns a slot, which it must release) or withdrawn. Admission pops
  the first user's first waiter; if that user has more, it goes to the end of `_turns`.
* `wake` of an admitted waiter returns False when its event loop has ended. The slot then goes to
  the next waiter.
* Positions are estimates for display. Entering and leaving are O(1) while no waiter listens to
  positions. If one does, the first ALWAYS_NOTIFIED waiters are notified of every move, twice as
  many of every second, four times as many of every fourth: a displayed position is off by at most a
  quarter, and a move costs the logarithm of the length.

The caller provides the locking. `slot_queue.py` does the waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

# The number of waiters at the front that are notified of every move; others are less often.
ALWAYS_NOTIFIED = 10


class Waiter:
    """One queued call.

    `wake` is called when the call is admitted and, if it listens, when its position has changed. It
    returns False when the call's event loop has ended.
    """

    __slots__ = ("admitted", "listens", "position", "user_id", "wake", "withdrawn")

    def __init__(self, user_id: str, wake: Callable[[], bool], *, listens: bool = False) -> None:
        self.user_id: str = user_id
        self.wake: Callable[[], bool] = wake
        self.listens: bool = listens
        self.admitted: bool = False
        self.withdrawn: bool = False
        # From 1; 0 while unknown.
        self.position: int = 0


class FairQueue:
    """A queue for `slots` slots: users take turns, and each user's calls keep their order."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.free: int = slots
        self.waiting: int = 0
        self._by_user: dict[str, deque[Waiter]] = {}
        self._turns: deque[str] = deque()
        self._listening = 0
        self._moves = 0

    def acquire(self, waiter: Waiter) -> bool:
        """Return True if a slot is free at once; otherwise queue the waiter."""
        if self.free and not self.waiting:
            self.free -= 1
            waiter.admitted = True
            return True
        own_queue = self._by_user.get(waiter.user_id)
        if own_queue is None:
            own_queue = self._by_user[waiter.user_id] = deque()
            self._turns.append(waiter.user_id)
        own_queue.append(waiter)
        self.waiting += 1
        self._listening += waiter.listens
        if waiter.listens:
            waiter.position = self._position_of_last(own_queue)
        self._notify_positions()
        return False

    def release(self) -> None:
        """Free a slot and admit the next waiter."""
        self.free += 1
        self.admit_waiting()

    def withdraw(self, waiter: Waiter) -> None:
        """Cancel a waiter; if it was admitted meanwhile, release its slot."""
        if waiter.withdrawn:
            return
        if waiter.admitted:
            self.release()
            return
        own_queue = self._by_user[waiter.user_id]
        own_queue.remove(waiter)
        self._count_removal(waiter)
        if not own_queue:
            del self._by_user[waiter.user_id]
            self._turns.remove(waiter.user_id)
        self._notify_positions()

    def admit_waiting(self) -> None:
        """Assign free slots to waiters, one user after the other."""
        while self.free and self.waiting:
            user_id = self._turns.popleft()
            own_queue = self._by_user[user_id]
            waiter = own_queue.popleft()
            self._count_removal(waiter)
            if own_queue:
                self._turns.append(user_id)
            else:
                del self._by_user[user_id]
            waiter.admitted = True
            if waiter.wake():
                self.free -= 1
            else:
                # Its event loop has ended.
                waiter.admitted, waiter.withdrawn = False, True
        self._notify_positions()

    def _count_removal(self, waiter: Waiter) -> None:
        self.waiting -= 1
        self._listening -= waiter.listens

    def _notify_positions(self) -> None:
        """Notify listeners whose position changed; those further back are notified less often."""
        if not self._listening:
            self._moves = 0
            return
        self._moves += 1
        for position, waiter in enumerate(
            islice(self._admission_order(), ALWAYS_NOTIFIED * (self._moves & -self._moves)), 1
        ):
            if waiter.listens and position != waiter.position:
                waiter.position = position
                waiter.wake()

    def _position_of_last(self, own_queue: deque[Waiter]) -> int:
        """Return the position of a user's last waiter, which has just entered, under round-robin.

        Of each other user, at most as many waiters come before it as this user has, or one less if
        that user's turn comes after this user's.
        """
        if len(own_queue) == 1:
            return len(self._turns)
        rounds = len(own_queue)
        before_own_turn = True
        position = 0
        for user_id in self._turns:
            queue = self._by_user[user_id]
            position += min(len(queue), rounds if before_own_turn else rounds - 1)
            before_own_turn = before_own_turn and queue is not own_queue
        return position

    def _admission_order(self) -> Iterator[Waiter]:
        """Yield all waiters in the order of admission if no more arrive: one per user and round."""
        # Not copied: most callers need only the front.
        for user_id in self._turns:
            yield self._by_user[user_id][0]
        queues = [
            iter(self._by_user[user_id])
            for user_id in self._turns
            if len(self._by_user[user_id]) > 1
        ]
        for queue in queues:
            next(queue)
        while queues:
            remaining = []
            for queue in queues:
                waiter = next(queue, None)
                if waiter is not None:
                    remaining.append(queue)
                    yield waiter
            queues = remaining
