"""What a caller wants answered, and the checks that need no backend."""

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
from majordomo.options import SEEDS
from majordomo.settings import Limits
from majordomo.validation import as_extra, as_tuple, check_number, check_text, check_user_id

Reasoning = Literal["off", "low", "medium", "high"] | int


class LoopOverrides(TypedDict, total=False):
    """The fields that a loop over `tools` leaves to its caller."""

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
    """The fields of a Request that a call may set by keyword; None unsets."""

    tools: Sequence[Tool | Callable[..., Any]] | None


@dataclass(frozen=True, slots=True)
class Request:
    """A chat request. A field at its default leaves the choice to the backend and is not sent.

    temperature 0 to 2, top_p above 0 to 1, top_k and max_tokens from 1, stop up to 16 texts, seed 0 to 2**63-1,
    reasoning "off", "low", "medium", "high" or a number of tokens, tool_choice "auto", "none", "required" or a tool's name.
    `output_retries`: how many times to ask again, 0 to 10, when the answer does not match `output`; not for streams. `extra` is merged deeply
    into the backend's body, for what only that backend knows. `caller` is for whom the call is made, up to 256 characters, never sent.
    """

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    output: Any = None
    output_retries: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning: Reasoning | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    user_id: str = ""

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
        """The request changed by each option in turn; this one stays as it is."""
        request = self
        for option in options:
            request = option(request)
        return request

    def override(self, **changes: Any) -> Request:
        """The request with these fields set; None puts a field back to its default. An unknown name is a TypeError."""
        if not changes:
            return self
        known: dict[str, Any] = {
            name: _DEFAULTS.get(name) if value is None else value for name, value in changes.items()
        }
        return replace(self, **known)

    def with_defaults(self, options: Sequence[Callable[[Request], Request]]) -> Request:
        """This request's own fields over what `options` (given when the model was made) set."""
        if not options:
            return self
        below = Request(self.messages).apply(*options)
        ours = {
            name: getattr(self, name)
            for name in _DEFAULTS
            if getattr(self, name) != _DEFAULTS[name]
        }
        return replace(below, **ours)


_DEFAULTS: dict[str, Any] = {
    f.name: getattr(Request(), f.name) for f in fields(Request) if f.name != "messages"
}


def check_request(request: Request, limits: Limits) -> None:
    """Raise InvalidRequestError, naming the field, for anything no backend can take. Nothing has been sent then."""
    for message in request.messages:
        for part in message.parts:
            _check_part(part, limits)
    check_number("temperature", request.temperature, 0, 2)
    check_number("top_p", request.top_p, 0, 1)
    check_number("top_k", request.top_k, 1, 2**31, whole=True)
    check_number("max_tokens", request.max_tokens, 1, 2**31, whole=True)
    check_number("output_retries", request.output_retries, 0, 10, whole=True)
    check_number("seed", request.seed, 0, SEEDS - 1, whole=True)
    if len(request.stop) > 16 or any(
        not isinstance(text, str) or not text for text in request.stop
    ):
        raise InvalidRequestError("stop is one to 16 texts, none of them empty", field="stop")
    for text in request.stop:
        check_text(text, "stop", limits.max_prompt_characters)
    if isinstance(request.reasoning, str):
        if request.reasoning not in ("off", "low", "medium", "high"):
            raise InvalidRequestError(
                "reasoning is off, low, medium, high or a number of tokens", field="reasoning"
            )
    else:
        check_number("reasoning", request.reasoning, 1, 2**31, whole=True)
    check_user_id(request.user_id)
    names = [tool.name for tool in request.tools]
    if len(set(names)) != len(names):
        raise InvalidRequestError("two tools have the same name", field="tools")
    if request.tool_choice is not None and request.tool_choice not in (
        "auto",
        "none",
        "required",
        *names,
    ):
        raise InvalidRequestError(
            f"tool_choice is auto, none, required or the name of a tool given, not {request.tool_choice!r}",
            field="tool_choice",
        )


def _check_part(part: Part, limits: Limits) -> None:
    match part:
        case TextPart() | ThinkingPart():
            check_text(part.text, "messages", limits.max_prompt_characters)
        case ImagePart():
            # Of any kind: what a backend cannot read is sent as something that it can
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
                    f"the file has more than {limits.max_image_bytes:,} bytes", field="messages"
                )
            check_text(part.name + part.mime, "messages", 1000)
        case ToolCallPart():
            for text in (part.id, part.name, part.arguments_json):
                check_text(text, "messages", limits.max_prompt_characters)
        case ToolResultPart():
            check_text(part.call_id + part.name, "messages", limits.max_prompt_characters)
            for piece in part.parts:
                _check_part(piece, limits)
