"""JSON schemas in the forms that APIs with structured outputs accept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# The field that holds a value whose schema is not an object.
VALUE_FIELD = "value"
# Keywords that map names to schemas; a name in them is not a keyword.
_SCHEMA_MAPS = ("properties", "$defs", "definitions")
# Keywords that hold values, which may look like schemas.
_VALUE_KEYWORDS = ("enum", "const", "default", "examples")

# Keywords that OpenAI's strict mode rejects: "'default' is not permitted", "'oneOf' is not
# permitted".
_NON_STRICT_KEYWORDS = frozenset(
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
# Formats that OpenAI's strict mode accepts.
_STRICT_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)


def object_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool's parameters, with the type `object` added when it is missing."""
    return {"type": "object", "properties": {}, **schema}


def wrap_root_object(schema: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a schema with an object at its root, and the field that holds the wanted value.

    The field is "" when the wanted value is the root itself. "schema must be a JSON Schema of
    'type: "object"', got 'type: "array"'" (OpenAI, for any response format)
    """
    if schema.get("type") == "object":
        return schema, ""
    definitions: dict[str, Any] = {
        name: schema[name] for name in ("$defs", "definitions") if name in schema
    }
    inner = {name: item for name, item in schema.items() if name not in definitions}
    root = {
        "type": "object",
        "properties": {VALUE_FIELD: inner},
        "required": [VALUE_FIELD],
        **definitions,
    }
    return root, VALUE_FIELD


def closed_schema(schema: Any) -> Any:
    """Return a copy of the schema in which no object allows additional properties."""
    if isinstance(schema, list):
        return [closed_schema(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed: dict[str, Any] = {}
    for name, item in schema.items():
        if name in _SCHEMA_MAPS and isinstance(item, Mapping):
            closed[name] = {key: closed_schema(value) for key, value in item.items()}
        else:
            closed[name] = item if name in _VALUE_KEYWORDS else closed_schema(item)
    if closed.get("type") == "object" or isinstance(closed.get("properties"), dict):
        closed["additionalProperties"] = False
    return closed


def is_strict(schema: Any) -> bool:
    """Whether OpenAI's strict mode accepts this schema after `closed_schema`.

    "every object must … list all its properties as `required`"
    """
    return all(_is_strict_level(item) for item in _iter_schemas(schema))


def _is_strict_level(schema: Mapping[str, Any]) -> bool:
    """Check one schema without the schemas inside it."""
    if (
        _NON_STRICT_KEYWORDS & set(schema)
        or ("$ref" in schema and len(schema) > 1)
        or schema.get("format", "date") not in _STRICT_FORMATS
    ):
        return False
    if schema.get("type") == "array" and "items" not in schema:
        return False
    properties = schema.get("properties")
    # An object of arbitrary names would be empty once it is closed.
    if schema.get("type") == "object" and not isinstance(properties, Mapping):
        return False
    return not isinstance(properties, Mapping) or set(schema.get("required", ())) == set(properties)


def _iter_schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the schema and every schema inside it."""
    if isinstance(schema, list):
        for item in schema:
            yield from _iter_schemas(item)
    if not isinstance(schema, Mapping):
        return
    yield schema
    for name, item in schema.items():
        if name in _SCHEMA_MAPS and isinstance(item, Mapping):
            yield from _iter_schemas(list(item.values()))
        elif name not in _VALUE_KEYWORDS:
            yield from _iter_schemas(item)
