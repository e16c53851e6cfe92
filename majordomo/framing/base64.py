"""Streaming base64: images are encoded while they are sent and decoded while they arrive.

The encoded text is never held in memory as a whole. `pybase64` is used if it is installed. Both
base64 alphabets are decoded; the standard one is encoded.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from io import BytesIO

from majordomo.errors import BadResponseError
from majordomo.llm.parts import FilePart, ImagePart

_encode: Callable[[bytes | memoryview], bytes]
_decode: Callable[[bytes | memoryview], bytes]
try:
    import pybase64

    _encode, _decode = pybase64.b64encode, partial(pybase64.b64decode, validate=True)
except ImportError:

    @cache
    def _pydantic_decoder() -> Callable[[bytes], bytes]:
        """Return pydantic's decoder, which takes a third of the time of binascii.

        It is imported with the first image; see framing.json.
        """
        from pydantic_core import CoreConfig, SchemaValidator, core_schema

        return SchemaValidator(
            core_schema.bytes_schema(), CoreConfig(val_json_bytes="base64")
        ).validate_json

    def _decode(text: bytes | memoryview) -> bytes:
        quoted = b'"%b"' % bytes(text)
        # The decoder parses a JSON string, and would resolve escapes in it.
        if b"\\" in quoted:
            raise ValueError("base64 contains an escape")
        return _pydantic_decoder()(quoted)

    _encode = partial(binascii.b2a_base64, newline=False)


# A multiple of 3, so that encoded chunks join without padding; 512 KiB when encoded. Each chunk
# costs a wait, so smaller ones are slower.
CHUNK_BYTES = 384 * 1024
# Text that is decoded at once. A chunk from the network is larger, and must not be held a second
# time while it is decoded.
DECODE_BYTES = 64 * 1024


class Base64Body:
    """A streaming body of JSON bytes and images, which are encoded while they are sent."""

    __slots__ = ("_segments", "length")

    def __init__(self, segments: Sequence[bytes | ImagePart | FilePart]) -> None:
        self._segments = segments
        self.length: int = sum(
            len(s) if isinstance(s, bytes) else (len(s.data) + 2) // 3 * 4 for s in segments
        )

    def chunks(self) -> Iterator[bytes]:
        """Return an iterator over the encoded body."""
        for segment in self._segments:
            if isinstance(segment, bytes):
                if segment:
                    yield segment
                continue
            view = memoryview(segment.data)
            for at in range(0, len(view), CHUNK_BYTES):
                yield _encode(view[at : at + CHUNK_BYTES])


class Base64Sink:
    """Incremental base64 decoder for text in any slicing. White space is not allowed."""

    __slots__ = ("_carry", "_decoded", "_ended", "_limit")

    def __init__(self, limit: int) -> None:
        self._carry = b""
        self._ended = False
        self._decoded = BytesIO()
        self._limit = limit

    def write(self, text: bytes) -> None:
        """Decode the next text.

        Raises:
            ValueError: If the text is not valid base64. Nothing of it is decoded then.
            BadResponseError: If the decoded bytes exceed the limit.
        """
        carry = self._carry
        if carry and len(carry) + len(text) < 4:
            self._carry += text
            return
        # Complete the group of four that the previous text began.
        at = 4 - len(carry) if carry else 0
        end = at + (len(text) - at & ~3)
        view = memoryview(text)
        state_before = self._decoded.tell(), self._ended
        try:
            if at:
                self._decode_groups(carry + text[:at])
            for start in range(at, end, DECODE_BYTES):
                self._decode_groups(view[start : min(start + DECODE_BYTES, end)])
        except ValueError:
            self._decoded.seek(state_before[0])
            self._decoded.truncate()
            self._ended = state_before[1]
            raise
        self._carry = text[end:]

    def _decode_groups(self, text: bytes | memoryview) -> None:
        if self._ended:
            raise ValueError("base64 continues after its padding")
        decoded = _decode(text)
        if self._decoded.tell() + len(decoded) > self._limit:
            raise BadResponseError(
                f"an image in the response is larger than the limit of {self._limit:,} bytes",
                code="IMAGE_TOO_LARGE",
            )
        self._ended = text[-1:] == b"="
        self._decoded.write(decoded)

    def close(self) -> bytes:
        """Return the decoded bytes.

        Raises ValueError if the text ended within a group of four characters.
        """
        if self._carry:
            raise ValueError("base64 is incomplete")
        # getvalue() shares the buffer; nothing is copied.
        return self._decoded.getvalue()

    def text(self) -> bytes:
        """Return the text written so far, encoded again.

        For text that turns out not to be an image.
        """
        return _encode(self._decoded.getvalue()) + self._carry
