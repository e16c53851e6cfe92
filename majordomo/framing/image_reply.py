"""A JSON answer with images in it, taken apart while it arrives.

The text of an image is cut out where `"b64_json"` is followed by a string, and decoded at once; what stays is small JSON with a
number in the image's place. In valid JSON these bytes cannot be anything but that key: inside a string the quotes would be escaped.
Any surprise (an escape or white space within the text, no base64) puts the text back, and the whole is parsed as plain JSON.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

from majordomo.errors import BadResponseError
from majordomo.framing.base64 import Base64Sink
from majordomo.framing.json import decode_object

_OPENING = re.compile(
    rb'"b64_json"[ \t\r\n]{0,16}:[ \t\r\n]{0,16}"'
)  # with more white space the key is left to the plain parse
MAX_IMAGES = 1000  # far beyond any answer: a million of a byte each would cost more than they weigh
_KEPT_BACK = 64  # more than the longest opening, and the byte before it, which may be an escape


class ImageReplyDecoder:
    """`feed` bytes in any slicing, then `finish`: the parsed object, in which `b64_json` is an int index into `images`."""

    __slots__ = ("_depth", "_image_limit", "_kept", "_limit", "_open", "_seen", "_sink", "images")

    def __init__(self, *, limit: int, image_limit: int, depth: int = 64) -> None:
        self._limit = limit
        self._image_limit = image_limit
        self._depth = depth
        self._seen = 0
        self._kept = BytesIO()
        self._open = b""  # bytes outside an image, not yet searched through
        self._sink: Base64Sink | None = None
        self.images: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        """Raises BadResponseError beyond the limits."""
        self._seen += len(chunk)
        if self._seen > self._limit:
            raise BadResponseError(
                f"the answer is larger than the limit of {self._limit:,} bytes", code="TOO_LARGE"
            )
        while chunk:
            chunk = self._inside(chunk) if self._sink is not None else self._outside(chunk)

    def finish(self) -> dict[str, Any]:
        """The answer's object. Raises BadResponseError when it is none."""
        if self._sink is not None:
            self._put_back()
        self._kept.write(self._open)
        return decode_object(
            self._kept.getvalue(), self._depth
        )  # shares its buffer: nothing is copied

    def _outside(self, chunk: bytes) -> bytes:
        text = self._open + chunk if self._open else chunk
        found = _OPENING.search(text)
        if found is None:
            # The key may be cut by the end of the chunk: keep back as much as an opening can be long
            self._open = text[-_KEPT_BACK:]
            self._kept.write(text[:-_KEPT_BACK])
            return b""
        if text[max(0, found.start() - 1) : found.start()] == b"\\":
            self._kept.write(text[: found.end()])
            self._open = b""
            return text[found.end() :]
        self._kept.write(text[: found.end() - 1])
        self._open = b""
        self._sink = Base64Sink(self._image_limit)
        return text[found.end() :]

    def _inside(self, chunk: bytes) -> bytes:
        sink = self._sink
        assert sink is not None
        end = chunk.find(b'"')
        text = chunk if end < 0 else chunk[:end]
        try:
            sink.write(text)  # refuses an escape and white space as it refuses anything else
        except ValueError:
            self._put_back()
            return chunk
        if end < 0:
            return b""
        try:
            data = sink.close()
        except ValueError:
            self._put_back()
            return chunk[end:]
        self._sink = None
        if data:
            if len(self.images) >= MAX_IMAGES:
                raise BadResponseError(
                    f"the answer holds more than {MAX_IMAGES:,} images", code="TOO_MANY_VALUES"
                )
            self._kept.write(b"%d" % len(self.images))
            self.images.append(data)
        else:
            self._kept.write(b'""')
        return chunk[end + 1 :]

    def _put_back(self) -> None:
        """It was no plain image: its text goes back where it came from."""
        assert self._sink is not None
        self._kept.write(b'"' + self._sink.text())
        self._sink = None
