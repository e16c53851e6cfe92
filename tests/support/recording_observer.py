"""An observer that records every method call."""

from __future__ import annotations

from typing import Any

from majordomo.observability import Call, CallResult, Observer, RetryAttempt

END_EVENTS = ("on_success", "on_error", "on_cancel")


class RecordingObserver(Observer):
    """Records the name and the second argument of each method call in `events`."""

    def __init__(self, *, content: bool = False) -> None:
        self.wants_content = content
        self.events: list[tuple[str, Any]] = []
        self.calls: list[Call] = []

    @property
    def event_names(self) -> list[str]:
        """The names of the methods that were called."""
        return [name for name, _ in self.events]

    @property
    def outcome(self) -> Any:
        """The result or the error of the only call."""
        name, value = self.events[-1]
        assert name in END_EVENTS
        assert sum(name in END_EVENTS for name in self.event_names) == 1
        return value

    def _record(self, name: str, call: Call, value: Any = None) -> None:
        if name == "on_start":
            self.calls.append(call)
        assert call in self.calls
        self.events.append((name, value))

    def on_start(self, call: Call) -> None:
        self._record("on_start", call)

    def on_retry(self, call: Call, attempt: RetryAttempt) -> None:
        self._record("on_retry", call, attempt)

    def on_event(self, call: Call, event: Any) -> None:
        self._record("on_event", call, event)

    def on_success(self, call: Call, outcome: CallResult) -> None:
        self._record("on_success", call, outcome)

    def on_error(self, call: Call, error: Any) -> None:
        self._record("on_error", call, error)

    def on_cancel(self, call: Call) -> None:
        self._record("on_cancel", call)
