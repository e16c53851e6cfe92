"""JSON both ways. Reading never lets anything but BadResponseError out, whatever the bytes are.

pydantic's parser takes as long to load as all that is needed to make a model: it is loaded when there is something to read or write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from majordomo.errors import BadResponseError, InvalidRequestError
from majordomo.json_budget import MAX_BYTES, is_heavy


def decode_json(raw: bytes, depth: int = 64, most: int = MAX_BYTES) -> Any:
    """The value in `raw`. Raises BadResponseError for anything that is no JSON, nested deeper than `depth`, or would take much more than
    `most` bytes once read: "[],[],[]" takes thirty times its length."""
    if is_heavy(raw, most):
        raise BadResponseError(
            "the answer holds more values than any has reason to", code="TOO_MANY_VALUES"
        )
    try:
        value = _parse(raw)
    except (ValueError, RecursionError, OverflowError):
        raise BadResponseError(f"the answer is no JSON{_glimpse(raw)}", code="NOT_JSON") from None
    # Only a text with more brackets than `depth` can be nested deeper
    if raw.count(b"[") + raw.count(b"{") > depth and _depth(value) > depth:
        raise BadResponseError(f"the answer is nested deeper than {depth} levels", code="TOO_DEEP")
    return value


def decode_object(raw: bytes, depth: int = 64, most: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in `raw`. Raises BadResponseError for anything else, an empty answer included."""
    if not raw.strip():
        raise BadResponseError("the answer is empty", code="EMPTY")
    value = decode_json(raw, depth, most)
    if not isinstance(value, dict):
        raise BadResponseError(
            f"the answer is a JSON {type(value).__name__}, not an object", code="NOT_JSON"
        )
    return value


def encode_json(value: Any, fallback: Callable[[Any], Any] | None = None) -> bytes:
    """Compact JSON. Raises InvalidRequestError (field `extra`) for what JSON cannot hold: NaN, other objects, lone surrogates.

    `fallback` gives the replacement for a value of a type that JSON does not know.
    """
    from pydantic_core import PydanticSerializationError, to_json

    try:
        raw = to_json(value, fallback=fallback)
    except (PydanticSerializationError, UnicodeError, RecursionError):
        raise InvalidRequestError(
            "the request holds a value that JSON cannot", field="extra"
        ) from None
    # The encoder writes both as words that are no JSON, from within a set or a dataclass as well; in a text these words may stand
    if b"NaN" in raw or b"Infinity" in raw:
        try:
            _parse(raw, allow_inf_nan=False)
        except ValueError:
            raise InvalidRequestError(
                "the request holds NaN or an infinite number", field="extra"
            ) from None
    return raw


def _first_parse(raw: bytes, **options: bool) -> Any:
    global _parse
    from pydantic_core import from_json

    _parse = from_json
    return from_json(raw, **options)


_parse: Callable[..., Any] = (
    _first_parse  # a name of the module, so that nothing stands before the parser from the second document on
)


def _depth(value: Any) -> int:
    level, deepest = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        deepest += any(isinstance(item, (dict, list)) for item in level)
        level = below
    return deepest


def _glimpse(raw: bytes) -> str:
    start = raw[:80].decode("utf-8", "replace").strip() + ("…" if len(raw) > 80 else "")
    return f"; it begins with {start!r}" if start else ""
