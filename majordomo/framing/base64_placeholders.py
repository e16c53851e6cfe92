"""Images within JSON, put in while the body leaves: base64 needs no escaping, so it can be spliced between pieces of finished JSON."""

from __future__ import annotations

import re

from majordomo.errors import InvalidRequestError
from majordomo.llm.parts import FilePart
from majordomo.media.image_part import ImagePart

# Encoded JSON holds this only where we put it: NUL is refused in every text of a request, and a look-alike fails the count
_MARK = re.compile(rb"\\u0000splice:(\d+)\\u0000")


class _Splice:
    """Stands in a body where an image's text belongs. No type that JSON knows, so the encoder asks for its replacement."""

    __slots__ = ("bare", "part")

    def __init__(self, part: ImagePart | FilePart, bare: bool) -> None:
        self.part = part
        self.bare = bare


class Splices:
    """The images of one body, in the order the encoder meets them."""

    __slots__ = ("_made", "_met")

    def __init__(self) -> None:
        self._made = 0
        self._met: list[_Splice] = []

    def __bool__(self) -> bool:
        return self._made > 0

    def data_url(self, part: ImagePart | FilePart) -> object:
        """What to put into the body instead of `part.to_data_url()`."""
        self._made += 1
        return _Splice(part, False)

    def base64(self, part: ImagePart | FilePart) -> object:
        """What to put into the body instead of `part.to_base64()`."""
        self._made += 1
        return _Splice(part, True)

    def fallback(self, value: object) -> str:
        """For the JSON encoder: what to write for a value it does not know."""
        if not isinstance(value, _Splice):
            raise InvalidRequestError(
                f"the request holds a {type(value).__name__}, which JSON cannot", field="extra"
            )
        self._met.append(value)
        return f"\0splice:{len(self._met) - 1}\0"

    def cut(self, encoded: bytes) -> list[bytes | ImagePart | FilePart]:
        """The encoded body in pieces, each image in its place."""
        pieces = _MARK.split(encoded)
        if pieces[1::2] != [b"%d" % number for number in range(len(self._met))]:
            raise InvalidRequestError(
                "the request's text imitates a mark of the encoder", field="extra"
            )
        segments: list[bytes | ImagePart | FilePart] = []
        for before, splice in zip(pieces[0::2], self._met, strict=False):
            segments += [
                before if splice.bare else before + f"data:{splice.part.mime};base64,".encode(),
                splice.part,
            ]
        return [*segments, pieces[-1]]
