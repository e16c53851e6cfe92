"""Recipes as JSON and as one line for a terminal. Pure.

A line is steps with commas between: `name`, `name=value`, and options behind colons, `name=value:option=value:word`. A bare word is a flag
(`fast`) or a choice (`fill`). Quotes protect what has commas or colons in it: `text="Hello, world":anchor=top`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from majordomo.errors import InvalidRequestError
from majordomo.imaging.operations import STEPS, Recipe, Step
from majordomo.media.image_part import ImagePart

MAX_STEPS = 100
_MOST_LINE = 20_000
_ALIASES = {"strip": "sanitize", "sanitize": "sanitize", "optimize": "optimize", "rotate": "orient"}
_FIRST = {  # the field that a step's own value is for
    "resize": "width",
    "orient": "turn",
    "convert": "format",
    "fit": "max_bytes",
    "flatten": "color",
    "text": "text",
    "watermark": "text",
}
_SIZE = re.compile(r"(\d+)?x(\d+)?")
# a piece ends at a comma, an option at a colon before a letter, so that 16:9 stays one; neither counts in quotes
_PIECES = {
    mark: re.compile(rf'(?:"(?:\\.|[^"\\])*"|(?!{mark}).)+', re.DOTALL)
    for mark in (",", ":(?=[a-z])")
}


def to_dict(recipe: Recipe) -> dict[str, Any]:
    return {"steps": [_plain(step) for step in recipe.steps]}


def _plain(step: Step) -> dict[str, Any]:
    told: dict[str, Any] = {"step": type(step).__name__.lower()}
    for item in fields(step):  # type: ignore[arg-type]  # every step is a dataclass
        value = getattr(step, item.name)
        if value != item.default:
            told[item.name] = (
                value.to_data_url()
                if isinstance(value, ImagePart)
                else list(value)
                if isinstance(value, tuple)
                else value
            )
    return told


def from_dict(values: object) -> Recipe:
    steps = values.get("steps") if isinstance(values, Mapping) else None
    if not isinstance(steps, (list, tuple)) or len(steps) > MAX_STEPS:
        raise InvalidRequestError(
            f'a recipe is an object with a list "steps" of at most {MAX_STEPS}', field="steps"
        )
    return Recipe(*(_step(told, f"steps[{index}]") for index, told in enumerate(steps)))


def _step(told: object, field: str) -> Step:
    if not isinstance(told, Mapping) or not isinstance(told.get("step"), str):
        raise InvalidRequestError('a step is an object with its name in "step"', field=field)
    rest = {name: value for name, value in told.items() if name != "step"}
    if isinstance(rest.get("image"), str):
        try:
            rest["image"] = ImagePart.from_data_url(rest["image"])
        except InvalidRequestError as error:
            raise InvalidRequestError(
                error.message, field=f"{field}.image", code=error.code
            ) from None
    return _made(told["step"], rest, field)


def _made(name: str, values: Mapping[str, Any], field: str) -> Step:
    kind = STEPS.get(name)
    if kind is None:
        raise InvalidRequestError(
            f"there is no step {name[:80]!r}; there are {', '.join(STEPS)}", field=field
        )
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for given in values:
        if given not in known:
            raise InvalidRequestError(
                f"{name} has no {str(given)[:80]!r}; it has {', '.join(known)}",
                field=f"{field}.{str(given)[:80]}",
            )
    for needed, item in known.items():
        if item.default is MISSING and needed not in values:
            raise InvalidRequestError(f"{name} needs {needed}", field=f"{field}.{needed}")
    try:
        return kind(**values)
    except InvalidRequestError as error:
        raise InvalidRequestError(
            f"{name}: {error.message}", field=f"{field}.{error.field}", code=error.code
        ) from None


def parse(text: str) -> Recipe:
    if not isinstance(text, str) or len(text) > _MOST_LINE:
        raise InvalidRequestError(
            f"a recipe is a line of at most {_MOST_LINE:,} characters", field="recipe"
        )
    steps = []
    for index, piece in enumerate(_PIECES[","].findall(text)):
        if piece.strip():
            steps.append(_parsed(piece.strip(), f"steps[{index}]"))
    if not steps:
        raise InvalidRequestError(
            "a recipe names at least one step, as in resize=1024,convert=webp", field="recipe"
        )
    if len(steps) > MAX_STEPS:
        raise InvalidRequestError(f"a recipe has at most {MAX_STEPS} steps", field="recipe")
    return Recipe(*steps)


def _parsed(piece: str, field: str) -> Step:
    head, *options = _PIECES[":(?=[a-z])"].findall(piece)
    name, equals, value = head.partition("=")
    name = _ALIASES.get(name.strip().lower(), name.strip().lower())
    if name not in STEPS:
        raise InvalidRequestError(
            f"there is no step {name[:80]!r}; there are {', '.join(STEPS)}", field=field
        )
    values = _brief(name, _unquoted(value.strip()), field) if equals else {}
    for option in options:
        key, equals, value = option.removeprefix(":").partition("=")
        key = key.strip()
        if equals:
            values[key] = _value(name, key, _unquoted(value.strip()), field)
        else:
            values |= _word(name, key, field)
    return _made(name, values, field)


def _brief(name: str, value: str, field: str) -> dict[str, Any]:
    """What stands behind the name of a step."""
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
        return {"aspect": value} if ":" in value else {"box": _value(name, "box", value, field)}
    key = _FIRST.get(name)
    if key is None:
        raise InvalidRequestError(f"{name} takes no value of its own", field=field)
    return {key: _value(name, key, value, field)}


def _word(name: str, word: str, field: str) -> dict[str, Any]:
    """A flag, or the choice of the only field that has it."""
    hints = _hints(name)
    if hints.get(word) is bool:
        return {word: True}
    for key, hint in hints.items():
        if get_origin(hint) is Literal and word in get_args(hint):
            return {key: word}
    raise InvalidRequestError(f"{name} has no {word[:80]!r}", field=f"{field}.{word[:80]}")


def _value(name: str, key: str, text: str, field: str) -> Any:
    """The text as the kind of value that the field holds; a tuple has its items between slashes or spaces."""
    hint = _hints(name).get(key)
    kinds = get_args(hint) if get_origin(hint) is not Literal else ()
    try:
        if hint is bool:
            return {"yes": True, "true": True, "no": False, "false": False}[text.lower()]
        if hint is int or int in kinds:
            return int(text)
        if hint is float:
            return float(text)
        if any(get_origin(kind) is tuple for kind in kinds):
            pieces = re.split(r"[/ ]+", text)
            return tuple(int(piece) for piece in pieces) if key == "box" else tuple(pieces)
    except (ValueError, KeyError):
        raise InvalidRequestError(
            f"{name}: {key} cannot be {text[:80]!r}", field=f"{field}.{key}"
        ) from None
    return text


def _unquoted(value: str) -> str:
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):
        return value
    return re.sub(
        r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], value[1:-1], flags=re.DOTALL
    )


@cache
def _hints(name: str) -> dict[str, Any]:
    return get_type_hints(STEPS[name])
