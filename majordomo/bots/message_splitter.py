"""Long texts as several messages: at once, or while the text grows."""

from __future__ import annotations

from dataclasses import dataclass

from majordomo.bots.code_fences import Fence
from majordomo.bots.cut_points import Count, Measure, TextPiece, next_piece
from majordomo.errors import InvalidRequestError


def split(text: str, limit: int = 2000, *, count: Count = "characters") -> list[str]:
    """Split a text into messages.

    The text is cut between paragraphs, code blocks, lines, sentences or words: the first of these
    that fills half a message or more. A code block that fits into one message is not cut. A longer
    one is closed in one message and opened again, with its language, in the next. Characters as a
    reader sees them are not cut. The messages without the added fences give the text again, except
    that a message of white space alone is left out.

    Args:
        text: The text.
        limit: Maximum length of a message, 16 or more.
        count: What the platform counts: "characters" (code points) or "utf16" (an emoji is 2).

    Returns:
        The messages; an empty list for a text of white space alone.

    Raises:
        InvalidRequestError: `text` is not a str, `limit` is below 16, or `count` is unknown.

    Example:
        ```python
        for message in split(reply.text, limit=2000):
            await channel.send(message)
        ```
    """
    return [piece.text for piece in pieces(text, limit, count=count) if piece.text.strip()]


def pieces(text: str, limit: int = 2000, *, count: Count = "characters") -> list[TextPiece]:
    """Split a text into messages with their positions.

    It works like `split`, but pieces of white space alone are included.

    Args:
        text: The text.
        limit: Maximum length of a message, 16 or more.
        count: What the platform counts: "characters" (code points) or "utf16" (an emoji is 2).

    Returns:
        The pieces. `text[piece.start:piece.end]` is the part of the text that a piece contains.

    Raises:
        InvalidRequestError: `text` is not a str, `limit` is below 16, or `count` is unknown.
    """
    measure = Measure(limit, count)
    _check_text(text)
    result: list[TextPiece] = []
    start, fence = 0, None
    while start < len(text):
        result.append(next_piece(text, start, fence, measure))
        start, fence = result[-1].end, result[-1].fence
    return result


@dataclass(frozen=True, slots=True)
class Change:
    """What to do with one message."""

    index: int
    """The number of the message, from 0."""
    text: str
    """Its new text. "" means to delete the message."""
    new: bool = False
    """Whether to send it as a new message instead of editing an existing one."""


class Splitter:
    """A growing text as messages.

    As long as the text only grows, a message that is followed by another is never changed again,
    and the cost of an update is that of one message, however long the text is. A text that does not
    begin like the one before (an answer in place of "loading") is split from the start.

    Args:
        limit: Maximum length of a message, 16 or more.
        count: What the platform counts: "characters" (code points) or "utf16" (an emoji is 2).

    Raises:
        InvalidRequestError: `limit` is below 16, or `count` is unknown.

    Example:
        ```python
        splitter = Splitter(limit=2000)
        for change in splitter.update(text_so_far):
            if change.new:
                messages.append(await channel.send(change.text))
            elif change.text:
                await messages[change.index].edit(change.text)
            else:
                await messages.pop().delete()
        ```
    """

    def __init__(self, limit: int = 2000, *, count: Count = "characters") -> None:
        self._measure = Measure(limit, count)
        # The text of the messages that are followed by another, and these messages.
        self._completed_text = ""
        self._completed: list[str] = []
        # The fence that is open after the completed text.
        self._fence: Fence | None = None
        # All messages as the platform has them.
        self._messages: list[str] = []

    @property
    def messages(self) -> tuple[str, ...]:
        """The text of all messages after the last update."""
        return tuple(self._messages)

    def update(self, text: str) -> list[Change]:
        """Return what to change when the whole text so far is `text`.

        Args:
            text: The whole text so far.

        Returns:
            Edits first, then either new messages or deletions; deletions begin with the last
            message.

        Raises:
            InvalidRequestError: `text` is not a str.
        """
        _check_text(text)
        if not text.startswith(self._completed_text):
            self._completed_text, self._fence, self._completed = "", None, []
        start, tail = len(self._completed_text), ""
        while start < len(text):
            piece = next_piece(text, start, self._fence, self._measure)
            tail = piece.text
            if piece.end == len(text):
                break
            self._completed += [tail] if tail.strip() else []
            self._fence, start, tail = piece.fence, piece.end, ""
        self._completed_text = text[:start]
        return self._replace_messages([*self._completed, tail] if tail.strip() else self._completed)

    def _replace_messages(self, messages: list[str]) -> list[Change]:
        """Store the new messages, and return how they differ from the old ones."""
        old = self._messages
        common = range(min(len(old), len(messages)))
        changes = [
            Change(index, messages[index]) for index in common if messages[index] != old[index]
        ]
        changes += [
            Change(index, messages[index], True) for index in range(len(old), len(messages))
        ]
        changes += [Change(index, "") for index in range(len(old) - 1, len(messages) - 1, -1)]
        self._messages = list(messages)
        return changes


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise InvalidRequestError(f"text must be a str; got {type(text).__name__}", field="text")
