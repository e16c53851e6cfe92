"""base64 while it travels: images are encoded as they leave and decoded as they arrive, never held as text.

`pybase64` is used when it is installed. Both alphabets of base64 are read, the standard one is written.
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
    def _reader() -> Callable[[bytes], bytes]:
        """pydantic's decoder takes a third of binascii's time. It is loaded with the first image, see framing.json."""
        from pydantic_core import CoreConfig, SchemaValidator, core_schema

        return SchemaValidator(
            core_schema.bytes_schema(), CoreConfig(val_json_bytes="base64")
        ).validate_json

    def _decode(text: bytes | memoryview) -> bytes:
        quoted = b'"%b"' % bytes(text)
        if b"\\" in quoted:  # it reads a JSON string, whose escapes are not for it to resolve
            raise ValueError("an escape")
        return _reader()(quoted)

    _encode = partial(binascii.b2a_base64, newline=False)


CHUNK_BYTES = (
    384 * 1024
)  # a multiple of 3, so that pieces join without padding; 512 KiB when encoded: smaller ones cost a wait each

DECODED = (
    64 * 1024
)  # of text at once: a piece of network is larger, and is not to be held again beside itself


class Base64Body:
    """A body of JSON bytes with images between them, encoded while they leave. Its length is known before."""

    __slots__ = ("_segments", "length")

    def __init__(self, segments: Sequence[bytes | ImagePart | FilePart]) -> None:
        self._segments = segments
        self.length: int = sum(
            len(s) if isinstance(s, bytes) else (len(s.data) + 2) // 3 * 4 for s in segments
        )

    def chunks(self) -> Iterator[bytes]:
        for segment in self._segments:
            if isinstance(segment, bytes):
                if segment:
                    yield segment
                continue
            view = memoryview(segment.data)
            for at in range(0, len(view), CHUNK_BYTES):
                yield _encode(view[at : at + CHUNK_BYTES])


class Base64Sink:
    """base64 text in any slicing into bytes. White space is no part of it."""

    __slots__ = ("_carry", "_ended", "_held", "_limit")

    def __init__(self, limit: int) -> None:
        self._carry = b""
        self._ended = False
        self._held = BytesIO()
        self._limit = limit

    def write(self, text: bytes) -> None:
        """Raises ValueError for text that is no base64, and has then taken none of it; BadResponseError beyond the limit."""
        carry = self._carry
        if carry and len(carry) + len(text) < 4:
            self._carry += text
            return
        at = 4 - len(carry) if carry else 0  # what completes the group that the last piece began
        end = at + (len(text) - at & ~3)
        view = memoryview(text)
        before = self._held.tell(), self._ended
        try:
            if at:
                self._take(carry + text[:at])
            for start in range(at, end, DECODED):
                self._take(view[start : min(start + DECODED, end)])
        except ValueError:
            self._held.seek(before[0])
            self._held.truncate()
            self._ended = before[1]
            raise
        self._carry = text[end:]

    def _take(self, text: bytes | memoryview) -> None:
        if self._ended:
            raise ValueError("text after the padding")
        decoded = _decode(text)
        if self._held.tell() + len(decoded) > self._limit:
            raise BadResponseError(
                f"an image in the answer has more than {self._limit:,} bytes",
                code="IMAGE_TOO_LARGE",
            )
        self._ended = text[-1:] == b"="
        self._held.write(decoded)

    def close(self) -> bytes:
        """The bytes. Raises ValueError when the text ended within a group of four."""
        if self._carry:
            raise ValueError("incomplete base64")
        return self._held.getvalue()  # shares its buffer: nothing is copied

    def text(self) -> bytes:
        """The text written so far, made again; for when it turns out not to be what it seemed."""
        return _encode(self._held.getvalue()) + self._carry
