"""JSON both ways. Reading never lets anything but BadResponseError out, whatever the bytes are.

pydantic's parser takes as long to load as all that is needed to make a model: it is loaded when there is something to read or write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from majordomo.errors import BadResponseError, InvalidRequestError

MOST = 60 << 20  # bytes for the text itself, the texts within it, and its values
# Bytes that each takes in Python at its peak, measured: a list, an object with one member, a text (its letters apart), what a comma divides
LIST, OBJECT, TEXT, VALUE = 88, 184, 64, 48
LIGHT = MOST // LIST  # bytes; no text up to there can be too heavy, "{},{}" being the heaviest with 77 a byte
ESCAPE = 16  # an escaped quote takes time, not memory
KNOWN = 64  # so many different keys, each shorter than this, are counted once: the parser keeps one copy


def decode_json(raw: bytes, depth: int = 64, most: int = MOST) -> Any:
    """The value in `raw`. Raises BadResponseError for anything that is no JSON, nested deeper than `depth`, or would take much more than
    `most` bytes once read: "[],[],[]" takes thirty times its length."""
    if len(raw) * LIST > most and _is_heavy(raw, most):
        raise BadResponseError("the answer holds more values than any has reason to", code="TOO_MANY_VALUES")
    try:
        value = _parse(raw)
    except (ValueError, RecursionError, OverflowError):
        raise BadResponseError(f"the answer is no JSON{_glimpse(raw)}", code="NOT_JSON") from None
    # Only a text with more brackets than `depth` can be nested deeper
    if raw.count(b"[") + raw.count(b"{") > depth and _depth(value) > depth:
        raise BadResponseError(f"the answer is nested deeper than {depth} levels", code="TOO_DEEP")
    return value


def decode_object(raw: bytes, depth: int = 64, most: int = MOST) -> dict[str, Any]:
    """The JSON object in `raw`. Raises BadResponseError for anything else, an empty answer included."""
    if not raw.strip():
        raise BadResponseError("the answer is empty", code="EMPTY")
    value = decode_json(raw, depth, most)
    if not isinstance(value, dict):
        raise BadResponseError(f"the answer is a JSON {type(value).__name__}, not an object", code="NOT_JSON")
    return value


def encode_json(value: Any, fallback: Callable[[Any], Any] | None = None) -> bytes:
    """Compact JSON. Raises InvalidRequestError (field `extra`) for what JSON cannot hold: NaN, other objects, lone surrogates.

    `fallback` gives the replacement for a value of a type that JSON does not know.
    """
    from pydantic_core import PydanticSerializationError, to_json

    try:
        raw = to_json(value, fallback=fallback)
    except (PydanticSerializationError, UnicodeError, RecursionError):
        raise InvalidRequestError("the request holds a value that JSON cannot", field="extra") from None
    # The encoder writes both as words that are no JSON, from within a set or a dataclass as well; in a text these words may stand
    if b"NaN" in raw or b"Infinity" in raw:
        try:
            _parse(raw, allow_inf_nan=False)
        except ValueError:
            raise InvalidRequestError("the request holds NaN or an infinite number", field="extra") from None
    return raw


def _first_parse(raw: bytes, **options: bool) -> Any:
    global _parse
    from pydantic_core import from_json

    _parse = from_json
    return from_json(raw, **options)


_parse: Callable[..., Any] = _first_parse  # a name of the module, so that nothing stands before the parser from the second document on


def _is_heavy(raw: bytes, most: int) -> bool:
    """Whether reading `raw` would take more than `most` bytes. Nothing is copied but keys; brackets and commas within texts do not count.

    `raw` is there already, and its texts will be once more. A picture in base64 may be larger than all that: half of `most` is left
    for values.
    """
    most = max(most - 2 * len(raw), most // 2)
    narrow = raw.isascii() and b"\\u" not in raw
    wide = 0 if narrow else 5 * len(raw)
    if LIST * raw.count(b"[") + OBJECT * raw.count(b"{") + TEXT * raw.count(b'"') // 2 + VALUE * raw.count(b",") + wide <= most:
        return False
    keys: set[bytes] = set()
    total = at = 0
    while total <= most:
        quote = raw.find(b'"', at)
        end = quote if quote >= 0 else len(raw)
        total += LIST * raw.count(b"[", at, end) + OBJECT * raw.count(b"{", at, end) + VALUE * raw.count(b",", at, end)
        if quote < 0:
            break
        begin = at = quote + 1
        while total <= most:
            end = raw.find(b'"', at)
            if end < 0:
                return False  # no JSON: reading it will tell
            at = end + 1
            before = end
            while raw[before - 1] == 92:  # a backslash
                before -= 1
            if (end - before) % 2 == 0:
                break
            total += ESCAPE
        key = raw[begin:end] if raw[at : at + 1] == b":" and end - begin < KNOWN else b""
        if not key or key not in keys:
            total += TEXT + (0 if narrow else _widening(raw, begin, end))
            if key and len(keys) < KNOWN:
                keys.add(key)
    return total > most


def _widening(raw: bytes, begin: int, end: int) -> int:
    """Bytes that the text takes beyond its length: one letter beyond U+FFFF makes all of them take four bytes each, one beyond U+00FF
    two, and narrower copies are there at the same time. For a short one the most it can be: there may be hundreds of thousands."""
    if end - begin < KNOWN:
        return 5 * (end - begin)
    wide = False
    for at in range(begin, end, PIECE):
        piece = raw[at : min(at + PIECE + 5, end)]  # an escape may be cut in two
        if piece.isascii() and b"\\u" not in piece:
            continue
        if piece.translate(None, _TO_EF) or b"\\ud" in piece or b"\\uD" in piece:
            return 5 * (end - begin)
        wide = wide or bool(piece.translate(None, _TO_C3)) or piece.count(b"\\u") > piece.count(b"\\u00")
    return 3 * (end - begin) if wide else 0


PIECE = 64 << 10
_TO_C3, _TO_EF = bytes(range(0xC4)), bytes(range(0xF0))  # the first bytes of letters up to U+00FF, up to U+FFFF, and those that follow


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
