"""Checks of untrusted input, made before anything is sent.

Each check raises `InvalidRequestError` with the name of the field for what no backend accepts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

from majordomo.errors import ConfigurationError, InvalidRequestError

MAX_NUMBER = sys.float_info.max


def check_text(text: object, field: str, limit: int) -> None:
    """Check that `text` is a str of at most `limit` characters without NUL or lone surrogates.

    Raises:
        InvalidRequestError: If it is not.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"{field} must be a str; got {type(text).__name__}", field=field)
    if len(text) > limit:
        raise InvalidRequestError(
            f"{field} must have at most {limit:,} characters; got {len(text):,}", field=field
        )
    if "\0" in text:
        raise InvalidRequestError(
            f"{field} contains a NUL character; remove it before sending", field=field
        )
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError(
                f"{field} contains a lone surrogate, which cannot be encoded as UTF-8", field=field
            ) from None


def as_tuple(value: object, field: str) -> tuple[Any, ...]:
    """Return the items of a list or another iterable.

    Raises:
        InvalidRequestError: If `value` is not iterable, or is a str, bytes or a mapping.
    """
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        return tuple(value)
    raise InvalidRequestError(f"{field} must be a list; got {type(value).__name__}", field=field)


def as_extra(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a mapping whose keys are str.

    Raises:
        InvalidRequestError: If it is not (field `extra`).
    """
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    raise InvalidRequestError("extra must be a mapping whose keys are str", field="extra")


def check_name(name: object, field: str) -> str:
    """Return `name` if it is a model id that is safe in a path and in a body.

    A model id has 1 to 512 printable characters, no `..` and no surrounding white space.

    Raises:
        InvalidRequestError: If it is not.
    """
    check_text(name, field, 512)
    assert isinstance(name, str)
    if not name or not name.isprintable() or ".." in name or name != name.strip():
        raise InvalidRequestError(
            f"{field} must be 1 to 512 printable characters without '..' and surrounding spaces",
            field=field,
        )
    return name


def is_number(value: object) -> TypeGuard[float]:
    """Return whether `value` is a finite number in the range of a float.

    JSON may contain an integer of five hundred digits, which no float can hold.
    """
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -MAX_NUMBER <= value <= MAX_NUMBER
    )


def check_number(
    name: str, value: object, low: float, high: float, *, integer: bool = False
) -> None:
    """Check that `value` is None or a finite number from `low` to `high`.

    With `integer`, it must be an integer.

    Raises:
        InvalidRequestError: If it is not.
    """
    if value is None:
        return
    types = int if integer else (int, float)
    # NaN fails the comparison.
    if isinstance(value, bool) or not isinstance(value, types) or not low <= value <= high:
        raise InvalidRequestError(
            f"{name} must be {'an integer' if integer else 'a number'} from {low} to {high};"
            f" got {describe(value)}",
            field=name,
        )


def check_seconds(name: str, value: object) -> None:
    """Check that a setting is a finite number of seconds above 0.

    Raises:
        ConfigurationError: If it is not.
    """
    if not is_number(value) or value <= 0:
        raise ConfigurationError(
            f"{name} must be a finite number of seconds above 0; got {describe(value)}",
            details={"field": name},
        )


def check_user_id(user_id: object) -> None:
    """Check that a user id is printable text of at most 256 characters.

    An empty user id means that the call is made for no particular user.

    Raises:
        InvalidRequestError: If it is not (field `user_id`).
    """
    check_text(user_id, "user_id", 256)
    assert isinstance(user_id, str)
    if not user_id.isprintable():
        raise InvalidRequestError(
            "user_id contains a control character; use printable characters", field="user_id"
        )


def describe(value: object) -> str:
    """Return a short description of a rejected value for an error message.

    Numbers are shown in full. Of other values only the type is shown, because they may be long or
    secret, and of an integer beyond the range of a float as well: Python refuses to print an
    integer of several thousand digits.
    """
    if value is None or isinstance(value, (bool, float)) or is_number(value):
        return repr(value)
    return type(value).__name__
