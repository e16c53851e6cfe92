"""On which line of a TOML text a key stands: tomllib tells it for broken syntax only. The text is known to be sound here."""

from __future__ import annotations

import re

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_KEYS = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER = re.compile(rf"\[\[?[ \t]*({_KEYS})[ \t]*\]\]?")
_SETTING = re.compile(rf"({_KEYS})[ \t]*=")
_BARE = re.compile(r"[A-Za-z0-9_.\-]+")
_PIECE = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'  # noqa: ISC003
    + r"|'''.*?'{3,5}"
    + r'|"(?:\\.|[^"\\\n])*"'
    + r"|'[^'\n]*'|#[^\n]*|[^\"'#\[\]{}\n]+|.",
    re.DOTALL,
)

Keys = tuple[str, ...]


def lines_of(text: str) -> dict[Keys, int]:
    """The path of every table and key outside inline tables, and its line, from 1; of a table written in pieces, the first."""
    found: dict[Keys, int] = {}
    header: Keys = ()
    position = 0
    line = 1
    while position < len(text):
        if match := _HEADER.match(text, position):
            header = _path(match[1])
            _note(found, header, line)
        elif match := _SETTING.match(text, position):
            _note(found, header + _path(match[1]), line)
        begin = position
        position = _end_of_statement(text, match.end() if match else position)
        line += text.count("\n", begin, position)
        while position < len(text) and text[position] in " \t\r":
            position += 1
    return found


def _note(found: dict[Keys, int], path: Keys, line: int) -> None:
    for length in range(1, len(path) + 1):
        found.setdefault(path[:length], line)


def _end_of_statement(text: str, position: int) -> int:
    """Behind the line break that ends what begins here: not one within brackets or a text of several lines."""
    depth = 0
    while position < len(text):
        match = _PIECE.match(text, position)
        assert match is not None, "the last alternative takes any character"
        position = match.end()
        piece = match[0]
        if piece in ("[", "{"):
            depth += 1
        elif piece in ("]", "}"):
            depth -= 1
        elif piece == "\n" and depth <= 0:
            break
    return position


def _path(keys: str) -> Keys:
    """`a."b.c"` as ("a", "b.c"): tomllib knows how a key is quoted."""
    if _BARE.fullmatch(keys):
        return tuple(keys.split("."))
    import tomllib

    path: list[str] = []
    table = tomllib.loads(f"[{keys}]")
    while table:
        name, table = next(iter(table.items()))
        path.append(name)
    return tuple(path)
