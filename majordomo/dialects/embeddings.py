"""Shared parts of the embeddings codecs: limits, error bodies and the decoding of vectors."""

from __future__ import annotations

import base64
import binascii
import struct
from math import isfinite
from typing import Any

from majordomo.dialects.errors import build_error, read_error_value
from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_object
from majordomo.json_budget import MAX_BYTES
from majordomo.settings import Limits
from majordomo.validation import is_number

# Twice the length of the vectors of the largest models.
MAX_DIMENSIONS = 8192
# Memory that each number takes until the response is decoded.
BYTES_PER_NUMBER = 56
# Two thousand texts with vectors of four thousand numbers each are an ordinary response.
MAX_VECTOR_BYTES = 512 << 20


def decode_document(body: bytes, count: int, limits: Limits) -> dict[str, Any]:
    """Decode the response for `count` texts.

    Raises BadResponseError for a body that is not a JSON object or is too large, and the error in
    a body that the server sent with status 200.
    """
    document = decode_object(body, limits.max_json_depth, _memory_limit(body, count))
    if document.get("error"):
        raise build_error(200, read_error_value(document), {})
    return document


def decode_vectors(items: Any, count: int) -> tuple[tuple[float, ...], ...]:
    """Decode one vector per text, all of the same length, of finite numbers.

    Each item is a list of numbers or base64 of little-endian float32. The list `items` is emptied,
    so that no vector is in memory twice. Raises BadResponseError for anything else.
    """
    if not isinstance(items, list) or len(items) != count:
        received = len(items) if isinstance(items, list) else "no"
        raise BadResponseError(f"the response holds {received} vectors for {count} texts")
    limit = max(MAX_BYTES, count * MAX_DIMENSIONS * BYTES_PER_NUMBER)
    # Four base64 characters encode three bytes, and a number takes four bytes: 3/16 numbers each.
    base64_size = sum(len(item) for item in items if isinstance(item, str))
    if base64_size * BYTES_PER_NUMBER * 3 // 16 > limit:
        raise BadResponseError(
            f"the response holds more than {MAX_DIMENSIONS:,} numbers per text",
            code="TOO_MANY_VALUES",
        )
    items.reverse()
    vectors = tuple(_decode_vector(items.pop()) for _ in range(count))
    if len({len(vector) for vector in vectors}) != 1:
        raise BadResponseError("the vectors of the response differ in length")
    return vectors


def _memory_limit(body: bytes, count: int) -> int:
    """Return the memory, in bytes, that the decoded response for `count` texts may take."""
    expected = count * MAX_DIMENSIONS * BYTES_PER_NUMBER + 2 * len(body)
    return max(MAX_BYTES, min(expected, MAX_VECTOR_BYTES))


def _decode_vector(item: Any) -> tuple[float, ...]:
    if isinstance(item, str):
        return _unpack_base64(item)
    # llama-cpp-python, when the model file names no pooling, returns a vector for each token.
    if isinstance(item, list) and item and isinstance(item[0], list):
        if len(item) != 1:
            raise BadResponseError(
                "the server returned a vector per token, because the model has no pooling",
                code="NOT_POOLED",
            )
        item = item[0]
    if not isinstance(item, list) or not item:
        raise BadResponseError("a vector of the response is not a list of numbers")
    for index, number in enumerate(item):
        if type(number) is not float or not isfinite(number):
            if not is_number(number):
                raise BadResponseError(
                    "a vector of the response holds a value that is not a finite number"
                )
            # Converted in place, so that a million integers are not in memory twice.
            item[index] = float(number)
    return tuple(item)


def _unpack_base64(text: str) -> tuple[float, ...]:
    """Decode base64 of little-endian float32."""
    try:
        data = base64.b64decode(text, validate=True)
        vector = struct.unpack(f"<{len(data) // 4}f", data)
    except (binascii.Error, struct.error, ValueError):
        raise BadResponseError(
            "a vector of the response is neither a list of numbers nor base64 of float32"
        ) from None
    if not vector:
        raise BadResponseError("a vector of the response is not a list of numbers")
    if not all(map(isfinite, vector)):
        raise BadResponseError("a vector of the response holds a value that is not a finite number")
    return vector
