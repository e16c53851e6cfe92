"""Tables in Markdown, and the place in a page where one stands."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines)


def legend(words: Mapping[str, str], used: str | None = None) -> str:
    """What the words in a table mean: all of them, or those that stand in the table `used`."""
    told = [
        f"{word}: {meaning}."
        for word, meaning in words.items()
        if used is None or f"| {word} |" in used
    ]
    return "\n".join(
        textwrap.wrap(" ".join(told), 140, break_long_words=False, break_on_hyphens=False)
    )


def of_one_page(
    words: Mapping[str, str], rows: list[str], columns: Sequence[tuple[str, Mapping[str, str]]]
) -> str:
    """The table of one backend's page. Rows that say nothing in any column are left out."""
    kept = [row for row in rows if any(cells[row] != "–" for _, cells in columns)]
    made = table(
        ["", *(name for name, _ in columns)],
        [[row, *(cells[row] for _, cells in columns)] for row in kept],
    )
    meant = legend(words, made)
    return f"{made}\n\n{meant}" if meant else made


def replaced(text: str, made: str, name: str = "support") -> str:
    """A page's text with the part between its two marks made anew."""
    marks = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
    new, count = re.subn(marks, lambda m: f"{m[1]}\n{made}\n\n{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise LookupError(f"it lacks the two marks of {name}")
    return new
