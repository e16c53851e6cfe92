"""Decoder for a JSON response with images, which are extracted while it arrives.

The text of an image is cut out where `"b64_json"` is followed by a string, and decoded at once.
What remains is small JSON with a number in the position of each image. In valid JSON these bytes
can only be that key: within a string its quotes would be escaped. If anything is unexpected (an
escape or white space in the text, or invalid base64), the text is restored, and everything is
parsed as plain JSON.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

from majordomo.errors import BadResponseError
from majordomo.framing.base64 import Base64Sink
from majordomo.framing.json import decode_object

# With more white space than that, the key is left to the JSON parser.
_OPENING = re.compile(rb'"b64_json"[ \t\r\n]{0,16}:[ \t\r\n]{0,16}"')
# Far more than any response has. A million images of one byte each would take more memory than
# their size.
MAX_IMAGES = 1000
# More than the longest opening and the byte before it, which may be an escape.
_LOOKBEHIND_BYTES = 64


class ImageReplyDecoder:
    """Decodes a response from bytes in any slicing: call `feed`, then `finish`.

    In the resulting object, `b64_json` is an int index into `images`.
    """

    __slots__ = (
        "_depth",
        "_image_limit",
        "_json",
        "_limit",
        "_received",
        "_sink",
        "_unsearched",
        "images",
    )

    def __init__(self, *, limit: int, image_limit: int, depth: int = 64) -> None:
        self._limit = limit
        self._image_limit = image_limit
        self._depth = depth
        self._received = 0
        self._json = BytesIO()
        # Bytes outside an image that were not searched completely.
        self._unsearched = b""
        self._sink: Base64Sink | None = None
        self.images: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        """Decode the next bytes. Raises BadResponseError beyond the limits."""
        self._received += len(chunk)
        if self._received > self._limit:
            raise BadResponseError(
                f"the response is larger than the limit of {self._limit:,} bytes", code="TOO_LARGE"
            )
        while chunk:
            chunk = self._feed_image(chunk) if self._sink is not None else self._feed_json(chunk)

    def finish(self) -> dict[str, Any]:
        """Return the JSON object. Raises BadResponseError if the response is not one."""
        if self._sink is not None:
            self._restore_text()
        self._json.write(self._unsearched)
        # getvalue() shares the buffer; nothing is copied.
        return decode_object(self._json.getvalue(), self._depth)

    def _feed_json(self, chunk: bytes) -> bytes:
        """Search bytes outside an image; return what follows the beginning of an image."""
        text = self._unsearched + chunk if self._unsearched else chunk
        opening = _OPENING.search(text)
        if opening is None:
            # The end of the chunk may cut the key: keep as many bytes as an opening can have.
            self._unsearched = text[-_LOOKBEHIND_BYTES:]
            self._json.write(text[:-_LOOKBEHIND_BYTES])
            return b""
        if text[max(0, opening.start() - 1) : opening.start()] == b"\\":
            self._json.write(text[: opening.end()])
            self._unsearched = b""
            return text[opening.end() :]
        self._json.write(text[: opening.end() - 1])
        self._unsearched = b""
        self._sink = Base64Sink(self._image_limit)
        return text[opening.end() :]

    def _feed_image(self, chunk: bytes) -> bytes:
        """Decode bytes of an image; return what follows its end."""
        sink = self._sink
        assert sink is not None
        end = chunk.find(b'"')
        text = chunk if end < 0 else chunk[:end]
        try:
            # This refuses escapes and white space like any other invalid base64.
            sink.write(text)
        except ValueError:
            self._restore_text()
            return chunk
        if end < 0:
            return b""
        try:
            data = sink.close()
        except ValueError:
            self._restore_text()
            return chunk[end:]
        self._sink = None
        if data:
            if len(self.images) >= MAX_IMAGES:
                raise BadResponseError(
                    f"the response contains more than {MAX_IMAGES:,} images",
                    code="TOO_MANY_VALUES",
                )
            self._json.write(b"%d" % len(self.images))
            self.images.append(data)
        else:
            self._json.write(b'""')
        return chunk[end + 1 :]

    def _restore_text(self) -> None:
        """Put the text back into the JSON, because it is not a plain image."""
        assert self._sink is not None
        self._json.write(b'"' + self._sink.text())
        self._sink = None
