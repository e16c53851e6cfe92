"""The `<sd_cpp_extra_args>` tag: settings in the prompt of a stable-diffusion.cpp server.

No version of sd-server reads steps, cfg, sampler, seed or negative prompt from the top level of
the OpenAI-compatible `/v1/images/generations`; it reads them from one JSON object in the prompt
text. Source: stable-diffusion.cpp, `examples/common`, commit 97d2990. Its rules:

* The leftmost complete tag is parsed, and all tags are deleted.
* The body must be on one line, and a `<` in it would end it early.
* Builds before 2026-04-11 know the flat names, later builds only the nested ones; each ignores
  the other's names.
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

# The server compares case-sensitively today; neutralize every case in text from users.
_TAG_IN_TEXT = re.compile(r"<(?=/?sd_cpp_extra_args>)", re.IGNORECASE)

# The server silently cuts a larger number to this.
MAX_STEPS = 100
SEED_WARNING = CallWarning(
    "SEED_DEFAULT",
    "no seed is set: stable-diffusion.cpp then uses its own, usually always 42; set seed to vary "
    "the image",
    "seed",
)


def neutralize(text: str) -> tuple[str, bool]:
    """Return the text with a space after the `<` of every tag, and whether it had a tag.

    Idempotent.
    """
    neutralized, count = _TAG_IN_TEXT.subn("< ", text)
    return neutralized, count > 0


def with_neutralized_text(request: Request) -> tuple[Request, list[CallWarning]]:
    """Return the request with every tag in its prompt neutralized, and a warning if it had one."""
    prompt, has_tag = neutralize(request.prompt)
    if not has_tag:
        return request, []
    warning = CallWarning(
        "TAG_NEUTRALIZED",
        "the prompt contained <sd_cpp_extra_args>; the tag was neutralized so that it sets nothing",
        "prompt",
    )
    return replace(request, prompt=prompt), [warning]


def clamp_steps(request: Request) -> tuple[Request, list[CallWarning]]:
    """Return the request with at most `MAX_STEPS` steps, and a warning if it had more."""
    if request.steps is None or request.steps <= MAX_STEPS:
        return request, []
    warning = CallWarning(
        UNSUPPORTED,
        f"steps must be at most {MAX_STEPS} for stable-diffusion.cpp; got {request.steps}, "
        f"sent {MAX_STEPS}",
        "steps",
    )
    return replace(request, steps=MAX_STEPS), [warning]


def encode_tag(request: Request) -> str:
    """Return the tag for the settings of a request, in both spellings; "" when none is set."""
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
