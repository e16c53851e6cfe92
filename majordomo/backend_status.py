"""What a backend reports about itself: models, health, and the events before an answer begins (queued, loading)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from majordomo.errors import MajordomoError

Capability = Literal["chat", "vision", "tools", "thinking", "image", "edit", "embed"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model a provider offers. `capabilities` is what the provider declared: an empty set proves nothing.

    `loaded` is True or False where the backend tells, else None; `state` is the backend's own word.
    """

    id: str
    capabilities: frozenset[Capability] = frozenset()
    loaded: bool | None = None
    state: str = ""
    description: str = ""
    raw: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a backend answered, learned without generating or loading anything. `latency` in seconds, `error` why it is not ok."""

    ok: bool
    message: str = ""
    latency: float | None = None
    error: MajordomoError | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Queued:
    """Waiting behind others; `position` is 1 for the next one in line, None when only the waiting is known."""

    position: int | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """The backend loads the model. `message` is the backend's own word, `elapsed` counts seconds since the call began."""

    message: str = ""
    elapsed: float | None = None
