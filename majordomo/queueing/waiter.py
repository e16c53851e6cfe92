"""A call that waits in a queue, and the limit of its provider."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class ProviderLimit:
    """How many calls of one provider may run, and wait, in a queue that several providers share."""

    max_concurrency: int | None = None
    """Calls that run at once. None means no limit besides the slots of the queue."""
    max_queue: int | None = None
    """Calls that may wait. None means no limit besides that of the queue."""


class Waiter:
    """One queued call.

    `wake` is called when the call is admitted and, if it listens, when its position has changed. It
    returns False when the call's event loop has ended. `model` is what the call loads: any value
    that is equal for calls of the same model.
    """

    __slots__ = (
        "admitted",
        "limit",
        "listens",
        "model",
        "position",
        "user_id",
        "wake",
        "withdrawn",
    )

    def __init__(
        self,
        user_id: str,
        wake: Callable[[], bool],
        *,
        model: Hashable = None,
        limit: ProviderLimit | None = None,
        listens: bool = False,
    ) -> None:
        self.user_id: str = user_id
        self.wake: Callable[[], bool] = wake
        self.model: Hashable = model
        self.limit: ProviderLimit | None = limit
        self.listens: bool = listens
        self.admitted: bool = False
        self.withdrawn: bool = False
        # From 1; 0 while unknown.
        self.position: int = 0
