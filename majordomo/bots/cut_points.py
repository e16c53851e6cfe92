"""Where one message ends and the next begins.

Theory of operation
-------------------
`next_piece` looks at one window of the text: as much as fits into one message. So its result does
not depend on later text, and the work per message is bounded by the message limit.

The window is read line by line. Each place where a reader would accept a cut is recorded with a
rank: between blocks, lines, sentences, words. The best rank in the second half of the window wins,
and the last place of that rank; if the second half has none, the whole window is considered; if
there is no place at all, the text is cut inside a word, but never inside a character as a reader
sees it.

The reader tracks the open code fence:
* A fence that began in this message may be cut at its lines. The message then closes it, and the
  next one opens it again.
* A fence that begins after other text is not cut if possible: the message ends before it, so that
  the fence begins the next message as a whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from majordomo.bots.code_fences import Fence, opened_by
from majordomo.bots.graphemes import may_cut
from majordomo.errors import InvalidRequestError
from majordomo.validation import check_number

Count = Literal["characters", "utf16"]
MIN_LIMIT = 16
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
# Ends of sentences. No space needs to follow ideographic and full-width punctuation.
_SENTENCE = re.compile(
    r"[.!?\u2026][\"'\u201d\u2019)\]*_]*\s+|[\u3002\uff01\uff1f][\u300d\u300f\uff09]*\s*"
)
_WORD = re.compile(r"\s+")
# The ranks of cuts; a smaller number is better.
_BLOCK, _LINE, _SENTENCE_END, _WORD_END = range(4)


@dataclass(frozen=True, slots=True)
class Measure:
    """How a platform counts the length of a text, and the maximum length of a message."""

    limit: int
    """The maximum length of a message, 16 or more."""
    count: Count
    """The unit: "characters" (code points) or "utf16" (code units)."""

    def __post_init__(self) -> None:
        check_number("limit", self.limit, MIN_LIMIT, 10**9, integer=True)
        if self.count not in ("characters", "utf16"):
            raise InvalidRequestError(
                f'count must be "characters" or "utf16"; got {self.count!r}', field="count"
            )

    def length(self, text: str) -> int:
        """Return the length of a text as the platform counts it."""
        return len(text) + (
            len(_ASTRAL.findall(text)) if self.count == "utf16" and not text.isascii() else 0
        )

    def reach(self, text: str, start: int, max_length: int) -> int:
        """Return the last position such that the text from `start` fits into `max_length`."""
        end = min(len(text), start + max_length)
        while (excess := self.length(text[start:end]) - max_length) > 0:
            end -= (excess + 1) // 2
        return end


@dataclass(frozen=True, slots=True)
class TextPiece:
    """One message of a longer text."""

    text: str
    """The text of the message.

    It is `text[start:end]` of the whole text. If that was cut inside a code fence, the fence is
    opened before it and closed after it.
    """
    start: int
    """The position of its first character in the whole text."""
    end: int
    """The position after its last character in the whole text."""
    fence: Fence | None = None
    """The fence that the next piece has to open again; None for none."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """A place to cut, its rank, and the fence that is open there."""

    at: int
    rank: int
    fence: Fence | None = None


def next_piece(text: str, start: int, fence: Fence | None, measure: Measure) -> TextPiece:
    """Return the piece that begins at `start`, inside `fence` if one is open there.

    It extends to the end of the text if that fits.
    """
    if fence is not None and _begins_line(text, start) and not fence.holds(_line_at(text, start)):
        fence = None
    opening = fence.opening if fence is not None else ""
    window = _Window(text, start, measure, measure.limit - measure.length(opening))
    cut = window.find_cut(fence)
    body = opening + text[start : cut.at] + _closing(text, cut)
    return TextPiece(body, start, cut.at, cut.fence)


class _Window:
    """The part of the text that fits into one message, and the places where it may be cut."""

    def __init__(self, text: str, start: int, measure: Measure, max_length: int) -> None:
        self.text = text
        self.start = start
        self.end = measure.reach(text, start, max_length)
        self._measure = measure
        self._max_length = max_length
        self._cuts: list[_Cut] = []
        # Where code begins, when the message begins with a fence.
        self._code_start = start

    def find_cut(self, fence: Fence | None) -> _Cut:
        """Return the best cut."""
        fence = self._collect_cuts(fence)
        if self._cuts and self._cuts[-1].at == len(self.text):
            return self._cuts[-1]
        half = self.start + (self.end - self.start) // 2
        for cuts in ([cut for cut in self._cuts if cut.at > half], self._cuts):
            if cuts:
                # Of the cuts with the best rank, the last one.
                return min(reversed(cuts), key=lambda cut: cut.rank)
        return self._cut_inside_word(fence)

    def _collect_cuts(self, fence: Fence | None) -> Fence | None:
        """Collect the cuts, line by line.

        Returns the fence that is open at the end of the window, if it began with this message.
        """
        text, at = self.text, self.start
        # Whether the open fence began with this message.
        began_here = True
        # The rest of a line that was cut in two opens and closes nothing.
        complete_line = _begins_line(text, at)
        while at < self.end:
            line = _line_at(text, at)
            line_end = at + len(line)
            if fence is not None and complete_line and not fence.holds(line):
                fence, began_here = None, True
                self._allow(at, _BLOCK)
            if fence is None:
                opened = self._opened_fence(line) if complete_line else None
                if opened is not None and text[self.start : at].strip():
                    # The code is kept together if a message can hold it: it begins the next one.
                    self._allow(at, _BLOCK)
                    began_here = False
                if opened is not None and line_end <= self.end:
                    fence, self._code_start = opened, line_end
                    if line_end == len(text):
                        # The fence is still empty.
                        self._allow(line_end, _BLOCK)
                elif opened is None or began_here:
                    self._cuts_outside_fence(at, line, line_end)
            elif complete_line and fence.closed_by(line):
                # The line break after the closing mark may not fit.
                self._allow(at + len(line.rstrip()), _BLOCK)
                self._allow(line_end, _BLOCK)
                fence, began_here = None, True
            else:
                self._cuts_inside_fence(at, line_end, fence, began_here)
            at, complete_line = line_end, True
        return fence if began_here else None

    def _opened_fence(self, line: str) -> Fence | None:
        """Return the fence that a line opens.

        None if closing it and opening it again would take more than half a message.
        """
        fence = opened_by(line)
        if fence is None:
            return None
        for candidate in (fence, fence.brief()):
            length = self._measure.length(candidate.opening + candidate.closing)
            if length < self._measure.limit // 2:
                return candidate
        return None

    def _cuts_outside_fence(self, at: int, line: str, line_end: int) -> None:
        if line_end > self.end:
            cuts = [
                _Cut(match.end(), _SENTENCE_END)
                for match in _SENTENCE.finditer(self.text, at, self.end)
            ]
            cuts += [
                _Cut(match.end(), _WORD_END) for match in _WORD.finditer(self.text, at, self.end)
            ]
            for cut in sorted(cuts, key=lambda cut: cut.at):
                self._allow(cut.at, cut.rank)
        self._allow(line_end, _LINE if line.strip() else _BLOCK)

    def _cuts_inside_fence(self, at: int, line_end: int, fence: Fence, began_here: bool) -> None:
        if began_here:
            if line_end > self.end or line_end == len(self.text):
                for match in _WORD.finditer(self.text, at, min(self.end, line_end)):
                    self._allow(match.end(), _WORD_END, fence)
            self._allow(line_end, _LINE, fence)
        elif line_end == len(self.text):
            self._allow(line_end, _LINE, fence)

    def _allow(self, at: int, rank: int, fence: Fence | None = None) -> None:
        """Record a cut, if the message up to it fits and no character is cut."""
        if self.start < at <= self._last_position(fence) and may_cut(self.text, at):
            self._cuts.append(_Cut(at, rank, fence))

    def _last_position(self, fence: Fence | None) -> int:
        """Return the last position at which a message that has to close this fence may end."""
        if fence is None:
            return self.end
        return self._measure.reach(
            self.text, self.start, self._max_length - self._measure.length(fence.closing) - 1
        )

    def _cut_inside_word(self, fence: Fence | None) -> _Cut:
        """Return a cut between two characters as a reader sees them.

        A single one that fills the whole message is cut as well.
        """
        last = self._last_position(fence)
        if fence is not None and last <= self._code_start:
            return self._cut_inside_word(None)
        at = last
        while at > self._code_start and not may_cut(self.text, at):
            at -= 1
        position = at if at > self._code_start else max(last, self.start + 1)
        return _Cut(position, _WORD_END, fence)


def _line_at(text: str, at: int) -> str:
    """Return the text from `at` to the end of its line, including the line feed."""
    return text[at : text.find("\n", at) + 1 or len(text)]


def _begins_line(text: str, at: int) -> bool:
    return at == 0 or text[at - 1] == "\n"


def _closing(text: str, cut: _Cut) -> str:
    """Return what closes the fence that is open at the cut."""
    if cut.fence is None:
        return ""
    return cut.fence.closing if text[cut.at - 1] == "\n" else "\n" + cut.fence.closing
