"""JSON schemas as APIs with checked answers want them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

VALUE = "value"
_NAMED = ("properties", "$defs", "definitions")  # hold schemas by name: a name is no keyword
_DATA = ("enum", "const", "default", "examples")  # hold values, which only look like schemas

# What OpenAI's strict mode does not know ("'default' is not permitted", "'oneOf' is not permitted"), and the formats that it does
_LOOSE = frozenset(
    {
        "allOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "dependentRequired",
        "dependentSchemas",
        "patternProperties",
        "propertyNames",
    }
    | {"default", "uniqueItems", "unevaluatedProperties", "contains"}
)
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)


def object_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a tool, which are an object's even where nothing says so."""
    return {"type": "object", "properties": {}, **schema}


def wrap_root_object(schema: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """A schema with an object at its root, and the field in which the wanted value then stands ("" where it is the root itself).

    "schema must be a JSON Schema of 'type: "object"', got 'type: "array"'" (OpenAI, of any answer format)
    """
    if schema.get("type") == "object":
        return schema, ""
    below: dict[str, Any] = {
        name: schema[name] for name in ("$defs", "definitions") if name in schema
    }
    inner = {name: item for name, item in schema.items() if name not in below}
    return {"type": "object", "properties": {VALUE: inner}, "required": [VALUE], **below}, VALUE


def closed_schema(schema: Any) -> Any:
    """The same schema in which every object is closed."""
    if isinstance(schema, list):
        return [closed_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for name, item in schema.items():
        if name in _NAMED and isinstance(item, Mapping):
            made[name] = {key: closed_schema(value) for key, value in item.items()}
        else:
            made[name] = item if name in _DATA else closed_schema(item)
    if made.get("type") == "object" or isinstance(made.get("properties"), dict):
        made["additionalProperties"] = False
    return made


def is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode takes this schema once it is closed: "every object must … list all its properties as `required`"."""
    return all(_is_strict(item) for item in _schemas(schema))


def _is_strict(schema: Mapping[str, Any]) -> bool:
    if (
        _LOOSE & set(schema)
        or ("$ref" in schema and len(schema) > 1)
        or schema.get("format", "date") not in _FORMATS
    ):
        return False
    if schema.get("type") == "array" and "items" not in schema:
        return False
    properties = schema.get("properties")
    if schema.get("type") == "object" and not isinstance(
        properties, Mapping
    ):  # any names: closed, it could hold nothing
        return False
    return not isinstance(properties, Mapping) or set(schema.get("required", ())) == set(properties)


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every schema in a schema."""
    if isinstance(schema, list):
        for item in schema:
            yield from _schemas(item)
    if not isinstance(schema, Mapping):
        return
    yield schema
    for name, item in schema.items():
        if name in _NAMED and isinstance(item, Mapping):
            yield from _schemas(list(item.values()))
        elif name not in _DATA:
            yield from _schemas(item)
