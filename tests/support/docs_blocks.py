"""Parse pages: fenced blocks and the comments that say how each block runs.

Pure functions; nothing is executed here.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass, field

FENCE = re.compile(r"^(?P<indent> *)(?P<mark>`{3,}|~{3,})(?P<info>[^`\n]*)$")
COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
TITLE = re.compile(r'title="([^"]*)"')
# Comments that apply to the next block only, and comments that apply from where they are.
BLOCK_COMMENTS = ("not run", "raises", "exits with", "prints")
PAGE_COMMENTS = ("runs with", "hidden")
DATA_LANGUAGES = ("text", "json", "yaml", "http", "diff", "")


@dataclass
class Block:
    """A fenced block. `comments` are those before it, `line` is its line number in the file."""

    language: str
    text: str
    line: int
    title: str = ""
    comments: dict[str, str] = field(default_factory=dict)


@dataclass
class Note:
    """A comment that does not belong to a block: `runs with` or `hidden`."""

    kind: str
    text: str
    line: int


class BadPage(Exception):
    """A page that violates the conventions."""


def read(text: str) -> list[Block | Note]:
    """Return blocks and notes, in order."""
    parts: list[Block | Note] = []
    comments: dict[str, str] = {}
    lines = text.split("\n")
    index = 0
    while index < len(lines):
        opened = FENCE.match(lines[index])
        if opened:
            end = _closing(lines, index, opened["mark"])
            language, _, rest = opened["info"].strip().partition(" ")
            body = textwrap.dedent("\n".join(lines[index + 1 : end]))
            title = TITLE.search(rest)
            parts.append(
                Block(
                    language.strip("{}."),
                    body + "\n",
                    index + 1,
                    title[1] if title else "",
                    comments,
                )
            )
            comments = {}
            index = end + 1
        elif lines[index].lstrip().startswith("<!--"):
            end = next(
                (number for number in range(index, len(lines)) if "-->" in lines[number]), index
            )
            comment = COMMENT.search("\n".join(lines[index : end + 1]))
            note = _note(comment[1], index + 1) if comment else None
            if note and note.kind in BLOCK_COMMENTS:
                comments[note.kind] = note.text
            elif note:
                parts.append(note)
            index = end + 1
        else:
            if lines[index].strip() and comments:
                raise BadPage(
                    f"line {index + 1}: no block follows the comment ({', '.join(comments)})"
                )
            index += 1
    return parts


def _closing(lines: list[str], index: int, fence: str) -> int:
    for number in range(index + 1, len(lines)):
        if lines[number].strip().startswith(fence) and not lines[number].strip().strip(fence[0]):
            return number
    raise BadPage(f"line {index + 1}: an unclosed fence")


def _note(comment: str, line: int) -> Note | None:
    for kind in (*BLOCK_COMMENTS, *PAGE_COMMENTS):
        if comment.strip().startswith(kind):
            rest = comment.strip()[len(kind) :]
            if rest[:1] not in (":", "\n", ""):
                continue
            content = rest.removeprefix(":")
            return Note(
                kind,
                textwrap.dedent(content.strip("\n"))
                if kind == "hidden"
                else " ".join(content.split()),
                line,
            )
    return None


def commands(text: str) -> list[list[str]]:
    """Return the commands of a shell block, each as a list of words.

    Lines are joined at a backslash, `$ ` prompts and comments are removed, `&&` and `;` separate
    commands.
    """
    result: list[list[str]] = []
    for line in text.replace("\\\n", " ").split("\n"):
        if text.lstrip().startswith("$ ") and not line.startswith("$ "):
            # Output of a command in a console block.
            continue
        words = shlex.split(line.removeprefix("$ "), comments=True)
        command: list[str] = []
        for word in words:
            if word in ("&&", ";"):
                result.append(command)
                command = []
            else:
                command.append(word)
        result.append(command)
    return [command for command in result if command]


def missing_lines(expected: str, printed: str) -> list[str]:
    """Return the lines of `expected` that are not in `printed` in this order.

    `...` within a line matches anything.
    """
    missing = []
    rest = printed.split("\n")
    for line in (line.strip() for line in expected.split("\n")):
        pattern = re.compile(".*".join(re.escape(fragment) for fragment in line.split("...")))
        if not line:
            continue
        position = next(
            (
                number
                for number, printed_line in enumerate(rest)
                if pattern.fullmatch(printed_line.strip())
            ),
            None,
        )
        if position is None:
            missing.append(line)
        else:
            rest = rest[position + 1 :]
    return missing
