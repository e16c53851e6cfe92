"""Options for chat requests, one per field of `Request`, and the types of its keywords.

Written by `scripts/request-options` from the fields of `Request`; do not edit.

Options are meant for defaults of a model: `provider.model("m", with_temperature(0.2))`. For a
single call, keyword arguments are shorter: `model.generate(messages, temperature=0.2)`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from majordomo.llm.request import Reasoning, Request
from majordomo.llm.tools import Tool
from majordomo.options import with_extra, with_random_seed, with_seed, with_user_id

__all__ = [
    "with_extra",
    "with_max_tokens",
    "with_output",
    "with_output_retries",
    "with_random_seed",
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


class LoopOverrides(TypedDict, total=False):
    """The fields of a `Request` that the caller of a tool loop may set by keyword.

    Each key is documented at the field of `Request` with the same name.
    """

    tool_choice: str | None
    output: Any
    output_retries: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    seed: int | None
    reasoning: Reasoning | None
    extra: Mapping[str, Any] | None
    user_id: str | None


class Overrides(LoopOverrides, total=False):
    """The fields of a `Request` that a call may set by keyword; None unsets a field.

    Each key is documented at the field of `Request` with the same name.
    """

    tools: Sequence[Tool | Callable[..., Any]] | None


Option = Callable[[Request], Request]


def _set(**changes: Any) -> Option:
    return lambda request: request.override(**changes)


def with_tools(*tools: Tool | Callable[..., Any]) -> Option:
    """Set the tools that the model may call.

    Args:
        *tools: A typed function becomes a Tool. Names must differ.
    """
    return _set(tools=tools)


def with_tool_choice(tool_choice: str | None) -> Option:
    """Set the choice of tools.

    Args:
        tool_choice: `"auto"`, `"none"`, `"required"`, or the name of a tool. None unsets it.
    """
    return _set(tool_choice=tool_choice)


def with_output(output: Any) -> Option:
    """Set the structured output.

    Args:
        output: A pydantic model, another type that pydantic supports, or a JSON schema as a
            mapping. None means text.
    """
    return _set(output=output)


def with_output_retries(output_retries: int | None) -> Option:
    """Set the number of times to ask again when the answer does not match `output`.

    Args:
        output_retries: 0 to 10; the reason is sent with it. Applies to complete replies only, not
            to streams. None unsets it.
    """
    return _set(output_retries=output_retries)


def with_temperature(temperature: float | None) -> Option:
    """Set the sampling temperature.

    Args:
        temperature: 0 (the most likely tokens) to 2. None unsets it.
    """
    return _set(temperature=temperature)


def with_top_p(top_p: float | None) -> Option:
    """Set the probability mass of nucleus sampling.

    Args:
        top_p: 0 to 1: only the most likely tokens up to it are used. None unsets it.
    """
    return _set(top_p=top_p)


def with_top_k(top_k: int | None) -> Option:
    """Set the number of the most likely tokens to choose from.

    Args:
        top_k: 1 to 2**31. None unsets it.
    """
    return _set(top_k=top_k)


def with_max_tokens(max_tokens: int | None) -> Option:
    """Set the maximum length of the reply in tokens.

    Args:
        max_tokens: 1 to 2**31. None unsets it.
    """
    return _set(max_tokens=max_tokens)


def with_stop(*stop: str) -> Option:
    """Set the stop sequences.

    Args:
        *stop: One text or up to 16, none of them empty, at which the reply ends.
    """
    return _set(stop=stop)


def with_reasoning(reasoning: Reasoning | None) -> Option:
    """Set the reasoning effort.

    Args:
        reasoning: `"off"`, `"low"`, `"medium"`, `"high"`, or a number of tokens from 1 to 2**31.
            None unsets it.
    """
    return _set(reasoning=reasoning)
