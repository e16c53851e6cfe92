"""From a resolved model string to a model.

Providers are constructed from their tables, and models from providers. `majordomo.routing.chain`
makes chains of these models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, cast

from majordomo import imagegen, llm
from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import ConfigurationError
from majordomo.observability import Observer
from majordomo.providers.base import BaseProvider
from majordomo.queueing.resource_group import named_group
from majordomo.redaction import Redactor
from majordomo.routing.config import Config
from majordomo.routing.health import ChainHealth
from majordomo.routing.model_string import ModelName, canonical
from majordomo.routing.plugins import provider_class
from majordomo.routing.provider_options import construct, constructor_keywords
from majordomo.routing.resolve import ChainName


class ModelFactory:
    """Creates the providers of one configuration, each when it is first needed, and their models.

    Chains of one name share the health records of their members. The factory can be used from
    several threads.

    Args:
        config: The configuration.
        owned: Whether closing a model closes its provider, because no other model shares it.
        observers: Observers for the calls of all providers.
    """

    def __init__(self, config: Config, *, owned: bool, observers: Sequence[Observer] = ()) -> None:
        self._config = config
        self.owned: bool = owned
        self._observers = tuple(observers)
        self._health: dict[str, ChainHealth] = {}
        self._providers: dict[tuple[Any, ...], BaseProvider] = {}
        self._lock = Lock()
        self._closed = False

    def provider(self, name: ModelName) -> BaseProvider:
        """Return the provider of a model name, constructed at the first call."""
        key = (
            name.table,
            name.provider,
            name.base_url,
            sha256(name.key.reveal().encode("utf-8", "replace")).digest() if name.key else b"",
        )
        with self._lock:
            if self._closed:
                raise ConfigurationError("the registry is closed", code="CLOSED")
            if key not in self._providers:
                keywords = {"observers": self._observers} if self._observers else {}
                self._providers[key] = make_provider(self._config, name, **keywords)
            return self._providers[key]

    def model(self, name: ModelName, kind: str, options: Sequence[Any]) -> Any:
        """Return the model of a model name; `kind` is "chat", "image" or "embedding"."""
        provider = self.provider(name)
        model = _model_of(provider, kind, name, options)
        if self.owned:
            model._owned_provider = provider
        return model

    def make_chain(
        self,
        chain_class: Callable[..., Any],
        models: list[Any],
        options: Sequence[Any],
        name: ChainName,
    ) -> Any:
        """Return a chain of these models. Chains of one table share the health of their members."""
        settings = dict(name.settings)
        cooldown = settings.pop("cooldown", None)
        try:
            with self._lock:
                if name.table not in self._health:
                    self._health[name.table] = (
                        ChainHealth() if cooldown is None else ChainHealth(cooldown)
                    )
            return chain_class(models, *options, health=self._health[name.table], **settings)
        except (ConfigurationError, TypeError) as error:
            if not name.table:
                raise
            raise self._config.document.error(("chains", name.table), str(error)) from None

    def shut_down(self) -> list[BaseProvider]:
        """Refuse to create more, and return all providers so that the caller can close them."""
        with self._lock:
            self._closed = True
            return list(self._providers.values())


def configured_class(config: Config, table: str) -> type[BaseProvider]:
    """Return the provider class of `[providers.TABLE]`.

    Raises ConfigurationError when there is no such kind of provider.
    """
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
        raise config.document.error(path, "must name a kind of provider", "UNKNOWN_PROVIDER")
    return kind


def make_provider(config: Config, name: ModelName, **overrides: Any) -> BaseProvider:
    """Construct the provider of a model name.

    It gets the keywords of its table, or the URL and key of the model URL, or only its defaults.

    Args:
        config: The configuration.
        name: The model name.
        **overrides: Further keywords, passed to constructors that accept them. They override the
            table.

    Raises:
        ConfigurationError: There is no such provider, or its settings are invalid.
    """
    if name.table:
        table = dict(config.providers[name.table].keywords)
        path = ("providers", name.table)
        if isinstance(table.get("gpu"), str):
            gpu = config.document.text((*path, "gpu"), table["gpu"])
            table["gpu"] = named_group(gpu, **config.gpus.get(gpu, {}))
        kind = configured_class(config, name.table)
        return construct(kind, table, config.document, path, **overrides)
    provider_type: Any = provider_class(name.provider)
    if provider_type is None:
        raise ConfigurationError(
            f"there is no provider {name.provider!r}",
            code="UNKNOWN_PROVIDER",
            details={"field": "model"},
        )
    if overrides:
        accepted = constructor_keywords(provider_type)
        overrides = {keyword: value for keyword, value in overrides.items() if keyword in accepted}
    if not name.base_url:
        return cast("BaseProvider", provider_type(**overrides))
    if not hasattr(provider_type, "local"):
        raise ConfigurationError(
            f"provider {name.provider} takes no URL; write {name.provider}/MODEL",
            details={"field": "model"},
        )
    if name.with_user and not getattr(provider_type, "basic_auth", False):
        raise ConfigurationError(
            f"provider {name.provider} takes a key before the @ of a model string, not "
            "user:password; write a colon in the key as %3A",
            details={"field": "model"},
        )
    version_path = provider_type.version_path if name.base_url.count("/") == 2 else ""
    return cast(
        "BaseProvider",
        provider_type(base_url=name.base_url + version_path, api_key=name.key, **overrides),
    )


def _model_of(provider: BaseProvider, kind: str, name: ModelName, options: Sequence[Any]) -> Any:
    model_id = name.model or _default_model(provider, kind, name)
    if kind == "chat":
        preset = _preset(llm.Request(), name.options)
        return provider.model(model_id, *preset, *options)
    if kind == "image":
        preset = _preset(imagegen.Request(""), name.options)
        return provider.image_model(model_id, *preset, *options)
    if name.options:
        raise ConfigurationError(
            "the model string of an embedding model must not have options; "
            f"got {', '.join(name.options)}",
            details={"field": "model"},
        )
    return provider.embedding_model(model_id)


def _default_model(provider: BaseProvider, kind: str, name: ModelName) -> str:
    model_id = getattr(provider, "default_models", {}).get(kind)
    if model_id is None:
        raise ConfigurationError(
            f"{name} has no default {kind} model; write {name}/MODEL", details={"field": "model"}
        )
    return str(model_id)


def _preset(blank: Any, options: Mapping[str, Any]) -> list[Any]:
    """Return the string's options as an option of the model.

    They are applied to an empty request first, so that a misspelled one is reported at once.
    """
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
