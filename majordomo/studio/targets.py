"""Families of image models: how a prompt is written for each, and which settings make sense."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from majordomo.errors import InvalidRequestError
from majordomo.imagegen.geometry import Geometry, local_geometry

Range = tuple[float, float, float]  # lowest, usual, highest


@dataclass(frozen=True, slots=True)
class Target:
    """A family. `tags`: prompts are short phrases with commas, else sentences. `negative`: a negative prompt has an effect.

    `steps` and `cfg` are (lowest, usual, highest) that make sense, None where the model or its service has no such setting. `writes`: it
    can draw readable text. `sampler` is the usual one, "" to leave it to the backend. `geometry` says which sizes it likes, None: whatever
    its service takes. `longest` is how many characters of a prompt have an effect.
    """

    name: str
    tags: bool = False
    negative: bool = False
    steps: Range | None = None
    cfg: Range | None = None
    sampler: str = ""
    writes: bool = True
    geometry: Geometry | None = None
    longest: int = 2000


_MEGAPIXEL = Geometry(multiple=64)
_SD1 = Target(
    "sd1", True, True, (10, 25, 60), (3, 7, 15), "dpmpp_2m", False, local_geometry("sd-v1-5"), 900
)
_SDXL = Target("sdxl", True, True, (10, 28, 60), (2, 6, 12), "dpmpp_2m", False, _MEGAPIXEL, 900)
# Distilled for guidance: real guidance stays at 1, where a negative prompt has no effect
_FLUX = Target("flux", False, False, (10, 24, 50), (1, 1, 1), "euler", True, _MEGAPIXEL)
_QWEN = Target(
    "qwen-image",
    False,
    True,
    (10, 30, 60),
    (1.5, 3.5, 8),
    "euler",
    True,
    Geometry(pixels=1328 * 1328, multiple=16),
)
_Z = Target("z-image", False, False, (6, 9, 20), (1, 1, 1.5), "euler", True, _MEGAPIXEL)
_HOSTED = Target("hosted", longest=4000)
TARGETS = {target.name: target for target in (_SD1, _SDXL, _FLUX, _QWEN, _Z, _HOSTED)}

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
# Few steps and no guidance: distilled models say so in their names
_FAST = re.compile(r"(?i)turbo|lightning|schnell|hyper|lcm|[^a-z]dmd")


def target_for(model: str, provider: str = "") -> Target:
    """The family guessed from a model's id, made quick where the id says turbo, lightning, schnell and the like.

    An id that says nothing is taken for "hosted": prose, and no setting that might be wrong.
    """
    name = (
        "hosted"
        if provider in _HOSTED_PROVIDERS
        else next((name for name, known in _FAMILIES if known.search(model)), "")
    )
    if not name:
        name = "sd1" if local_geometry(model).pixels < 1024 * 1024 else "hosted"
    found = TARGETS[name]
    quick = name in ("sd1", "sdxl", "flux") and _FAST.search(model)
    return (
        replace(found, steps=(1, 4, 10), cfg=(1, 1, 2), negative=False, sampler="euler")
        if quick
        else found
    )


def named_target(target: str | Target, model: str = "", provider: str = "") -> Target:
    """`target` itself or by name; "" guesses from the model. Raises InvalidRequestError (field `target`) for an unknown name."""
    if isinstance(target, Target):
        return target
    if not target:
        return target_for(model, provider)
    guessed = target_for(model, provider)
    if target == guessed.name:
        return guessed
    if target not in TARGETS:
        raise InvalidRequestError(f"target is one of {', '.join(TARGETS)}", field="target")
    return TARGETS[target]
