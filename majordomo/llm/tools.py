"""Tools a model may call, and the JSON schemas that describe tools and structured answers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from majordomo.errors import BadResponseError, InvalidRequestError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # "letters, digits, _, -, at most 64" (OpenAI, function names)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool by name, description and the JSON schema of its arguments (an object schema). `function` is what runs it, if anything.

    Raises InvalidRequestError (field `tools`) for a name other than 1 to 64 letters, digits, `_` and `-`.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    function: Callable[..., Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidRequestError("a tool's name is 1 to 64 letters, digits, _ and -", field="tools")
        if not isinstance(self.parameters, Mapping):
            raise InvalidRequestError(f"the parameters of tool {self.name!r} are a JSON schema", field="tools")


def as_tool(value: Tool | Callable[..., Any]) -> Tool:
    """A typed function becomes a Tool: name and description from it, the schema from its signature through pydantic."""
    if isinstance(value, Tool):
        return value
    if not callable(value):
        raise InvalidRequestError(f"a tool is a function or a Tool, not {type(value).__name__}", field="tools")
    from pydantic import ConfigDict, Field, create_model
    from pydantic.errors import PydanticUserError

    try:
        hints = get_type_hints(value, include_extras=True)
    except (NameError, TypeError) as error:
        raise InvalidRequestError(f"the annotations of tool {value!r} cannot be read: {error}", field="tools") from None
    summary, described = _docstring(inspect.getdoc(value) or "")
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(value).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InvalidRequestError(f"tool {value.__name__!r}: parameter {name!r} cannot be given by name", field="tools")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), Field(default, description=described.get(name)))
    try:
        schema = create_model(value.__name__, __config__=ConfigDict(arbitrary_types_allowed=False), **fields).model_json_schema()
    except PydanticUserError as error:
        raise InvalidRequestError(f"tool {value.__name__!r} has no JSON schema: {error.message}", field="tools") from None
    schema.pop("title", None)
    return Tool(value.__name__, summary, schema, value)


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """The text before `Args:`, and the description of each argument in that section (Google style)."""
    head, _, rest = text.partition("\nArgs:\n")
    section = re.split(r"\n\S", rest, maxsplit=1)[0]
    found = re.findall(r"^\s+(\w+)\s*(?:\([^)]*\))?:\s*(.+?)(?=\n\s+\w+\s*(?:\([^)]*\))?:|\Z)", section, re.DOTALL | re.MULTILINE)
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
        raise InvalidRequestError(f"output has no JSON schema: {error.message}", field="output") from None


def read_output(output: Any, text: str) -> Any:
    """The validated value in a model's answer. Raises BadResponseError (`BAD_OUTPUT`) when the text does not fit.

    A schema given as a mapping is not validated beyond being JSON: the backend was asked to keep it.
    """
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import from_json

    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*?)\n?```\s*", text, re.DOTALL)
    try:
        value = from_json(fenced[1] if fenced else text)
        return value if isinstance(output, Mapping) else TypeAdapter(output).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise BadResponseError(f"the answer does not fit the output asked for: {where}: {first['msg']}", code="BAD_OUTPUT") from None
    except ValueError:
        raise BadResponseError("the answer is not the JSON that output asked for", code="BAD_OUTPUT") from None
