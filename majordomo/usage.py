"""Sum dataclasses of numbers; a sum with an unknown part is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def sum_known(kind: type[T], values: Iterable[T]) -> T:
    """Return the sum of `values`, field by field.

    `kind` is a dataclass whose fields are numbers or None. A field of the sum is None when it is
    None in any of the values, and every field is None when there are no values.
    """
    columns = [tuple(getattr(value, name) for name in _field_names(kind)) for value in values]
    return kind(*(None if None in column else sum(column) for column in zip(*columns, strict=True)))


def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(item.name for item in fields(kind))
