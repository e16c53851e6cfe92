"""Request options that work for both chat and image generation."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from majordomo.requests.base import BaseRequest
from majordomo.validation import as_extra

__all__ = ["with_extra", "with_random_seed", "with_seed", "with_user_id"]

# A request accepts seeds from 0 to 2**63-1.
SEED_LIMIT = 2**63
# Every backend accepts seeds from 0 to 2**31-1: stable-diffusion.cpp, A1111, ComfyUI, and Gemini,
# whose seed is an int32.
SAFE_SEED_LIMIT = 2**31


R = TypeVar("R", bound=BaseRequest)


class SharedOption(Protocol):
    """An option that applies to any kind of request."""

    def __call__(self, request: R, /) -> R:
        """Return a copy of the request with the option applied."""
        ...


def _override_with(changes: Callable[[], dict[str, Any]]) -> SharedOption:
    def option(request: R, /) -> R:
        return request.override(**changes())

    return option


def with_seed(seed: int | None) -> SharedOption:
    """Set the seed of the random number generator.

    Args:
        seed: An integer from 0 to 2**63-1. None leaves the choice to the backend.
    """
    return _override_with(lambda: {"seed": seed})


def with_random_seed(source: Callable[[int], int] = secrets.randbelow) -> SharedOption:
    """Choose a random seed from 0 to 2**31-1 for each call.

    The seed is chosen here, sent to the backend and reported on the result, so that a result can be
    reproduced.

    Args:
        source: A function that returns a random integer from 0 to n-1 for the argument n.
    """
    return _override_with(lambda: {"seed": source(SAFE_SEED_LIMIT)})


def with_extra(extra: Mapping[str, Any] | None = None, **keys: Any) -> SharedOption:
    """Add fields of the backend's own API to the request body.

    Args:
        extra: A mapping with str keys. It is merged deeply into the body.
        **keys: Further fields. They override those of `extra` with the same name.

    Raises:
        InvalidRequestError: When the call is made, if `extra` is not a mapping with str keys
            (field `extra`).

    Example:
        ```python
        import majordomo as md

        option = md.with_extra({"options": {"num_ctx": 8192}}, keep_alive="10m")
        ```
    """
    return _override_with(lambda: {"extra": {**as_extra({} if extra is None else extra), **keys}})


def with_user_id(user_id: str | None) -> SharedOption:
    """Set the end-user id for fair queueing, rate limits and accounting. Never sent to the backend.

    Queues take turns over user ids; per-user limits, ledgers and observers count by it.

    Args:
        user_id: Printable text of at most 256 characters. None and "" mean no particular user.
    """
    return _override_with(lambda: {"user_id": user_id})
