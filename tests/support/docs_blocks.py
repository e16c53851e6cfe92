"""Pages taken apart: fenced blocks and the comments that say how each of them runs. Pure: nothing is run here."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass, field

FENCE = re.compile(r"^(?P<indent> *)(?P<mark>`{3,}|~{3,})(?P<info>[^`\n]*)$")
COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
TITLE = re.compile(r'title="([^"]*)"')
BEFORE_A_BLOCK = (
    "not run",
    "raises",
    "exits with",
    "prints",
)  # these speak of the next block alone
ON_THEIR_OWN = ("runs with", "hidden")
OUTPUT_OF_OTHERS = ("text", "json", "yaml", "http", "diff", "")


@dataclass
class Block:
    """One fence. `words` holds the comments before it, `line` its place in the file."""

    language: str
    text: str
    line: int
    title: str = ""
    words: dict[str, str] = field(default_factory=dict)


@dataclass
class Note:
    """A comment that stands for itself: `runs with` and `hidden`."""

    kind: str
    text: str
    line: int


class BadPage(Exception):
    """A page that does not keep to the conventions."""


def read(text: str) -> list[Block | Note]:
    """Blocks and notes, in order."""
    found: list[Block | Note] = []
    waiting: dict[str, str] = {}
    lines = text.split("\n")
    at = 0
    while at < len(lines):
        opened = FENCE.match(lines[at])
        if opened:
            end = _closing(lines, at, opened["mark"])
            language, _, rest = opened["info"].strip().partition(" ")
            body = textwrap.dedent("\n".join(lines[at + 1 : end]))
            title = TITLE.search(rest)
            found.append(
                Block(
                    language.strip("{}."), body + "\n", at + 1, title[1] if title else "", waiting
                )
            )
            waiting = {}
            at = end + 1
        elif lines[at].lstrip().startswith("<!--"):
            end = next((number for number in range(at, len(lines)) if "-->" in lines[number]), at)
            comment = COMMENT.search("\n".join(lines[at : end + 1]))
            note = _note(comment[1], at + 1) if comment else None
            if note and note.kind in BEFORE_A_BLOCK:
                waiting[note.kind] = note.text
            elif note:
                found.append(note)
            at = end + 1
        else:
            if lines[at].strip() and waiting:
                raise BadPage(
                    f"line {at + 1}: a comment about a block ({', '.join(waiting)}) and no block behind it"
                )
            at += 1
    return found


def _closing(lines: list[str], at: int, mark: str) -> int:
    for number in range(at + 1, len(lines)):
        if lines[number].strip().startswith(mark) and not lines[number].strip().strip(mark[0]):
            return number
    raise BadPage(f"line {at + 1}: a fence without an end")


def _note(comment: str, line: int) -> Note | None:
    for kind in (*BEFORE_A_BLOCK, *ON_THEIR_OWN):
        if comment.strip().startswith(kind):
            rest = comment.strip()[len(kind) :]
            if rest[:1] not in (":", "\n", ""):
                continue
            said = rest.removeprefix(":")
            return Note(
                kind,
                textwrap.dedent(said.strip("\n")) if kind == "hidden" else " ".join(said.split()),
                line,
            )
    return None


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, each as its words: lines joined at a backslash, a prompt `$ ` and comments left out, cut at `&&`."""
    told: list[list[str]] = []
    for line in text.replace("\\\n", " ").split("\n"):
        if text.lstrip().startswith("$ ") and not line.startswith("$ "):
            continue  # what a command of a console said
        words = shlex.split(line.removeprefix("$ "), comments=True)
        command: list[str] = []
        for word in words:
            if word in ("&&", ";"):
                told.append(command)
                command = []
            else:
                command.append(word)
        told.append(command)
    return [command for command in told if command]


def missing_lines(wanted: str, printed: str) -> list[str]:
    """Which lines of `wanted` are not in `printed`, in this order; `...` within a line stands for anything."""
    missing = []
    rest = printed.split("\n")
    for line in (line.strip() for line in wanted.split("\n")):
        pattern = re.compile(".*".join(re.escape(piece) for piece in line.split("...")))
        if not line:
            continue
        place = next(
            (number for number, held in enumerate(rest) if pattern.fullmatch(held.strip())), None
        )
        if place is None:
            missing.append(line)
        else:
            rest = rest[place + 1 :]
    return missing
