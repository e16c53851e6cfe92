"""Markdown tables, and the marked parts of pages that contain them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from majordomo.requests.base import BaseRequest, declaration


def optional_examples(kind: type[BaseRequest], special: Collection[str]) -> list[tuple[str, Any]]:
    """Return the fields that a backend may lack, and the special ones, with their examples."""
    declared = declaration(kind).fields
    return [
        (name, field.example)
        for name, field in declared.items()
        if name in special or not field.universal
    ]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join(lines)


def legend(values: Mapping[str, str], used: str | None = None) -> str:
    """Return a list with the meaning of each cell value; only those in `used`, if given."""
    return "\n".join(
        f"* {value}: {meaning}."
        for value, meaning in values.items()
        if used is None or f"| {value} |" in used
    )


def of_one_page(
    values: Mapping[str, str], rows: list[str], columns: Sequence[tuple[str, Mapping[str, str]]]
) -> str:
    """Return the table of a backend's page, without rows that are empty in every column."""
    used_rows = [row for row in rows if any(cells[row] != "–" for _, cells in columns)]
    text = table(
        ["", *(name for name, _ in columns)],
        [[row, *(cells[row] for _, cells in columns)] for row in used_rows],
    )
    meanings = legend(values, text)
    return f"{text}\n\n{meanings}" if meanings else text


def replaced(text: str, content: str, name: str = "support") -> str:
    """Return a page's text with new content between its two markers."""
    markers = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
    new, count = re.subn(markers, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise LookupError(f"the markers of {name} are missing")
    return new
