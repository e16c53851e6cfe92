"""Tables in Markdown, and the place in a page where one stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def replaced(file: Path, text: str) -> str:
    """The file's text with the part between its two marks made anew."""
    old = file.read_text()
    new, count = re.subn(
        r"(<!-- support:begin -->\n).*?(<!-- support:end -->)", lambda m: f"{m[1]}\n{text}\n\n{m[2]}", old, flags=re.DOTALL
    )
    if count != 1:
        sys.exit(f"{file} lacks the two marks")
    return new
