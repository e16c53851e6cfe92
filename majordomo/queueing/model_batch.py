"""Batching by model: which calls of the loaded model go before calls of waiting models. No I/O.

Loading a model takes much longer than most calls. So the calls of the model that is loaded go
first, as one batch, until a limit of the batch is reached. The limits begin when a call of another
model waits: a model that no other call waits for keeps running.
"""

from __future__ import annotations

from collections.abc import Hashable


class ModelBatch:
    """The calls of one model that are admitted in a row.

    Args:
        max_calls: Calls of a batch while other models wait, from 1.
        max_seconds: Seconds during which a batch admits calls while other models wait.
    """

    __slots__ = ("_calls", "_others_wait_since", "max_calls", "max_seconds", "model")

    def __init__(self, max_calls: int, max_seconds: float) -> None:
        self.max_calls: int = max_calls
        self.max_seconds: float = max_seconds
        self.model: Hashable = None
        """The model that was admitted last, which is the one that is loaded."""
        # Since a call of another model waits.
        self._calls = 0
        self._others_wait_since: float | None = None

    def start(self, model: Hashable) -> None:
        """Start the batch of another model."""
        self.model = model
        self._calls = 0
        self._others_wait_since = None

    def count_call(self) -> None:
        """Count a call that was admitted while another model waits."""
        self._calls += 1

    def update(self, others_wait: bool, now: float) -> None:
        """Start the limits when the first call of another model waits; lift them when none does."""
        if not others_wait:
            self._calls = 0
            self._others_wait_since = None
        elif self._others_wait_since is None:
            self._others_wait_since = now

    def remaining(self, now: float) -> int:
        """Return how many calls the batch may still admit while other models wait."""
        if (
            self._others_wait_since is not None
            and now - self._others_wait_since >= self.max_seconds
        ):
            return 0
        return max(0, self.max_calls - self._calls)
