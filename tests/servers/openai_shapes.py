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

from tests.servers.hashed_images import decoded
from tests.servers.openai_images import Refused

ANY = object()
WORDS: dict[Any, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    dict: "an object",
    list: "an array",
}
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
IMAGES = ("png", "jpeg", "gif", "webp")
# "Unsupported schema keywords" of the strict mode; FORMATS are the string formats that it accepts.
LOOSE = {
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
LOOSE |= {"default", "uniqueItems", "unevaluatedProperties", "contains"}
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")


@dataclass(frozen=True)
class Number:
    """A number from `least` to `most`, both included."""

    least: float
    most: float
    whole: bool = False
    """Whether only integers are accepted."""


@dataclass(frozen=True)
class Text:
    """A string of at most `most` characters."""

    most: int


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
    shown = ", ".join(f"'{word}'" for word in legal)
    return Refused(f"Invalid value: '{value}'. Supported values are: {shown}.", code, parameter)


def check(value: Any, wanted: Any, path: str) -> None:
    """Check a value against a shape; the error names the path of the invalid part."""
    if wanted is ANY:
        return
    if isinstance(wanted, tuple):
        if not isinstance(value, str) or value not in wanted:
            raise not_supported(value, wanted, path)
        return
    if isinstance(wanted, Number):
        _check_number(value, wanted, path)
        return
    base = str if isinstance(wanted, Text) else wanted if isinstance(wanted, type) else type(wanted)
    number = isinstance(value, int | float if base is float else int) and not isinstance(
        value, bool
    )
    if not (number if base in (int, float) else isinstance(value, base)):
        got = "null" if value is None else WORDS.get(type(value), "something else")
        raise Refused(
            f"Invalid type for '{path}': expected {WORDS[base]}, but got {got} instead.",
            "invalid_type",
            path or None,
        )
    if isinstance(wanted, Text) and len(value) > wanted.most:
        said = (
            f"Expected a string with maximum length {wanted.most}, "
            f"but got a string with length {len(value)} instead."
        )
        raise Refused(f"Invalid '{path}': string too long. {said}", "string_above_max_length", path)
    if isinstance(wanted, list):
        for index, item in enumerate(value):
            check(item, wanted[0], f"{path}[{index}]")
    if isinstance(wanted, dict):
        _check_fields(value, wanted, f"{path}." if path else "")


def _check_number(value: Any, wanted: Number, path: str) -> None:
    check(value, int if wanted.whole else float, path)
    kind = "integer" if wanted.whole else "decimal"
    for bad, words, sign, end in (
        (value < wanted.least, "below minimum", ">=", wanted.least),
        (value > wanted.most, "above maximum", "<=", wanted.most),
    ):
        if bad:
            said = f"Expected a value {sign} {end}, but got {value} instead."
            code = f"{kind}_{words[:9].replace(' ', '_')}_value"
            raise Refused(f"Invalid '{path}': {kind} {words} value. {said}", code, path)


def _check_fields(value: Mapping[str, Any], wanted: Mapping[str, Any], dotted: str) -> None:
    shapes = {name.rstrip("!?"): (shape, name[-1]) for name, shape in wanted.items()}
    for name, (_, mark) in shapes.items():
        if mark == "!" and name not in value:
            raise Refused(
                f"Missing required parameter: '{dotted}{name}'.",
                "missing_required_parameter",
                f"{dotted}{name}",
            )
    for name, item in value.items():
        if name not in shapes:
            raise Refused(
                f"Unknown parameter: '{dotted}{name}'.", "unknown_parameter", f"{dotted}{name}"
            )
        if item is not None or shapes[name][1] != "?":
            check(item, shapes[name][0], f"{dotted}{name}")


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
    if not NAME.fullmatch(name):
        said = (
            "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$', "
            "at most 64 characters long."
        )
        raise invalid(f"Invalid '{path}': string does not match pattern. {said}", path)


# Schemas


def check_schema(schema: Any, strict: bool, whose: str, path: str, code: str | None) -> None:
    """Check a JSON schema, whose root is an object.

    In the strict mode every object forbids additional properties and requires all of its own, and
    some keywords are not supported.
    """

    def refuse(where: tuple[str, ...], reason: str) -> Refused:
        return Refused(f"Invalid schema for {whose}: In context={where!r}, {reason}.", code, path)

    if not isinstance(schema, dict) or schema.get("type") != "object":
        got = schema.get("type") if isinstance(schema, dict) else schema
        reason = f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{got}\"'."
        raise Refused(f"Invalid schema for {whose}: {reason}", code, path)
    for where, item in _schemas(schema, ()):
        if item.get("type") == "array" and "items" not in item:
            raise refuse(where, "array schema missing items")
        if not strict:
            continue
        if loose := LOOSE & set(item):
            raise refuse(where, f"'{min(loose)}' is not permitted")
        if "$ref" in item and len(item) > 1:
            raise refuse(where, f"$ref cannot have keywords {set(item) - {'$ref'}!r}")
        if item.get("format", "date") not in FORMATS:
            raise refuse(where, f"'{item['format']}' is not a valid format")
        if item.get("type") == "object" or "properties" in item:
            if item.get("additionalProperties") is not False:
                raise refuse(
                    where, "'additionalProperties' is required to be supplied and to be false"
                )
            missing = sorted(set(item.get("properties", {})) - set(item.get("required", ())))
            if missing:
                supplied = (
                    "'required' is required to be supplied and to be an array "
                    "including every key in properties"
                )
                raise refuse(where, f"{supplied}. Missing '{missing[0]}'")


def _schemas(
    schema: Any, where: tuple[str, ...]
) -> Iterable[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every schema within a schema, with its location."""
    if not isinstance(schema, dict):
        return
    yield where, schema
    for name in ("properties", "$defs", "definitions"):
        for key, item in schema.get(name, {}).items():
            yield from _schemas(item, (*where, name, key))
    for name in ("items", "additionalProperties"):
        yield from _schemas(schema.get(name), (*where, name))
    for name in ("anyOf", "oneOf", "allOf"):
        for index, item in enumerate(schema.get(name, [])):
            yield from _schemas(item, (*where, name, str(index)))


# Images and files


def read_image(url: str, path: str) -> str:
    """Describe the image of a URL: size and mean color of a data URL, or the link itself."""
    if re.match(r"https?://\S+$", url):
        return f"image at {url}"
    found = re.fullmatch(r"data:image/(\w+);base64,([A-Za-z0-9+/]+=*)", url)
    if found is None or found[1] not in IMAGES:
        raise invalid(
            f"Invalid '{path}'. Expected a base64-encoded data URL with an image MIME type, "
            "or a valid URL.",
            path,
        )
    image = decoded(_bytes(found[2], path))
    if image is None or str(image.format).lower() not in IMAGES:
        message = (
            "You uploaded an unsupported image. "
            f"Please make sure your image has of one the following formats: {list(IMAGES)!r}."
        )
        raise Refused(message, "invalid_image_format", path)
    pixels = image.convert("RGB").tobytes()
    means = [round(sum(pixels[channel::3]) / (len(pixels) // 3)) for channel in range(3)]
    return f"{image.width}x{image.height} #{bytes(means).hex()}"


def read_file(data: str, mimes: Iterable[str], path: str) -> str:
    """Describe the file of a data URL: its MIME type and size."""
    found = re.fullmatch(r"data:([\w.+/-]+);base64,([A-Za-z0-9+/]*=*)", data)
    if found is None or found[1] not in mimes:
        got = f"unsupported MIME type '{found[1]}'" if found else "a value without one"
        raise invalid(
            f"Invalid '{path}'. Expected a base64-encoded data URL with a supported MIME type, "
            f"but got {got}.",
            path,
        )
    held = _bytes(found[2], path)
    if found[1] == "application/pdf" and not held.startswith(b"%PDF-"):
        raise Refused("The file is not a valid PDF.", "unsupported_file", path)
    return f"{found[1]} of {len(held)} bytes"


def _bytes(text: str, path: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise invalid(f"Invalid '{path}'. The value is no base64.", path) from None


def objects(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects in a text."""
    found, at = [], text.find("{")
    while at >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
            found.append(value)
        except ValueError:
            end = at + 1
        at = text.find("{", end)
    return found
