"""What one call of a model is: its model, user, deadline, event listener and observers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from majordomo.backend_status import Queued
from majordomo.errors import MajordomoError
from majordomo.observability.observed_call import ObservedCall
from majordomo.transport_types import Deadline

Emit = Callable[[Any], None]
"""A function that receives one event."""


@dataclass(slots=True)
class CallContext:
    """One call of a model, from its checked request to its end.

    It is passed to every step of the call that depends on it; nothing about a call is global.
    """

    deadline: Deadline
    """The time limits. They started when the call did."""
    model: str = ""
    """The model's id at its provider; "" for a query about the backend."""
    user_id: str = ""
    """The end user, by which queues take turns and limits count."""
    emit: Emit | None = None
    """Receives the events of the call: of the caller's stream, the observers, or both. None when
    nothing listens."""
    streamed: bool = False
    """Whether the caller listens to the events, so that the backend should report progress."""
    observed: ObservedCall | None = None
    """Reports the call to observers; None when there are none."""

    @property
    def on_position(self) -> Callable[[int], None] | None:
        """The listener for positions in a queue; None when nothing listens."""
        emit = self.emit
        return None if emit is None else lambda position: emit(Queued(position))

    def report_retry(self, number: int, error: MajordomoError, delay: float) -> None:
        """Report to the observers a failed attempt that is repeated after `delay` seconds."""
        if self.observed is not None:
            self.observed.record_retry(number, error, delay)
