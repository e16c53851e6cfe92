"""The difference between a request that was not recorded and the most similar recorded one."""

from __future__ import annotations

import difflib
import re
import zlib
from collections.abc import Sequence

from majordomo.testing.exchange import Exchange
from majordomo.testing.request_matching import RecordedRequest

MAX_LINE_CHARS = 160
MAX_DIFF_LINES = 60
MAX_COMPARED_LINES = 600
_WORDS = re.compile(rf"\S{{1,{MAX_LINE_CHARS}}}\s*|\s+")


def difference(request: RecordedRequest, exchanges: Sequence[Exchange]) -> str:
    """Return a unified diff, of at most 60 lines, from the nearest recorded request."""
    request_lines = _lines(request)

    def similarity(exchange: Exchange) -> tuple[bool, float]:
        recorded = exchange.request
        matcher = difflib.SequenceMatcher(None, _lines(recorded), request_lines, autojunk=False)
        same_target = (recorded.method, recorded.path) == (request.method, request.path)
        return same_target, matcher.ratio()

    nearest = max(exchanges, key=similarity)
    diff = list(
        difflib.unified_diff(
            _lines(nearest.request),
            request_lines,
            f"recorded: {nearest.name}",
            "requested now",
            lineterm="",
            n=2,
        )
    )
    if len(diff) > MAX_DIFF_LINES:
        diff = [*diff[:MAX_DIFF_LINES], f"… and {len(diff) - MAX_DIFF_LINES} more lines"]
    return "\n".join(diff)


def _lines(request: RecordedRequest) -> list[str]:
    """Return the first 600 lines of a request, with long lines folded.

    Folding makes a change inside a long text visible as a change of one short line.
    """
    lines: list[str] = []
    for line in request.display_text.splitlines():
        lines += _fold_line(line) if len(line) > MAX_LINE_CHARS else [line]
        if len(lines) > MAX_COMPARED_LINES:
            return lines[:MAX_COMPARED_LINES]
    return lines


def _fold_line(line: str) -> list[str]:
    """Break a long line after words selected by their own hash (about one in twelve).

    An inserted word therefore does not move the breaks behind it.
    """
    folded_lines: list[str] = []
    folded = ""
    for word in _WORDS.findall(line):
        folded += word
        if zlib.crc32(word.encode()) % 12 == 0 or len(folded) > MAX_LINE_CHARS:
            folded_lines.append(folded)
            folded = ""
    return [*folded_lines, folded] if folded else folded_lines
