"""Fair queue: calls of the loaded model first, within limits; users take turns. No I/O.

Theory of operation:

* `FairQueue` counts free slots and keeps the waiters of each model in a `UserTurns`, in which users
  take turns. The models are in the order in which they began to wait. A queue whose waiters name no
  model has one such entry, and is only fair by user.
* The free slot goes to the model that was admitted last, as long as its batch (`ModelBatch`) may
  admit more calls or no other model waits; else to the model that has waited longest. A model whose
  batch ended goes behind the others. So, with m models in the queue, at most `(m - 1) * max_calls`
  calls are admitted between two batches of a model, and its first waiter is admitted at most
  `(m - 1) * (max_seconds + d) + d` seconds after it came, where d is the longest call.
* A waiter may name a `ProviderLimit`. While that many calls with the same limit run, it is not
  ready, and the free slot goes to the next one that is. A slot stays free only while no waiter is
  ready. The bounds on waiting count from when its provider has a free slot, and start again when
  another call takes that.
* A waiter is waiting, admitted (it owns a slot, which it must release) or withdrawn.
* `wake` of an admitted waiter returns False when its event loop has ended. The slot then goes to
  the next waiter.
* Positions are estimates for display, as if no more calls came, no batch ended by time, and all
  waiters were ready. Entering and leaving do not depend on the length of the queue while no waiter
  listens to positions. If one does, the first ALWAYS_NOTIFIED waiters are notified of every move,
  twice as many of every second, four times as many of every fourth. So a move costs the logarithm
  of the length, the first ALWAYS_NOTIFIED positions are exact, and a later one is off by at most a
  quarter; where several models wait, by the calls of a batch of each other model in addition.

The caller provides the locking. `slot_queue.py` does the waiting. Time is an argument, in seconds
of any clock; only a queue with several models needs it.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterator
from itertools import islice

from majordomo.queueing.model_batch import ModelBatch
from majordomo.queueing.user_turns import UserTurns
from majordomo.queueing.waiter import ProviderLimit, Waiter

# The number of waiters at the front that are notified of every move; others are less often.
ALWAYS_NOTIFIED = 10


class FairQueue:
    """A queue for `slots` slots: the loaded model first, within limits, and users take turns.

    Args:
        slots: Calls that run at once.
        max_batch_calls: Calls of one model in a row while other models wait.
        max_batch_seconds: Seconds of one model in a row while other models wait.
    """

    def __init__(
        self, slots: int, max_batch_calls: int = 1, max_batch_seconds: float = math.inf
    ) -> None:
        self.slots = slots
        self.free: int = slots
        self.waiting: int = 0
        self._by_model: OrderedDict[Hashable, UserTurns] = OrderedDict()
        self._batch = ModelBatch(max_batch_calls, max_batch_seconds)
        # Running calls by limit.
        self._running: Counter[ProviderLimit] = Counter()
        self._listening = 0
        self._moves = 0

    def is_ready(self, limit: ProviderLimit | None) -> bool:
        """Return whether another call with this limit may run as soon as a slot is free."""
        if limit is None or limit.max_concurrency is None:
            return True
        return self._running[limit] < limit.max_concurrency

    def waiting_with(self, limit: ProviderLimit) -> int:
        """Return the number of waiters with this limit."""
        return sum(turns.limits[limit] for turns in self._by_model.values())

    def take_free(
        self, model: Hashable = None, limit: ProviderLimit | None = None, now: float = 0.0
    ) -> bool:
        """Take a slot if one is free for such a call; return whether it was taken."""
        # While a slot is free, no waiter is ready.
        if not self.free or not self.is_ready(limit):
            return False
        self.free -= 1
        self._admit(model, limit, now)
        # Waiters that are not ready may be behind the calls of another model now.
        self._notify_positions(now)
        return True

    def acquire(self, waiter: Waiter, now: float = 0.0) -> bool:
        """Return True if a slot is free at once; otherwise queue the waiter."""
        if self.take_free(waiter.model, waiter.limit, now):
            waiter.admitted = True
            return True
        turns = self._by_model.get(waiter.model)
        if turns is None:
            turns = self._by_model[waiter.model] = UserTurns()
        turns.append(waiter)
        self.waiting += 1
        self._listening += waiter.listens
        self._batch.update(self._others_wait(), now)
        if waiter.listens:
            waiter.position = self._position_of_last(waiter, now)
        self._notify_positions(now)
        return False

    def release(self, now: float = 0.0, limit: ProviderLimit | None = None) -> None:
        """Free the slot of a call with this limit, and admit the next waiter."""
        self.free += 1
        if limit is not None:
            self._running[limit] -= 1
            if not self._running[limit]:
                del self._running[limit]
        self.admit_waiting(now)

    def withdraw(self, waiter: Waiter, now: float = 0.0) -> None:
        """Cancel a waiter; if it was admitted meanwhile, release its slot."""
        if waiter.withdrawn:
            return
        if waiter.admitted:
            self.release(now, waiter.limit)
            return
        turns = self._by_model[waiter.model]
        turns.remove(waiter)
        self._count_removal(waiter, turns)
        self._batch.update(self._others_wait(), now)
        self._notify_positions(now)

    def admit_waiting(self, now: float = 0.0) -> None:
        """Assign free slots to waiters that are ready."""
        while self.free and (waiter := self._next_waiter(now)) is not None:
            turns = self._by_model[waiter.model]
            turns.take(waiter)
            self._count_removal(waiter, turns)
            self.free -= 1
            waiter.admitted = True
            if waiter.wake():
                self._admit(waiter.model, waiter.limit, now)
            else:
                # Its event loop has ended.
                self.free += 1
                waiter.admitted, waiter.withdrawn = False, True
                self._batch.update(self._others_wait(), now)
        self._notify_positions(now)

    def waiters(self, now: float = 0.0) -> Iterator[Waiter]:
        """Yield all waiters in the order of admission, as if no more came and no time passed."""
        batches: deque[tuple[Iterator[Waiter], int, int]] = deque(
            (iter(turns), len(turns), self._batch.max_calls)
            for model, turns in self._by_model.items()
            if model != self._batch.model
        )
        loaded = self._by_model.get(self._batch.model)
        if loaded is not None:
            batches.appendleft((iter(loaded), len(loaded), self._batch.remaining(now)))
        while batches:
            waiters, length, calls = batches.popleft()
            if not batches or length <= calls:
                yield from waiters
            else:
                yield from islice(waiters, calls)
                batches.append((waiters, length - calls, self._batch.max_calls))

    def positions(self, user_id: str, now: float = 0.0) -> tuple[int, ...]:
        """Return the current positions, from 1, of a user's waiters."""
        if not any(turns.has_user(user_id) for turns in self._by_model.values()):
            return ()
        return tuple(
            position
            for position, waiter in enumerate(self.waiters(now), 1)
            if waiter.user_id == user_id
        )

    def _next_waiter(self, now: float) -> Waiter | None:
        """Return the waiter for the next free slot; None while no waiter is ready."""
        loaded = self._by_model.get(self._batch.model)
        others = (turns for turns in self._by_model.values() if turns is not loaded)
        order = [loaded, *others] if self._batch.remaining(now) else [*others, loaded]
        for turns in order:
            if turns is not None and any(map(self.is_ready, turns.limits)):
                return next(waiter for waiter in turns if self.is_ready(waiter.limit))
        return None

    def _others_wait(self) -> bool:
        """Return whether a call waits for another model than the one of the batch."""
        return len(self._by_model) > (self._batch.model in self._by_model)

    def _admit(self, model: Hashable, limit: ProviderLimit | None, now: float) -> None:
        """Count an admission in the batch, or start the batch of another model."""
        if limit is not None:
            self._running[limit] += 1
        if model != self._batch.model:
            if self._batch.model in self._by_model:
                self._by_model.move_to_end(self._batch.model)
            self._batch.start(model)
        others_wait = self._others_wait()
        self._batch.update(others_wait, now)
        if others_wait:
            self._batch.count_call()

    def _count_removal(self, waiter: Waiter, turns: UserTurns) -> None:
        if not turns:
            del self._by_model[waiter.model]
        self.waiting -= 1
        self._listening -= waiter.listens

    def _notify_positions(self, now: float) -> None:
        """Notify listeners whose position changed; those further back are notified less often."""
        if not self._listening:
            self._moves = 0
            return
        self._moves += 1
        for position, waiter in enumerate(
            islice(self.waiters(now), ALWAYS_NOTIFIED * (self._moves & -self._moves)), 1
        ):
            if waiter.listens and position != waiter.position:
                waiter.position = position
                waiter.wake()

    def _position_of_last(self, waiter: Waiter, now: float) -> int:
        """Return the position of a waiter that has just entered. See `waiters`.

        Counted without iterating over the queue: its position among those of its model, and of
        each other model what fits into the batches before its own.
        """
        own = self._by_model[waiter.model].position_of_last(waiter.user_id)
        if len(self._by_model) == 1:
            return own
        max_calls, remaining = self._batch.max_calls, self._batch.remaining(now)
        is_loaded = waiter.model == self._batch.model
        batches = math.ceil((own - remaining if is_loaded else own) / max_calls)
        position = own
        for model, turns in self._by_model.items():
            if model == waiter.model:
                # The models behind it have had one batch less before its last one.
                batches -= not is_loaded
            elif model == self._batch.model:
                calls = remaining + (math.ceil(own / max_calls) - 1) * max_calls
                position += min(len(turns), calls)
            else:
                position += min(len(turns), max(0, batches) * max_calls)
        return position
