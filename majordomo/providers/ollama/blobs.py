"""Files that an Ollama server stores by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from majordomo.transport_types import StreamingBody

CHUNK_BYTES = 1 << 20


def body_and_digest(file: bytes | str | Path) -> tuple[bytes | StreamingBody, str]:
    """Return the request body for a file, and its digest (`sha256:` and 64 hexadecimal digits).

    Reads the whole file.
    """
    body: bytes | _File = (
        file if isinstance(file, bytes) else _File(Path(file), Path(file).stat().st_size)
    )
    digest = hashlib.sha256()
    for chunk in [body] if isinstance(body, bytes) else body.chunks():
        digest.update(chunk)
    return body, f"sha256:{digest.hexdigest()}"


@dataclass(slots=True)
class _File:
    """A request body that is read from a file while it is sent."""

    path: Path
    length: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the contents."""
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
