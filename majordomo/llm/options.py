"""Options for chat requests, one per field of `Request`.

Options are meant for defaults of a model: `provider.model("m", with_temperature(0.2))`. For a
single call, keyword arguments are shorter: `model.generate(messages, temperature=0.2)`.
"""

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
    """Set the tools that the model may call.

    Args:
        *tools: Typed functions or `Tool` values; their names must differ.
    """
    return _set(tools=tools)


def with_tool_choice(choice: str | None) -> Option:
    """Set whether the model must call a tool.

    Args:
        choice: `"auto"`, `"none"`, `"required"`, or the name of a tool; None leaves the choice to
            the backend.
    """
    return _set(tool_choice=choice)


def with_output(output: Any) -> Option:
    """Request structured output.

    Args:
        output: A pydantic model, another type that pydantic supports, or a JSON schema as a
            mapping; None for text.
    """
    return _set(output=output)


def with_output_retries(output_retries: int = 1) -> Option:
    """Ask again up to this many times, 0 to 10, when the answer does not match `output`."""
    return _set(output_retries=output_retries)


def with_temperature(temperature: float | None) -> Option:
    """Set the sampling temperature.

    Args:
        temperature: 0 (the most likely tokens) to 2; None leaves the choice to the backend.
    """
    return _set(temperature=temperature)


def with_top_p(top_p: float | None) -> Option:
    """Set nucleus sampling: only the most likely tokens up to this probability mass are used.

    Args:
        top_p: 0 to 1; None leaves the choice to the backend.
    """
    return _set(top_p=top_p)


def with_top_k(top_k: int | None) -> Option:
    """Set top-k sampling: only this many of the most likely tokens are used.

    Args:
        top_k: 1 to 2**31; None leaves the choice to the backend.
    """
    return _set(top_k=top_k)


def with_max_tokens(max_tokens: int | None) -> Option:
    """Set the maximum length of the reply.

    Args:
        max_tokens: 1 to 2**31 tokens; None leaves the choice to the backend.
    """
    return _set(max_tokens=max_tokens)


def with_stop(*stop: str) -> Option:
    """Set the stop sequences: texts at which the reply ends.

    Args:
        *stop: Up to 16 stop sequences, none of them empty.
    """
    return _set(stop=stop)


def with_reasoning(reasoning: Reasoning | None) -> Option:
    """Set the reasoning effort.

    Args:
        reasoning: `"off"`, `"low"`, `"medium"`, `"high"`, or a number of tokens from 1 to 2**31;
            None leaves the choice to the backend.
    """
    return _set(reasoning=reasoning)
