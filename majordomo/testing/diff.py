"""Why a request was not found: how it differs from the recorded one that is most like it."""

from __future__ import annotations

import difflib
import re
import zlib
from collections.abc import Sequence

from majordomo.testing.exchange import Exchange
from majordomo.testing.request_matching import RecordedRequest

WIDTH = 160
LINES = 60
LOOKED_AT = 600  # lines of each request
_WORDS = re.compile(rf"\S{{1,{WIDTH}}}\s*|\s+")


def difference(asked: RecordedRequest, kept: Sequence[Exchange]) -> str:
    """A unified diff of at most 60 lines from the nearest recorded request to this one."""
    ours = _lines(asked)

    def likeness(exchange: Exchange) -> tuple[bool, float]:
        other = exchange.request
        matcher = difflib.SequenceMatcher(None, _lines(other), ours, autojunk=False)
        return (other.method, other.path) == (asked.method, asked.path), matcher.ratio()

    nearest = max(kept, key=likeness)
    diff = list(
        difflib.unified_diff(
            _lines(nearest.request),
            ours,
            f"recorded: {nearest.name}",
            "asked now",
            lineterm="",
            n=2,
        )
    )
    if len(diff) > LINES:
        diff = [*diff[:LINES], f"… and {len(diff) - LINES} lines more"]
    return "\n".join(diff)


def _lines(asked: RecordedRequest) -> list[str]:
    """The canonical request, its long lines folded so that a change deep in a text is a short line too."""
    lines: list[str] = []
    for line in asked.shown.splitlines():
        lines += _folded(line) if len(line) > WIDTH else [line]
        if len(lines) > LOOKED_AT:
            return lines[:LOOKED_AT]
    return lines


def _folded(line: str) -> list[str]:
    """Cut after words that the words themselves choose (about each twelfth), so that one more word does not move all cuts behind it."""
    pieces: list[str] = []
    piece = ""
    for word in _WORDS.findall(line):
        piece += word
        if zlib.crc32(word.encode()) % 12 == 0 or len(piece) > WIDTH:
            pieces.append(piece)
            piece = ""
    return [*pieces, piece] if piece else pieces
