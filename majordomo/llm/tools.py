"""Tools a model may call, and the JSON schemas that describe tools and structured answers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, get_type_hints
from weakref import WeakKeyDictionary

from majordomo.errors import BadResponseError, InvalidRequestError
from majordomo.json_budget import is_heavy_text
from majordomo.llm.messages import Message
from majordomo.llm.parts import ToolCallPart

LONGEST_TEXT = 100_000  # characters of an unfit answer that its error holds
_NAME = re.compile(
    r"[A-Za-z0-9_-]{1,64}"
)  # "letters, digits, _, -, at most 64" (OpenAI, function names)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool by name, description and the JSON schema of its arguments (an object schema). `function` is what runs it, if anything.

    Raises InvalidRequestError (field `tools`) for a name other than 1 to 64 letters, digits, `_` and `-`.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    function: Callable[..., Any] | None = field(default=None, compare=False)
    model: Any = field(
        default=None, compare=False, repr=False
    )  # the pydantic model of the arguments, where a function has one
    context: str = field(
        default="", compare=False, repr=False
    )  # the parameter that takes a ToolContext

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidRequestError(
                "a tool's name is 1 to 64 letters, digits, _ and -", field="tools"
            )
        if not isinstance(self.parameters, Mapping):
            raise InvalidRequestError(
                f"the parameters of tool {self.name!r} are a JSON schema", field="tools"
            )

    def read_arguments(self, call: ToolCallPart) -> dict[str, Any]:
        """The call's arguments as the function takes them: parsed, and validated where the tool is a typed function.

        Raises BadResponseError (`BAD_TOOL_ARGUMENTS`) that says what does not fit, without repeating the value.
        """
        given = call.arguments
        if self.model is None:
            return given
        from pydantic import ValidationError

        try:
            checked = self.model.model_validate(given)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(str(step) for step in found['loc']) or 'the arguments'}: {found['msg']}"
                for found in error.errors(include_url=False, include_input=False)[:10]
            )
            raise BadResponseError(
                f"the arguments for tool {self.name!r} do not fit: {wrong}",
                code="BAD_TOOL_ARGUMENTS",
            ) from None
        return {
            name: getattr(checked, name)
            for name in type(checked).model_fields
            if name in checked.model_fields_set
        }


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may know beside its arguments: a parameter of this type is filled in by the loop, and no model sees it.

    `value` is what was given as `context=` to the loop, `messages` the conversation up to the call, `caller` for whom it all happens.
    """

    call: ToolCallPart
    messages: tuple[Message, ...] = ()
    value: Any = None
    user_id: str = ""


def as_tool(value: Tool | Callable[..., Any]) -> Tool:
    """A typed function becomes a Tool: name and description from it, the schema from its signature through pydantic."""
    if isinstance(value, Tool):
        return value
    if not callable(value):
        raise InvalidRequestError(
            f"a tool is a function or a Tool, not {type(value).__name__}", field="tools"
        )
    # Loops are given the same functions again and again, and reading one costs as much as a call.
    read = _READ.get(value) if isinstance(value, FunctionType) else None
    if read is None or read.named != (value.__name__, value.__doc__):
        read = _signature(value)
        if isinstance(value, FunctionType):
            _READ[value] = read
    return Tool(
        value.__name__, read.summary, deepcopy(read.schema), value, read.model, read.context
    )


@dataclass(frozen=True, slots=True)
class _Signature:
    """What a function's signature and docstring say; nothing here holds the function, so that it can go when nobody else does."""

    named: tuple[str, str | None]
    summary: str
    schema: dict[str, Any]
    model: Any
    context: str


_READ: WeakKeyDictionary[Callable[..., Any], _Signature] = WeakKeyDictionary()


def _signature(value: Callable[..., Any]) -> _Signature:
    from pydantic import ConfigDict, Field, create_model
    from pydantic.errors import PydanticUserError

    try:
        hints = get_type_hints(value, include_extras=True)
    except (NameError, TypeError) as error:
        raise InvalidRequestError(
            f"the annotations of tool {value!r} cannot be read: {error}", field="tools"
        ) from None
    summary, described = _docstring(inspect.getdoc(value) or "")
    fields: dict[str, Any] = {}
    context = ""
    for name, parameter in inspect.signature(value).parameters.items():
        if parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
            parameter.POSITIONAL_ONLY,
        ):
            raise InvalidRequestError(
                f"tool {value.__name__!r}: parameter {name!r} cannot be given by name",
                field="tools",
            )
        if hints.get(name) is ToolContext:
            context = name
            continue
        if name.startswith("_"):
            raise InvalidRequestError(
                f"tool {value.__name__!r}: parameter {name!r} begins with an underscore",
                field="tools",
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (
            hints.get(name, Any),
            Field(default, description=described[name]) if name in described else default,
        )
    try:
        model = create_model(
            value.__name__,
            __config__=ConfigDict(arbitrary_types_allowed=False, protected_namespaces=()),
            **fields,
        )
        schema = model.model_json_schema()
    except PydanticUserError as error:
        raise InvalidRequestError(
            f"tool {value.__name__!r} has no JSON schema: {error.message}", field="tools"
        ) from None
    schema.pop("title", None)
    return _Signature((value.__name__, value.__doc__), summary, schema, model, context)


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """The text before `Args:`, and the description of each argument in that section (Google style)."""
    head, _, rest = text.partition("\nArgs:\n")
    section = re.split(r"\n\S", rest, maxsplit=1)[0]
    found = re.findall(
        r"^\s+(\w+)\s*(?:\([^)]*\))?:\s*(.+?)(?=\n\s+\w+\s*(?:\([^)]*\))?:|\Z)",
        section,
        re.DOTALL | re.MULTILINE,
    )
    return head.strip(), {name: " ".join(words.split()) for name, words in found}


def output_schema(output: Any) -> dict[str, Any]:
    """The JSON schema of a wanted answer: a pydantic model, any type pydantic knows, or a schema given as a mapping."""
    if isinstance(output, Mapping):
        return dict(output)
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError

    try:
        return TypeAdapter(output).json_schema()
    except PydanticUserError as error:
        raise InvalidRequestError(
            f"output has no JSON schema: {error.message}", field="output"
        ) from None


def read_output(output: Any, text: str, within: str = "") -> Any:
    """The validated value in a model's answer, or in its field `within`. Raises BadResponseError (`BAD_OUTPUT`) when the text does not fit.

    A schema given as a mapping is not validated beyond being JSON: the backend was asked to keep it.
    """
    try:
        return _read(output, text, within)
    except BadResponseError as error:
        error.details["text"] = text[:LONGEST_TEXT]
        raise


def partial_output(text: str, within: str = "") -> Any:
    """What an unfinished JSON answer, or its field `within`, holds so far, unvalidated; None when nothing can be read yet."""
    from pydantic_core import from_json

    if is_heavy_text(text):
        return None
    try:
        value = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return None
    if within:
        return value.get(within) if isinstance(value, dict) else None
    return value


def _read(output: Any, text: str, within: str) -> Any:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import from_json

    if is_heavy_text(text):
        raise BadResponseError(
            "the answer holds more values than any has reason to", code="TOO_MANY_VALUES"
        )
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?```\s*", text, re.DOTALL)
    try:
        value = from_json(fenced[1] if fenced else text)
        if within:
            if not isinstance(value, dict) or within not in value:
                raise BadResponseError(f"the answer has no field {within!r}", code="BAD_OUTPUT")
            value = value[within]
        return value if isinstance(output, Mapping) else TypeAdapter(output).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise BadResponseError(
            f"the answer does not fit the output asked for: {where}: {first['msg']}",
            code="BAD_OUTPUT",
        ) from None
    except ValueError:
        raise BadResponseError(
            "the answer is not the JSON that output asked for", code="BAD_OUTPUT"
        ) from None
