"""Options that mean the same for chat and for images."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from majordomo.validation import as_extra

SEEDS = 2**63  # a request takes 0 to 2**63-1
SAFE_SEEDS = (
    2**31
)  # every backend takes 0 to 2**31-1 (stable-diffusion.cpp, A1111, ComfyUI, Gemini's int32)


class Overridable(Protocol):
    """A request: it can be copied with other fields."""

    def override(self, **changes: Any) -> Any: ...


R = TypeVar("R", bound=Overridable)


class SharedOption(Protocol):
    """An option for any kind of request."""

    def __call__(self, request: R, /) -> R: ...


def _set(changes: Callable[[], dict[str, Any]]) -> SharedOption:
    def option(request: R, /) -> R:
        changed: R = request.override(**changes())
        return changed

    return option


def with_seed(seed: int | None) -> SharedOption:
    """Start from this seed, 0 to 2**63-1; None leaves the backend's default."""
    return _set(lambda: {"seed": seed})


def with_random_seed(source: Callable[[int], int] = secrets.randbelow) -> SharedOption:
    """Draw a seed from 0 to 2**31-1 here at every call, send it and report it. `source(n)` gives a number from 0 to n-1."""
    return _set(lambda: {"seed": source(SAFE_SEEDS)})


def with_extra(extra: Mapping[str, Any] | None = None, **keys: Any) -> SharedOption:
    """Values for the backend's own body, merged deeply into it. Raises InvalidRequestError (field `extra`) when the call is made, for what
    is no mapping with text keys."""
    return _set(lambda: {"extra": {**as_extra({} if extra is None else extra), **keys}})


def with_user_id(user_id: str | None) -> SharedOption:
    """For whom this call is made: lines are fair, and limits, ledgers and observers count, by this key. It is never sent."""
    return _set(lambda: {"user_id": user_id})
