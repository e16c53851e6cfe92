"""From a plan to requests for a painter, and from its result to an image. Pure, but for a seed that nobody gave."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from majordomo import imagegen
from majordomo.errors import CallWarning
from majordomo.options import SAFE_SEEDS
from majordomo.studio.plan import NamedPrompt, Plan
from majordomo.studio.result import StudioImage

_NOT_TOLD = (
    "images",
    "mask",
    "extra",
    "user_id",
    "previews",
    "n",
    "negative_prompt",
    "seed",
)  # no plain values, or told elsewhere


def plan_with_settings(plan: Plan, settings: Mapping[str, Any], most: int) -> Plan:
    """The plan with a caller's settings, whoever made it, and at most so many images."""
    changes = dict(settings)
    if changes.get("size"):
        changes["aspect"] = ""
    elif changes.get("aspect"):
        changes["size"] = ""
    config = replace(plan.config, **changes)
    if config.n <= most:
        return replace(plan, config=config)
    warning = CallWarning(
        "COUNT_CLAMPED", f"{config.n} images are wanted; at most {most} are made", "n"
    )
    return replace(plan, config=replace(config, n=most), warnings=(*plan.warnings, warning))


def requests_for(
    plan: Plan, overrides: Mapping[str, Any], *, hidden: bool
) -> list[tuple[NamedPrompt, imagegen.Request]]:
    """One request per image. A seed given is the first one's, and the next has the next. `hidden`: nobody may see unfinished ones."""
    config, variants = plan.config, plan.variants
    seed = overrides.get("seed")
    if seed is None and len({(one.prompt, one.negative_prompt) for one in variants}) < len(
        variants
    ):
        seed = random.randrange(SAFE_SEEDS)  # a backend's own default may be one seed for all
    requests = []
    for at, one in enumerate(variants):
        request = imagegen.Request(
            one.prompt,
            n=1,
            size=config.size,
            aspect="" if config.size else config.aspect,
            steps=config.steps,
            cfg_scale=config.cfg_scale,
            negative_prompt=one.negative_prompt,
            sampler=config.sampler,
        ).override(**overrides)
        request = request.override(seed=None if seed is None else (seed + at) % 2**63)
        requests.append((one, request.override(previews=0) if hidden else request))
    return requests


def studio_image(
    prompt: NamedPrompt, request: imagegen.Request, result: imagegen.Result, text: str
) -> StudioImage:
    """The image as the painter gave it. `text` is what may be written over it later."""
    warnings = list(result.warnings)
    if len(result.images) > 1:
        warnings.append(
            CallWarning(
                "COUNT_DIFFERS",
                f"one image was asked for, {len(result.images)} came: the first was kept",
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
            for name in imagegen.request.fields_set(request)
            if name not in _NOT_TOLD
        },
        tuple(warnings),
        text,
    )
