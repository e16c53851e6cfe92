"""What a backend reports about itself: its models, its health, and the states before a reply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

from majordomo.errors import MajordomoError

Capability = Literal["chat", "vision", "tools", "thinking", "image", "edit", "embed"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model in a provider's model list."""

    id: str
    """The id by which the provider's constructors and model strings select the model."""
    capabilities: frozenset[Capability] = frozenset()
    """The capabilities that the backend declares. An empty set proves nothing: many backends
    declare none."""
    loaded: bool | None = None
    """Whether the model is in memory. None when the backend does not report it."""
    state: str = ""
    """The state in the backend's own words. Empty when the backend does not report it."""
    description: str = ""
    """A description for people. Empty when the backend has none."""
    raw: Any = field(default=None, repr=False, compare=False)
    """The backend's own entry, as decoded from JSON. None when there is none."""


@dataclass(frozen=True, slots=True)
class Health:
    """The result of a health check, which neither generates anything nor loads a model."""

    ok: bool
    """Whether the backend answered and can be used."""
    message: str = ""
    """An explanation for people."""
    latency: float | None = None
    """Duration of the check in seconds. None when it was not measured."""
    error: MajordomoError | None = field(default=None, repr=False, compare=False)
    """Why the backend is not ok. None when there is no such error."""


@dataclass(frozen=True, slots=True)
class Queued:
    """Stream event: the call waits in a queue, here or at the backend."""

    position: int | None = None
    """Position in the queue; 1 is next. None when the position is unknown."""


@dataclass(frozen=True, slots=True)
class Loading:
    """Stream event: the backend is loading the model."""

    message: str = ""
    """The state in the backend's own words. May be empty."""
    elapsed: float | None = None
    """Seconds since the call began. None when unknown."""


class Backend(ABC):
    """What every provider reports about its backend, and how it is closed."""

    name: str
    """Name of the provider."""

    @abstractmethod
    async def models(self) -> list[ModelInfo]:
        """Return the models that the backend lists. Generates nothing and is free of charge.

        Raises:
            MajordomoError: The call failed.
        """

    @abstractmethod
    async def health(self) -> Health:
        """Check whether the backend responds. Never generates and never loads a model."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close all connections. May be called more than once."""
