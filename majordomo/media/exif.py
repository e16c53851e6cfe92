"""The two things that matter here in a block of EXIF: which way is up, and the text in which programs store their settings.

Exif 2.3 over TIFF 6.0. Read with bounds and without trust: a broken block says nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_ORIENTATION, _EXIF_IFD, _USER_COMMENT = 0x0112, 0x8769, 0x9286
_BYTE, _ASCII, _SHORT, _LONG, _UNDEFINED = 1, 2, 3, 4, 7
_MOST_ENTRIES = 512
_TEXT_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Exif:
    """`orientation` is 1 (upright) to 8 as in TIFF 6.0, `comment` the UserComment ("" without one)."""

    orientation: int = 1
    comment: str = ""


def read_exif(block: bytes) -> Exif:
    """What a block (with or without its leading `Exif\\0\\0`) says; upright and silent when it is broken."""
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return Exif()
    orientation, comment = 1, ""
    try:
        for tag, kind, count, at in _entries(block, order, _long(block, order, 4)):
            if tag == _ORIENTATION and kind in (_SHORT, _LONG) and count == 1:
                orientation = int(
                    struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", block, at)[0]
                )
            elif tag == _EXIF_IFD:
                comment = _comment_in(block, order, _long(block, order, at))
    except struct.error:
        pass
    return Exif(orientation if 1 <= orientation <= 8 else 1, comment)


def write_exif(orientation: int = 1, comment: str = "") -> bytes:
    """A block with nothing but these two, without the leading `Exif\\0\\0`; b"" when there is nothing to say."""
    entries = []
    if orientation != 1:
        entries.append(struct.pack(">HHIHH", _ORIENTATION, _SHORT, 1, orientation, 0))
    if not comment:
        return b"MM\0*" + struct.pack(">IH", 8, 1) + entries[0] + bytes(4) if entries else b""
    inner = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries.append(struct.pack(">HHII", _EXIF_IFD, _LONG, 1, inner))
    text = b"UNICODE\0" + comment.encode("utf-16-be", "replace")  # as A1111 writes it
    head = b"MM\0*" + struct.pack(">IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return (
        head
        + struct.pack(">HHHII", 1, _USER_COMMENT, _UNDEFINED, len(text), inner + 18)
        + bytes(4)
        + text
    )


def _entries(block: bytes, order: str, at: int) -> Iterator[tuple[int, int, int, int]]:
    """(tag, type, count, where its four bytes stand) of one directory."""
    (number,) = struct.unpack_from(f"{order}H", block, at)
    for index in range(min(number, _MOST_ENTRIES)):
        entry = at + 2 + 12 * index
        yield *struct.unpack_from(f"{order}HHI", block, entry), entry + 8


def _long(block: bytes, order: str, at: int) -> int:
    return int(struct.unpack_from(f"{order}I", block, at)[0])


def _comment_in(block: bytes, order: str, directory: int) -> str:
    for tag, kind, count, at in _entries(block, order, directory):
        # it should be UNDEFINED; Pillow writes it as bytes
        if tag == _USER_COMMENT and kind in (_BYTE, _ASCII, _UNDEFINED) and count > 8:
            start = _long(block, order, at)
            return _text(block[start : start + min(count, _TEXT_LIMIT)])
    return ""


def _text(comment: bytes) -> str:
    """By the eight bytes that name the encoding (Exif 2.3, table 9). Writers disagree about the byte order of UNICODE, whatever the order
    of the file; of text with any ASCII in it, the zeros tell."""
    code, rest = comment[:8], comment[8:]
    if code != b"UNICODE\0":
        return (
            rest.decode("utf-8", "replace").strip("\0 ")
            if code in (b"ASCII\0\0\0", bytes(8))
            else ""
        )
    little = rest[1::2].count(0) > rest[::2].count(0)
    return (
        rest[: len(rest) // 2 * 2]
        .decode("utf-16-le" if little else "utf-16-be", "replace")
        .strip("\0\ufeff")
    )
