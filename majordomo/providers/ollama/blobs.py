"""Files that a server keeps by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from majordomo.transport_types import StreamingBody

PIECE = 1 << 20


def digested(file: bytes | str | Path) -> tuple[bytes | StreamingBody, str]:
    """The body that a file is sent as, and its digest, `sha256:` and 64 hexadecimal digits. Reads the whole file."""
    body: bytes | _File = (
        file if isinstance(file, bytes) else _File(Path(file), Path(file).stat().st_size)
    )
    digest = hashlib.sha256()
    for piece in [body] if isinstance(body, bytes) else body.chunks():
        digest.update(piece)
    return body, f"sha256:{digest.hexdigest()}"


@dataclass(slots=True)
class _File:
    """A file as a body: read while it leaves."""

    path: Path
    length: int

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
