from __future__ import annotations

from typing import Any

import pytest

from majordomo.dialects.json_schema import closed_schema, is_strict, object_schema, wrap_root_object

TEXT = {"type": "string"}


def object_with(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def test_every_object_is_closed_and_property_names_are_not_keywords() -> None:
    inner = object_with(["a"], a=TEXT)
    schema = closed_schema(
        object_with(["properties"], properties=inner)
        | {"$defs": {"X": inner}, "examples": [{"type": "object"}]}
    )
    closed = inner | {"additionalProperties": False}
    assert schema["additionalProperties"] is False
    assert schema["properties"] == {"properties": closed}
    assert schema["$defs"] == {"X": closed}
    assert schema["examples"] == [{"type": "object"}]


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (object_with(["a"], a=TEXT), True),
        (object_with([], a=TEXT), False),
        (object_with(["default", "not"], **{"default": TEXT, "not": TEXT}), True),
        (object_with(["a"], a={"type": "object", "additionalProperties": TEXT}), False),
        (object_with(["a"], a={"anyOf": [TEXT, object_with([], b=TEXT)]}), False),
        (object_with(["a"], a={"oneOf": [TEXT]}), False),
        (object_with(["a"], a={"$ref": "#/$defs/X", "description": "x"}), False),
        (
            object_with(["a"], a={"$ref": "#/$defs/X"}) | {"$defs": {"X": object_with([], b=TEXT)}},
            False,
        ),
        (object_with(["a"], a=TEXT | {"format": "uri"}), False),
        (object_with(["a"], a=TEXT | {"format": "date", "enum": [{"type": "object"}]}), True),
        (object_with(["a"], a={"type": "array"}), False),
    ],
)
def test_schemas_that_strict_mode_accepts(schema: dict[str, Any], strict: bool) -> None:
    assert is_strict(schema) is strict


def test_other_schemas_are_wrapped_in_an_object() -> None:
    assert wrap_root_object(object_with([])) == (object_with([]), "")
    schema, field = wrap_root_object(
        {"type": "array", "items": {"$ref": "#/$defs/X"}, "$defs": {"X": TEXT}}
    )
    assert (schema["type"], schema["properties"][field]["items"], schema["required"]) == (
        "object",
        {"$ref": "#/$defs/X"},
        [field],
    )
    assert schema["$defs"] == {"X": TEXT}


def test_tool_parameters_are_an_object_by_default() -> None:
    assert object_schema({}) == {"type": "object", "properties": {}}
    assert object_schema(object_with(["a"], a=TEXT)) == object_with(["a"], a=TEXT)
