"""What a model string means under a configuration: one model of a provider, or a chain of them.

Nothing is constructed here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from majordomo import env
from majordomo.errors import ConfigurationError
from majordomo.providers.base import provider_names
from majordomo.redaction import Redactor, Secret
from majordomo.routing.config import Config
from majordomo.routing.config_file import search_paths
from majordomo.routing.model_string import ModelName, canonical, parse, parse_options, split
from majordomo.routing.plugins import plugins

# Members of a chain, including those of nested chains.
MAX_MEMBERS = 64
VARIABLES = {
    "chat": "MAJORDOMO_CHAT_MODEL",
    "image": "MAJORDOMO_IMAGE_MODEL",
    "embedding": "MAJORDOMO_EMBEDDING_MODEL",
}


@dataclass(frozen=True, slots=True)
class ChainName:
    """A resolved chain."""

    models: tuple[Target, ...]
    """The members, in the order in which they are called."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The other keys of `[chains.NAME]`."""
    table: str = ""
    """The NAME of its table; "" for a chain written with commas."""


Target = ModelName | ChainName


def default(config: Config, kind: str) -> tuple[str | Secret, str] | None:
    """Return the default model string of a kind of model, and where it comes from.

    The source is an environment variable, otherwise `[defaults]`. None means that there is neither.
    """
    if text := env.variable(VARIABLES[kind]):
        return text, VARIABLES[kind]
    if kind in config.defaults:
        return config.defaults[kind], f"defaults.{kind} of {config.source or 'the configuration'}"
    return None


def resolve(config: Config, name: str | None, kind: str) -> Target:
    """Resolve a model string; None resolves the default of `kind`.

    Raises ConfigurationError, with a suggestion, for a string that has no meaning here.
    """
    if name is not None:
        return _Resolver(config).resolve(name, {}, ())
    chosen = default(config, kind)
    if chosen is None:
        file = config.source or " or ".join(map(str, search_paths()))
        raise ConfigurationError(
            f"there is no default {kind} model; name one, set defaults.{kind} in {file}, "
            f"or set {VARIABLES[kind]}",
            code="NO_DEFAULT",
            details={"field": "model"},
        )
    text, source = chosen
    if source == VARIABLES[kind]:
        try:
            return _Resolver(config).resolve(str(text), {}, ())
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{source}: {error.message}", code=error.code, details=error.details
            ) from None
    return _Resolver(config).resolve_setting(("defaults", kind), text, {}, ())


def members(target: Target) -> list[ModelName]:
    """Return the models of a target, those of nested chains in their place."""
    return (
        [target]
        if isinstance(target, ModelName)
        else [model for member in target.models for model in members(member)]
    )


class _Resolver:
    """Resolves one model string.

    Loops and the number of members are checked here as well, because texts with variables can only
    be followed now. `visited` holds the aliases and chains that led to the current text.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._count = 0

    def resolve(self, name: str, options: Mapping[str, Any], visited: tuple[str, ...]) -> Target:
        """Resolve a model string.

        `options` belong to the reference that led here and override those in the string.
        """
        targets = tuple(self._resolve_member(member, options, visited) for member in split(name))
        return targets[0] if len(targets) == 1 else ChainName(targets)

    def resolve_setting(
        self,
        path: tuple[str, ...],
        text: str | Secret,
        options: Mapping[str, Any],
        visited: tuple[str, ...],
    ) -> Target:
        """Resolve a text of the configuration; an error names file, line and key."""
        document = self._config.document
        try:
            return self.resolve(document.text(path, text), options, visited)
        except ConfigurationError as error:
            if "file" in error.details:
                raise
            redact = Redactor(document.secrets(path, text))
            raise document.error(path, redact(error.message), error.code) from None

    def _resolve_member(
        self, member: str, options: Mapping[str, Any], visited: tuple[str, ...]
    ) -> Target:
        config = self._config
        name, mark, query = member.partition("?")
        name = name.strip()
        if name not in config.aliases and name not in config.chains:
            self._count += 1
            if self._count > MAX_MEMBERS:
                raise ConfigurationError(
                    f"a chain must have at most {MAX_MEMBERS} models, aliases resolved; got more",
                    details={"field": "model"},
                )
            return self._resolve_model(member, options)
        if name in visited:
            raise ConfigurationError(
                f"{name} refers to itself: {' -> '.join([*visited, name])}",
                details={"field": "model"},
            )
        options = {**(parse_options(query) if mark else {}), **options}
        visited = (*visited, name)
        if name in config.aliases:
            return self.resolve_setting(("aliases", name), config.aliases[name], options, visited)
        path = ("chains", name, "models")
        table = config.chains[name]
        return ChainName(
            tuple(self.resolve_setting(path, text, options, visited) for text in table.models),
            table.settings,
            name,
        )

    def _resolve_model(self, member: str, options: Mapping[str, Any]) -> ModelName:
        name = parse(member)
        if options:
            name = replace(name, options={**name.options, **options})
        if name.base_url:
            self._check_provider(name)
            return name
        for table in self._config.providers:
            if table == name.written or canonical(table) == name.provider:
                return replace(name, table=table)
        self._check_provider(name)
        return name

    def _check_provider(self, name: ModelName) -> None:
        """Raise ConfigurationError, with a suggestion, unless the kind of provider exists.

        A kind exists when majordomo or an installed plug-in provides it.
        """
        if name.provider in provider_names() or name.provider in plugins():
            return
        config = self._config
        kinds = {*provider_names(), *plugins()}
        if name.base_url:
            problem = f"there is no provider {name.provider!r}"
            if name.written in config.providers:
                problem += f" that takes a URL; write {name.written}/MODEL"
        elif name.model and (name.written in config.aliases or name.written in config.chains):
            what = "an alias" if name.written in config.aliases else "a chain"
            problem = f"{name.written!r} is {what}; write it without a model"
        else:
            problem = f"there is no provider {name.written!r}"
        known = kinds if name.base_url else kinds | set(config.providers)
        if not name.model:
            known |= {*config.aliases, *config.chains}
        close = difflib.get_close_matches(
            name.written.lower(), sorted(known), 1
        ) or difflib.get_close_matches(name.provider, sorted(known), 1)
        suggestion = (
            f"did you mean {close[0]}?" if close else f"choose one of {', '.join(sorted(known))}"
        )
        raise ConfigurationError(
            f"{problem}; {suggestion}",
            code="UNKNOWN_PROVIDER",
            details={"known": sorted(known), "field": "model"},
        )
