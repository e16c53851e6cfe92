"""The `<sd_cpp_extra_args>` tag: how settings reach stable-diffusion.cpp behind an OpenAI-shaped route.

No version of sd-server reads steps, cfg, sampler, seed or negative prompt from the top level of `/v1/images/generations`; it reads
them from one JSON object within the prompt text. Source: stable-diffusion.cpp, `examples/common`, commit 97d2990. Its rules, which
decide ours: the leftmost complete tag is parsed and all are deleted; the body must be on one line; `<` within it would end it early;
builds before 2026-04-11 know the flat names, later ones only the nested, and each ignores the other's.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from majordomo.dialects.request_body import UNSUPPORTED
from majordomo.errors import CallWarning
from majordomo.framing.json import encode_json
from majordomo.imagegen import Request

OPENING = "<sd_cpp_extra_args>"
CLOSING = "</sd_cpp_extra_args>"
# The server is case-sensitive today; a stranger's text is broken whatever the case
_IN_TEXT = re.compile(r"<(?=/?sd_cpp_extra_args>)", re.IGNORECASE)

MAX_STEPS = 100  # more are cut to this, silently
SEED_WARNING = CallWarning(
    "SEED_DEFAULT",
    "no seed was set: a stable-diffusion.cpp server then draws from its own, usually always 42",
    "seed",
)


def neutralize(text: str) -> tuple[str, bool]:
    """The text with every tag in it broken by a space after `<`, and whether there was one. Doing it twice changes nothing more."""
    broken, count = _IN_TEXT.subn("< ", text)
    return broken, count > 0


def with_neutralized_text(request: Request) -> tuple[Request, list[CallWarning]]:
    """The request with every tag in its prompt broken, and a warning when there was one."""
    prompt, found = neutralize(request.prompt)
    if not found:
        return request, []
    warning = CallWarning(
        "TAG_NEUTRALIZED",
        "the prompt held <sd_cpp_extra_args>; it was broken so that it sets nothing",
        "prompt",
    )
    return replace(request, prompt=prompt), [warning]


def clamp_steps(request: Request) -> tuple[Request, list[CallWarning]]:
    """The request with no more steps than stable-diffusion.cpp draws."""
    if request.steps is None or request.steps <= MAX_STEPS:
        return request, []
    warning = CallWarning(
        UNSUPPORTED, f"stable-diffusion.cpp draws at most {MAX_STEPS} steps", "steps"
    )
    return replace(request, steps=MAX_STEPS), [warning]


def encode_tag(request: Request) -> str:
    """Our tag for the settings that are set, in both spellings; "" when none is."""
    flat: dict[str, Any] = {}
    sampling: dict[str, Any] = {}
    if request.seed is not None:
        flat["seed"] = request.seed
    if request.negative_prompt:
        flat["negative_prompt"] = request.negative_prompt
    if request.steps is not None:
        flat["steps"] = sampling["sample_steps"] = request.steps
    if request.cfg_scale is not None:
        flat["cfg_scale"] = float(request.cfg_scale)
        sampling["guidance"] = {"txt_cfg": float(request.cfg_scale)}
    if request.sampler:
        flat["sample_method"] = sampling["sample_method"] = request.sampler
    if request.scheduler:
        flat["scheduler"] = sampling["scheduler"] = request.scheduler
    if request.strength is not None:
        flat["strength"] = float(request.strength)
    if sampling:
        flat["sample_params"] = sampling
    if not flat:
        return ""
    body = encode_json(flat).decode().replace("<", "\\u003c")
    return f"{OPENING}{body}{CLOSING}"
