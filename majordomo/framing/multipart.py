"""multipart/form-data (RFC 7578), made while it leaves: nothing of a file is copied."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from majordomo.errors import InvalidRequestError

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class FormField:
    """One part: text, or a file when it has a file name."""

    name: str
    data: bytes
    filename: str = ""
    content_type: str = ""


class MultipartBody:
    """An upload of these parts, in order. The boundary follows from their bytes, so nobody who chose some of them can know it before."""

    __slots__ = ("_segments", "content_type", "length")

    def __init__(self, fields: Sequence[FormField]) -> None:
        digest = hashlib.sha256()
        for field in fields:
            digest.update(b"%d %d " % (len(field.name), len(field.data)) + field.name.encode())
            digest.update(field.data)
        boundary = f"majordomo-{digest.hexdigest()[:40]}"
        self._segments: list[bytes] = []
        for field in fields:
            self._segments += [_head(boundary, field), field.data, b"\r\n"]
        self._segments.append(f"--{boundary}--\r\n".encode())
        self.length: int = sum(map(len, self._segments))
        self.content_type: str = f"multipart/form-data; boundary={boundary}"

    def chunks(self) -> Iterator[bytes]:
        for segment in self._segments:
            if len(segment) <= CHUNK_BYTES:
                yield segment
                continue
            view = memoryview(segment)
            for at in range(0, len(view), CHUNK_BYTES):
                yield bytes(view[at : at + CHUNK_BYTES])


def _head(boundary: str, field: FormField) -> bytes:
    if not field.name.isprintable() or any(c in field.name + field.filename for c in '"\r\n\\'):
        raise InvalidRequestError(
            "a form field's name is printable and without quotes", field="extra"
        )
    file = f'; filename="{field.filename}"' if field.filename else ""
    kind = f"Content-Type: {field.content_type}\r\n" if field.content_type else ""
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{field.name}"{file}\r\n{kind}\r\n'.encode()
