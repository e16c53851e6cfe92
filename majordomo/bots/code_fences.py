"""Code fences by CommonMark 4.5: where one opens and closes, and how it continues in a message."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# Quote marks, list markers and any indentation may precede a fence: a fence within a list item is
# indented like the item, and chat platforms do not check the indentation. An info string after
# backticks contains no backticks ("``` x ```" is inline code), and a very long one is no longer the
# name of a language.
_OPENING = re.compile(
    r"(?P<prefix>[ \t]{0,80}(?:>[ \t]?){0,8}(?:(?:[-*+]|\d{1,9}[.)])[ \t]{1,8}){0,8}[ \t]{0,80})"
    r"(?:(?P<ticks>`{3,})(?P<tick_info>[^`\n]{0,200})"
    r"|(?P<tildes>~{3,})(?P<tilde_info>[^\n]{0,200}))\n?"
)
_QUOTE = re.compile(r"[ \t]*(?:>[ \t]?)*")
MAX_INDENT = 3


@dataclass(frozen=True, slots=True)
class Fence:
    """An open code fence."""

    quote: str
    """The quote marks before it."""
    indent: str
    """Its indentation, 0 to 3 spaces."""
    mark: str
    """Its backticks or tildes."""
    info: str
    """The info string after the mark."""

    @property
    def opening(self) -> str:
        """The line that opens the fence again."""
        return f"{self.quote}{self.indent}{self.mark}{self.info}\n"

    @property
    def closing(self) -> str:
        """The line that closes the fence, without a line break."""
        return f"{self.quote}{self.indent}{self.mark}"

    def brief(self) -> Fence:
        """Return the fence with only the language as its info string."""
        return replace(self, info=self.info.split()[0] if self.info.split() else "")

    def holds(self, line: str) -> bool:
        """Return whether a line may be inside: a fence in a quote ends with the quote."""
        return _quote_prefix(line).count(">") >= self.quote.count(">")

    def closed_by(self, line: str) -> bool:
        """Return whether a complete line inside closes the fence.

        A closing line has at least as many marks as the opening one, and nothing else.
        """
        rest = line[len(_quote_prefix(line)) :].strip()
        return len(rest) >= len(self.mark) and not rest.strip(self.mark[0])


def _quote_prefix(line: str) -> str:
    match = _QUOTE.match(line)
    # The pattern also matches empty text.
    assert match is not None
    return match[0]


def opened_by(line: str) -> Fence | None:
    """Return the fence that a complete line outside of any fence opens; None for any other line."""
    match = _OPENING.fullmatch(line)
    if match is None:
        return None
    prefix = match["prefix"]
    quote = prefix[: prefix.rfind(">") + 1] + " " if ">" in prefix else ""
    # Without the list before it, an indentation of four spaces would turn the fence into code.
    indent = " " * min(MAX_INDENT, len(prefix.expandtabs(4)) - len(quote)) if not quote else ""
    return Fence(
        quote,
        indent,
        match["ticks"] or match["tildes"],
        (match["tick_info"] or match["tilde_info"] or "").strip(),
    )
