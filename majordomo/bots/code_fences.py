"""Code fences, after CommonMark 4.5: where one opens, where it closes, and how it goes on in another message."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# Quote marks, list markers and any indentation may stand before a fence: a fence within a list is indented by as much as its item, and
# chat platforms do not count. An info string after backticks holds none ("``` x ```" is inline code); a very long one is no language.
_OPENING = re.compile(
    r"(?P<prefix>[ \t]{0,80}(?:>[ \t]?){0,8}(?:(?:[-*+]|\d{1,9}[.)])[ \t]{1,8}){0,8}[ \t]{0,80})"
    r"(?:(?P<ticks>`{3,})(?P<info>[^`\n]{0,200})|(?P<tildes>~{3,})(?P<words>[^\n]{0,200}))\n?"
)
_QUOTE = re.compile(r"[ \t]*(?:>[ \t]?)*")


@dataclass(frozen=True, slots=True)
class Fence:
    """An open fence: `quote` the quote marks before it, `indent` its spaces (0 to 3), `mark` its backticks or tildes, `info` what
    follows."""

    quote: str
    indent: str
    mark: str
    info: str

    @property
    def opening(self) -> str:
        """The line that opens it again."""
        return f"{self.quote}{self.indent}{self.mark}{self.info}\n"

    @property
    def closing(self) -> str:
        """The line, without its end, that closes it."""
        return f"{self.quote}{self.indent}{self.mark}"

    def brief(self) -> Fence:
        """With the language alone."""
        return replace(self, info=self.info.split()[0] if self.info.split() else "")

    def holds(self, line: str) -> bool:
        """Whether a line may still stand in it: a fence in a quote ends with the quote."""
        return _quoted(line).count(">") >= self.quote.count(">")

    def closed_by(self, line: str) -> bool:
        """Whether a whole line that it holds is its end: at least as many of its mark, and nothing else."""
        rest = line[len(_quoted(line)) :].strip()
        return len(rest) >= len(self.mark) and not rest.strip(self.mark[0])


def _quoted(line: str) -> str:
    found = _QUOTE.match(line)
    assert found is not None  # it may match nothing, but it matches
    return found[0]


def opened_by(line: str) -> Fence | None:
    """The fence that a whole line opens, outside of any other."""
    found = _OPENING.fullmatch(line)
    if found is None:
        return None
    prefix = found["prefix"]
    quote = prefix[: prefix.rfind(">") + 1] + " " if ">" in prefix else ""
    # four spaces would make code of the fence itself where no list stands before it
    indent = " " * min(3, len(prefix.expandtabs(4)) - len(quote)) if not quote else ""
    return Fence(
        quote,
        indent,
        found["ticks"] or found["tildes"],
        (found["info"] or found["words"] or "").strip(),
    )
