"""Tools that a model may call, and JSON schemas of tools and structured output."""

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
from majordomo.json_budget import text_exceeds_budget
from majordomo.llm.messages import Message
from majordomo.llm.parts import ToolCallPart

# Characters of an answer that does not match `output` that its error keeps.
MAX_KEPT_CHARACTERS = 100_000
# "letters, digits, _, -, at most 64" (OpenAI, function names)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a model may call.

    A typed function is accepted wherever a Tool is. Use this class for a tool without a function,
    or with a schema of your own.

    Raises:
        InvalidRequestError: Field `tools`: the name is not valid, or `parameters` is not a mapping.

    Example:
        ```python
        Tool("now", "Return the current time.", function=lambda: time.ctime())
        ```
    """

    name: str
    """1 to 64 letters, digits, `_` and `-`."""
    description: str = ""
    """What the tool does; the model reads it."""
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    """JSON schema of the arguments, an object schema. Default: no arguments."""
    function: Callable[..., Any] | None = field(default=None, compare=False)
    """The function that runs the tool; None if the program runs it itself."""
    model: Any = field(default=None, compare=False, repr=False)
    """The pydantic model that validates the arguments; None for no validation."""
    context: str = field(default="", compare=False, repr=False)
    """Name of the parameter that receives a ToolContext; empty if there is none."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidRequestError(
                "the name of a tool must be 1 to 64 letters, digits, _ and -;"
                f" got {repr(self.name)[:100]}",
                field="tools",
            )
        if not isinstance(self.parameters, Mapping):
            raise InvalidRequestError(
                f"the parameters of tool {self.name!r} must be a JSON schema (a mapping);"
                f" got {type(self.parameters).__name__}",
                field="tools",
            )

    def read_arguments(self, call: ToolCallPart) -> dict[str, Any]:
        """Parse the arguments of a call, and validate them if the tool is a typed function.

        Args:
            call: The call.

        Returns:
            The keyword arguments for the function.

        Raises:
            BadResponseError: The arguments are not valid (code BAD_TOOL_ARGUMENTS). The message
                names the invalid arguments without repeating their values.
        """
        arguments = call.arguments
        if self.model is None:
            return arguments
        from pydantic import ValidationError

        try:
            validated = self.model.model_validate(arguments)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(key) for key in item['loc']) or 'the arguments'}: {item['msg']}"
                for item in error.errors(include_url=False, include_input=False)[:10]
            )
            raise BadResponseError(
                f"the arguments for tool {self.name!r} are not valid: {problems}",
                code="BAD_TOOL_ARGUMENTS",
            ) from None
        return {
            name: getattr(validated, name)
            for name in type(validated).model_fields
            if name in validated.model_fields_set
        }


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Information about a call for its tool.

    The tool loop passes it to the parameter of a function that is annotated with this type. That
    parameter is not in the schema that the model sees.
    """

    call: ToolCallPart
    """The tool call."""
    messages: tuple[Message, ...] = ()
    """The conversation up to the call."""
    value: Any = None
    """The `context` argument of the tool loop."""
    user_id: str = ""
    """End-user id of the loop; empty if there is none."""


def as_tool(value: Tool | Callable[..., Any]) -> Tool:
    """Return `value` as a Tool.

    A typed function becomes a Tool with its name, its docstring as the description, and a JSON
    schema of its signature that pydantic creates.

    Raises:
        InvalidRequestError: Field `tools`: not a function, or one whose signature has no schema.
    """
    if isinstance(value, Tool):
        return value
    if not callable(value):
        raise InvalidRequestError(
            f"a tool must be a function or a Tool; got {type(value).__name__}", field="tools"
        )
    # Tool loops pass the same functions repeatedly, and reading a signature takes as long as a
    # call.
    signature = _SIGNATURES.get(value) if isinstance(value, FunctionType) else None
    if signature is None or signature.name_and_doc != (value.__name__, value.__doc__):
        signature = _read_signature(value)
        if isinstance(value, FunctionType):
            _SIGNATURES[value] = signature
    return Tool(
        value.__name__,
        signature.summary,
        deepcopy(signature.schema),
        value,
        signature.model,
        signature.context,
    )


@dataclass(frozen=True, slots=True)
class _Signature:
    """The parts of a Tool that come from a function's signature and docstring.

    It has no reference to the function, so that a cached signature does not keep it alive.
    """

    name_and_doc: tuple[str, str | None]
    summary: str
    schema: dict[str, Any]
    model: Any
    context: str


_SIGNATURES: WeakKeyDictionary[Callable[..., Any], _Signature] = WeakKeyDictionary()


def _read_signature(value: Callable[..., Any]) -> _Signature:
    from pydantic import ConfigDict, Field, create_model
    from pydantic.errors import PydanticUserError

    try:
        hints = get_type_hints(value, include_extras=True)
    except (NameError, TypeError) as error:
        raise InvalidRequestError(
            f"the annotations of tool {value!r} cannot be read: {error}", field="tools"
        ) from None
    summary, descriptions = _parse_docstring(inspect.getdoc(value) or "")
    fields: dict[str, Any] = {}
    context = ""
    for name, parameter in inspect.signature(value).parameters.items():
        if parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
            parameter.POSITIONAL_ONLY,
        ):
            raise InvalidRequestError(
                f"tool {value.__name__!r}: parameter {name!r} must accept a keyword argument",
                field="tools",
            )
        if hints.get(name) is ToolContext:
            context = name
            continue
        if name.startswith("_"):
            raise InvalidRequestError(
                f"tool {value.__name__!r}: parameter {name!r} must not begin with an underscore",
                field="tools",
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (
            hints.get(name, Any),
            Field(default, description=descriptions[name]) if name in descriptions else default,
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


def _parse_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Return the text before `Args:` and the description of each argument (Google style)."""
    head, _, rest = text.partition("\nArgs:\n")
    section = re.split(r"\n\S", rest, maxsplit=1)[0]
    descriptions = re.findall(
        r"^\s+(\w+)\s*(?:\([^)]*\))?:\s*(.+?)(?=\n\s+\w+\s*(?:\([^)]*\))?:|\Z)",
        section,
        re.DOTALL | re.MULTILINE,
    )
    return head.strip(), {name: " ".join(text.split()) for name, text in descriptions}


def output_schema(output: Any) -> dict[str, Any]:
    """Return the JSON schema of structured output.

    Args:
        output: A pydantic model, another type that pydantic supports, or a JSON schema as a
            mapping.

    Raises:
        InvalidRequestError: Field `output`: the type has no JSON schema.
    """
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
    """Return the validated value in a model's answer, or in its field `within`.

    For a schema passed as a mapping, only the JSON syntax is validated: the backend was asked to
    follow the schema.

    Raises:
        BadResponseError: The answer does not match (code BAD_OUTPUT), or would use too much memory
            (code TOO_MANY_VALUES). `details["text"]` is the answer, up to 100,000 characters.
    """
    try:
        return _validate_output(output, text, within)
    except BadResponseError as error:
        error.details["text"] = text[:MAX_KEPT_CHARACTERS]
        raise


def partial_output(text: str, within: str = "") -> Any:
    """Return the value of an unfinished JSON answer, or of its field `within`, without validation.

    Returns None if nothing can be parsed yet.
    """
    from pydantic_core import from_json

    if text_exceeds_budget(text):
        return None
    try:
        value = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return None
    if within:
        return value.get(within) if isinstance(value, dict) else None
    return value


def _validate_output(output: Any, text: str, within: str) -> Any:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import from_json

    if text_exceeds_budget(text):
        raise BadResponseError("the answer contains too many values", code="TOO_MANY_VALUES")
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
        location = ".".join(str(key) for key in first["loc"])
        raise BadResponseError(
            f"the answer does not match output: {location}: {first['msg']}",
            code="BAD_OUTPUT",
        ) from None
    except ValueError:
        raise BadResponseError(
            "the answer is not valid JSON, which output requires", code="BAD_OUTPUT"
        ) from None
