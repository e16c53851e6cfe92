"""Stream events that chat and pictures share: what is happening before the work begins."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Queued:
    """Waiting behind others; `position` is 1 for the next one in line, None when only the waiting is known."""

    position: int | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """The backend loads the model. `message` is the backend's own word, `elapsed` counts seconds since the call began."""

    message: str = ""
    elapsed: float | None = None
