"""Read and write the orientation and the user comment of an EXIF block.

Programs such as A1111 store generation settings in the user comment. The format is Exif 2.3 over
TIFF 6.0. The block is untrusted input: reading is bounded, and a broken block reads as an upright
image without a comment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_ORIENTATION, _EXIF_IFD, _USER_COMMENT = 0x0112, 0x8769, 0x9286
_BYTE, _ASCII, _SHORT, _LONG, _UNDEFINED = 1, 2, 3, 4, 7
_MAX_ENTRIES = 512
_MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Exif:
    """The supported fields of an EXIF block."""

    orientation: int = 1
    """1 (upright) to 8, as in TIFF 6.0."""
    comment: str = ""
    """The UserComment; empty if there is none."""


def read_exif(block: bytes) -> Exif:
    r"""Parse an EXIF block, with or without its leading `Exif\0\0`.

    A broken block gives the default values.
    """
    block = block.removeprefix(b"Exif\0\0")
    byte_order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if byte_order is None:
        return Exif()
    orientation, comment = 1, ""
    try:
        for tag, kind, count, offset in _entries(block, byte_order, _long(block, byte_order, 4)):
            if tag == _ORIENTATION and kind in (_SHORT, _LONG) and count == 1:
                code = f"{byte_order}{'H' if kind == _SHORT else 'I'}"
                orientation = int(struct.unpack_from(code, block, offset)[0])
            elif tag == _EXIF_IFD:
                comment = _read_comment(block, byte_order, _long(block, byte_order, offset))
    except struct.error:
        pass
    return Exif(orientation if 1 <= orientation <= 8 else 1, comment)


def write_exif(orientation: int = 1, comment: str = "") -> bytes:
    r"""Return a block with only these two fields, without the leading `Exif\0\0`.

    The block is empty when the image is upright and there is no comment.
    """
    entries = []
    if orientation != 1:
        entries.append(struct.pack(">HHIHH", _ORIENTATION, _SHORT, 1, orientation, 0))
    if not comment:
        return b"MM\0*" + struct.pack(">IH", 8, 1) + entries[0] + bytes(4) if entries else b""
    exif_ifd_offset = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries.append(struct.pack(">HHII", _EXIF_IFD, _LONG, 1, exif_ifd_offset))
    # A1111 writes the comment in this encoding and byte order.
    text = b"UNICODE\0" + comment.encode("utf-16-be", "replace")
    head = b"MM\0*" + struct.pack(">IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return (
        head
        + struct.pack(">HHHII", 1, _USER_COMMENT, _UNDEFINED, len(text), exif_ifd_offset + 18)
        + bytes(4)
        + text
    )


def _entries(block: bytes, byte_order: str, directory: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (tag, type, count, offset of the four value bytes) of each entry of a directory."""
    (number,) = struct.unpack_from(f"{byte_order}H", block, directory)
    for index in range(min(number, _MAX_ENTRIES)):
        entry = directory + 2 + 12 * index
        yield *struct.unpack_from(f"{byte_order}HHI", block, entry), entry + 8


def _long(block: bytes, byte_order: str, offset: int) -> int:
    return int(struct.unpack_from(f"{byte_order}I", block, offset)[0])


def _read_comment(block: bytes, byte_order: str, directory: int) -> str:
    for tag, kind, count, offset in _entries(block, byte_order, directory):
        # The type should be UNDEFINED; Pillow writes BYTE.
        if tag == _USER_COMMENT and kind in (_BYTE, _ASCII, _UNDEFINED) and count > 8:
            start = _long(block, byte_order, offset)
            return _decode_comment(block[start : start + min(count, _MAX_TEXT_BYTES)])
    return ""


def _decode_comment(comment: bytes) -> str:
    """Decode a user comment by the eight bytes that name its encoding (Exif 2.3, table 9).

    Writers disagree about the byte order of UNICODE, whatever the byte order of the block. In text
    that contains ASCII characters, the position of the zero bytes shows it.
    """
    encoding, text = comment[:8], comment[8:]
    if encoding != b"UNICODE\0":
        return (
            text.decode("utf-8", "replace").strip("\0 ")
            if encoding in (b"ASCII\0\0\0", bytes(8))
            else ""
        )
    is_little_endian = text[1::2].count(0) > text[::2].count(0)
    return (
        text[: len(text) // 2 * 2]
        .decode("utf-16-le" if is_little_endian else "utf-16-be", "replace")
        .strip("\0\ufeff")
    )
