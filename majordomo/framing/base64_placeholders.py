"""Placeholders for images in a JSON body, replaced by base64 while the body is sent.

base64 needs no escaping in JSON, so it can be inserted between parts of finished JSON.
"""

from __future__ import annotations

import re

from majordomo.errors import InvalidRequestError
from majordomo.llm.parts import FilePart
from majordomo.media.image_part import ImagePart

# Encoded JSON contains this only where it was inserted: NUL is refused in every text of a request,
# and an imitation fails the count.
_MARK = re.compile(rb"\\u0000placeholder:(\d+)\\u0000")


class _Placeholder:
    """An image in a JSON document.

    JSON does not know this type, so the encoder calls `Base64Placeholders.encode_placeholder` for
    its replacement.
    """

    __slots__ = ("bare", "part")

    def __init__(self, part: ImagePart | FilePart, bare: bool) -> None:
        self.part = part
        # Whether to write plain base64 instead of a data URL.
        self.bare = bare


class Base64Placeholders:
    """The images of one body, in the order in which the JSON encoder encounters them."""

    __slots__ = ("_count", "_encountered")

    def __init__(self) -> None:
        self._count = 0
        self._encountered: list[_Placeholder] = []

    def __bool__(self) -> bool:
        return self._count > 0

    def data_url(self, part: ImagePart | FilePart) -> object:
        """Return the placeholder to put into the document instead of `part.to_data_url()`."""
        self._count += 1
        return _Placeholder(part, False)

    def base64(self, part: ImagePart | FilePart) -> object:
        """Return the placeholder to put into the document instead of `part.to_base64()`."""
        self._count += 1
        return _Placeholder(part, True)

    def encode_placeholder(self, value: object) -> str:
        """Return what the JSON encoder writes for a value of a type that it does not know.

        Raises InvalidRequestError (field `extra`) for anything but a placeholder.
        """
        if not isinstance(value, _Placeholder):
            raise InvalidRequestError(
                f"the request contains a {type(value).__name__}, which cannot be encoded as JSON",
                field="extra",
            )
        self._encountered.append(value)
        return f"\0placeholder:{len(self._encountered) - 1}\0"

    def split(self, encoded: bytes) -> list[bytes | ImagePart | FilePart]:
        """Return the encoded body in segments, with each image in its position.

        Raises InvalidRequestError (field `extra`) if a text of the request imitates a placeholder.
        """
        parts = _MARK.split(encoded)
        if parts[1::2] != [b"%d" % number for number in range(len(self._encountered))]:
            raise InvalidRequestError(
                "the request contains text that imitates a placeholder of the JSON encoder",
                field="extra",
            )
        segments: list[bytes | ImagePart | FilePart] = []
        for before, placeholder in zip(parts[0::2], self._encountered, strict=False):
            segments += [
                before
                if placeholder.bare
                else before + f"data:{placeholder.part.mime};base64,".encode(),
                placeholder.part,
            ]
        return [*segments, parts[-1]]
