"""Checks that both OpenAI chat servers share: field shapes, JSON schemas, images and files.

A shape describes the accepted values of a field. It is one of

* a type, or `ANY`,
* a `Number` or `Text` with limits,
* a tuple of the accepted strings,
* a list with the shape of the elements,
* a dict with the shape of each field: "!" after the name marks a required field, "?" one that may
  be null.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.servers.hashed_images import decode_image
from tests.servers.openai_images import Refused

ANY = object()
TYPE_NAMES: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    dict: "an object",
    list: "an array",
}
NAME_PATTERN = re.compile(r"[a-zA-Z0-9_-]{1,64}")
IMAGE_FORMATS = ("png", "jpeg", "gif", "webp")
# "Unsupported schema keywords" of the strict mode; FORMATS are the string formats that it accepts.
UNSUPPORTED_KEYWORDS = {
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
UNSUPPORTED_KEYWORDS |= {"default", "uniqueItems", "unevaluatedProperties", "contains"}
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")


@dataclass(frozen=True)
class Number:
    """A number from `least` to `most`, both included."""

    minimum: float
    maximum: float
    integer: bool = False
    """Whether only integers are accepted."""


@dataclass(frozen=True)
class Text:
    """A string of at most `most` characters."""

    max_length: int


def invalid(
    message: str, parameter: str | None, code: str | None = "invalid_value", status: int = 400
) -> Refused:
    """Return the error for an invalid value."""
    return Refused(message, code, parameter, status)


def unsupported(parameter: str, instead: str = "") -> Refused:
    """Return the error for a parameter that the model does not support."""
    message = f"Unsupported parameter: '{parameter}' is not supported with this model.{instead}"
    return Refused(message, "unsupported_parameter", parameter)


def not_supported(
    value: Any, legal: Iterable[str], parameter: str, code: str = "invalid_value"
) -> Refused:
    """Return the error for a value that is not among the supported ones."""
    values = ", ".join(f"'{item}'" for item in legal)
    return Refused(f"Invalid value: '{value}'. Supported values are: {values}.", code, parameter)


def check(value: Any, shape: Any, path: str) -> None:
    """Check a value against a shape; the error names the path of the invalid part."""
    if shape is ANY:
        return
    if isinstance(shape, tuple):
        if not isinstance(value, str) or value not in shape:
            raise not_supported(value, shape, path)
        return
    if isinstance(shape, Number):
        _check_number(value, shape, path)
        return
    base = str if isinstance(shape, Text) else shape if isinstance(shape, type) else type(shape)
    number = isinstance(value, int | float if base is float else int) and not isinstance(
        value, bool
    )
    if not (number if base in (int, float) else isinstance(value, base)):
        got = "null" if value is None else TYPE_NAMES.get(type(value), "something else")
        raise Refused(
            f"Invalid type for '{path}': expected {TYPE_NAMES[base]}, but got {got} instead.",
            "invalid_type",
            path or None,
        )
    if isinstance(shape, Text) and len(value) > shape.max_length:
        detail = (
            f"Expected a string with maximum length {shape.max_length}, "
            f"but got a string with length {len(value)} instead."
        )
        raise Refused(
            f"Invalid '{path}': string too long. {detail}", "string_above_max_length", path
        )
    if isinstance(shape, list):
        for index, item in enumerate(value):
            check(item, shape[0], f"{path}[{index}]")
    if isinstance(shape, dict):
        _check_fields(value, shape, f"{path}." if path else "")


def _check_number(value: Any, shape: Number, path: str) -> None:
    check(value, int if shape.integer else float, path)
    kind = "integer" if shape.integer else "decimal"
    for violated, problem, sign, limit in (
        (value < shape.minimum, "below minimum", ">=", shape.minimum),
        (value > shape.maximum, "above maximum", "<=", shape.maximum),
    ):
        if violated:
            detail = f"Expected a value {sign} {limit}, but got {value} instead."
            code = f"{kind}_{problem[:9].replace(' ', '_')}_value"
            raise Refused(f"Invalid '{path}': {kind} {problem} value. {detail}", code, path)


def _check_fields(value: Mapping[str, Any], fields: Mapping[str, Any], prefix: str) -> None:
    shapes = {name.rstrip("!?"): (shape, name[-1]) for name, shape in fields.items()}
    for name, (_, mark) in shapes.items():
        if mark == "!" and name not in value:
            raise Refused(
                f"Missing required parameter: '{prefix}{name}'.",
                "missing_required_parameter",
                f"{prefix}{name}",
            )
    for name, item in value.items():
        if name not in shapes:
            raise Refused(
                f"Unknown parameter: '{prefix}{name}'.", "unknown_parameter", f"{prefix}{name}"
            )
        if item is not None or shapes[name][1] != "?":
            check(item, shapes[name][0], f"{prefix}{name}")


def check_filled(value: list[Any], path: str) -> None:
    """Refuse an empty array."""
    if not value:
        message = (
            f"Invalid '{path}': empty array. "
            "Expected an array with minimum length 1, but got an empty array instead."
        )
        raise Refused(message, "empty_array", path)


def check_name(name: Any, path: str) -> None:
    """Refuse a name that is not 1 to 64 letters, digits, underscores or hyphens."""
    check(name, str, path)
    if not NAME_PATTERN.fullmatch(name):
        detail = (
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$', "
            "at most 64 characters long."
        )
        raise invalid(f"Invalid '{path}': string does not match pattern. {detail}", path)


# Schemas


def check_schema(schema: Any, strict: bool, subject: str, path: str, code: str | None) -> None:
    """Check a JSON schema, whose root is an object.

    In the strict mode every object forbids additional properties and requires all of its own, and
    some keywords are not supported.
    """

    def schema_error(location: tuple[str, ...], reason: str) -> Refused:
        return Refused(
            f"Invalid schema for {subject}: In context={location!r}, {reason}.", code, path
        )

    if not isinstance(schema, dict) or schema.get("type") != "object":
        got = schema.get("type") if isinstance(schema, dict) else schema
        reason = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{got}\"'."
        raise Refused(f"Invalid schema for {subject}: {reason}", code, path)
    for location, subschema in _subschemas(schema, ()):
        if subschema.get("type") == "array" and "items" not in subschema:
            raise schema_error(location, "array schema missing items")
        if not strict:
            continue
        if unsupported_keywords := UNSUPPORTED_KEYWORDS & set(subschema):
            raise schema_error(location, f"'{min(unsupported_keywords)}' is not permitted")
        if "$ref" in subschema and len(subschema) > 1:
            raise schema_error(location, f"$ref cannot have keywords {set(subschema) - {'$ref'}!r}")
        if subschema.get("format", "date") not in FORMATS:
            raise schema_error(location, f"'{subschema['format']}' is not a valid format")
        if subschema.get("type") == "object" or "properties" in subschema:
            if subschema.get("additionalProperties") is not False:
                raise schema_error(
                    location, "'additionalProperties' is required to be supplied and to be false"
                )
            missing = sorted(
                set(subschema.get("properties", {})) - set(subschema.get("required", ()))
            )
            if missing:
                rule = (
                    "'required' is required to be supplied and to be an array "
                    "including every key in properties"
                )
                raise schema_error(location, f"{rule}. Missing '{missing[0]}'")


def _subschemas(
    schema: Any, location: tuple[str, ...]
) -> Iterable[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every schema within a schema, with its location."""
    if not isinstance(schema, dict):
        return
    yield location, schema
    for name in ("properties", "$defs", "definitions"):
        for key, item in schema.get(name, {}).items():
            yield from _subschemas(item, (*location, name, key))
    for name in ("items", "additionalProperties"):
        yield from _subschemas(schema.get(name), (*location, name))
    for name in ("anyOf", "oneOf", "allOf"):
        for index, item in enumerate(schema.get(name, [])):
            yield from _subschemas(item, (*location, name, str(index)))


# Images and files


def describe_image(url: str, path: str) -> str:
    """Describe the image of a URL: size and mean color of a data URL, or the link itself."""
    if re.match(r"https?://\S+$", url):
        return f"image at {url}"
    match = re.fullmatch(r"data:image/(\w+);base64,([A-Za-z0-9+/]+=*)", url)
    if match is None or match[1] not in IMAGE_FORMATS:
        raise invalid(
            f"Invalid '{path}'. Expected a base64-encoded data URL with an image MIME type, "
            "or a valid URL.",
            path,
        )
    image = decode_image(_decode_base64(match[2], path))
    if image is None or str(image.format).lower() not in IMAGE_FORMATS:
        message = (
            "You uploaded an unsupported image. Please make sure "
            f"your image has of one the following formats: {list(IMAGE_FORMATS)!r}."
        )
        raise Refused(message, "invalid_image_format", path)
    pixels = image.convert("RGB").tobytes()
    means = [round(sum(pixels[channel::3]) / (len(pixels) // 3)) for channel in range(3)]
    return f"{image.width}x{image.height} #{bytes(means).hex()}"


def describe_file(data: str, mimes: Iterable[str], path: str) -> str:
    """Describe the file of a data URL: its MIME type and size."""
    match = re.fullmatch(r"data:([\w.+/-]+);base64,([A-Za-z0-9+/]*=*)", data)
    if match is None or match[1] not in mimes:
        got = f"unsupported MIME type '{match[1]}'" if match else "a value without one"
        raise invalid(
            f"Invalid '{path}'. Expected a base64-encoded data URL with a supported MIME type, "
            f"but got {got}.",
            path,
        )
    content = _decode_base64(match[2], path)
    if match[1] == "application/pdf" and not content.startswith(b"%PDF-"):
        raise Refused("The file is not a valid PDF.", "unsupported_file", path)
    return f"{match[1]} of {len(content)} bytes"


def _decode_base64(text: str, path: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise invalid(f"Invalid '{path}'. The value is no base64.", path) from None


def json_objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a text."""
    values, start = [], text.find("{")
    while start >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(text, start)
            values.append(value)
        except ValueError:
            end = start + 1
        start = text.find("{", end)
    return values
