"""The waiters of one model: users take turns, and each user's waiters keep their order."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator

from majordomo.queueing.waiter import ProviderLimit, Waiter


class UserTurns:
    """Waiters in round-robin order over users, first in, first out per user.

    Iterating yields them in the order of admission, if each is taken in its turn.
    """

    def __init__(self) -> None:
        self._length = 0
        # How many waiters have each limit.
        self.limits: Counter[ProviderLimit | None] = Counter()
        # The first user is next. No user has an empty queue.
        self._by_user: OrderedDict[str, OrderedDict[Waiter, None]] = OrderedDict()

    def __len__(self) -> int:
        return self._length

    def has_user(self, user_id: str) -> bool:
        """Return whether a call of this user waits."""
        return user_id in self._by_user

    def append(self, waiter: Waiter) -> None:
        """Add a waiter behind those of its user; a new user is the last."""
        self._by_user.setdefault(waiter.user_id, OrderedDict())[waiter] = None
        self._length += 1
        self.limits[waiter.limit] += 1

    def remove(self, waiter: Waiter) -> None:
        """Remove a waiter. The turn of its user stays."""
        own_queue = self._by_user[waiter.user_id]
        del own_queue[waiter]
        if not own_queue:
            del self._by_user[waiter.user_id]
        self._length -= 1
        self.limits[waiter.limit] -= 1
        if not self.limits[waiter.limit]:
            del self.limits[waiter.limit]

    def take(self, waiter: Waiter) -> None:
        """Remove a waiter whose user has had its turn, and is behind all others now."""
        self.remove(waiter)
        if waiter.user_id in self._by_user:
            self._by_user.move_to_end(waiter.user_id)

    def position_of_last(self, user_id: str) -> int:
        """Return the position, from 1, of a user's last waiter.

        Of each other user, at most as many waiters come before it as this user has, or one less if
        that user's turn comes after this user's.
        """
        rounds = len(self._by_user[user_id])
        if rounds == 1 and next(reversed(self._by_user)) == user_id:
            # A new user, which is last, in the most frequent case.
            return len(self._by_user)
        position = 0
        for user, queue in self._by_user.items():
            position += min(len(queue), rounds)
            if user == user_id:
                rounds -= 1
        return position

    def __iter__(self) -> Iterator[Waiter]:
        # Not copied: most callers need only the front.
        for own_queue in self._by_user.values():
            yield next(iter(own_queue))
        queues = [iter(queue) for queue in self._by_user.values() if len(queue) > 1]
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
