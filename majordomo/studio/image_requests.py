"""Convert a plan to image requests, and a result to a studio image.

Pure functions, except that `requests_for` draws a random seed when it has to.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from majordomo import imagegen
from majordomo.errors import CallWarning
from majordomo.options import SAFE_SEED_LIMIT
from majordomo.requests.base import fields_set
from majordomo.studio.plan import NamedPrompt, Plan
from majordomo.studio.result import StudioImage

# Request fields left out of `StudioImage.settings`: they are not plain JSON values, or the studio
# image has them in a field of its own.
_UNRECORDED_FIELDS = (
    "images",
    "mask",
    "extra",
    "user_id",
    "previews",
    "n",
    "negative_prompt",
    "seed",
)


def plan_with_settings(plan: Plan, settings: Mapping[str, Any], max_images: int) -> Plan:
    """Return the plan with the user's settings and at most `max_images` images."""
    changes = dict(settings)
    if changes.get("size"):
        changes["aspect"] = ""
    elif changes.get("aspect"):
        changes["size"] = ""
    config = replace(plan.config, **changes)
    if config.n <= max_images:
        return replace(plan, config=config)
    warning = CallWarning(
        "COUNT_CLAMPED",
        f"{config.n} images were requested; only {max_images} are generated",
        "n",
    )
    return replace(plan, config=replace(config, n=max_images), warnings=(*plan.warnings, warning))


def requests_for(
    plan: Plan, overrides: Mapping[str, Any], *, hide_previews: bool
) -> list[tuple[NamedPrompt, imagegen.Request]]:
    """Return one request per image.

    A seed in `overrides` is that of the first image; each following image uses the next seed.
    `hide_previews` requests no previews.
    """
    config, variants = plan.config, plan.variants
    seed = overrides.get("seed")
    distinct = {(variant.prompt, variant.negative_prompt) for variant in variants}
    if seed is None and len(distinct) < len(variants):
        # The backend's own default may be one fixed seed, which would repeat the same image.
        seed = random.randrange(SAFE_SEED_LIMIT)
    requests = []
    for index, variant in enumerate(variants):
        request = imagegen.Request(
            variant.prompt,
            n=1,
            size=config.size,
            aspect="" if config.size else config.aspect,
            steps=config.steps,
            cfg_scale=config.cfg_scale,
            negative_prompt=variant.negative_prompt,
            sampler=config.sampler,
        ).override(**overrides)
        request = request.override(seed=None if seed is None else (seed + index) % 2**63)
        requests.append((variant, request.override(previews=0) if hide_previews else request))
    return requests


def studio_image(
    prompt: NamedPrompt, request: imagegen.Request, result: imagegen.Result, text: str
) -> StudioImage:
    """Return the generated image, not finished. `text` is what an overlay writes over it."""
    warnings = list(result.warnings)
    if len(result.images) > 1:
        warnings.append(
            CallWarning(
                "COUNT_DIFFERS",
                f"one image was requested, {len(result.images)} were returned;"
                " only the first is used",
                "n",
            )
        )
    return StudioImage(
        prompt.name,
        result.image,
        request.prompt,
        request.negative_prompt,
        result.details[0].seed,
        result.model,
        result.provider,
        {
            name: getattr(request, name)
            for name in fields_set(request)
            if name not in _UNRECORDED_FIELDS
        },
        tuple(warnings),
        text,
    )
