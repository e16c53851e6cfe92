"""The line of every key in a TOML text.

tomllib reports positions for syntax errors only. The text is already known to be valid here.
"""

from __future__ import annotations

import re

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_KEYS = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER = re.compile(rf"\[\[?[ \t]*({_KEYS})[ \t]*\]\]?")
_SETTING = re.compile(rf"({_KEYS})[ \t]*=")
_BARE = re.compile(r"[A-Za-z0-9_.\-]+")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # noqa: ISC003 - one alternative per line
    + r"|'''.*?'{3,5}"
    + r'|"(?:\\.|[^"\\\n])*"'
    + r"|'[^'\n]*'|#[^\n]*|[^\"'#\[\]{}\n]+|.",
    re.DOTALL,
)

Keys = tuple[str, ...]


def key_lines(text: str) -> dict[Keys, int]:
    """Return the line, from 1, of every table and key outside inline tables.

    A table that is defined in several places has the line of the first.
    """
    lines: dict[Keys, int] = {}
    header: Keys = ()
    position = 0
    line = 1
    while position < len(text):
        if match := _HEADER.match(text, position):
            header = _split_keys(match[1])
            _add(lines, header, line)
        elif match := _SETTING.match(text, position):
            _add(lines, header + _split_keys(match[1]), line)
        start = position
        position = _end_of_statement(text, match.end() if match else position)
        line += text.count("\n", start, position)
        while position < len(text) and text[position] in " \t\r":
            position += 1
    return lines


def _add(lines: dict[Keys, int], path: Keys, line: int) -> None:
    for length in range(1, len(path) + 1):
        lines.setdefault(path[:length], line)


def _end_of_statement(text: str, position: int) -> int:
    """Return the position after the line break that ends the statement at `position`.

    Line breaks within brackets and multi-line strings do not count.
    """
    depth = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        assert match is not None, "the last alternative matches any character"
        position = match.end()
        lexeme = match[0]
        if lexeme in ("[", "{"):
            depth += 1
        elif lexeme in ("]", "}"):
            depth -= 1
        elif lexeme == "\n" and depth <= 0:
            break
    return position


def _split_keys(keys: str) -> Keys:
    """Return `a."b.c"` as ("a", "b.c"). tomllib decodes quoted keys."""
    if _BARE.fullmatch(keys):
        return tuple(keys.split("."))
    import tomllib

    path: list[str] = []
    table = tomllib.loads(f"[{keys}]")
    while table:
        name, table = next(iter(table.items()))
        path.append(name)
    return tuple(path)
