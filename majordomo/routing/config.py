"""`majordomo.toml`, checked, but for the keywords of providers: what those mean is asked of the provider."""

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
    below_home,
    find,
    has_variable,
    read,
    with_secrets,
)
from majordomo.routing.model_string import canonical, split
from majordomo.routing.plugins import plugins

KINDS = ("chat", "image", "embedding")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_CODE = re.compile(r"[A-Z][A-Z0-9_]*")
Text = str | Secret


@dataclass(frozen=True, slots=True)
class ProviderTable:
    """`[providers.NAME]`: the kind of provider, which may still hold a `${VARIABLE}`, and its constructor's keywords as they stand."""

    type: Text
    keywords: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChainTable:
    """`[chains.NAME]`: model strings, and what the chain is told beside them."""

    models: tuple[Text, ...] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """What a program is set up with. An empty one is as good as none.

    `defaults` has model strings under chat, image and embedding. `gpus` has places, queue and unload of groups that providers name in
    `gpu`; `prices` has numbers under a model string. Texts may hold `${VARIABLE}`, read when they are used: a variable
    that one provider lacks is no trouble for the others.
    """

    defaults: Mapping[str, Text] = field(default_factory=dict, repr=False)
    providers: Mapping[str, ProviderTable] = field(default_factory=dict)
    aliases: Mapping[str, Text] = field(default_factory=dict, repr=False)
    chains: Mapping[str, ChainTable] = field(default_factory=dict)
    gpus: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    document: ConfigFile = field(default_factory=ConfigFile, repr=False)

    @property
    def source(self) -> str:
        """The file; "" when there is none."""
        return self.document.source


def load(config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None) -> Config:
    """The configuration in this file or mapping; None: in the first file found of MAJORDOMO_CONFIG, the working folder and the user's
    configuration folder, and an empty one when there is none. Raises ConfigurationError naming file, line and key."""
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return from_tables(ConfigFile("", with_secrets(config)))
    if config is None:
        path = find()
        return Config() if path is None else from_tables(read(path))
    if not isinstance(config, (str, os.PathLike)):
        raise ConfigurationError(
            f"a configuration is a file or a mapping, not {type(config).__name__}",
            details={"field": "config"},
        )
    return from_tables(read(below_home(config)))


def from_tables(document: ConfigFile) -> Config:
    """Raises ConfigurationError for anything that no version of this library would mean by it."""
    tables = document.tables
    check_known(document, (), tables, _SECTIONS)
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
    check_known(document, ("defaults",), table, KINDS)
    return {kind: _string(document, ("defaults", kind), name) for kind, name in table.items()}


def _providers(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, ProviderTable]:
    made = {}
    for name, value in table.items():
        path = ("providers", name)
        _check_name(document, path, name, _NAME)
        keywords = dict(_table(document, path, value))
        made[name] = ProviderTable(
            _kind(document, path, keywords.pop("type", None), name), keywords
        )
    return made


def _kind(document: ConfigFile, path: tuple[str, ...], given: Any, name: str) -> Text:
    """The kind of provider a table is about: its own name where it does not say."""
    kind = _text(document, (*path, "type"), name if given is None else given)
    if isinstance(kind, Secret) or has_variable(kind):
        return kind
    try:
        word = canonical(kind)
    except ConfigurationError as error:
        raise document.error((*path, "type"), error.message) from None
    if word not in provider_names() and word not in plugins():
        known = sorted(provider_names() | set(plugins()))
        near = difflib.get_close_matches(word, known, 1)
        said = "is missing" if given is None else f"there is no provider {kind!r}"
        raise document.error(
            (*path, "type"),
            f"{said}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"),
        )
    return kind


def _aliases(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, Text]:
    for name in table:
        _check_name(document, ("aliases", name), name, _ALIAS)
    return {name: _string(document, ("aliases", name), value) for name, value in table.items()}


def _chains(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, ChainTable]:
    made = {}
    for name, value in table.items():
        path = ("chains", name)
        _check_name(document, path, name, _ALIAS)
        settings = dict(_table(document, path, value))
        check_known(document, path, settings, ("models", "cooldown", "fallback_on"))
        members = settings.pop("models", None)
        if not isinstance(members, list) or not members:
            raise document.error(
                (*path, "models"), 'is a list of model strings: ["box/qwen3", "openai/gpt-5-mini"]'
            )
        if "cooldown" in settings:
            _number(document, (*path, "cooldown"), settings["cooldown"], 0)
        if "fallback_on" in settings:
            settings["fallback_on"] = _reasons(
                document, (*path, "fallback_on"), settings["fallback_on"]
            )
        made[name] = ChainTable(
            tuple(_string(document, (*path, "models"), member) for member in members), settings
        )
    return made


def _reasons(
    document: ConfigFile, path: tuple[str, ...], words: Any
) -> list[type[errors.MajordomoError] | str]:
    """The classes of errors, and codes of errors, that these words name."""
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise document.error(
            path, 'is a list of errors, by class or code: ["RateLimitError", "GPU_OOM"]'
        )
    kinds = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.MajordomoError)
    }
    reasons: list[type[errors.MajordomoError] | str] = []
    for word in words:
        if (kind := kinds.get(word)) is None and not _CODE.fullmatch(word):
            near = difflib.get_close_matches(word, sorted(kinds), 1)
            raise document.error(
                path,
                f"{word!r} is no error; "
                + (f"did you mean {near[0]}?" if near else "codes are upper-case words"),
            )
        reasons.append(kind or word)
    return reasons


def _gpus(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    made = {}
    for name, value in table.items():
        path = ("gpus", name)
        settings = made[name] = _table(document, path, value)
        check_known(document, path, settings, ("slots", "max_queue", "unload"))
        for key, least in (("slots", 1), ("max_queue", 0)):
            if key in settings and _number(document, (*path, key), settings[key], least) % 1:
                raise document.error((*path, key), "is a whole number")
        if not isinstance(settings.get("unload", False), bool):
            raise document.error((*path, "unload"), "is true or false")
    return made


def _prices(document: ConfigFile, table: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    made: dict[str, Mapping[str, float]] = {}
    for name, value in table.items():
        prices = _table(document, ("prices", name), value)
        made[name] = {
            key: _number(document, ("prices", name, key), price, 0) for key, price in prices.items()
        }
    return made


_SECTIONS: dict[str, Callable[[ConfigFile, Mapping[str, Any]], Any]] = {
    "defaults": _defaults,
    "providers": _providers,
    "aliases": _aliases,
    "chains": _chains,
    "gpus": _gpus,
    "prices": _prices,
}


def check_known(
    document: ConfigFile, path: tuple[str, ...], table: Iterable[str], known: Iterable[str]
) -> None:
    """Raise ConfigurationError, with what may have been meant, for the first name in `table` that is not known."""
    names = sorted(known)
    for name in table:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise document.error(
                (*path, name),
                "is unknown; "
                + (f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"),
            )


def _check_name(
    document: ConfigFile, path: tuple[str, ...], name: str, shape: re.Pattern[str]
) -> None:
    if not shape.fullmatch(name) or len(name) > 100:
        more = ", dots" if shape is _ALIAS else ""
        raise document.error(
            path, f"a name begins with a letter and has letters, digits, - and _{more} only"
        )


def _table(document: ConfigFile, path: tuple[str, ...], value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise document.error(path, f"is a table, not {kind_of(value)}")
    return value


def _text(document: ConfigFile, path: tuple[str, ...], value: Any) -> Text:
    if not isinstance(value, (str, Secret)):
        raise document.error(path, f"is text, not {kind_of(value)}")
    return value


def _string(document: ConfigFile, path: tuple[str, ...], value: Any) -> Text:
    """A model string, as far as it can be read without its variables."""
    name = _text(document, path, value)
    if not has_variable(name):
        try:
            split(name.reveal() if isinstance(name, Secret) else name)
        except ConfigurationError as error:
            raise document.error(path, error.message) from None
    return name


def _number(document: ConfigFile, path: tuple[str, ...], value: Any, least: float) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not least <= value < math.inf
    ):
        raise document.error(path, f"is a number from {least}")
    return value


def kind_of(value: object) -> str:
    """What a value is, in TOML's words; never the value."""
    words = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        Secret: "text",
        list: "a list",
        dict: "a table",
    }
    return words.get(type(value), f"a {type(value).__name__}")


def _check_names(config: Config) -> None:
    """One name means one thing: providers, aliases and chains share them, and kinds of providers keep theirs."""
    taken: dict[str, str] = {}
    for name in config.providers:
        word = canonical(name)
        if word in taken:
            raise config.document.error(("providers", name), f"the name is taken by {taken[word]}")
        taken[word] = f"providers.{name}"
    for section, names in (("aliases", config.aliases), ("chains", config.chains)):
        for name in names:
            word = name if "." in name else canonical(name)
            if word in provider_names():
                raise config.document.error(
                    (section, name), f"{word} is a kind of provider; choose another name"
                )
            if owner := taken.get(word) or taken.get(name):
                raise config.document.error((section, name), f"the name is taken by {owner}")
            if section == "aliases" and name in config.chains:
                raise config.document.error((section, name), f"the name is taken by chains.{name}")


def heads(text: Text) -> list[str]:
    """The first word of each member: what may be the name of an alias or a chain. Nothing is said of a text with variables."""
    if has_variable(text):
        return []
    return [
        piece.partition("?")[0].strip()
        for piece in split(text.reveal() if isinstance(text, Secret) else text)
    ]


def _check_loops(config: Config) -> None:
    """No alias and no chain leads back to itself."""
    leads = {name: heads(text) for name, text in config.aliases.items()}
    leads |= {
        name: [head for member in table.models for head in heads(member)]
        for name, table in config.chains.items()
    }
    ends: set[str] = set()
    for begin in leads:
        way: list[str] = []
        open_ends = [(begin, iter(leads[begin]))]
        while open_ends:
            name, following = open_ends[-1]
            if not way or way[-1] != name:
                way.append(name)
            onward = next(
                (other for other in following if other in leads and other not in ends), None
            )
            if onward is None:
                ends.add(way.pop())
                open_ends.pop()
            elif onward in way:
                section = "aliases" if onward in config.aliases else "chains"
                shown = " -> ".join([*way[way.index(onward) :], onward])
                raise config.document.error((section, onward), f"leads back to itself: {shown}")
            else:
                open_ends.append((onward, iter(leads[onward])))
