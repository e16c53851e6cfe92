"""Where one message ends and the next begins. It looks at one window of text, so that what comes later moves no cut made before."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from majordomo.bots.code_fences import Fence, opened_by
from majordomo.bots.graphemes import may_cut
from majordomo.errors import InvalidRequestError
from majordomo.validation import check_number

Count = Literal["characters", "utf16"]
LEAST = 16
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
# the ends of sentences, also where no space follows them: the ideographic and the full-width ones
_SENTENCE = re.compile(
    r"[.!?\u2026][\"'\u201d\u2019)\]*_]*\s+|[\u3002\uff01\uff1f][\u300d\u300f\uff09]*\s*"
)
_WORD = re.compile(r"\s+")
# what a place to cut is worth; a smaller number is better
_BLOCK, _LINE, _SENTENCE_END, _WORD_END = range(4)


@dataclass(frozen=True, slots=True)
class Measure:
    """How a platform counts the length of a text, and how much of it a message takes."""

    limit: int
    count: Count

    def __post_init__(self) -> None:
        check_number("limit", self.limit, LEAST, 10**9, whole=True)
        if self.count not in ("characters", "utf16"):
            raise InvalidRequestError('count is "characters" or "utf16"', field="count")

    def length(self, text: str) -> int:
        return len(text) + (
            len(_ASTRAL.findall(text)) if self.count == "utf16" and not text.isascii() else 0
        )

    def reach(self, text: str, start: int, room: int) -> int:
        """The furthest position to which `text` from `start` takes at most `room`."""
        end = min(len(text), start + room)
        while (over := self.length(text[start:end]) - room) > 0:
            end -= (over + 1) // 2
        return end


@dataclass(frozen=True, slots=True)
class TextPiece:
    """One message: `text[start:end]` of the whole, with a fence opened before and closed after it where it was cut within one.

    `fence` is what the next piece has to open again.
    """

    text: str
    start: int
    end: int
    fence: Fence | None = None


@dataclass(frozen=True, slots=True)
class _Cut:
    """A place to cut: what it is worth and which fence is open there."""

    at: int
    worth: int
    fence: Fence | None = None


def next_piece(text: str, start: int, fence: Fence | None, measure: Measure) -> TextPiece:
    """The piece that begins at `start`, within `fence` if one is open there. It reaches the end of the text when that fits."""
    if fence is not None and _begins_line(text, start) and not fence.holds(_line(text, start)):
        fence = None
    opening = fence.opening if fence is not None else ""
    window = _Window(text, start, measure, measure.limit - measure.length(opening))
    cut = window.cut(fence)
    return TextPiece(opening + text[start : cut.at] + _repair(text, cut), start, cut.at, cut.fence)


class _Window:
    """As much of the text as one message takes, and the places in it where a reader would not mind a cut."""

    def __init__(self, text: str, start: int, measure: Measure, room: int) -> None:
        self.text = text
        self.start = start
        self.end = measure.reach(text, start, room)
        self._measure = measure
        self._room = room
        self._cuts: list[_Cut] = []
        self._body = start  # where code begins, when the message begins with a fence

    def cut(self, fence: Fence | None) -> _Cut:
        fence = self._read(fence)
        if self._cuts and self._cuts[-1].at == len(self.text):
            return self._cuts[-1]
        half = self.start + (self.end - self.start) // 2
        for cuts in ([cut for cut in self._cuts if cut.at > half], self._cuts):
            if cuts:
                return min(reversed(cuts), key=lambda cut: cut.worth)  # the last of the best
        return self._hard(fence)

    def _read(self, fence: Fence | None) -> Fence | None:
        """Collect the cuts, line by line. Returns the fence that is open at the end of the window, as far as it began with this message."""
        text, at, ours = self.text, self.start, True
        whole = _begins_line(text, at)  # the rest of a line cut in two opens and closes nothing
        while at < self.end:
            line = _line(text, at)
            line_end = at + len(line)
            if fence is not None and whole and not fence.holds(line):
                fence, ours = None, True
                self._allow(at, _BLOCK)
            if fence is None:
                opened = self._opened(line) if whole else None
                if opened is not None and text[self.start : at].strip():
                    self._allow(
                        at, _BLOCK
                    )  # the code is kept whole if a message can hold it: it begins the next one
                    ours = False
                if opened is not None and line_end <= self.end:
                    fence, self._body = opened, line_end
                    if line_end == len(text):
                        self._allow(line_end, _BLOCK)  # nothing stands in it yet
                elif opened is None or ours:
                    self._outside(at, line, line_end)
            elif whole and fence.closed_by(line):
                self._allow(at + len(line.rstrip()), _BLOCK)  # its end alone may have no room
                self._allow(line_end, _BLOCK)
                fence, ours = None, True
            else:
                self._within(at, line_end, fence, ours)
            at, whole = line_end, True
        return fence if ours else None

    def _opened(self, line: str) -> Fence | None:
        """The fence a line opens, unless to close it and open it again would take more than half a message."""
        fence = opened_by(line)
        for made in (fence, fence.brief()) if fence is not None else ():
            if (
                made is not None
                and self._measure.length(made.opening + made.closing) < self._measure.limit // 2
            ):
                return made
        return None

    def _outside(self, at: int, line: str, line_end: int) -> None:
        if line_end > self.end:
            found = [
                _Cut(match.end(), _SENTENCE_END)
                for match in _SENTENCE.finditer(self.text, at, self.end)
            ]
            found += [
                _Cut(match.end(), _WORD_END) for match in _WORD.finditer(self.text, at, self.end)
            ]
            for cut in sorted(found, key=lambda cut: cut.at):
                self._allow(cut.at, cut.worth)
        self._allow(line_end, _LINE if line.strip() else _BLOCK)

    def _within(self, at: int, line_end: int, fence: Fence, ours: bool) -> None:
        if ours:
            if line_end > self.end or line_end == len(self.text):
                for match in _WORD.finditer(self.text, at, min(self.end, line_end)):
                    self._allow(match.end(), _WORD_END, fence)
            self._allow(line_end, _LINE, fence)
        elif line_end == len(self.text):
            self._allow(line_end, _LINE, fence)

    def _allow(self, at: int, worth: int, fence: Fence | None = None) -> None:
        if self.start < at <= self._last(fence) and may_cut(self.text, at):
            self._cuts.append(_Cut(at, worth, fence))

    def _last(self, fence: Fence | None) -> int:
        """The last place where a message may end that has to close this fence."""
        if fence is None:
            return self.end
        return self._measure.reach(
            self.text, self.start, self._room - self._measure.length(fence.closing) - 1
        )

    def _hard(self, fence: Fence | None) -> _Cut:
        """In the middle of a word; between two characters as a reader sees them, unless one alone fills the message."""
        last = self._last(fence)
        if fence is not None and last <= self._body:
            return self._hard(None)
        at = last
        while at > self._body and not may_cut(self.text, at):
            at -= 1
        return _Cut(at if at > self._body else max(last, self.start + 1), _WORD_END, fence)


def _line(text: str, at: int) -> str:
    """From `at` to the end of its line, the line feed included."""
    return text[at : text.find("\n", at) + 1 or len(text)]


def _begins_line(text: str, at: int) -> bool:
    return at == 0 or text[at - 1] == "\n"


def _repair(text: str, cut: _Cut) -> str:
    if cut.fence is None:
        return ""
    return cut.fence.closing if text[cut.at - 1] == "\n" else "\n" + cut.fence.closing
