"""The settings of a request that observers receive: numbers, names and sizes, but no content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from majordomo import imagegen, llm

_CHAT_FIELDS = (
    "tool_choice",
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "stop",
    "seed",
    "reasoning",
)
_IMAGE_FIELDS = (
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
    """Return the fields that are set.

    `messages` and `tools` are counts; `output` is true for a request with a structured output.
    """
    counts = {
        "messages": len(request.messages),
        "tools": len(request.tools),
        "output": request.output is not None,
    }
    return _changed_fields(request, _CHAT_FIELDS) | {
        name: value for name, value in counts.items() if value
    }


def image_settings(request: imagegen.Request) -> Mapping[str, Any]:
    """Return the fields that are set.

    `images` is the number of input images; `mask` is true for a request with a mask.
    """
    return (
        _changed_fields(request, _IMAGE_FIELDS)
        | ({"images": len(request.images)} if request.images else {})
        | ({"mask": True} if request.mask else {})
    )


def _changed_fields(request: Any, names: tuple[str, ...]) -> dict[str, Any]:
    default = _DEFAULT_REQUESTS[type(request)]
    return {
        name: value for name in names if (value := getattr(request, name)) != getattr(default, name)
    }


_DEFAULT_REQUESTS: dict[type, Any] = {
    llm.Request: llm.Request(),
    imagegen.Request: imagegen.Request(""),
}
