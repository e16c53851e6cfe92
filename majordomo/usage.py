"""Sums in which unknown stays unknown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def sum_known(kind: type[T], values: Iterable[T]) -> T:
    """Of each field of a dataclass of numbers the sum over `values`; None when any of them does not know it, or there are none."""
    columns = [tuple(getattr(value, name) for name in _names(kind)) for value in values]
    return kind(*(None if None in column else sum(column) for column in zip(*columns, strict=True)))


def _names(kind: Any) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind))
