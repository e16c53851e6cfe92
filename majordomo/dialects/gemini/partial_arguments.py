"""Arguments of a call that arrive in pieces, each with its path: Gemini's `streamFunctionCallArguments`.

Source: vercel/ai at ed857f5, Google's public REST reference (PartialArg).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from majordomo.dialects.chat_accumulator import as_json
from majordomo.errors import BadResponseError

# $.a.b, $.list[0], $['a key']
_STEP = re.compile(
    r"""\.([^.\[\]]+)|\[(\d{1,9})\]|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]"""
)


@dataclass(slots=True)
class _Level:
    """An object or a list that is still open, and what it holds already."""

    step: str | int  # its place in the one around it
    is_list: bool
    keys: set[str | int] = field(default_factory=set)


class PartialArguments:
    """Pieces in, JSON text out, which is one object once `close` was called. What was closed is never opened again: a model writes
    its arguments from the front to the back."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._levels: list[_Level] = []
        self._string: tuple[str | int, ...] | None = None  # where a text goes on

    def feed(self, piece: dict[str, Any]) -> str:
        """The JSON text that this piece adds. Raises BadResponseError for a path that is none, or leads back."""
        path = self._path(piece.get("jsonPath"))
        goes_on = piece.get("willContinue") is True
        text = piece.get("stringValue")
        if path == self._string:
            self._string = path if goes_on else None
            return (_escaped(text) if isinstance(text, str) else "") + ("" if goes_on else '"')
        if isinstance(text, str):
            written = self._move(path) + f'"{_escaped(text)}' + ("" if goes_on else '"')
            self._string = path if goes_on else None
            return written
        for name in ("numberValue", "boolValue", "nullValue"):
            if name in piece:
                value = None if name == "nullValue" else piece[name]
                if isinstance(value, bool) != (name == "boolValue") or not isinstance(
                    value, (bool, int, float, type(None))
                ):
                    raise BadResponseError(f"a piece of a tool call has a {name} that is none")
                return self._move(path) + as_json(value)
        return ""

    def close(self) -> str:
        """What is still missing to make the text whole."""
        return self._end_string() + self._end_levels(0)

    def _path(self, given: Any) -> tuple[str | int, ...]:
        steps: list[str | int] = []
        text = given if isinstance(given, str) else ""
        at = 1
        while text.startswith("$") and at < len(text) and (found := _STEP.match(text, at)):
            name, index, *quoted = found.groups()
            steps.append(
                int(index)
                if index
                else name
                if name
                else re.sub(r"\\(.)", r"\1", next((q for q in quoted if q is not None), ""))
            )
            at = found.end()
        if not steps or at < len(text) or len(steps) > self._depth or isinstance(steps[0], int):
            raise BadResponseError("a piece of a tool call has no path that can be followed")
        return tuple(steps)

    def _move(self, path: tuple[str | int, ...]) -> str:
        """Close what the path leaves and open what it enters, up to the value itself."""
        written = self._end_string()
        if not self._levels:
            self._levels.append(_Level("", is_list=False))
            written += "{"
        common = 1
        while (
            common < len(self._levels)
            and common < len(path)
            and self._levels[common].step == path[common - 1]
        ):
            common += 1
        written += self._end_levels(common)
        for place in range(common - 1, len(path)):
            written += self._enter(path[place])
            if place + 1 < len(path):
                below = isinstance(path[place + 1], int)
                self._levels.append(_Level(path[place], below))
                written += "[" if below else "{"
        return written

    def _enter(self, step: str | int) -> str:
        level = self._levels[-1]
        fits = (
            step == len(level.keys)
            if level.is_list
            else isinstance(step, str) and step not in level.keys
        )
        if not fits:
            raise BadResponseError("the pieces of a tool call do not follow one another")
        comma = "," if level.keys else ""
        level.keys.add(step)
        return comma if level.is_list else f'{comma}"{_escaped(str(step))}":'

    def _end_string(self) -> str:
        ended, self._string = self._string is not None, None
        return '"' if ended else ""

    def _end_levels(self, down_to: int) -> str:
        ended = self._levels[down_to:]
        del self._levels[down_to:]
        return "".join("]" if level.is_list else "}" for level in reversed(ended))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
