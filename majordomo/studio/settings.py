"""Settings that a model, a brief and a caller may all have a say in: who wins, and what is put right."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from majordomo.dialects.samplers import canonical_sampler
from majordomo.errors import CallWarning, InvalidRequestError
from majordomo.studio.classifier import MOST_COUNT, Classification
from majordomo.studio.plan import GenerationConfig
from majordomo.studio.targets import Range, Target
from majordomo.validation import is_number

SETTINGS = ("n", "size", "aspect", "steps", "cfg_scale", "sampler")
_SHAPES = {"portrait": "2:3", "landscape": "3:2", "square": "1:1"}
_SIDE = 16_384


def resolve_settings(
    target: Target,
    classification: Classification,
    model: Mapping[str, Any],
    overrides: Mapping[str, Any],
    prompts: int = 1,
) -> tuple[GenerationConfig, list[CallWarning]]:
    """A caller's word counts as it is, then what the brief says, then the model's within what the target takes.

    What a model says that cannot be is put right or left out, with a warning. Raises InvalidRequestError for a caller's own mistake.
    """
    unknown = [name for name in overrides if name not in SETTINGS]
    if unknown:
        raise TypeError(f"there is no setting {unknown[0]!r}; there are {', '.join(SETTINGS)}")
    settling = _SettingsResolver(target)
    shape = settling.shape(classification, model, overrides)
    said = {
        "steps": settling.number("steps", model.get("steps"), target.steps, whole=True),
        "cfg_scale": settling.number("cfg_scale", model.get("cfg_scale"), target.cfg),
        "sampler": settling.sampler(model.get("sampler")),
        "n": classification.count or settling.count(model.get("n"), prompts),
        **shape,
    }
    said |= {
        name: value
        for name, value in overrides.items()
        if value is not None and name not in ("size", "aspect")
    }
    return GenerationConfig(target.name, **said), settling.warnings


class _SettingsResolver:
    def __init__(self, target: Target) -> None:
        self._target = target
        self.warnings: list[CallWarning] = []

    def _add_warning(self, code: str, message: str, field: str) -> None:
        self.warnings.append(CallWarning(code, message, field))

    def number(self, name: str, value: object, known: Range | None, *, whole: bool = False) -> Any:
        """Within the range of the target; its usual value where the model said none."""
        if known is None:
            if value is not None:
                self._add_warning(
                    "SETTING_DROPPED", f"{name} is no setting of {self._target.name}", name
                )
            return None
        low, usual, high = known
        if value is None:
            return int(usual) if whole else float(usual)
        if not isinstance(value, (int, float)) or not is_number(value):
            self._add_warning("SETTING_DROPPED", f"the model's {name} is no number", name)
            return int(usual) if whole else float(usual)
        kept = min(max(value, low), high)
        if kept != value:
            suits = f"{low:g} to {high:g} suits {self._target.name}"
            self._add_warning(
                "SETTING_CLAMPED", f"the model's {name} of {value:g} became {kept:g}: {suits}", name
            )
        return round(kept) if whole else float(kept)

    def sampler(self, value: object) -> str:
        if self._target.steps is None:
            if value:
                self._add_warning(
                    "SETTING_DROPPED", f"sampler is no setting of {self._target.name}", "sampler"
                )
            return ""
        if not value:
            return self._target.sampler
        known = canonical_sampler(value) if isinstance(value, str) else None
        if known is None:
            self._add_warning(
                "SETTING_DROPPED", "the model named a sampler that nobody knows", "sampler"
            )
        return known or self._target.sampler

    def count(self, value: object, prompts: int) -> int:
        """As many as the model said, or wrote prompts for."""
        sane = isinstance(value, (int, float)) and is_number(value) and value >= 1
        number = int(value) if sane else 1  # type: ignore[call-overload]  # it is a number then
        kept = min(max(number, prompts), MOST_COUNT)
        if number > MOST_COUNT:
            self._add_warning("SETTING_CLAMPED", f"the model's n of {number:,} became {kept}", "n")
        return kept

    def shape(
        self, classification: Classification, model: Mapping[str, Any], overrides: Mapping[str, Any]
    ) -> dict[str, str]:
        """A size or an aspect, never both."""
        if overrides.get("size"):
            return {"size": str(overrides["size"])}
        if overrides.get("aspect"):
            return {"aspect": str(overrides["aspect"])}
        if classification.size:
            return {"size": self._near(classification.size, "the brief's")}
        if classification.aspect:
            return {"aspect": classification.aspect}
        said = self._models(model)
        wanted = classification.orientation
        if (
            wanted
            and said
            and (turned := _turned(next(iter(said.values()))))
            and _orientation(next(iter(said.values()))) != wanted
        ):
            self._add_warning(
                "SHAPE_TURNED",
                f"the brief wants {wanted}: the model's {next(iter(said.values()))} gave way",
                next(iter(said)),
            )
            name = next(iter(said))
            return {name: turned} if _orientation(turned) == wanted else {"aspect": _SHAPES[wanted]}
        return said or ({"aspect": _SHAPES[wanted]} if wanted else {})

    def _models(self, model: Mapping[str, Any]) -> dict[str, str]:
        size, aspect = model.get("size"), model.get("aspect")
        if size:
            if isinstance(size, str) and _sides(size, "x"):
                return {"size": self._near(re.sub(r"\s", "", size.lower()), "the model's")}
            self._add_warning("SETTING_DROPPED", "the model's size is none", "size")
        if aspect:
            sides = _sides(aspect, ":") if isinstance(aspect, str) else None
            if sides and 1 / 4 <= sides[0] / sides[1] <= 4:
                return {"aspect": f"{sides[0]}:{sides[1]}"}
            self._add_warning(
                "SETTING_DROPPED", "the model's aspect is none, or too long", "aspect"
            )
        return {}

    def _near(self, size: str, whose: str) -> str:
        geometry, sides = self._target.geometry, _sides(size, "x")
        assert sides is not None
        if geometry is None:
            return size
        # Four times the area that a model draws best is where it begins to repeat itself, and a small machine to fail
        most = 4 * geometry.pixels
        shrink = min(1.0, math.sqrt(most / (sides[0] * sides[1])))
        near = geometry.nearest((max(1, int(sides[0] * shrink)), max(1, int(sides[1] * shrink))))
        taken = f"{near[0]}x{near[1]}"
        if taken != size:
            self._add_warning(
                "SIZE_CHANGED",
                f"{whose} size {size} became {taken}, which {self._target.name} draws",
                "size",
            )
        return taken


def _sides(text: str, mark: str) -> tuple[int, int] | None:
    found = re.fullmatch(rf"\s*([0-9]{{1,5}})\s*{mark}\s*([0-9]{{1,5}})\s*", text.lower())
    if found is None or not 0 < int(found[1]) <= _SIDE or not 0 < int(found[2]) <= _SIDE:
        return None
    return int(found[1]), int(found[2])


def _turned(shape: str) -> str:
    mark = "x" if "x" in shape else ":"
    return mark.join(reversed(shape.split(mark)))


def _orientation(shape: str) -> str:
    width, height = (int(side) for side in re.split("[x:]", shape))
    return "square" if width == height else "landscape" if width > height else "portrait"


def check_settings(values: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError or TypeError for settings a caller cannot mean."""
    both: Iterable[object] = (values.get("size"), values.get("aspect"))
    if all(both):
        raise InvalidRequestError(
            "size says how large already: aspect is for when it is unset", field="aspect"
        )
    resolve_settings(Target("hosted"), Classification(""), {}, values)
