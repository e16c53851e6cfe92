"""Resolve the settings of a plan from the user, the brief and the chat model.

The user's overrides are used as they are. Then the brief decides, then the chat model within the
ranges of the target. A value of the chat model that cannot be used is corrected or dropped, and a
warning says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from majordomo.dialects.samplers import canonical_sampler
from majordomo.errors import CallWarning, InvalidRequestError
from majordomo.studio.classifier import MAX_IMAGES, Classification
from majordomo.studio.plan import GenerationConfig
from majordomo.studio.targets import Range, Target
from majordomo.validation import is_number

SETTINGS = ("n", "size", "aspect", "steps", "cfg_scale", "sampler")
_ASPECTS = {"portrait": "2:3", "landscape": "3:2", "square": "1:1"}
# In pixels.
_MAX_SIDE = 16_384
# Models repeat content, and small GPUs run out of memory, above this multiple of the native area.
_MAX_AREA_FACTOR = 4


def resolve_settings(
    target: Target,
    classification: Classification,
    model: Mapping[str, Any],
    overrides: Mapping[str, Any],
    prompts: int = 1,
) -> tuple[GenerationConfig, list[CallWarning]]:
    """Return the settings of a plan and a warning for each value that was changed or dropped.

    Args:
        target: The family of image models.
        classification: What the brief says.
        model: What the chat model says, unchecked.
        overrides: The user's settings.
        prompts: Number of prompts; at least so many images are planned.

    Raises:
        InvalidRequestError: An override is invalid.
        TypeError: An override has an unknown name.
    """
    unknown = [name for name in overrides if name not in SETTINGS]
    if unknown:
        raise TypeError(f"unknown setting {unknown[0]!r}; use one of {', '.join(SETTINGS)}")
    resolver = _SettingsResolver(target)
    shape = resolver.resolve_shape(classification, model, overrides)
    settings = {
        "steps": resolver.resolve_number("steps", model.get("steps"), target.steps, integer=True),
        "cfg_scale": resolver.resolve_number("cfg_scale", model.get("cfg_scale"), target.cfg_scale),
        "sampler": resolver.resolve_sampler(model.get("sampler")),
        "n": classification.count or resolver.resolve_count(model.get("n"), prompts),
        **shape,
    }
    settings |= {
        name: value
        for name, value in overrides.items()
        if value is not None and name not in ("size", "aspect")
    }
    return GenerationConfig(target.name, **settings), resolver.warnings


class _SettingsResolver:
    """Resolves settings one by one and collects the warnings."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.warnings: list[CallWarning] = []

    def _add_warning(self, code: str, message: str, field: str) -> None:
        self.warnings.append(CallWarning(code, message, field))

    def resolve_number(
        self, name: str, value: object, value_range: Range | None, *, integer: bool = False
    ) -> Any:
        """Clamp the chat model's value to the target's range; use the range's default for None."""
        if value_range is None:
            if value is not None:
                self._add_warning(
                    "SETTING_DROPPED", f"{self._target.name} has no setting {name}", name
                )
            return None
        minimum, default, maximum = value_range
        if value is None:
            return int(default) if integer else float(default)
        if not isinstance(value, (int, float)) or not is_number(value):
            self._add_warning("SETTING_DROPPED", f"the chat model's {name} is not a number", name)
            return int(default) if integer else float(default)
        clamped = min(max(value, minimum), maximum)
        if clamped != value:
            self._add_warning(
                "SETTING_CLAMPED",
                f"the chat model's {name} of {value:g} was changed to {clamped:g}:"
                f" {self._target.name} works best with {minimum:g} to {maximum:g}",
                name,
            )
        return round(clamped) if integer else float(clamped)

    def resolve_sampler(self, value: object) -> str:
        """Return the canonical name of the chat model's sampler, or the target's default."""
        if self._target.steps is None:
            if value:
                self._add_warning(
                    "SETTING_DROPPED", f"{self._target.name} has no setting sampler", "sampler"
                )
            return ""
        if not value:
            return self._target.sampler
        sampler = canonical_sampler(value) if isinstance(value, str) else None
        if sampler is None:
            self._add_warning(
                "SETTING_DROPPED", "the chat model named an unknown sampler", "sampler"
            )
        return sampler or self._target.sampler

    def resolve_count(self, value: object, prompts: int) -> int:
        """Return the chat model's number of images, at least one per prompt and at most 16."""
        is_valid = isinstance(value, (int, float)) and is_number(value) and value >= 1
        count = int(value) if is_valid else 1  # type: ignore[call-overload]  # checked above
        clamped = min(max(count, prompts), MAX_IMAGES)
        if count > MAX_IMAGES:
            self._add_warning(
                "SETTING_CLAMPED", f"the chat model's n of {count:,} was changed to {clamped}", "n"
            )
        return clamped

    def resolve_shape(
        self, classification: Classification, model: Mapping[str, Any], overrides: Mapping[str, Any]
    ) -> dict[str, str]:
        """Return a size or an aspect, never both, or neither."""
        if overrides.get("size"):
            return {"size": str(overrides["size"])}
        if overrides.get("aspect"):
            return {"aspect": str(overrides["aspect"])}
        if classification.size:
            return {"size": self._nearest_size(classification.size, "the brief's")}
        if classification.aspect:
            return {"aspect": classification.aspect}
        shape = self._model_shape(model)
        orientation = classification.orientation
        if not orientation:
            return shape
        if not shape:
            return {"aspect": _ASPECTS[orientation]}
        [(name, value)] = shape.items()
        if _orientation(value) == orientation:
            return shape
        self._add_warning(
            "SHAPE_TURNED",
            f"the chat model's {name} {value} was changed: the brief asks for {orientation}",
            name,
        )
        turned = _turned(value)
        if _orientation(turned) == orientation:
            return {name: turned}
        return {"aspect": _ASPECTS[orientation]}

    def _model_shape(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Return the chat model's size or aspect when it is valid."""
        size, aspect = model.get("size"), model.get("aspect")
        if size:
            if isinstance(size, str) and _parse_sides(size, "x"):
                compact = re.sub(r"\s", "", size.lower())
                return {"size": self._nearest_size(compact, "the chat model's")}
            self._add_warning("SETTING_DROPPED", "the chat model's size is not a size", "size")
        if aspect:
            sides = _parse_sides(aspect, ":") if isinstance(aspect, str) else None
            if sides and 1 / 4 <= sides[0] / sides[1] <= 4:
                return {"aspect": f"{sides[0]}:{sides[1]}"}
            self._add_warning(
                "SETTING_DROPPED",
                "the chat model's aspect is not an aspect from 1:4 to 4:1",
                "aspect",
            )
        return {}

    def _nearest_size(self, size: str, origin: str) -> str:
        """Return the size nearest to `size` that the target supports."""
        geometry, sides = self._target.geometry, _parse_sides(size, "x")
        assert sides is not None
        if geometry is None:
            return size
        max_pixels = _MAX_AREA_FACTOR * geometry.pixels
        scale = min(1.0, math.sqrt(max_pixels / (sides[0] * sides[1])))
        width, height = geometry.nearest(
            (max(1, int(sides[0] * scale)), max(1, int(sides[1] * scale)))
        )
        nearest = f"{width}x{height}"
        if nearest != size:
            self._add_warning(
                "SIZE_CHANGED",
                f"{origin} size {size} was changed to {nearest}, the nearest size for"
                f" {self._target.name}",
                "size",
            )
        return nearest


def _parse_sides(text: str, separator: str) -> tuple[int, int] | None:
    match = re.fullmatch(rf"\s*([0-9]{{1,5}})\s*{separator}\s*([0-9]{{1,5}})\s*", text.lower())
    if match is None:
        return None
    width, height = int(match[1]), int(match[2])
    return (width, height) if 0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE else None


def _turned(shape: str) -> str:
    """Return the size or aspect with width and height swapped."""
    separator = "x" if "x" in shape else ":"
    return separator.join(reversed(shape.split(separator)))


def _orientation(shape: str) -> str:
    width, height = (int(side) for side in re.split("[x:]", shape))
    return "square" if width == height else "landscape" if width > height else "portrait"


def check_settings(values: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError or TypeError for settings that the user cannot override."""
    both: Iterable[object] = (values.get("size"), values.get("aspect"))
    if all(both):
        raise InvalidRequestError("set size or aspect, not both", field="aspect")
    resolve_settings(Target("hosted"), Classification(""), {}, values)
