"""Long texts as messages: all at once, and while they grow."""

from __future__ import annotations

from dataclasses import dataclass

from majordomo.bots.code_fences import Fence
from majordomo.bots.cut_points import Count, Measure, TextPiece, next_piece
from majordomo.errors import InvalidRequestError


def split(text: str, limit: int = 2000, *, count: Count = "characters") -> list[str]:
    """`text` as messages of at most `limit` each; [] when there is nothing to see in it.

    Cut between paragraphs, code blocks, lines, sentences, words, whatever comes first in this order and fills half a message or more. A
    code block that fits into one message is not cut; a longer one is closed in the one message and opened again, with its language, in the
    next. Characters as a reader sees them stay whole. Put together again, without the fences that were added, the messages give the
    text back; a message of white space alone is left out.

    `count` is what the platform counts: "characters" (code points) or "utf16" (an emoji is 2). Raises InvalidRequestError (field `limit`)
    for a limit below 16.
    """
    return [piece.text for piece in pieces(text, limit, count=count) if piece.text.strip()]


def pieces(text: str, limit: int = 2000, *, count: Count = "characters") -> list[TextPiece]:
    """The same with the places: `text[piece.start:piece.end]` is what each one holds of it. Those of white space alone are among them."""
    measure = Measure(limit, count)
    _check(text)
    found: list[TextPiece] = []
    start, fence = 0, None
    while start < len(text):
        found.append(next_piece(text, start, fence, measure))
        start, fence = found[-1].end, found[-1].fence
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """What to do with message number `index` (from 0): send it with `text` when `new`, edit it to `text`, or delete it when `text` is
    ""."""

    index: int
    text: str
    new: bool = False


class Splitter:
    """A text that grows, as messages: `update(text so far)` says which ones to send and which to edit.

    As long as the text only grows, a message that another one follows is never touched again, and each update costs as much as one
    message, however long the text is. A text that does not begin as before (an answer in place of "loading") is split anew.
    """

    def __init__(self, limit: int = 2000, *, count: Count = "characters") -> None:
        self._measure = Measure(limit, count)
        self._settled = ""  # the text of the messages that have a successor
        self._fence: Fence | None = None
        self._before: list[str] = []  # those messages
        self._shown: list[str] = []  # every message as the platform has it

    @property
    def messages(self) -> tuple[str, ...]:
        """What all messages should say by now."""
        return tuple(self._shown)

    def update(self, text: str) -> list[Change]:
        """What changes when the whole text so far is `text`: edits first, then new messages or deletions, from the last one on."""
        _check(text)
        if not text.startswith(self._settled):
            self._settled, self._fence, self._before = "", None, []
        start, tail = len(self._settled), ""
        while start < len(text):
            piece = next_piece(text, start, self._fence, self._measure)
            tail = piece.text
            if piece.end == len(text):
                break
            self._before += [tail] if tail.strip() else []
            self._fence, start, tail = piece.fence, piece.end, ""
        self._settled = text[:start]
        return self._changes([*self._before, tail] if tail.strip() else self._before)

    def _changes(self, messages: list[str]) -> list[Change]:
        """From what is shown to what should be."""
        shown = self._shown
        both = range(min(len(shown), len(messages)))
        changes = [
            Change(index, messages[index]) for index in both if messages[index] != shown[index]
        ]
        changes += [
            Change(index, messages[index], True) for index in range(len(shown), len(messages))
        ]
        changes += [Change(index, "") for index in range(len(shown) - 1, len(messages) - 1, -1)]
        self._shown = list(messages)
        return changes


def _check(text: object) -> None:
    if not isinstance(text, str):
        raise InvalidRequestError(f"text is a str, not {type(text).__name__}", field="text")
