"""Chat requests, and the checks that need no backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict

from majordomo.errors import InvalidRequestError
from majordomo.llm.messages import Message
from majordomo.llm.parts import (
    FilePart,
    ImagePart,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
)
from majordomo.llm.tools import Tool, as_tool
from majordomo.media.image_limits import check_size
from majordomo.options import SEED_LIMIT
from majordomo.settings import Limits
from majordomo.validation import as_extra, as_tuple, check_number, check_text, check_user_id

Reasoning = Literal["off", "low", "medium", "high"] | int
MAX_STOP_SEQUENCES = 16


class LoopOverrides(TypedDict, total=False):
    """The fields of a `Request` that the caller of a tool loop may set; the loop sets `tools`.

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


@dataclass(frozen=True, slots=True)
class Request:
    """A chat request.

    A field left at its default is not sent; the backend's own default applies. Ranges are checked
    when the request is sent, not when it is constructed.

    Raises:
        InvalidRequestError: `tools` or `stop` is not a sequence, a tool is not valid, or `extra` is
            not a mapping with text keys.

    Example:
        ```python
        request = Request((user("Name three colors."),), temperature=0, max_tokens=100)
        reply = await model.generate(request)
        ```
    """

    messages: tuple[Message, ...] = ()
    """The conversation, oldest message first."""
    tools: tuple[Tool, ...] = ()
    """Tools that the model may call; a typed function becomes a Tool. Names must differ."""
    tool_choice: str | None = None
    """`"auto"`, `"none"`, `"required"`, or the name of a tool."""
    output: Any = None
    """Structured output: a pydantic model, another type that pydantic supports, or a JSON schema as
    a mapping. None means text."""
    output_retries: int = 0
    """How many times to ask again, with the reason, when the answer does not match `output`: 0 to
    10. Applies to complete replies only, not to streams."""
    temperature: float | None = None
    """Sampling temperature, 0 (the most likely tokens) to 2."""
    top_p: float | None = None
    """Nucleus sampling: probability mass of the tokens to choose from, 0 to 1."""
    top_k: int | None = None
    """Number of the most likely tokens to choose from, 1 to 2**31."""
    max_tokens: int | None = None
    """Maximum length of the reply in tokens, 1 to 2**31."""
    stop: tuple[str, ...] = ()
    """Up to 16 stop sequences, none of them empty: texts at which the reply ends. A single str is
    accepted."""
    seed: int | None = None
    """Seed of the random numbers, 0 to 2**63-1."""
    reasoning: Reasoning | None = None
    """Reasoning effort: `"off"`, `"low"`, `"medium"`, `"high"`, or a number of tokens from 1 to
    2**31."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Values merged deeply into the request body of the backend. Those under the name of a
    provider, as in `{"ollama": {...}}`, are sent to that provider only."""
    user_id: str = ""
    """End-user id for fair queueing, rate limits and accounting, up to 256 printable characters.
    Never sent to the backend."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        object.__setattr__(
            self, "tools", tuple(as_tool(tool) for tool in as_tuple(self.tools, "tools"))
        )
        object.__setattr__(
            self,
            "stop",
            (self.stop,) if isinstance(self.stop, str) else as_tuple(self.stop, "stop"),
        )
        as_extra(self.extra)

    def apply(self, *options: Callable[[Request], Request]) -> Request:
        """Return the request changed by each option in turn."""
        request = self
        for option in options:
            request = option(request)
        return request

    def override(self, **changes: Any) -> Request:
        """Return a copy with these fields set; None resets a field to its default.

        Raises:
            TypeError: A keyword is not a field of the request.
        """
        if not changes:
            return self
        values: dict[str, Any] = {
            name: _DEFAULTS.get(name) if value is None else value for name, value in changes.items()
        }
        return replace(self, **values)

    def with_defaults(self, options: Sequence[Callable[[Request], Request]]) -> Request:
        """Return this request with the options of the model as defaults.

        Fields that this request sets override what the options set.
        """
        if not options:
            return self
        defaults = Request(self.messages).apply(*options)
        own_values = {
            name: getattr(self, name)
            for name in _DEFAULTS
            if getattr(self, name) != _DEFAULTS[name]
        }
        return replace(defaults, **own_values)


_DEFAULTS: dict[str, Any] = {
    f.name: getattr(Request(), f.name) for f in fields(Request) if f.name != "messages"
}


def check_request(request: Request, limits: Limits) -> None:
    """Raise InvalidRequestError, naming the field, if no backend can accept the request.

    Call it before anything is sent.
    """
    for message in request.messages:
        for part in message.parts:
            _check_part(part, limits)
    check_number("temperature", request.temperature, 0, 2)
    check_number("top_p", request.top_p, 0, 1)
    check_number("top_k", request.top_k, 1, 2**31, integer=True)
    check_number("max_tokens", request.max_tokens, 1, 2**31, integer=True)
    check_number("output_retries", request.output_retries, 0, 10, integer=True)
    check_number("seed", request.seed, 0, SEED_LIMIT - 1, integer=True)
    if len(request.stop) > MAX_STOP_SEQUENCES or any(
        not isinstance(text, str) or not text for text in request.stop
    ):
        raise InvalidRequestError(
            f"stop must be at most {MAX_STOP_SEQUENCES} texts, none of them empty;"
            f" got {len(request.stop)}: {repr(request.stop)[:80]}",
            field="stop",
        )
    for text in request.stop:
        check_text(text, "stop", limits.max_prompt_characters)
    if isinstance(request.reasoning, str):
        if request.reasoning not in ("off", "low", "medium", "high"):
            raise InvalidRequestError(
                "reasoning must be off, low, medium, high or a number of tokens;"
                f" got {request.reasoning[:80]!r}",
                field="reasoning",
            )
    else:
        check_number("reasoning", request.reasoning, 1, 2**31, integer=True)
    check_user_id(request.user_id)
    names = [tool.name for tool in request.tools]
    if len(set(names)) != len(names):
        raise InvalidRequestError(
            f"the names of tools must differ; got {', '.join(names)}"[:500], field="tools"
        )
    if request.tool_choice is not None and request.tool_choice not in (
        "auto",
        "none",
        "required",
        *names,
    ):
        raise InvalidRequestError(
            "tool_choice must be auto, none, required or the name of one of the tools;"
            f" got {request.tool_choice!r}",
            field="tool_choice",
        )


def _check_part(part: Part, limits: Limits) -> None:
    match part:
        case TextPart() | ThinkingPart():
            check_text(part.text, "messages", limits.max_prompt_characters)
        case ImagePart():
            # Any type is accepted: an image that the backend cannot read is converted.
            check_size(
                part,
                max_pixels=limits.max_image_pixels,
                max_side=limits.max_image_side,
                max_bytes=limits.max_image_bytes,
                field="messages",
            )
        case FilePart():
            if len(part.data) > limits.max_image_bytes:
                raise InvalidRequestError(
                    f"the file has {len(part.data):,} bytes,"
                    f" more than the limit of {limits.max_image_bytes:,}",
                    field="messages",
                )
            check_text(part.name + part.mime, "messages", 1000)
        case ToolCallPart():
            for text in (part.id, part.name, part.arguments_json):
                check_text(text, "messages", limits.max_prompt_characters)
        case ToolResultPart():
            check_text(part.call_id + part.name, "messages", limits.max_prompt_characters)
            for inner in part.parts:
                _check_part(inner, limits)
