"""An answer's bytes as a recording keeps them: text in lines that can be read, images as files beside it. Both ways exact."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from majordomo.testing.errors import RecordingError

IMAGES = "images"
LONG_LINE = 200
# Base64 of PNG, JPEG, WebP, GIF and PDF by its first characters, when it is no mere mention of one
_RUN = re.compile(
    r"(?<![A-Za-z0-9+/])(?:iVBORw0KGgo|/9j/|UklGR|R0lGOD|JVBERi0)[A-Za-z0-9+/]{40,}={0,2}"
)
_MAGIC = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"RIFF", "webp"),
    (b"GIF8", "gif"),
    (b"%PDF", "pdf"),
)
_CUTS = re.compile(r'(?<=\n)|(?<=,)(?=\s*")|(?<=\{)(?=\s*")')
Keep = Callable[[bytes], str]


class Files:
    """Images met on the way, by the name they will have: that of their content, so that each is there once."""

    def __init__(self) -> None:
        self.met: dict[str, bytes] = {}

    def keep(self, data: bytes) -> str:
        kind = next((kind for magic, kind in _MAGIC if data.startswith(magic)), "bin")
        name = f"{hashlib.sha256(data).hexdigest()}.{kind}"
        self.met[name] = data
        return name


def encode_body(data: bytes, keep: Keep) -> list[Any]:
    """`data` in pieces: text as it is, {"base64": file} for an image in base64, {"file": file} for bytes that are no text."""
    if not data:
        return []
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return [{"file": keep(data)}]
    pieces: list[Any] = []
    at = 0
    for run in _RUN.finditer(text):
        decoded = image_in(run[0])
        if decoded is not None:
            pieces += [*lines(text[at : run.start()]), {"base64": keep(decoded)}]
            at = run.end()
    return [*pieces, *lines(text[at:])]


def decode_body(pieces: Sequence[Any], read: Callable[[str], bytes]) -> bytes:
    """The exact bytes again. Raises RecordingError for pieces that `fold` does not make."""
    made: list[bytes] = []
    for piece in pieces:
        match piece:
            case str():
                made.append(piece.encode())
            case {"base64": str(name)}:
                made.append(base64.b64encode(read(name)))
            case {"file": str(name)}:
                made.append(read(name))
            case _:
                raise RecordingError("a recorded body holds what nobody recorded")
    return b"".join(made)


def named(text: str, keep: Keep) -> str:
    """The text with the name of a file in place of each image: what a request is compared by."""

    def name(run: re.Match[str]) -> str:
        decoded = image_in(run[0])
        return run[0] if decoded is None else f"<{IMAGES}/{keep(decoded)}>"

    return _RUN.sub(name, text)


def image_in(run: str) -> bytes | None:
    """What the base64 says; None when it would not come back to the same text."""
    try:
        decoded = base64.b64decode(run, validate=True)
    except binascii.Error:
        return None
    return decoded if base64.b64encode(decoded).decode() == run else None


def lines(text: str) -> list[str]:
    """The text cut after its line ends; a long line also between the members of its JSON. Joined, they are the text."""
    cut: list[str] = []
    for line in text.splitlines(keepends=True):
        cut += [part for part in _CUTS.split(line) if part] if len(line) > LONG_LINE else [line]
    return cut


def hidden_body(pieces: Sequence[bytes], redact: Callable[[str], str]) -> tuple[bytes, list[int]]:
    """The body without secrets and the lengths of its pieces. A secret may lie across pieces, so the whole is looked at; where something
    was taken out, the cuts stay as near as they can."""
    body = b"".join(pieces)
    clean = _hidden(body, redact)
    if clean == body:
        return body, [len(piece) for piece in pieces]
    lengths: list[int] = []
    at = before = 0
    for piece in pieces:
        at += len(piece)
        end = (
            len(clean)
            if at == len(body)
            else max(before, min(len(_hidden(body[:at], redact)), len(clean)))
        )
        lengths.append(end - before)
        before = end
    return clean, [length for length in lengths if length]


def _hidden(data: bytes, redact: Callable[[str], str]) -> bytes:
    return redact(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def cut(body: bytes, lengths: Iterable[int]) -> list[bytes]:
    """The body in pieces of these lengths."""
    pieces: list[bytes] = []
    at = 0
    for length in lengths:
        pieces.append(body[at : at + length])
        at += length
    return pieces


def check_clean(files: Mapping[str, bytes], redact: Callable[[str], str]) -> None:
    """Raise RecordingError when an image's own bytes hold a secret: it cannot be taken out without breaking the image."""
    for name, data in files.items():
        if _hidden(data, redact) != data:
            raise RecordingError(
                f"the file {name} holds a secret and is not recorded", code="SECRET_IN_IMAGE"
            )
