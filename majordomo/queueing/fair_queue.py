"""Who is next: a waiting line that is fair by caller. Pure; `gate.py` does the waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

ALWAYS_NOTIFIED = 10  # so many positions are told at every move, farther ones now and then


class Waiter:
    """One in the line. `wake` is called when its turn has come, and, where it listens, when its position has changed."""

    __slots__ = ("admitted", "listens", "position", "user_id", "wake", "withdrawn")

    def __init__(self, user_id: str, wake: Callable[[], bool], *, listens: bool = False) -> None:
        self.user_id: str = user_id
        self.wake: Callable[[], bool] = wake  # False when nobody is there any more
        self.listens: bool = listens
        self.admitted: bool = False
        self.withdrawn: bool = False
        self.position: int = 0


class FairQueue:
    """`places` at once; the callers that wait take turns, each caller's own calls in order.

    Entering and leaving cost the same however long the line is, as far as nobody listens to positions. Where somebody does, the first
    10 are told of every move and twice as many of every second, four times as many of every fourth: what is told of a position is off by
    a quarter of it at most, and a move costs the logarithm of the length.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.free: int = slots
        self.waiting: int = 0
        self._by_user: dict[str, deque[Waiter]] = {}
        self._turns: deque[str] = deque()  # callers that wait, the next one first
        self._listening = 0
        self._moves = 0

    def acquire(self, ticket: Waiter) -> bool:
        """Whether there is a place at once; else the ticket waits."""
        if self.free and not self.waiting:
            self.free -= 1
            ticket.admitted = True
            return True
        own = self._by_user.get(ticket.user_id)
        if own is None:
            own = self._by_user[ticket.user_id] = deque()
            self._turns.append(ticket.user_id)
        own.append(ticket)
        self.waiting += 1
        self._listening += ticket.listens
        if ticket.listens:
            ticket.position = self._position_of_last(own)
        self._notify_positions()
        return False

    def release(self) -> None:
        """A place is free again."""
        self.free += 1
        self.admit_waiting()

    def withdraw(self, ticket: Waiter) -> None:
        """Whoever holds this ticket gives up: the place in the line, or the one that came together with giving up."""
        if ticket.withdrawn:
            return
        if ticket.admitted:
            self.release()
            return
        own = self._by_user[ticket.user_id]
        own.remove(ticket)
        self._remove(ticket)
        if not own:
            del self._by_user[ticket.user_id]
            self._turns.remove(ticket.user_id)
        self._notify_positions()

    def admit_waiting(self) -> None:
        """Give free places away, one caller after the other."""
        while self.free and self.waiting:
            user_id = self._turns.popleft()
            own = self._by_user[user_id]
            ticket = own.popleft()
            self._remove(ticket)
            if own:
                self._turns.append(user_id)
            else:
                del self._by_user[user_id]
            ticket.admitted = True
            if ticket.wake():
                self.free -= 1
            else:  # its event loop has ended
                ticket.admitted, ticket.withdrawn = False, True
        self._notify_positions()

    def _remove(self, ticket: Waiter) -> None:
        self.waiting -= 1
        self._listening -= ticket.listens

    def _notify_positions(self) -> None:
        """Tell listeners their positions: the first ones, and how many they are depends on the number of the move."""
        if not self._listening:
            self._moves = 0
            return
        self._moves += 1
        for position, ticket in enumerate(
            islice(self._admission_order(), ALWAYS_NOTIFIED * (self._moves & -self._moves)), 1
        ):
            if ticket.listens and position != ticket.position:
                ticket.position = position
                ticket.wake()

    def _position_of_last(self, own: deque[Waiter]) -> int:
        """Where the last of these calls stands, which nobody else's has come after: behind as many of each caller as it is of its own."""
        if len(own) == 1:
            return len(self._turns)
        rounds = len(own)
        before = True
        place = 0
        for user_id in self._turns:
            line = self._by_user[user_id]
            place += min(len(line), rounds if before else rounds - 1)
            before = before and line is not own
        return place

    def _admission_order(self) -> Iterator[Waiter]:
        """Everybody who waits, in the order in which places will be given if nobody else comes: round after round, one of each caller."""
        for user_id in self._turns:  # not copied: most who ask look at the front alone
            yield self._by_user[user_id][0]
        lines = [
            iter(self._by_user[caller]) for caller in self._turns if len(self._by_user[caller]) > 1
        ]
        for line in lines:
            next(line)
        while lines:
            remaining = []
            for line in lines:
                ticket = next(line, None)
                if ticket is not None:
                    remaining.append(line)
                    yield ticket
            lines = remaining
