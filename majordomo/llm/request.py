"""Chat requests, and the checks that need no backend."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from majordomo.errors import InvalidRequestError
from majordomo.llm.messages import Message, dump_message, load_message
from majordomo.llm.parts import (
    FilePart,
    ImagePart,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
)
from majordomo.llm.tools import Tool, as_tool, output_schema
from majordomo.media.image_limits import check_size
from majordomo.options import SEED_LIMIT
from majordomo.requests.base import BaseRequest, check_fields
from majordomo.requests.fields import Extra, Field, Integer, Number, Observed, UserId
from majordomo.settings import Limits
from majordomo.validation import as_tuple, check_number, check_text

Reasoning = Literal["off", "low", "medium", "high"] | int
MAX_STOP_SEQUENCES = 16


class Messages(Field):
    """The conversation."""

    __slots__ = ()

    usually_observed: ClassVar[Observed] = "count"

    def convert(self, name: str, value: Any) -> tuple[Message, ...]:
        """Return the messages as a tuple."""
        return tuple(value)

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check each part."""
        for message in value:
            for part in message.parts:
                _check_part(part, limits)

    def to_json(self, value: Any) -> list[Any]:
        """Return each message as JSON values."""
        return [dump_message(message) for message in value]

    def from_json(self, value: Any) -> tuple[Message, ...]:
        """Restore each message."""
        return tuple(load_message(message) for message in value)


class Tools(Field):
    """Tools, whose names must differ."""

    __slots__ = ()

    usually_observed: ClassVar[Observed] = "count"
    keyword_type: ClassVar[str] = "Sequence[Tool | Callable[..., Any]]"
    item_type: ClassVar[str] = "Tool | Callable[..., Any]"

    def convert(self, name: str, value: Any) -> tuple[Tool, ...]:
        """Return the tools; a typed function becomes a Tool."""
        return tuple(as_tool(tool) for tool in as_tuple(value, name))

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check that the names differ."""
        names = [tool.name for tool in value]
        if len(set(names)) != len(names):
            raise InvalidRequestError(
                f"the names of tools must differ; got {', '.join(names)}"[:500], field=name
            )

    def to_json(self, value: Any) -> list[Any]:
        """Return what a backend receives of each tool."""
        return [
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            }
            for tool in value
        ]

    def from_json(self, value: Any) -> tuple[Tool, ...]:
        """Return tools without functions."""
        return tuple(
            Tool(tool["name"], str(tool["description"]), tool["parameters"]) for tool in value
        )


class Output(Field):
    """A schema, or a type that has one."""

    __slots__ = ()

    usually_observed: ClassVar[Observed] = "presence"

    def to_json(self, value: Any) -> dict[str, Any]:
        """Return the JSON schema."""
        return output_schema(value)

    def from_json(self, value: Any) -> dict[str, Any]:
        """Return the JSON schema."""
        return dict(value)


class StopSequences(Field):
    """Stop sequences; a single str is accepted."""

    __slots__ = ()

    keyword_type: ClassVar[str] = "str | Sequence[str]"
    item_type: ClassVar[str] = "str"

    def convert(self, name: str, value: Any) -> tuple[str, ...]:
        """Return the stop sequences as a tuple."""
        return (value,) if isinstance(value, str) else as_tuple(value, name)

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check their number, and each text."""
        if len(value) > MAX_STOP_SEQUENCES or any(
            not isinstance(text, str) or not text for text in value
        ):
            raise InvalidRequestError(
                f"stop must be at most {MAX_STOP_SEQUENCES} texts, none of them empty;"
                f" got {len(value)}: {repr(value)[:80]}",
                field=name,
            )
        for text in value:
            check_text(text, name, limits.max_prompt_characters)

    def to_json(self, value: Any) -> list[str]:
        """Return a list."""
        return list(value)


class ReasoningEffort(Field):
    """A level or a number of tokens."""

    __slots__ = ()

    def check(self, name: str, value: Any, limits: Limits) -> None:
        """Check that the value is a level, or a number of tokens in range."""
        if not isinstance(value, str):
            check_number(name, value, 1, 2**31, integer=True)
        elif value not in ("off", "low", "medium", "high"):
            raise InvalidRequestError(
                "reasoning must be off, low, medium, high or a number of tokens;"
                f" got {value[:80]!r}",
                field=name,
            )


# The annotations of the fields are read at run time, so they must not become text: no
# `from __future__ import annotations` here.
@dataclass(frozen=True, slots=True)
class Request(BaseRequest):
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

    messages: Annotated[tuple[Message, ...], Messages(universal=True)] = ()
    """The conversation, oldest message first."""
    tools: Annotated[tuple[Tool, ...], Tools(universal=True)] = ()
    """Tools that the model may call; a typed function becomes a Tool. Names must differ."""
    tool_choice: Annotated[str | None, Field(universal=True)] = None
    """Choice of tools: `"auto"`, `"none"`, `"required"`, or the name of a tool."""
    output: Annotated[Any, Output(universal=True, example={"type": "object"})] = None
    """Structured output: a pydantic model, another type that pydantic supports, or a JSON schema as
    a mapping. None means text."""
    output_retries: Annotated[int, Integer(0, 10, universal=True, example=1)] = 0
    """Number of times to ask again when the answer does not match `output`, 0 to 10; the reason is
    sent with it. Applies to complete replies only, not to streams."""
    temperature: Annotated[float | None, Number(0, 2, example=0.5)] = None
    """Sampling temperature, 0 (the most likely tokens) to 2."""
    top_p: Annotated[float | None, Number(0, 1, example=0.5)] = None
    """Probability mass of nucleus sampling, 0 to 1: only the most likely tokens up to it are
    used."""
    top_k: Annotated[int | None, Integer(1, 2**31, example=5)] = None
    """Number of the most likely tokens to choose from, 1 to 2**31."""
    max_tokens: Annotated[int | None, Integer(1, 2**31, example=7)] = None
    """Maximum length of the reply in tokens, 1 to 2**31."""
    stop: Annotated[tuple[str, ...], StopSequences(example=("x",))] = ()
    """Stop sequences: one text or up to 16, none of them empty, at which the reply ends."""
    seed: Annotated[int | None, Integer(0, SEED_LIMIT - 1, example=7)] = None
    """Seed of the random numbers, 0 to 2**63-1."""
    reasoning: Annotated[Reasoning | None, ReasoningEffort(example="low")] = None
    """Reasoning effort: `"off"`, `"low"`, `"medium"`, `"high"`, or a number of tokens from 1 to
    2**31."""
    extra: Annotated[Mapping[str, Any], Extra(universal=True)] = field(default_factory=dict)
    """Values merged deeply into the request body of the backend. Those under the name of a
    provider, as in `{"ollama": {...}}`, are sent to that provider only."""
    user_id: Annotated[str, UserId(universal=True)] = ""
    """End-user id for fair queueing, rate limits and accounting, up to 256 printable characters.
    Never sent to the backend."""


def check_request(request: Request, limits: Limits) -> None:
    """Raise InvalidRequestError, naming the field, if no backend can accept the request.

    Call it before anything is sent.
    """
    check_fields(request, limits)
    if request.tool_choice is not None:
        names = [tool.name for tool in request.tools]
        if request.tool_choice not in ("auto", "none", "required", *names):
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
