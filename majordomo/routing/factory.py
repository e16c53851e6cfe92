"""From what a model string means to a model: providers are made out of their tables, models out of providers, chains out of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, cast

from majordomo import imagegen, llm
from majordomo.concurrency.fork_safety import Lock
from majordomo.concurrency.lifecycle import close_all
from majordomo.errors import ConfigurationError
from majordomo.observability import Observer
from majordomo.providers.base import BaseProvider
from majordomo.queueing.resource_group import named_group
from majordomo.redaction import Redactor
from majordomo.routing.config import Config
from majordomo.routing.health import ChainHealth
from majordomo.routing.model_string import ModelName, canonical
from majordomo.routing.plugins import provider_class
from majordomo.routing.provider_options import construct, keywords
from majordomo.routing.resolve import ChainName, Target


class ModelFactory:
    """The providers of one configuration, each made when it is first wanted, and models of them. Safe to use from threads.

    `owned`: models close their providers, which are this assembly's own. `observers` are told of the calls of all providers. Chains of one
    name share what they know of their members' health.
    """

    def __init__(self, config: Config, *, owned: bool, observers: Sequence[Observer] = ()) -> None:
        self._config = config
        self._owned = owned
        self._observers = tuple(observers)
        self._health: dict[str, ChainHealth] = {}
        self._made: dict[tuple[Any, ...], BaseProvider] = {}
        self._lock = Lock()
        self._closed = False

    def provider(self, name: ModelName) -> BaseProvider:
        key = (
            name.table,
            name.provider,
            name.base_url,
            sha256(name.key.reveal().encode("utf-8", "replace")).digest() if name.key else b"",
        )
        with self._lock:
            if self._closed:
                raise ConfigurationError("the registry is closed", code="CLOSED")
            if key not in self._made:
                more = {"observers": self._observers} if self._observers else {}
                self._made[key] = make_provider(self._config, name, **more)
            return self._made[key]

    def model(self, target: Target, kind: str, options: Sequence[Any]) -> Any:
        """The model that a target means; `kind` is chat, image or embedding."""
        if isinstance(target, ChainName):
            found = [self.model(member, kind, ()) for member in target.models]
            return self._chain(kind, found, options, target)
        owner = self.provider(target)
        made = _single(owner, kind, target, options)
        if self._owned:
            made._owned_provider = owner
        return made

    def end(self) -> list[BaseProvider]:
        """Make no more; all that were made, to be closed."""
        with self._lock:
            self._closed = True
            return list(self._made.values())

    def _chain(self, kind: str, found: list[Any], options: Sequence[Any], name: ChainName) -> Any:
        from majordomo.routing import (
            chain,  # it makes members from strings, by what stands on this file
        )

        if kind == "embedding":
            raise ConfigurationError(
                "there are no chains of embedding models: their vectors differ",
                details={"field": "model"},
            )
        made: Callable[..., Any] = chain.ImageChain if kind == "image" else chain.Chain
        settings = dict(name.settings)
        cooldown = settings.pop("cooldown", None)
        try:
            with self._lock:
                if name.table not in self._health:
                    self._health[name.table] = (
                        ChainHealth() if cooldown is None else ChainHealth(cooldown)
                    )
            whole = made(found, *options, health=self._health[name.table], **settings)
        except (ConfigurationError, TypeError) as error:
            if not name.table:
                raise
            raise self._config.document.error(("chains", name.table), str(error)) from None
        if self._owned:  # a chain leaves alone what it did not make; these were made for it
            whole.aclose = lambda: close_all(found)
        return whole


def configured_class(config: Config, table: str) -> type[BaseProvider]:
    """The class that `[providers.TABLE]` is about. Raises ConfigurationError when there is none such."""
    path = ("providers", table, "type")
    text = config.providers[table].type
    try:
        kind = provider_class(canonical(config.document.text(path, text)))
    except ConfigurationError as error:
        if "file" in error.details:
            raise
        raise config.document.error(
            path, Redactor(config.document.secrets(path, text))(error.message), error.code
        ) from None
    if kind is None:
        raise config.document.error(path, "names no kind of provider", "UNKNOWN_PROVIDER")
    return kind


def make_provider(config: Config, name: ModelName, **more: Any) -> BaseProvider:
    """The provider a name means, with its table's keywords, its defaults, or the DSN's address and key. `more` are keywords for
    constructors that take them, whatever the table says. Raises ConfigurationError."""
    if name.table:
        table = dict(config.providers[name.table].keywords)
        path = ("providers", name.table)
        if isinstance(table.get("gpu"), str):
            gpu = config.document.text((*path, "gpu"), table["gpu"])
            table["gpu"] = named_group(gpu, **config.gpus.get(gpu, {}))
        return construct(configured_class(config, name.table), table, config.document, path, **more)
    kind: Any = provider_class(name.provider)
    if kind is None:
        raise ConfigurationError(
            f"there is no provider {name.provider!r}",
            code="UNKNOWN_PROVIDER",
            details={"field": "model"},
        )
    if more:
        more = {keyword: value for keyword, value in more.items() if keyword in keywords(kind)}
    if not name.base_url:
        return cast("BaseProvider", kind(**more))
    if not hasattr(kind, "local"):
        raise ConfigurationError(f"{name.provider} has no address", details={"field": "model"})
    if name.with_user and not getattr(kind, "basic_auth", False):
        raise ConfigurationError(
            f"{name.provider} takes a key alone before the @ of a model string, no user; a colon of the key is written %3A",
            details={"field": "model"},
        )
    base_url = name.base_url + (kind.version_path if name.base_url.count("/") == 2 else "")
    return cast("BaseProvider", kind(base_url=base_url, api_key=name.key, **more))


def _single(owner: BaseProvider, kind: str, name: ModelName, options: Sequence[Any]) -> Any:
    chosen = name.model or _default(owner, kind, name)
    if kind == "chat":
        return owner.model(chosen, *_preset(llm.Request(), name.options), *options)
    if kind == "image":
        return owner.image_model(chosen, *_preset(imagegen.Request(""), name.options), *options)
    if name.options:
        raise ConfigurationError(
            "an embedding model takes no options in its string", details={"field": "model"}
        )
    return owner.embedding_model(chosen)


def _default(owner: BaseProvider, kind: str, name: ModelName) -> str:
    chosen = getattr(owner, "default_models", {}).get(kind)
    if chosen is None:
        raise ConfigurationError(
            f"which model of {name}? Say {name}/MODEL", details={"field": "model"}
        )
    return str(chosen)


def _preset(blank: Any, options: Mapping[str, Any]) -> list[Any]:
    """The string's options as an option of the model, tried on an empty request so that a misspelled one is said at once."""
    if not options:
        return []
    try:
        blank.override(**options)
    except TypeError:
        unknown = [name for name in options if not hasattr(blank, name)]
        raise ConfigurationError(
            f"unknown option {', '.join(unknown) or 'value'} in the model string",
            details={"field": "model"},
        ) from None
    return [lambda request: request.override(**options)]
