"""The settings of a request that observers receive: numbers, names and sizes, but no content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from majordomo.requests.base import BaseRequest, declaration

_OBSERVED: Mapping[str, Callable[[Any], Any]] = {
    "value": lambda value: value,
    "count": len,
    "presence": lambda value: True,
}


def request_settings(request: BaseRequest) -> dict[str, Any]:
    """Return the fields that are set, each as its declaration says: value, count or presence."""
    declared = declaration(type(request))
    return {
        name: _OBSERVED[field.observed](value)
        for name, field in declared.fields.items()
        if field.observed != "no" and (value := getattr(request, name)) != declared.defaults[name]
    }
