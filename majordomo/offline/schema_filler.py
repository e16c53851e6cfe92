"""Rules that build a value for a JSON schema from a text.

A value comes from the text where a rule finds one, and is the smallest allowed value otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Bounds nested values and chains of "$ref".
MAX_DEPTH = 16


def fill(schema: Mapping[str, Any], text: str, facts: Mapping[str, Any]) -> Any:
    """Return a value that matches `schema`.

    Args:
        schema: A JSON schema; local references are resolved.
        text: Source of strings, booleans, enum choices and, in order, numbers.
        facts: Values for properties of the same name, which take precedence over the text.
    """
    numbers = [float(number) for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])", text)]
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
        """Return a value for `schema`, which is the schema of the property `name`."""
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            mentioned = [
                choice
                for choice in schema["enum"]
                if isinstance(choice, str) and choice.lower() in self._text.lower()
            ]
            return (mentioned or schema["enum"])[0]
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((option for option in kind if option != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "string"
        if depth > MAX_DEPTH:
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
            return self._number(schema, name, integer=kind == "integer")
        if kind == "null":
            return None
        return self._string(schema, name)

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        for _ in range(MAX_DEPTH):
            target = schema.get("$ref")
            if isinstance(target, str) and target.startswith("#/"):
                node: Any = self._root
                for step in target[2:].split("/"):
                    node = node.get(step, {}) if isinstance(node, Mapping) else {}
                schema = node
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
        for name, property_schema in properties.items():
            # An optional property keeps its own default unless there is a fact for it.
            if (
                name in required
                or name in self._facts
                or not isinstance(property_schema, Mapping)
                or "default" not in property_schema
            ):
                filled[name] = self.value(
                    property_schema if isinstance(property_schema, Mapping) else {}, name, depth + 1
                )
        return filled

    def _number(self, schema: Mapping[str, Any], name: str, *, integer: bool) -> float:
        fact = self._facts.get(name)
        if isinstance(fact, (int, float)) and not isinstance(fact, bool):
            value = float(fact)
        else:
            value = self._numbers.pop(0) if self._numbers else float(schema.get("default") or 0)
        minimum, maximum = schema.get("minimum"), schema.get("maximum")
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if isinstance(minimum, (int, float)):
            value = max(value, minimum)
        if isinstance(above, (int, float)) and value <= above:
            value = above + 1
        if isinstance(maximum, (int, float)):
            value = min(value, maximum)
        if isinstance(below, (int, float)) and value >= below:
            value = below - 1
        return int(value) if integer else value

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        fact = self._facts.get(name)
        text = str(fact) if isinstance(fact, (str, int, float)) else self._text or name or "text"
        max_length = schema.get("maxLength")
        text = text[:max_length] if isinstance(max_length, int) else text
        min_length = schema.get("minLength")
        return text.ljust(min_length, ".") if isinstance(min_length, int) else text
