"""Recipe formats: JSON values, and one line of text for the command line. Performs no I/O.

A line consists of steps separated by commas: `name`, `name=value`, and options after colons,
`name=value:option=value:word`. A bare word is a flag (`fast`) or a choice (`fill`). Quotes protect
commas and colons: `text="Hello, world":anchor=top`.

The functions take the table of step classes as an argument, because the module with the classes
imports this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from majordomo.errors import InvalidRequestError
from majordomo.media.image_part import ImagePart

S = TypeVar("S")
# Step classes by name.
StepTypes = Mapping[str, type[S]]

MAX_STEPS = 100
MAX_LINE_CHARACTERS = 20_000
_ALIASES = {"strip": "sanitize", "rotate": "orient"}
# The field that the value after the name of a step sets.
_MAIN_FIELDS = {
    "resize": "width",
    "orient": "turn",
    "convert": "format",
    "fit": "max_bytes",
    "flatten": "color",
    "text": "text",
    "watermark": "text",
}
_SIZE = re.compile(r"(\d+)?x(\d+)?")
# Steps end at a comma. Options end at a colon before a letter, so that "16:9" is not split.
# Separators in quotes do not count.
_STEP_TEXT, _OPTION_TEXT = (
    re.compile(rf'(?:"(?:\\.|[^"\\])*"|(?!{separator}).)+', re.DOTALL)
    for separator in (",", ":(?=[a-z])")
)


def recipe_to_dict(steps: Iterable[object]) -> dict[str, Any]:
    """Return steps as plain JSON values without the fields that are at their default."""
    return {"steps": [_step_to_dict(step) for step in steps]}


def _step_to_dict(step: object) -> dict[str, Any]:
    values: dict[str, Any] = {"step": type(step).__name__.lower()}
    for item in fields(step):  # type: ignore[arg-type]  # every step is a dataclass
        value = getattr(step, item.name)
        if value != item.default:
            values[item.name] = (
                value.to_data_url()
                if isinstance(value, ImagePart)
                else list(value)
                if isinstance(value, tuple)
                else value
            )
    return values


def steps_from_dict(values: object, step_types: StepTypes[S]) -> list[S]:
    """Create steps from the values that `recipe_to_dict` returned.

    Raises:
        InvalidRequestError: The values are not valid. The field has the form `steps[2].width`.
    """
    steps = values.get("steps") if isinstance(values, Mapping) else None
    if not isinstance(steps, (list, tuple)):
        raise InvalidRequestError(
            f'a recipe must be an object with a list "steps"; got {_describe(values)}',
            field="steps",
        )
    if len(steps) > MAX_STEPS:
        raise InvalidRequestError(
            f"a recipe must have at most {MAX_STEPS} steps; got {len(steps)}", field="steps"
        )
    return [
        _step_from_dict(step, f"steps[{index}]", step_types) for index, step in enumerate(steps)
    ]


def _step_from_dict(values: object, field: str, step_types: StepTypes[S]) -> S:
    if not isinstance(values, Mapping) or not isinstance(values.get("step"), str):
        raise InvalidRequestError(
            f'a step must be an object with its name in "step"; got {_describe(values)}',
            field=field,
        )
    settings = {name: value for name, value in values.items() if name != "step"}
    if isinstance(settings.get("image"), str):
        try:
            settings["image"] = ImagePart.from_data_url(settings["image"])
        except InvalidRequestError as error:
            raise InvalidRequestError(
                error.message, field=f"{field}.image", code=error.code
            ) from None
    name = values["step"]
    return _create_step(_find_type(name, field, step_types), name, settings, field)


def _describe(value: object) -> str:
    return "an object without it" if isinstance(value, Mapping) else type(value).__name__


def _find_type(name: str, field: str, step_types: StepTypes[S]) -> type[S]:
    if name not in step_types:
        raise InvalidRequestError(
            f"the name of a step must be one of {', '.join(step_types)}; got {name[:80]!r}",
            field=field,
        )
    return step_types[name]


def _create_step(step_type: type[S], name: str, settings: Mapping[str, Any], field: str) -> S:
    step_fields = {item.name: item for item in fields(step_type)}  # type: ignore[arg-type]  # every step is a dataclass
    for key in settings:
        if key not in step_fields:
            raise InvalidRequestError(
                f"the settings of {name} are {', '.join(step_fields)}; got {str(key)[:80]!r}",
                field=f"{field}.{str(key)[:80]}",
            )
    for key, item in step_fields.items():
        if item.default is MISSING and key not in settings:
            raise InvalidRequestError(f"{name} needs {key}", field=f"{field}.{key}")
    try:
        return step_type(**settings)
    except InvalidRequestError as error:
        raise InvalidRequestError(
            f"{name}: {error.message}", field=f"{field}.{error.field}", code=error.code
        ) from None


def parse_steps(text: str, step_types: StepTypes[S]) -> list[S]:
    """Create steps from one line of text.

    Raises:
        InvalidRequestError: The text is not valid. The field names the step.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(
            f"a recipe must be a line of text; got {type(text).__name__}", field="recipe"
        )
    if len(text) > MAX_LINE_CHARACTERS:
        raise InvalidRequestError(
            f"a recipe must have at most {MAX_LINE_CHARACTERS:,} characters; got {len(text):,}",
            field="recipe",
        )
    steps = []
    for index, step_text in enumerate(_STEP_TEXT.findall(text)):
        if step_text.strip():
            steps.append(_parse_step(step_text.strip(), f"steps[{index}]", step_types))
    if not steps:
        raise InvalidRequestError(
            "a recipe must have at least one step, for example resize=1024,convert=webp",
            field="recipe",
        )
    if len(steps) > MAX_STEPS:
        raise InvalidRequestError(
            f"a recipe must have at most {MAX_STEPS} steps; got {len(steps)}", field="recipe"
        )
    return steps


def _parse_step(text: str, field: str, step_types: StepTypes[S]) -> S:
    head, *options = _OPTION_TEXT.findall(text)
    name, equals, value = head.partition("=")
    name = _ALIASES.get(name.strip().lower(), name.strip().lower())
    step_type = _find_type(name, field, step_types)
    hints = get_type_hints(step_type)
    settings = _parse_main_value(name, _unquote(value.strip()), hints, field) if equals else {}
    for option in options:
        key, equals, value = option.removeprefix(":").partition("=")
        key = key.strip()
        if equals:
            settings[key] = _parse_value(name, key, _unquote(value.strip()), hints, field)
        else:
            settings |= _parse_word(name, key, hints, field)
    return _create_step(step_type, name, settings, field)


def _parse_main_value(
    name: str, value: str, hints: Mapping[str, Any], field: str
) -> dict[str, Any]:
    """Return the settings given by the value after the name of a step."""
    size = _SIZE.fullmatch(value)
    if name == "resize" and value.isdecimal():
        return {"width": int(value), "how": "long_side"}
    if name in ("resize", "crop") and size is not None:
        return {
            side: int(number)
            for side, number in zip(("width", "height"), size.groups(), strict=True)
            if number
        }
    if name == "crop":
        if ":" in value:
            return {"aspect": value}
        return {"box": _parse_value(name, "box", value, hints, field)}
    key = _MAIN_FIELDS.get(name)
    if key is None:
        raise InvalidRequestError(
            f"{name} must not have a value after its name; got {value[:80]!r}", field=field
        )
    return {key: _parse_value(name, key, value, hints, field)}


def _parse_word(name: str, word: str, hints: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Return the setting of a bare word: a flag, or a choice of the first field that has it."""
    if hints.get(word) is bool:
        return {word: True}
    for key, hint in hints.items():
        if get_origin(hint) is Literal and word in get_args(hint):
            return {key: word}
    words = [key for key, hint in hints.items() if hint is bool] + [
        str(choice)
        for hint in hints.values()
        if get_origin(hint) is Literal
        for choice in get_args(hint)
    ]
    allowed = f"must be one of {', '.join(words)}" if words else "is not supported"
    raise InvalidRequestError(
        f"{name}: a word without a value {allowed}; got {word[:80]!r}",
        field=f"{field}.{word[:80]}",
    )


def _parse_value(name: str, key: str, text: str, hints: Mapping[str, Any], field: str) -> Any:
    """Convert a text to the type of a field.

    The items of a tuple are separated by slashes or spaces.
    """
    hint = hints.get(key)
    alternatives = get_args(hint) if get_origin(hint) is not Literal else ()
    expected = ""
    try:
        if hint is bool:
            expected = "yes or no"
            return {"yes": True, "true": True, "no": False, "false": False}[text.lower()]
        if hint is int or int in alternatives:
            expected = "an integer"
            return int(text)
        if hint is float:
            expected = "a number"
            return float(text)
        if any(get_origin(alternative) is tuple for alternative in alternatives):
            expected = "integers separated by slashes or spaces"
            items = re.split(r"[/ ]+", text)
            return tuple(int(item) for item in items) if key == "box" else tuple(items)
    except (ValueError, KeyError):
        raise InvalidRequestError(
            f"{name}: {key} must be {expected}; got {text[:80]!r}", field=f"{field}.{key}"
        ) from None
    return text


def _unquote(value: str) -> str:
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):
        return value
    return re.sub(
        r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value[1:-1], flags=re.DOTALL
    )
