"""One option per field of a Request, for presets: `provider.model("m", with_temperature(0.2))`. Calls read better with keywords."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from majordomo.llm.request import Reasoning, Request
from majordomo.llm.tools import Tool
from majordomo.options import with_extra, with_seed, with_user_id

__all__ = [
    "Option",
    "with_extra",
    "with_max_tokens",
    "with_output",
    "with_output_retries",
    "with_reasoning",
    "with_seed",
    "with_stop",
    "with_temperature",
    "with_tool_choice",
    "with_tools",
    "with_top_k",
    "with_top_p",
    "with_user_id",
]

Option = Callable[[Request], Request]


def _set(**changes: Any) -> Option:
    return lambda request: request.override(**changes)


def with_tools(*tools: Tool | Callable[..., Any]) -> Option:
    """Functions or `Tool` values that the model may call."""
    return _set(tools=tools)


def with_tool_choice(choice: str | None) -> Option:
    """ "auto", "none", "required", or the name of a tool."""
    return _set(tool_choice=choice)


def with_output(output: Any) -> Option:
    """A pydantic model or a JSON schema: what the answer has to be."""
    return _set(output=output)


def with_output_retries(output_retries: int = 1) -> Option:
    """Ask again up to this many times, 0 to 10, when the answer does not match `output`."""
    return _set(output_retries=output_retries)


def with_temperature(temperature: float | None) -> Option:
    """From 0, the likeliest words, to 2."""
    return _set(temperature=temperature)


def with_top_p(top_p: float | None) -> Option:
    """The share of likely words to choose from, above 0 to 1."""
    return _set(top_p=top_p)


def with_top_k(top_k: int | None) -> Option:
    """How many likely words to choose from."""
    return _set(top_k=top_k)


def with_max_tokens(max_tokens: int | None) -> Option:
    """How long the answer may be, in tokens."""
    return _set(max_tokens=max_tokens)


def with_stop(*stop: str) -> Option:
    """Texts at which the answer ends."""
    return _set(stop=stop)


def with_reasoning(reasoning: Reasoning | None) -> Option:
    """ "off", "low", "medium", "high", or a number of tokens."""
    return _set(reasoning=reasoning)
