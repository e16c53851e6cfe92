"""A provider's table as keywords for its constructor: which there are, and of what type, is read from the constructor itself."""

from __future__ import annotations

import inspect
import os
import ssl
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, Unpack, get_args, get_origin, get_type_hints, is_typeddict

from majordomo.errors import ConfigurationError
from majordomo.providers.base import BaseProvider, CommonSettings
from majordomo.redaction import Redactor, Secret
from majordomo.routing.config import check_known, kind_of
from majordomo.routing.config_file import ConfigFile, below_home, has_variable

NOT_HERE = frozenset({"transport", "observers"})  # objects of a program
FILES = frozenset({"tls", "workflow"})  # a relative one is beside the configuration
Where = tuple[str, ...]


def construct(
    kind: type[BaseProvider],
    table: Mapping[str, Any],
    document: ConfigFile,
    path: Where,
    **more: Any,
) -> BaseProvider:
    """The provider. `more` is given to constructors that take it, whatever the table says.

    Raises ConfigurationError, naming file, line and key, for keywords it does not have and values it does not take. Shows no secret.
    """
    made = _constructed(kind, table, document, path, more)
    if isinstance(made, ConfigurationError):
        raise made  # made elsewhere: no frame of its traceback holds what variables gave
    return made


def _constructed(
    kind: type[BaseProvider],
    table: Mapping[str, Any],
    document: ConfigFile,
    path: Where,
    more: Mapping[str, Any],
) -> BaseProvider | ConfigurationError:
    known = accepted(kind)
    try:
        check_known(document, path, table, known)
        redact = Redactor(document.secrets(path, table))
        arguments = {
            name: _value(known[name], value, document, (*path, name))
            for name, value in table.items()
        }
    except ConfigurationError as error:
        return error.with_traceback(None)
    arguments |= {name: value for name, value in more.items() if name in keywords(kind)}
    made = _made(kind, arguments)
    if isinstance(made, ConfigurationError):
        key = str(made.details.get("field") or "")
        return document.error(
            (*path, key) if key in known else path, redact(made.message), _own_code(made)
        )
    if isinstance(made, Exception):
        return document.error(path, redact(f"cannot be made: {type(made).__name__}: {made}"))
    assert isinstance(made, BaseProvider)
    return made


def check(
    kind: type[BaseProvider], table: Mapping[str, Any], document: ConfigFile, path: Where
) -> None:
    """Raise ConfigurationError for what `construct` would refuse without asking the constructor. Reads no variables."""
    known = accepted(kind)
    check_known(document, path, table, known)
    for name, value in table.items():
        if not _waits_for_variables(value):
            _value(known[name], value, document, (*path, name))


def _waits_for_variables(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_waits_for_variables, value.values()))
    if isinstance(value, list):
        return any(map(_waits_for_variables, value))
    return isinstance(value, (str, Secret)) and has_variable(value)


def _made(kind: Any, arguments: Mapping[str, Any]) -> Any:
    """What was made, or what was raised instead: handed back, so that no frame of the constructor hangs on what is raised for it."""
    try:
        return kind(**arguments)
    except Exception as error:  # a plug-in may raise anything, and so may what reads its files
        return error.with_traceback(None)


def accepted(kind: type[BaseProvider]) -> dict[str, Any]:
    """The constructor's keywords that a file can give, with their types."""
    return {name: hint for name, hint in keywords(kind).items() if name not in NOT_HERE}


def keywords(kind: type[BaseProvider]) -> dict[str, Any]:
    """All of the constructor's keywords, with their types; Any where the type is not told."""
    try:
        hints = get_type_hints(kind.__init__)
    except Exception:  # a plug-in's annotations may name what is not there when it runs
        hints = {}
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            hint = hints.get(name)
            inner = get_args(hint)[0] if get_origin(hint) is Unpack else CommonSettings
            found |= get_type_hints(inner, localns={"ssl": ssl}) if is_typeddict(inner) else {}
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            found[name] = hints.get(name, Any)
    found.pop("self", None)
    return found


def _value(hint: Any, value: Any, document: ConfigFile, path: Where) -> Any:
    """`value` as the constructor takes it: variables replaced, tables as the settings they are."""
    if (
        isinstance(value, Mapping)
        and (settings := next((kind for kind in _choices(hint) if is_dataclass(kind)), None))
        is not None
    ):
        return _settings(settings, value, document, path)
    value = _expanded(value, document, path)
    if path[-1] in FILES and isinstance(value, str) and not value.lstrip().startswith(("{", "[")):
        value = str(Path(document.source).parent / below_home(value))
    if not _fits(value, hint):
        if (
            isinstance(value, Mapping)
            and (inner := next((get_args(kind)[1] for kind in _choices(hint) if _maps(kind)), None))
            is not None
        ):
            name = next(name for name, item in value.items() if not _fits(item, inner))
            raise document.error((*path, name), f"is {_wanted(inner)}, not {kind_of(value[name])}")
        raise document.error(path, f"is {_wanted(hint)}, not {kind_of(value)}")
    return value


def _maps(hint: Any) -> bool:
    """Whether this is the type of a table whose values have a type of their own."""
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping) and len(get_args(hint)) == 2


def _expanded(value: Any, document: ConfigFile, path: Where) -> Any:
    if isinstance(value, Mapping):
        return {name: _expanded(inner, document, (*path, name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner, document, path) for inner in value]
    if isinstance(value, (str, Secret)):
        sealed = "api_key" in path or "headers" in path
        return Secret(document.text(path, value)) if sealed else document.text(path, value)
    return value


def _settings(kind: Any, table: Mapping[str, Any], document: ConfigFile, path: Where) -> Any:
    """A Timeout, Retries, Limits and the like out of a table."""
    check_known(document, path, table, [field.name for field in fields(kind)])
    made = _made(kind, _expanded(table, document, path))
    if isinstance(made, ConfigurationError):
        key = str(made.details.get("field") or "")
        raise document.error((*path, key) if key in table else path, made.message)
    if isinstance(made, Exception):
        raise document.error(path, f"cannot be made: {type(made).__name__}")
    return made


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a file is of this type. A text fits a Secret's place only sealed, and then a text's too."""
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if _maps(hint):
        return isinstance(value, Mapping) and all(
            _fits(item, get_args(hint)[1]) for item in value.values()
        )
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        inner = get_args(hint)[0] if get_args(hint) else Any
        return isinstance(value, list) and all(_fits(item, inner) for item in value)
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(
            value, bool
        )
    if hint is str and isinstance(value, Secret):
        return True
    return isinstance(hint, type) and isinstance(value, hint)


def _wanted(hint: Any) -> str:
    """The types, in words for somebody who writes a file."""
    words: list[str] = []
    for choice in _choices(hint):
        if get_origin(choice) is Literal:
            words.append(" or ".join(repr(word) for word in get_args(choice)))
        elif is_dataclass(choice):
            words.append(f"a table with {', '.join(field.name for field in fields(choice))}")
        elif choice in _WORDS:
            words.append(_WORDS[choice])
        elif isinstance(kind := get_origin(choice), type):
            inner = f" of {_wanted(get_args(choice)[0])}" if len(get_args(choice)) == 1 else ""
            words.append("a table" if issubclass(kind, Mapping) else f"a list{inner}")
    return " or ".join(dict.fromkeys(words)) or "something a file cannot hold"


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Secret: "text",
    os.PathLike: "text",
}


def _own_code(error: ConfigurationError) -> str | None:
    return error.code if error.code != error.default_code else None
