"""A value for a JSON schema, made from a text by rules: what the text says where it can be found, the smallest legal value else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_DEPTH = 16


def fill(schema: Mapping[str, Any], text: str, facts: Mapping[str, Any]) -> Any:
    """A value that fits `schema`. `facts` answer for properties of the same name; numbers and words come from `text`, in order."""
    numbers = [float(found) for found in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])", text)]
    return _Filler(schema, text, facts, numbers).value(schema, "", 0)


class _Filler:
    def __init__(
        self, root: Mapping[str, Any], text: str, facts: Mapping[str, Any], numbers: list[float]
    ) -> None:
        self._root = root
        self._text = text
        self._facts = facts
        self._numbers = numbers

    def value(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            said = [
                choice
                for choice in schema["enum"]
                if isinstance(choice, str) and choice.lower() in self._text.lower()
            ]
            return (said or schema["enum"])[0]
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((word for word in kind if word != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "string"
        if depth > _DEPTH:
            return None
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            items = schema.get("items")
            count = max(1, int(schema.get("minItems", 0))) if isinstance(items, Mapping) else 0
            fact = self._facts.get(name)
            if (
                isinstance(fact, list)
                and fact
                and isinstance(items, Mapping)
                and self._resolved(items).get("type") == "string"
            ):
                return fact[: int(schema.get("maxItems", len(fact)))]
            return (
                [self.value(items, name, depth + 1) for _ in range(count)]
                if isinstance(items, Mapping)
                else []
            )
        if kind == "boolean":
            return bool(
                self._facts.get(
                    name, re.search(r"\b(yes|true|on)\b", self._text, re.IGNORECASE) is not None
                )
            )
        if kind in ("integer", "number"):
            return self._number(schema, name, whole=kind == "integer")
        if kind == "null":
            return None
        return self._string(schema, name)

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        for _ in range(_DEPTH):
            target = schema.get("$ref")
            if isinstance(target, str) and target.startswith("#/"):
                found: Any = self._root
                for step in target[2:].split("/"):
                    found = found.get(step, {}) if isinstance(found, Mapping) else {}
                schema = found
                continue
            options = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
            if isinstance(options, list) and options and "type" not in schema:
                schema = next(
                    (o for o in options if isinstance(o, Mapping) and o.get("type") != "null"),
                    options[0],
                )
                continue
            break
        return schema

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return {}
        required = schema.get("required", [])
        filled = {}
        for name, below in properties.items():
            # An optional property is left to its own default unless something is known for it
            if (
                name in required
                or name in self._facts
                or not isinstance(below, Mapping)
                or "default" not in below
            ):
                filled[name] = self.value(
                    below if isinstance(below, Mapping) else {}, name, depth + 1
                )
        return filled

    def _number(self, schema: Mapping[str, Any], name: str, *, whole: bool) -> float:
        fact = self._facts.get(name)
        if isinstance(fact, (int, float)) and not isinstance(fact, bool):
            value = float(fact)
        else:
            value = self._numbers.pop(0) if self._numbers else float(schema.get("default") or 0)
        low, high = schema.get("minimum"), schema.get("maximum")
        over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if isinstance(low, (int, float)):
            value = max(value, low)
        if isinstance(over, (int, float)) and value <= over:
            value = over + 1
        if isinstance(high, (int, float)):
            value = min(value, high)
        if isinstance(under, (int, float)) and value >= under:
            value = under - 1
        return int(value) if whole else value

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        fact = self._facts.get(name)
        text = str(fact) if isinstance(fact, (str, int, float)) else self._text or name or "text"
        longest = schema.get("maxLength")
        text = text[:longest] if isinstance(longest, int) else text
        shortest = schema.get("minLength")
        return text.ljust(shortest, ".") if isinstance(shortest, int) else text
