"""JSON encoding and decoding. Decoding raises only BadResponseError, whatever the bytes are.

pydantic's parser takes as long to import as everything that is needed to construct a model, so it
is imported when there is something to encode or decode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from majordomo.errors import BadResponseError, InvalidRequestError
from majordomo.json_budget import MAX_BYTES, exceeds_budget


def decode_json(raw: bytes, depth: int = 64, max_bytes: int = MAX_BYTES) -> Any:
    """Return the JSON value in `raw`.

    Raises:
        BadResponseError: If `raw` is not valid JSON, is nested deeper than `depth` levels, or would
            take much more than `max_bytes` bytes of memory when parsed: "[],[],[]" takes thirty
            times its length.
    """
    if exceeds_budget(raw, max_bytes):
        raise BadResponseError("the response contains too many JSON values", code="TOO_MANY_VALUES")
    try:
        value = _parse(raw)
    except (ValueError, RecursionError, OverflowError):
        raise BadResponseError(
            f"the response is not valid JSON{_excerpt(raw)}", code="NOT_JSON"
        ) from None
    # Only a text with more than `depth` brackets can be nested deeper.
    if raw.count(b"[") + raw.count(b"{") > depth and _depth(value) > depth:
        raise BadResponseError(
            f"the response is nested deeper than {depth} levels", code="TOO_DEEP"
        )
    return value


def decode_object(raw: bytes, depth: int = 64, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Return the JSON object in `raw`.

    Raises:
        BadResponseError: If `raw` is empty or not an object, and as `decode_json` does.
    """
    if not raw.strip():
        raise BadResponseError("the response is empty", code="EMPTY")
    value = decode_json(raw, depth, max_bytes)
    if not isinstance(value, dict):
        raise BadResponseError(
            f"the response is a JSON {type(value).__name__}, not a JSON object", code="NOT_JSON"
        )
    return value


def encode_json(value: Any, fallback: Callable[[Any], Any] | None = None) -> bytes:
    """Return `value` as compact JSON.

    `fallback` returns the replacement for a value of a type that JSON does not know.

    Raises:
        InvalidRequestError: If JSON cannot represent a value: NaN, other objects, lone surrogates
            (field `extra`).
    """
    from pydantic_core import PydanticSerializationError, to_json

    try:
        raw = to_json(value, fallback=fallback)
    except (PydanticSerializationError, UnicodeError, RecursionError):
        raise InvalidRequestError(
            "the request contains a value that cannot be encoded as JSON", field="extra"
        ) from None
    # The encoder writes these two as words that are not JSON, also within a set or a dataclass. In
    # a string the words are allowed.
    if b"NaN" in raw or b"Infinity" in raw:
        try:
            _parse(raw, allow_inf_nan=False)
        except ValueError:
            raise InvalidRequestError(
                "the request contains NaN or an infinite number, which JSON does not allow",
                field="extra",
            ) from None
    return raw


def _first_parse(raw: bytes, **options: bool) -> Any:
    global _parse
    from pydantic_core import from_json

    _parse = from_json
    return from_json(raw, **options)


# A module global that the first call replaces, so that later calls reach the parser directly.
_parse: Callable[..., Any] = _first_parse


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        next_level: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                next_level.extend(item.values())
            elif isinstance(item, list):
                next_level.extend(item)
        depth += any(isinstance(item, (dict, list)) for item in level)
        level = next_level
    return depth


def _excerpt(raw: bytes) -> str:
    beginning = raw[:80].decode("utf-8", "replace").strip() + ("…" if len(raw) > 80 else "")
    return f"; it begins with {beginning!r}" if beginning else ""
