"""What of a request is a setting and what is content: settings are numbers, names and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from majordomo import imagegen, llm

_CHAT = ("tool_choice", "temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "reasoning")
_IMAGE = (
    "n",
    "size",
    "steps",
    "cfg_scale",
    "sampler",
    "seed",
    "scheduler",
    "strength",
    "output_format",
    "quality",
    "background",
    "previews",
    "aspect",
    "megapixels",
)


def chat_settings(request: llm.Request) -> Mapping[str, Any]:
    """The fields set, how many `messages` and `tools` there are, and `output` true when an answer of a given form is asked for."""
    counts = {
        "messages": len(request.messages),
        "tools": len(request.tools),
        "output": request.output is not None,
    }
    return _set(request, _CHAT) | {name: value for name, value in counts.items() if value}


def image_settings(request: imagegen.Request) -> Mapping[str, Any]:
    """The fields set, how many `images` there are to begin with, and `mask` true when there is one."""
    return (
        _set(request, _IMAGE)
        | ({"images": len(request.images)} if request.images else {})
        | ({"mask": True} if request.mask else {})
    )


def _set(request: Any, names: tuple[str, ...]) -> dict[str, Any]:
    default = _BLANK[type(request)]
    return {
        name: value for name in names if (value := getattr(request, name)) != getattr(default, name)
    }


_BLANK: dict[type, Any] = {llm.Request: llm.Request(), imagegen.Request: imagegen.Request("")}
