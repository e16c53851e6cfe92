"""What every dialect does with a request's body: merge the caller's extra values, and say what it cannot express."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from majordomo.errors import CallWarning
from majordomo.imagegen.request import Request as ImageRequest
from majordomo.imagegen.request import fields_set

UNSUPPORTED = "UNSUPPORTED_FIELD"


def merged(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with `extra` merged into it deeply: objects key by key, anything else replaced."""
    if not extra:
        return body
    whole = dict(body)
    for key, value in extra.items():
        below = whole.get(key)
        whole[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return whole


def unsupported(request: ImageRequest, names: Iterable[str], reason: str) -> list[CallWarning]:
    """A warning for each of these fields that is set; under `strict=True` the first becomes an UnsupportedError."""
    are_set = fields_set(request)
    return [CallWarning(UNSUPPORTED, f"{name} has no effect: {reason}", name) for name in names if name in are_set]
