"""What a model string means under a configuration: one model of a provider, or a chain of them. Makes nothing."""

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

MAX_MEMBERS = 64  # members of a chain, those of chains within it included
VARIABLES = {
    "chat": "MAJORDOMO_CHAT_MODEL",
    "image": "MAJORDOMO_IMAGE_MODEL",
    "embedding": "MAJORDOMO_EMBEDDING_MODEL",
}


@dataclass(frozen=True, slots=True)
class ChainName:
    """Several models, asked in order. `settings` is what `[chains.NAME]` says beside its members; `table` is that NAME, "" for a list
    written with commas."""

    models: tuple[Target, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    table: str = ""


Target = ModelName | ChainName


def default(config: Config, kind: str) -> tuple[str | Secret, str] | None:
    """The model string that is meant when none is given, and where it comes from: a variable, else `[defaults]`; None for neither."""
    if found := env.variable(VARIABLES[kind]):
        return found, VARIABLES[kind]
    if kind in config.defaults:
        return config.defaults[kind], f"defaults.{kind} of {config.source or 'the configuration'}"
    return None


def resolve(config: Config, name: str | None, kind: str) -> Target:
    """Raises ConfigurationError for a string that means nothing here, with what may have been meant."""
    if name is not None:
        return _Resolver(config).target(name, {}, ())
    found = default(config, kind)
    if found is None:
        looked = f"set defaults.{kind} in {config.source or ' or '.join(map(str, search_paths()))}, or {VARIABLES[kind]}"
        raise ConfigurationError(
            f"which {kind} model? Say one, {looked}", code="NO_DEFAULT", details={"field": "model"}
        )
    if found[1] == VARIABLES[kind]:
        try:
            return _Resolver(config).target(str(found[0]), {}, ())
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{found[1]}: {error.message}", code=error.code, details=error.details
            ) from None
    return _Resolver(config).written(("defaults", kind), found[0], {}, ())


def members(target: Target) -> list[ModelName]:
    """The models of a target, one by one."""
    return (
        [target]
        if isinstance(target, ModelName)
        else [model for member in target.models for model in members(member)]
    )


class _Resolver:
    """One resolution. Texts with variables may lead back to themselves, or grow, only now."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._count = 0

    def target(self, name: str, options: Mapping[str, Any], way: tuple[str, ...]) -> Target:
        """`options` were written behind what led here, and stand above those written in it."""
        found = tuple(self._member(piece, options, way) for piece in split(name))
        return found[0] if len(found) == 1 else ChainName(found)

    def written(
        self,
        path: tuple[str, ...],
        text: str | Secret,
        options: Mapping[str, Any],
        way: tuple[str, ...],
    ) -> Target:
        """What a text of the configuration means; an error says where it stands."""
        document = self._config.document
        try:
            return self.target(document.text(path, text), options, way)
        except ConfigurationError as error:
            if "file" in error.details:
                raise
            redact = Redactor(document.secrets(path, text))
            raise document.error(path, redact(error.message), error.code) from None

    def _member(self, piece: str, options: Mapping[str, Any], way: tuple[str, ...]) -> Target:
        config = self._config
        head, mark, query = piece.partition("?")
        head = head.strip()
        if head not in config.aliases and head not in config.chains:
            self._count += 1
            if self._count > MAX_MEMBERS:
                raise ConfigurationError(
                    f"a chain of more than {MAX_MEMBERS} models", details={"field": "model"}
                )
            return self._model(piece, options)
        if head in way:
            raise ConfigurationError(
                f"{head} leads back to itself: {' -> '.join([*way, head])}",
                details={"field": "model"},
            )
        options = {**(parse_options(query) if mark else {}), **options}
        if head in config.aliases:
            return self.written(("aliases", head), config.aliases[head], options, (*way, head))
        path = ("chains", head, "models")
        table = config.chains[head]
        return ChainName(
            tuple(self.written(path, text, options, (*way, head)) for text in table.models),
            table.settings,
            head,
        )

    def _model(self, piece: str, options: Mapping[str, Any]) -> ModelName:
        name = parse(piece)
        if options:
            name = replace(name, options={**name.options, **options})
        if name.base_url:
            self._check_kind(name)
            return name
        for table in self._config.providers:
            if table == name.written or canonical(table) == name.provider:
                return replace(name, table=table)
        self._check_kind(name)
        return name

    def _check_kind(self, name: ModelName) -> None:
        """Raise ConfigurationError, with what may have been meant, unless there is such a kind of provider, ours or a plug-in's."""
        if name.provider in provider_names() or name.provider in plugins():
            return
        config = self._config
        kinds = {*provider_names(), *plugins()}
        if name.base_url:
            said = f"there is no provider {name.provider!r}"
            if name.written in config.providers:
                said += f" to be given an address; say {name.written}/MODEL"
        elif name.model and (name.written in config.aliases or name.written in config.chains):
            said = f"{name.written!r} is {'an alias' if name.written in config.aliases else 'a chain'}, and stands alone"
        else:
            said = f"there is no provider {name.written!r}"
        known = kinds if name.base_url else kinds | set(config.providers)
        if not name.model:
            known |= {*config.aliases, *config.chains}
        near = difflib.get_close_matches(
            name.written.lower(), sorted(known), 1
        ) or difflib.get_close_matches(name.provider, sorted(known), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
        raise ConfigurationError(
            f"{said}; {hint}",
            code="UNKNOWN_PROVIDER",
            details={"known": sorted(known), "field": "model"},
        )
