"""Text from strangers: what no backend can take, said before anything is sent."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from majordomo.errors import ConfigurationError, InvalidRequestError

MAX_NUMBER = sys.float_info.max


def check_text(text: object, field: str, limit: int) -> None:
    """Raise InvalidRequestError for anything but a str of at most `limit` characters without NUL and lone surrogates."""
    if not isinstance(text, str):
        raise InvalidRequestError(f"{field} is text, not {type(text).__name__}", field=field)
    if len(text) > limit:
        raise InvalidRequestError(
            f"{field} has {len(text):,} characters, more than the limit of {limit:,}", field=field
        )
    if "\0" in text:
        raise InvalidRequestError(f"{field} holds a NUL character", field=field)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError(
                f"{field} holds a lone surrogate, which is no text", field=field
            ) from None


def as_tuple(value: object, field: str) -> tuple[Any, ...]:
    """The items of a list or other iterable. Raises InvalidRequestError for what is none, text and mappings included."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        return tuple(value)
    raise InvalidRequestError(f"{field} is a list, not {type(value).__name__}", field=field)


def as_extra(value: object) -> Mapping[str, Any]:
    """`value` when it is a mapping with text keys. Raises InvalidRequestError (field `extra`) else."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    raise InvalidRequestError("extra is a mapping with text keys", field="extra")


def check_name(name: object, field: str) -> str:
    """A model id, as it may stand in a path or a body: 1 to 512 printable characters, no `..`. Returns it."""
    check_text(name, field, 512)
    assert isinstance(name, str)
    if not name or not name.isprintable() or ".." in name or name != name.strip():
        raise InvalidRequestError(
            f"{field} is 1 to 512 printable characters without '..'", field=field
        )
    return name


def is_number(value: object) -> TypeGuard[float]:
    """Whether this is a finite number that a float can hold: JSON may name one of five hundred digits."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -MAX_NUMBER <= value <= MAX_NUMBER
    )


def check_number(name: str, value: object, low: float, high: float, *, whole: bool = False) -> None:
    """Raise InvalidRequestError, naming the field, unless `value` is None or a finite number from `low` to `high`."""
    if value is None:
        return
    kinds = int if whole else (int, float)
    if (
        isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high
    ):  # NaN is in no range
        raise InvalidRequestError(
            f"{name} is a {'whole number' if whole else 'number'} from {low} to {high}", field=name
        )


def check_seconds(name: str, value: object) -> None:
    """Raise ConfigurationError, naming the setting, unless `value` is a finite number of seconds above 0."""
    if not is_number(value) or value <= 0:
        raise ConfigurationError(f"{name} is a number of seconds above 0", details={"field": name})


def check_user_id(user_id: object) -> None:
    """Raise InvalidRequestError (field `caller`) for anything but printable text of at most 256 characters; "" is nobody in particular."""
    check_text(user_id, "user_id", 256)
    assert isinstance(user_id, str)
    if not user_id.isprintable():
        raise InvalidRequestError("user_id holds a control character", field="user_id")
