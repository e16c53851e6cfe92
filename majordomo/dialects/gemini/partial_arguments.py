"""Tool call arguments that arrive as fragments with paths: `streamFunctionCallArguments`.

Source: vercel/ai at ed857f5, Google's public REST reference (PartialArg).

The JSON text is written front to back. A stack holds the objects and lists that are still open;
each fragment closes those that its path leaves, and opens those that its path enters.
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
    """An open object or list."""

    step: str | int
    """Its key or index in the surrounding object or list."""
    is_list: bool
    keys: set[str | int] = field(default_factory=set)
    """The keys or indexes written so far."""


class PartialArguments:
    """A writer of one JSON object from fragments. Call `close` to complete the text.

    What was closed is never opened again: a model writes its arguments from front to back.
    """

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._levels: list[_Level] = []
        # Path of the string value that the next fragment may continue, else None.
        self._open_string: tuple[str | int, ...] | None = None

    def feed(self, fragment: dict[str, Any]) -> str:
        """Return the JSON text that this fragment adds.

        Raises BadResponseError for an invalid path, and for one that leads back into a value that
        is already closed.
        """
        path = self._parse_path(fragment.get("jsonPath"))
        will_continue = fragment.get("willContinue") is True
        text = fragment.get("stringValue")
        if path == self._open_string:
            self._open_string = path if will_continue else None
            return (_escape(text) if isinstance(text, str) else "") + ("" if will_continue else '"')
        if isinstance(text, str):
            json_text = self._move_to(path) + f'"{_escape(text)}' + ("" if will_continue else '"')
            self._open_string = path if will_continue else None
            return json_text
        for name in ("numberValue", "boolValue", "nullValue"):
            if name in fragment:
                value = None if name == "nullValue" else fragment[name]
                if isinstance(value, bool) != (name == "boolValue") or not isinstance(
                    value, (bool, int, float, type(None))
                ):
                    raise BadResponseError(f"a fragment of a tool call has an invalid {name}")
                return self._move_to(path) + as_json(value)
        return ""

    def close(self) -> str:
        """Return the text that completes the JSON object."""
        return self._close_string() + self._close_levels(0)

    def _parse_path(self, json_path: Any) -> tuple[str | int, ...]:
        steps: list[str | int] = []
        text = json_path if isinstance(json_path, str) else ""
        at = 1
        while text.startswith("$") and at < len(text) and (match := _STEP.match(text, at)):
            name, index, *quoted = match.groups()
            steps.append(
                int(index)
                if index
                else name
                if name
                else re.sub(r"\\(.)", r"\1", next((q for q in quoted if q is not None), ""))
            )
            at = match.end()
        if not steps or at < len(text) or len(steps) > self._max_depth or isinstance(steps[0], int):
            raise BadResponseError("a fragment of a tool call has an invalid jsonPath")
        return tuple(steps)

    def _move_to(self, path: tuple[str | int, ...]) -> str:
        """Close what the path leaves and open what it enters, up to the value itself."""
        json_text = self._close_string()
        if not self._levels:
            self._levels.append(_Level("", is_list=False))
            json_text += "{"
        common = 1
        while (
            common < len(self._levels)
            and common < len(path)
            and self._levels[common].step == path[common - 1]
        ):
            common += 1
        json_text += self._close_levels(common)
        for position in range(common - 1, len(path)):
            json_text += self._write_key(path[position])
            if position + 1 < len(path):
                is_list = isinstance(path[position + 1], int)
                self._levels.append(_Level(path[position], is_list))
                json_text += "[" if is_list else "{"
        return json_text

    def _write_key(self, step: str | int) -> str:
        level = self._levels[-1]
        is_next = (
            step == len(level.keys)
            if level.is_list
            else isinstance(step, str) and step not in level.keys
        )
        if not is_next:
            raise BadResponseError("the fragments of a tool call are out of order")
        comma = "," if level.keys else ""
        level.keys.add(step)
        return comma if level.is_list else f'{comma}"{_escape(str(step))}":'

    def _close_string(self) -> str:
        was_open, self._open_string = self._open_string is not None, None
        return '"' if was_open else ""

    def _close_levels(self, depth: int) -> str:
        """Close all levels from this depth on, innermost first."""
        closed = self._levels[depth:]
        del self._levels[depth:]
        return "".join("]" if level.is_list else "}" for level in reversed(closed))


def _escape(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
