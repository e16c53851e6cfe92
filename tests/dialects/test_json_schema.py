from __future__ import annotations

from typing import Any

import pytest

from majordomo.dialects.json_schema import closed_schema, is_strict, object_schema, wrap_root_object

TEXT = {"type": "string"}


def an_object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def test_every_object_is_closed_and_names_are_no_keywords() -> None:
    inner = an_object(["a"], a=TEXT)
    made = closed_schema(
        an_object(["properties"], properties=inner)
        | {"$defs": {"X": inner}, "examples": [{"type": "object"}]}
    )
    closed = inner | {"additionalProperties": False}
    assert made["additionalProperties"] is False
    assert made["properties"] == {"properties": closed}
    assert made["$defs"] == {"X": closed}
    assert made["examples"] == [{"type": "object"}]


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (an_object(["a"], a=TEXT), True),
        (an_object([], a=TEXT), False),
        (an_object(["default", "not"], **{"default": TEXT, "not": TEXT}), True),
        (an_object(["a"], a={"type": "object", "additionalProperties": TEXT}), False),
        (an_object(["a"], a={"anyOf": [TEXT, an_object([], b=TEXT)]}), False),
        (an_object(["a"], a={"oneOf": [TEXT]}), False),
        (an_object(["a"], a={"$ref": "#/$defs/X", "description": "x"}), False),
        (
            an_object(["a"], a={"$ref": "#/$defs/X"}) | {"$defs": {"X": an_object([], b=TEXT)}},
            False,
        ),
        (an_object(["a"], a=TEXT | {"format": "uri"}), False),
        (an_object(["a"], a=TEXT | {"format": "date", "enum": [{"type": "object"}]}), True),
        (an_object(["a"], a={"type": "array"}), False),
    ],
)
def test_what_the_strict_mode_takes(schema: dict[str, Any], strict: bool) -> None:
    assert is_strict(schema) is strict


def test_an_object_stands_at_the_root() -> None:
    assert wrap_root_object(an_object([])) == (an_object([]), "")
    made, field = wrap_root_object(
        {"type": "array", "items": {"$ref": "#/$defs/X"}, "$defs": {"X": TEXT}}
    )
    assert (made["type"], made["properties"][field]["items"], made["required"]) == (
        "object",
        {"$ref": "#/$defs/X"},
        [field],
    )
    assert made["$defs"] == {"X": TEXT}


def test_parameters_are_an_object_even_where_nothing_says_so() -> None:
    assert object_schema({}) == {"type": "object", "properties": {}}
    assert object_schema(an_object(["a"], a=TEXT)) == an_object(["a"], a=TEXT)
