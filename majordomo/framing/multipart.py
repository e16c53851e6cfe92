"""Streaming encoder for multipart/form-data (RFC 7578), which does not copy files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from majordomo.errors import InvalidRequestError

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class FormField:
    """One form field: text, or a file if it has a file name."""

    name: str
    """Printable, without quotes and backslashes."""
    data: bytes
    """The content."""
    filename: str = ""
    """The file name. Empty for a text field."""
    content_type: str = ""
    """The Content-Type of the field. Empty sends none."""


class MultipartBody:
    """A streaming body with these fields, in order.

    The boundary is a hash of all fields, so that the author of one field cannot predict it.
    """

    __slots__ = ("_segments", "content_type", "length")

    def __init__(self, fields: Sequence[FormField]) -> None:
        digest = hashlib.sha256()
        for field in fields:
            digest.update(b"%d %d " % (len(field.name), len(field.data)) + field.name.encode())
            digest.update(field.data)
        boundary = f"majordomo-{digest.hexdigest()[:40]}"
        self._segments: list[bytes] = []
        for field in fields:
            self._segments += [_encode_head(boundary, field), field.data, b"\r\n"]
        self._segments.append(f"--{boundary}--\r\n".encode())
        self.length: int = sum(map(len, self._segments))
        self.content_type: str = f"multipart/form-data; boundary={boundary}"

    def chunks(self) -> Iterator[bytes]:
        """Return an iterator over the encoded body."""
        for segment in self._segments:
            if len(segment) <= CHUNK_BYTES:
                yield segment
                continue
            view = memoryview(segment)
            for at in range(0, len(view), CHUNK_BYTES):
                yield bytes(view[at : at + CHUNK_BYTES])


def _encode_head(boundary: str, field: FormField) -> bytes:
    if not field.name.isprintable() or any(c in field.name + field.filename for c in '"\r\n\\'):
        raise InvalidRequestError(
            "the name of a form field must be printable, without quotes and backslashes",
            field="extra",
        )
    filename = f'; filename="{field.filename}"' if field.filename else ""
    content_type = f"Content-Type: {field.content_type}\r\n" if field.content_type else ""
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field.name}"{filename}\r\n'
        f"{content_type}\r\n"
    ).encode()
