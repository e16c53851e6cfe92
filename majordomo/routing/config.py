"""The checked content of `majordomo.toml`.

Everything is checked here except the keywords of providers: `provider_options` reads those from the
provider's constructor.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from majordomo import errors
from majordomo.errors import ConfigurationError
from majordomo.providers.base import provider_names
from majordomo.redaction import Secret
from majordomo.routing.config_file import (
    ConfigFile,
    expand_home,
    find,
    has_variable,
    read,
    seal_secrets,
)
from majordomo.routing.model_string import canonical, split
from majordomo.routing.plugins import plugins

KINDS = ("chat", "image", "embedding")
MAX_NAME_CHARACTERS = 100
_PROVIDER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_ALIAS_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_ERROR_CODE = re.compile(r"[A-Z][A-Z0-9_]*")
Text = str | Secret


@dataclass(frozen=True, slots=True)
class ProviderTable:
    """The table `[providers.NAME]`."""

    type: Text
    """The kind of provider. It may still contain a `${VARIABLE}`."""
    keywords: Mapping[str, Any] = field(repr=False)
    """The keywords of the provider's constructor, as written in the file."""


@dataclass(frozen=True, slots=True)
class ChainTable:
    """The table `[chains.NAME]`."""

    models: tuple[Text, ...] = field(repr=False)
    """The model strings of the members."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The other keys: `cooldown` and `fallback_on`."""


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of a program. An empty one is valid.

    Texts may contain `${VARIABLE}`. Variables are read when the text is used, so a variable that
    one provider needs and that is not set does not affect the others.
    """

    defaults: Mapping[str, Text] = field(default_factory=dict, repr=False)
    """Model strings under `chat`, `image` and `embedding`."""
    providers: Mapping[str, ProviderTable] = field(default_factory=dict)
    """Provider tables by name."""
    aliases: Mapping[str, Text] = field(default_factory=dict, repr=False)
    """Model strings by alias."""
    chains: Mapping[str, ChainTable] = field(default_factory=dict)
    """Chain tables by name."""
    gpus: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Keywords of `ResourceGroup` by the name that providers use in `gpu`."""
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Keywords of `Price` by model string."""
    document: ConfigFile = field(default_factory=ConfigFile, repr=False)
    """The file, for error messages with file, line and key."""

    @property
    def source(self) -> str:
        """The path of the file; "" when there is none."""
        return self.document.source


def load(config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None) -> Config:
    """Load and check a configuration.

    Args:
        config: A file, a mapping of the same structure, or None for the first existing file of
            MAJORDOMO_CONFIG, the working directory and the user's configuration directory. Without
            a file the configuration is empty.

    Raises:
        ConfigurationError: The configuration is invalid. The message names file, line and key.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return from_tables(ConfigFile("", seal_secrets(config)))
    if config is None:
        path = find()
        return Config() if path is None else from_tables(read(path))
    if not isinstance(config, (str, os.PathLike)):
        raise ConfigurationError(
            f"config must be a file path or a mapping; got {type(config).__name__}",
            details={"field": "config"},
        )
    return from_tables(read(expand_home(config)))


def from_tables(document: ConfigFile) -> Config:
    """Check the tables of a file.

    Raises ConfigurationError for keys and values that have no meaning.
    """
    tables = document.tables
    check_known_keys(document, (), tables, _SECTIONS)
    sections = {name: _table(document, (name,), tables.get(name, {})) for name in _SECTIONS}
    config = Config(
        **{
            name: read_section(document, sections[name]) for name, read_section in _SECTIONS.items()
        },
        document=document,
    )
    _check_names(config)
    _check_loops(config)
    return config


def _defaults(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, Text]:
    check_known_keys(document, ("defaults",), table, KINDS)
    return {kind: _model_string(document, ("defaults", kind), name) for kind, name in table.items()}


def _providers(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, ProviderTable]:
    providers = {}
    for name, value in table.items():
        path = ("providers", name)
        _check_name(document, path, name, _PROVIDER_NAME)
        keywords = dict(_table(document, path, value))
        provider_type = _provider_type(document, path, keywords.pop("type", None), name)
        providers[name] = ProviderTable(provider_type, keywords)
    return providers


def _provider_type(
    document: ConfigFile, path: tuple[str, ...], configured: Any, table_name: str
) -> Text:
    """Return the kind of provider of a table; a table without `type` is named after it."""
    kind = _text(document, (*path, "type"), table_name if configured is None else configured)
    if isinstance(kind, Secret) or has_variable(kind):
        return kind
    try:
        name = canonical(kind)
    except ConfigurationError as error:
        raise document.error((*path, "type"), error.message) from None
    if name not in provider_names() and name not in plugins():
        known = sorted(provider_names() | set(plugins()))
        problem = "is missing" if configured is None else f"there is no provider {kind!r}"
        raise document.error((*path, "type"), f"{problem}; {_suggestion(name, known)}")
    return kind


def _suggestion(name: str, known: Iterable[str]) -> str:
    """Return "did you mean ...?" for a similar name, otherwise the list of the known ones."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else f"choose one of {', '.join(names)}"


def _aliases(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, Text]:
    for name in table:
        _check_name(document, ("aliases", name), name, _ALIAS_NAME)
    return {
        name: _model_string(document, ("aliases", name), value) for name, value in table.items()
    }


def _chains(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, ChainTable]:
    chains = {}
    for name, value in table.items():
        path = ("chains", name)
        _check_name(document, path, name, _ALIAS_NAME)
        settings = dict(_table(document, path, value))
        check_known_keys(document, path, settings, ("models", "cooldown", "fallback_on"))
        members = settings.pop("models", None)
        if not isinstance(members, list) or not members:
            raise document.error(
                (*path, "models"),
                'must be a list of model strings, for example ["box/qwen3", "openai/gpt-5-mini"]; '
                f"got {_describe(members)}",
            )
        if "cooldown" in settings:
            _number(document, (*path, "cooldown"), settings["cooldown"], 0)
        if "fallback_on" in settings:
            settings["fallback_on"] = _fallback_reasons(
                document, (*path, "fallback_on"), settings["fallback_on"]
            )
        chains[name] = ChainTable(
            tuple(_model_string(document, (*path, "models"), member) for member in members),
            settings,
        )
    return chains


def _describe(value: object) -> str:
    """Return the type of a list value for an error message, with "nothing" and "an empty list"."""
    if value is None:
        return "nothing"
    return "an empty list" if value == [] else describe_type(value)


def _fallback_reasons(
    document: ConfigFile, path: tuple[str, ...], names: Any
) -> list[type[errors.MajordomoError] | str]:
    """Return the error classes and error codes with these names."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise document.error(
            path,
            'must be a list of error classes or codes, for example ["RateLimitError", "GPU_OOM"]; '
            f"got {describe_type(names)}",
        )
    error_classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.MajordomoError)
    }
    reasons: list[type[errors.MajordomoError] | str] = []
    for name in names:
        error_class = error_classes.get(name)
        if error_class is None and not _ERROR_CODE.fullmatch(name):
            close = difflib.get_close_matches(name, sorted(error_classes), 1)
            raise document.error(
                path,
                f"{name!r} is not an error class or code; "
                + (f"did you mean {close[0]}?" if close else "codes are written in upper case"),
            )
        reasons.append(error_class or name)
    return reasons


def _gpus(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    gpus = {}
    for name, value in table.items():
        path = ("gpus", name)
        settings = gpus[name] = _table(document, path, value)
        check_known_keys(
            document,
            path,
            settings,
            ("slots", "max_queue", "unload", "max_batch_calls", "max_batch_seconds"),
        )
        if "max_batch_seconds" in settings:
            _number(document, (*path, "max_batch_seconds"), settings["max_batch_seconds"], 0)
        for key, minimum in (("slots", 1), ("max_queue", 0), ("max_batch_calls", 0)):
            if key in settings:
                number = _number(document, (*path, key), settings[key], minimum)
                if number % 1:
                    raise document.error((*path, key), f"must be an integer; got {number}")
        unload = settings.get("unload", False)
        if not isinstance(unload, bool):
            raise document.error(
                (*path, "unload"), f"must be true or false; got {describe_type(unload)}"
            )
    return gpus


def _prices(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    prices: dict[str, Mapping[str, float]] = {}
    for name, value in table.items():
        price = _table(document, ("prices", name), value)
        prices[name] = {
            key: _number(document, ("prices", name, key), amount, 0)
            for key, amount in price.items()
        }
    return prices


_SECTIONS: dict[str, Callable[[ConfigFile, Mapping[str, Any]], Any]] = {
    "defaults": _defaults,
    "providers": _providers,
    "aliases": _aliases,
    "chains": _chains,
    "gpus": _gpus,
    "prices": _prices,
}


def check_known_keys(
    document: ConfigFile, path: tuple[str, ...], table: Iterable[str], known: Iterable[str]
) -> None:
    """Raise ConfigurationError, with a suggestion, for the first key of `table` not in `known`."""
    names = sorted(known)
    for name in table:
        if name not in names:
            raise document.error((*path, name), f"is unknown; {_suggestion(name, names)}")


def _check_name(
    document: ConfigFile, path: tuple[str, ...], name: str, pattern: re.Pattern[str]
) -> None:
    if not pattern.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        dots = ", dots" if pattern is _ALIAS_NAME else ""
        raise document.error(
            path,
            f"the name must begin with a letter and contain only letters, digits, - and _{dots}, "
            f"at most {MAX_NAME_CHARACTERS} characters",
        )


def _table(document: ConfigFile, path: tuple[str, ...], value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise document.error(path, f"must be a table; got {describe_type(value)}")
    return value


def _text(document: ConfigFile, path: tuple[str, ...], value: Any) -> Text:
    if not isinstance(value, (str, Secret)):
        raise document.error(path, f"must be text; got {describe_type(value)}")
    return value


def _model_string(document: ConfigFile, path: tuple[str, ...], value: Any) -> Text:
    """Return a model string, checked as far as possible without reading its variables."""
    name = _text(document, path, value)
    if not has_variable(name):
        try:
            split(name.reveal() if isinstance(name, Secret) else name)
        except ConfigurationError as error:
            raise document.error(path, error.message) from None
    return name


def _number(document: ConfigFile, path: tuple[str, ...], value: Any, minimum: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise document.error(path, f"must be a number from {minimum}; got {describe_type(value)}")
    if not minimum <= value < math.inf:
        raise document.error(path, f"must be a number from {minimum}; got {value}")
    return value


def describe_type(value: object) -> str:
    """Return the type of a value in TOML's terms. The value itself may be a secret."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        Secret: "text",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def _check_names(config: Config) -> None:
    """Check that every name has one meaning.

    Providers, aliases and chains share one namespace, and the kinds of providers keep their names.
    """
    used_by: dict[str, str] = {}
    for name in config.providers:
        key = canonical(name)
        if key in used_by:
            raise config.document.error(
                ("providers", name), f"the name is already used by {used_by[key]}"
            )
        used_by[key] = f"providers.{name}"
    for section, names in (("aliases", config.aliases), ("chains", config.chains)):
        for name in names:
            key = name if "." in name else canonical(name)
            if key in provider_names():
                raise config.document.error(
                    (section, name), f"{key} is a kind of provider; choose another name"
                )
            user = used_by.get(key) or used_by.get(name)
            if user is None and section == "aliases" and name in config.chains:
                user = f"chains.{name}"
            if user is not None:
                raise config.document.error((section, name), f"the name is already used by {user}")


def first_names(text: Text) -> list[str]:
    """Return what may be the name of an alias or a chain in each member of a model string.

    A text with variables gives an empty list.
    """
    if has_variable(text):
        return []
    return [
        member.partition("?")[0].strip()
        for member in split(text.reveal() if isinstance(text, Secret) else text)
    ]


def _check_loops(config: Config) -> None:
    """Check that no alias and no chain refers to itself, with an iterative depth-first search."""
    references = {name: first_names(text) for name, text in config.aliases.items()}
    references |= {
        name: [reference for member in table.models for reference in first_names(member)]
        for name, table in config.chains.items()
    }
    checked: set[str] = set()
    for start in references:
        path: list[str] = []
        stack = [(start, iter(references[start]))]
        while stack:
            name, remaining = stack[-1]
            if not path or path[-1] != name:
                path.append(name)
            following = next(
                (other for other in remaining if other in references and other not in checked),
                None,
            )
            if following is None:
                checked.add(path.pop())
                stack.pop()
            elif following in path:
                section = "aliases" if following in config.aliases else "chains"
                loop = " -> ".join([*path[path.index(following) :], following])
                raise config.document.error((section, following), f"refers to itself: {loop}")
            else:
                stack.append((following, iter(references[following])))
