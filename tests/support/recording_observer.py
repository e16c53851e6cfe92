"""An observer that remembers all it was told."""

from __future__ import annotations

from typing import Any

from majordomo.observability import Call, CallResult, Observer, RetryAttempt


class Witness(Observer):
    """`story` has the name of each thing told, with what came with it."""

    def __init__(self, *, content: bool = False) -> None:
        self.wants_content = content
        self.story: list[tuple[str, Any]] = []
        self.calls: list[Call] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.story]

    @property
    def end(self) -> Any:
        """What the only call ended with."""
        name, thing = self.story[-1]
        assert name in ("finished", "failed", "cancelled")
        assert sum(name in ("finished", "failed", "cancelled") for name in self.names) == 1
        return thing

    def _saw(self, name: str, call: Call, thing: Any = None) -> None:
        if name == "started":
            self.calls.append(call)
        assert call in self.calls
        self.story.append((name, thing))

    def on_start(self, call: Call) -> None:
        self._saw("started", call)

    def on_retry(self, call: Call, attempt: RetryAttempt) -> None:
        self._saw("attempted", call, attempt)

    def on_event(self, call: Call, event: Any) -> None:
        self._saw("told", call, event)

    def on_success(self, call: Call, outcome: CallResult) -> None:
        self._saw("finished", call, outcome)

    def on_error(self, call: Call, error: Any) -> None:
        self._saw("failed", call, error)

    def on_cancel(self, call: Call) -> None:
        self._saw("cancelled", call)
