"""From a provider's table to the arguments of its constructor.

The keywords and their types are read from the signature of the constructor.
"""

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
from majordomo.routing.config import check_known_keys, describe_type
from majordomo.routing.config_file import ConfigFile, expand_home, has_variable

# Keywords that take Python objects, so a file cannot set them.
PROGRAM_ONLY_KEYWORDS = frozenset({"transport", "observers"})
# Keywords that may be paths; a relative path is relative to the configuration file.
PATH_KEYWORDS = frozenset({"tls", "workflow"})
KeyPath = tuple[str, ...]


def construct(
    kind: type[BaseProvider],
    table: Mapping[str, Any],
    document: ConfigFile,
    path: KeyPath,
    **overrides: Any,
) -> BaseProvider:
    """Construct a provider from its table.

    Args:
        kind: The provider class.
        table: The keywords, as written in the file.
        document: The file, for variables and error messages.
        path: The path of the table in the file.
        **overrides: Further keywords, passed to constructors that accept them. They override the
            table.

    Raises:
        ConfigurationError: A keyword is unknown or its value is not accepted. The message names
            file, line and key, and shows no secret.
    """
    result = _construct(kind, table, document, path, overrides)
    if isinstance(result, ConfigurationError):
        # Created in another function, so that no frame of the traceback holds the contents of
        # variables.
        raise result
    return result


def _construct(
    kind: type[BaseProvider],
    table: Mapping[str, Any],
    document: ConfigFile,
    path: KeyPath,
    overrides: Mapping[str, Any],
) -> BaseProvider | ConfigurationError:
    known = configurable_keywords(kind)
    try:
        check_known_keys(document, path, table, known)
        redact = Redactor(document.secrets(path, table))
        arguments = {
            name: _convert(known[name], value, document, (*path, name))
            for name, value in table.items()
        }
    except ConfigurationError as error:
        return error.with_traceback(None)
    accepted = constructor_keywords(kind)
    arguments |= {name: value for name, value in overrides.items() if name in accepted}
    result = _call(kind, arguments)
    if isinstance(result, ConfigurationError):
        key = str(result.details.get("field") or "")
        return document.error(
            (*path, key) if key in known else path, redact(result.message), _specific_code(result)
        )
    if isinstance(result, Exception):
        return document.error(
            path, redact(f"cannot be constructed: {type(result).__name__}: {result}")
        )
    assert isinstance(result, BaseProvider)
    return result


def check_options(
    kind: type[BaseProvider], table: Mapping[str, Any], document: ConfigFile, path: KeyPath
) -> None:
    """Raise ConfigurationError for what `construct` would reject without calling the constructor.

    Reads no variables.
    """
    known = configurable_keywords(kind)
    check_known_keys(document, path, table, known)
    for name, value in table.items():
        if not _needs_variables(value):
            _convert(known[name], value, document, (*path, name))


def _needs_variables(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_needs_variables, value.values()))
    if isinstance(value, list):
        return any(map(_needs_variables, value))
    return isinstance(value, (str, Secret)) and has_variable(value)


def _call(kind: Any, arguments: Mapping[str, Any]) -> Any:
    """Return the new object, or the exception that the constructor raised.

    The exception is returned so that the error raised for it references no frame of the
    constructor.
    """
    try:
        return kind(**arguments)
    except Exception as error:
        # A plug-in, or code that reads its files, may raise anything.
        return error.with_traceback(None)


def configurable_keywords(kind: type[BaseProvider]) -> dict[str, Any]:
    """Return the keywords of the constructor that a file can set, with their types."""
    return {
        name: hint
        for name, hint in constructor_keywords(kind).items()
        if name not in PROGRAM_ONLY_KEYWORDS
    }


def constructor_keywords(kind: type[BaseProvider]) -> dict[str, Any]:
    """Return all keywords of the constructor with their types; Any for one without annotation."""
    try:
        hints = get_type_hints(kind.__init__)
    except Exception:
        # Annotations of a plug-in may name what does not exist at run time.
        hints = {}
    keywords: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            hint = hints.get(name)
            inner = get_args(hint)[0] if get_origin(hint) is Unpack else CommonSettings
            keywords |= get_type_hints(inner, localns={"ssl": ssl}) if is_typeddict(inner) else {}
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            keywords[name] = hints.get(name, Any)
    keywords.pop("self", None)
    return keywords


def _convert(hint: Any, value: Any, document: ConfigFile, path: KeyPath) -> Any:
    """Return `value` as the constructor takes it.

    Variables are replaced, and tables become the settings classes of the annotation.
    """
    if (
        isinstance(value, Mapping)
        and (settings := next((kind for kind in _choices(hint) if is_dataclass(kind)), None))
        is not None
    ):
        return _convert_settings(settings, value, document, path)
    value = _expand(value, document, path)
    # Text that begins with a bracket is the workflow itself, not a path.
    if (
        path[-1] in PATH_KEYWORDS
        and isinstance(value, str)
        and not value.lstrip().startswith(("{", "["))
    ):
        value = str(Path(document.source).parent / expand_home(value))
    if not _matches(value, hint):
        if (
            isinstance(value, Mapping)
            and (
                inner := next(
                    (get_args(kind)[1] for kind in _choices(hint) if _is_typed_mapping(kind)), None
                )
            )
            is not None
        ):
            name = next(name for name, item in value.items() if not _matches(item, inner))
            raise document.error(
                (*path, name),
                f"must be {_describe_hint(inner)}; got {describe_type(value[name])}",
            )
        raise document.error(path, f"must be {_describe_hint(hint)}; got {describe_type(value)}")
    return value


def _is_typed_mapping(hint: Any) -> bool:
    """Return whether this is a mapping type with a type for its values."""
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping) and len(get_args(hint)) == 2


def _expand(value: Any, document: ConfigFile, path: KeyPath) -> Any:
    """Replace the variables in all texts; secrets stay wrapped."""
    if isinstance(value, Mapping):
        return {name: _expand(item, document, (*path, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, document, path) for item in value]
    if isinstance(value, (str, Secret)):
        is_secret = "api_key" in path or "headers" in path
        return Secret(document.text(path, value)) if is_secret else document.text(path, value)
    return value


def _convert_settings(
    kind: Any, table: Mapping[str, Any], document: ConfigFile, path: KeyPath
) -> Any:
    """Construct a Timeout, Retries, Limits or similar class from a table."""
    check_known_keys(document, path, table, [field.name for field in fields(kind)])
    result = _call(kind, _expand(table, document, path))
    if isinstance(result, ConfigurationError):
        key = str(result.details.get("field") or "")
        raise document.error((*path, key) if key in table else path, result.message)
    if isinstance(result, Exception):
        raise document.error(path, f"cannot be constructed: {type(result).__name__}")
    return result


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _matches(value: Any, hint: Any) -> bool:
    """Return whether a value of a file has this type.

    Text matches Secret only when it is wrapped, and wrapped text matches str as well.
    """
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_matches(value, choice) for choice in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if _is_typed_mapping(hint):
        return isinstance(value, Mapping) and all(
            _matches(item, get_args(hint)[1]) for item in value.values()
        )
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        inner = get_args(hint)[0] if get_args(hint) else Any
        return isinstance(value, list) and all(_matches(item, inner) for item in value)
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(
            value, bool
        )
    if hint is str and isinstance(value, Secret):
        return True
    return isinstance(hint, type) and isinstance(value, hint)


def _describe_hint(hint: Any) -> str:
    """Return the accepted types in TOML's terms."""
    descriptions: list[str] = []
    for choice in _choices(hint):
        if get_origin(choice) is Literal:
            descriptions.append(" or ".join(repr(value) for value in get_args(choice)))
        elif is_dataclass(choice):
            descriptions.append(f"a table with {', '.join(field.name for field in fields(choice))}")
        elif choice in _TYPE_NAMES:
            descriptions.append(_TYPE_NAMES[choice])
        elif isinstance(kind := get_origin(choice), type):
            arguments = get_args(choice)
            items = f" of {_describe_hint(arguments[0])}" if len(arguments) == 1 else ""
            descriptions.append("a table" if issubclass(kind, Mapping) else f"a list{items}")
    return " or ".join(dict.fromkeys(descriptions)) or "a value that a file cannot contain"


_TYPE_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    Secret: "text",
    os.PathLike: "text",
}


def _specific_code(error: ConfigurationError) -> str | None:
    """Return the error's code; None for the default code of its class."""
    return error.code if error.code != error.default_code else None
