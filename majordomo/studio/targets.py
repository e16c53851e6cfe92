"""Families of image models: how a prompt is written for each and which settings work."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from majordomo.errors import InvalidRequestError
from majordomo.imagegen.geometry import Geometry, local_geometry

# Lowest, default and highest value.
Range = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Target:
    """A family of image models."""

    name: str
    """Name of the family, for example `"sdxl"`."""
    tags: bool = False
    """Whether prompts are short phrases separated by commas; otherwise they are sentences."""
    negative_prompt: bool = False
    """Whether a negative prompt has an effect."""
    steps: Range | None = None
    """Lowest, default and highest number of steps. None: the family has no such setting."""
    cfg_scale: Range | None = None
    """Lowest, default and highest guidance scale. None: the family has no such setting."""
    sampler: str = ""
    """Default sampler. "" leaves the choice to the backend."""
    renders_text: bool = True
    """Whether the family can generate readable text."""
    geometry: Geometry | None = None
    """Which sizes the family supports. None: every size that its service accepts."""
    max_prompt_characters: int = 2000
    """Number of characters of a prompt that have an effect."""


_MEGAPIXEL = Geometry(multiple=64)
_SD1 = Target(
    "sd1", True, True, (10, 25, 60), (3, 7, 15), "dpmpp_2m", False, local_geometry("sd-v1-5"), 900
)
_SDXL = Target("sdxl", True, True, (10, 28, 60), (2, 6, 12), "dpmpp_2m", False, _MEGAPIXEL, 900)
# Distilled for guidance: real guidance stays at 1, where a negative prompt has no effect.
_FLUX = Target("flux", False, False, (10, 24, 50), (1, 1, 1), "euler", True, _MEGAPIXEL)
_QWEN_IMAGE = Target(
    "qwen-image",
    False,
    True,
    (10, 30, 60),
    (1.5, 3.5, 8),
    "euler",
    True,
    Geometry(pixels=1328 * 1328, multiple=16),
)
_Z_IMAGE = Target("z-image", False, False, (6, 9, 20), (1, 1, 1.5), "euler", True, _MEGAPIXEL)
_HOSTED = Target("hosted", max_prompt_characters=4000)
TARGETS = {target.name: target for target in (_SD1, _SDXL, _FLUX, _QWEN_IMAGE, _Z_IMAGE, _HOSTED)}

_HOSTED_PROVIDERS = ("openai", "gemini")
_FAMILIES = (
    (
        "hosted",
        re.compile(
            r"(?i)dall-?e|gpt-image|imagen-?\d|gemini|nano-?banana|seedream|ideogram|recraft"
        ),
    ),
    ("flux", re.compile(r"(?i)flux|chroma|schnell")),
    ("qwen-image", re.compile(r"(?i)qwen")),
    ("z-image", re.compile(r"(?i)z[-_ ]?image")),
    (
        "sdxl",
        re.compile(
            r"(?i)sd[-_ ]?xl|xl(?:[^a-z]|$)|pony|illustrious|noobai|animagine|juggernaut|playground"
        ),
    ),
)
# Distilled models, which need few steps and no guidance, have one of these in their names.
_DISTILLED = re.compile(r"(?i)turbo|lightning|schnell|hyper|lcm|[^a-z]dmd")


def target_for(model: str, provider: str = "") -> Target:
    """Guess the family from an image model's id.

    An id with turbo, lightning, schnell or the like gets the settings of a distilled model: few
    steps, no guidance, no negative prompt.

    Args:
        model: The id of the image model.
        provider: The name of its provider.

    Returns:
        The family. An id that no rule matches gives "hosted": sentences as prompts, and no setting
        that might be wrong.
    """
    name = (
        "hosted"
        if provider in _HOSTED_PROVIDERS
        else next((name for name, pattern in _FAMILIES if pattern.search(model)), "")
    )
    if not name:
        name = "sd1" if local_geometry(model).pixels < 1024 * 1024 else "hosted"
    target = TARGETS[name]
    if name in ("sd1", "sdxl", "flux") and _DISTILLED.search(model):
        return replace(
            target,
            steps=(1, 4, 10),
            cfg_scale=(1, 1, 2),
            negative_prompt=False,
            sampler="euler",
        )
    return target


def resolve_target(target: str | Target, model: str = "", provider: str = "") -> Target:
    """Return a Target as it is, a name's target, or for "" the one guessed from the model.

    Raises InvalidRequestError (field `target`) for an unknown name.
    """
    if isinstance(target, Target):
        return target
    guessed = target_for(model, provider)
    # A name that agrees with the guess keeps what the model's id says about distillation.
    if not target or target == guessed.name:
        return guessed
    if target not in TARGETS:
        raise InvalidRequestError(
            f"target must be one of {', '.join(TARGETS)}; got {target!r}", field="target"
        )
    return TARGETS[target]
