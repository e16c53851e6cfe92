"""Encoding of response bodies in recordings.

Text is stored as readable lines, and images are stored as files beside it. Decoding gives the
exact bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from majordomo.testing.errors import RecordingError

IMAGES = "images"
MAX_LINE_CHARS = 200
# Base64 of PNG, JPEG, WebP, GIF and PDF, recognized by its first characters. The length excludes
# text that only mentions the characters.
_BASE64_IMAGE = re.compile(
    r"(?<![A-Za-z0-9+/])(?:iVBORw0KGgo|/9j/|UklGR|R0lGOD|JVBERi0)[A-Za-z0-9+/]{40,}={0,2}"
)
_MAGIC = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"RIFF", "webp"),
    (b"GIF8", "gif"),
    (b"%PDF", "pdf"),
)
_LINE_BREAKS = re.compile(r'(?<=\n)|(?<=,)(?=\s*")|(?<=\{)(?=\s*")')
AddImage = Callable[[bytes], str]
"""Stores an image and returns its file name."""


class ImageStore:
    """Images of one exchange by file name; equal images have the same name."""

    def __init__(self) -> None:
        self.images_by_name: dict[str, bytes] = {}

    def add(self, data: bytes) -> str:
        """Add an image and return its file name, which is the hash of its content."""
        suffix = next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), "bin")
        name = f"{hashlib.sha256(data).hexdigest()}.{suffix}"
        self.images_by_name[name] = data
        return name


def encode_body(data: bytes, add_image: AddImage) -> list[Any]:
    """Encode a body as a list of JSON values.

    Returns:
        Strings for text, {"base64": file} for an image in base64, and {"file": file} for a body
        that is not text.
    """
    if not data:
        return []
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return [{"file": add_image(data)}]
    items: list[Any] = []
    start = 0
    for match in _BASE64_IMAGE.finditer(text):
        image = decode_image(match[0])
        if image is not None:
            items += [*split_text(text[start : match.start()]), {"base64": add_image(image)}]
            start = match.end()
    return [*items, *split_text(text[start:])]


def decode_body(items: Sequence[Any], read_image: Callable[[str], bytes]) -> bytes:
    """Return the exact bytes that `encode_body` encoded.

    Raises:
        RecordingError: An item is not one that `encode_body` returns.
    """
    parts: list[bytes] = []
    for item in items:
        match item:
            case str():
                parts.append(item.encode())
            case {"base64": str(name)}:
                parts.append(base64.b64encode(read_image(name)))
            case {"file": str(name)}:
                parts.append(read_image(name))
            case _:
                raise RecordingError(
                    'items of body must be text, {"base64": ...} or {"file": ...}; '
                    f"got {type(item).__name__}"
                )
    return b"".join(parts)


def replace_images(text: str, add_image: AddImage) -> str:
    """Replace each base64 image in the text of a request with "<images/NAME>"."""

    def replace(match: re.Match[str]) -> str:
        image = decode_image(match[0])
        return match[0] if image is None else f"<{IMAGES}/{add_image(image)}>"

    return _BASE64_IMAGE.sub(replace, text)


def decode_image(text: str) -> bytes | None:
    """Decode base64; None when encoding the bytes again would give another text."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return data if base64.b64encode(data).decode() == text else None


def split_text(text: str) -> list[str]:
    """Split text into lines, and lines of more than 200 characters between JSON members too.

    The parts joined are the text.
    """
    parts: list[str] = []
    for line in text.splitlines(keepends=True):
        if len(line) > MAX_LINE_CHARS:
            parts += [part for part in _LINE_BREAKS.split(line) if part]
        else:
            parts.append(line)
    return parts


def redact_chunks(chunks: Sequence[bytes], redact: Callable[[str], str]) -> tuple[bytes, list[int]]:
    """Redact a body that arrived in chunks.

    A secret may span several chunks, so the entire body is redacted. Where that changes its
    length, the chunk boundaries stay as close to the original ones as possible.

    Returns:
        The redacted body and the lengths of its chunks.
    """
    body = b"".join(chunks)
    redacted = _redact_bytes(body, redact)
    if redacted == body:
        return body, [len(chunk) for chunk in chunks]
    lengths: list[int] = []
    position = previous_end = 0
    for chunk in chunks:
        position += len(chunk)
        end = (
            len(redacted)
            if position == len(body)
            else max(previous_end, min(len(_redact_bytes(body[:position], redact)), len(redacted)))
        )
        lengths.append(end - previous_end)
        previous_end = end
    return redacted, [length for length in lengths if length]


def _redact_bytes(data: bytes, redact: Callable[[str], str]) -> bytes:
    return redact(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def split_body(body: bytes, lengths: Iterable[int]) -> list[bytes]:
    """Split the body into chunks of these lengths."""
    chunks: list[bytes] = []
    position = 0
    for length in lengths:
        chunks.append(body[position : position + length])
        position += length
    return chunks


def check_images(images: Mapping[str, bytes], redact: Callable[[str], str]) -> None:
    """Check that no image contains a secret; removing it would break the image.

    Raises:
        RecordingError: The bytes of an image contain a secret (SECRET_IN_IMAGE).
    """
    for name, data in images.items():
        if _redact_bytes(data, redact) != data:
            raise RecordingError(
                f"the image {name} contains a secret, so the exchange is not recorded",
                code="SECRET_IN_IMAGE",
            )
