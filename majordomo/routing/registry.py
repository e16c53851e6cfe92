"""The front door: models by name, under the configuration that is found or given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

from majordomo import imagegen, llm
from majordomo.concurrency.lifecycle import Closeable, close_all
from majordomo.errors import ConfigurationError
from majordomo.llm.embeddings import EmbeddingModel
from majordomo.observability import Observer
from majordomo.observability.observed_call import checked_observers
from majordomo.observability.prices import Price
from majordomo.providers.base import BaseProvider
from majordomo.routing.config import Config, load
from majordomo.routing.config_file import has_variable
from majordomo.routing.factory import ModelFactory, configured_class
from majordomo.routing.model_string import ModelName
from majordomo.routing.provider_options import check
from majordomo.routing.resolve import Target, members, resolve


class Registry(Closeable):
    """The providers of one configuration, each made when it is first named, shared by all models, and closed with the registry.

    `config` is a file, a mapping of the same shape, or None: then the file is MAJORDOMO_CONFIG, `majordomo.toml` in the working folder, or
    `majordomo/majordomo.toml` in the user's configuration folder, whichever is found first, and no file is as good as an empty one.

        async with md.Registry() as registry:
            chat = registry.model()              # [defaults] chat
            painter = registry.image_model("painter", md.with_steps(8))

    Raises ConfigurationError, naming file, line and key, for what the file says wrong, keywords of its providers included. A variable
    that is not set, and a value that only a provider can judge, is told when that provider is first named. `observers` are told of every
    call of its providers. Safe to use from threads.
    """

    def __init__(
        self,
        config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._config = load(config)
        self._factory = ModelFactory(
            self._config, owned=False, observers=checked_observers(observers)
        )
        for name, table in self._config.providers.items():
            if not has_variable(table.type):
                check(
                    configured_class(self._config, name),
                    table.keywords,
                    self._config.document,
                    ("providers", name),
                )

    @property
    def source(self) -> str:
        """The file that is used; "" when there is none."""
        return self._config.source

    @property
    def config(self) -> Config:
        return self._config

    @property
    def prices(self) -> dict[str, Price]:
        """What `[prices]` says, for `md.Ledger(registry.prices)` and `md.cost(reply, registry.prices)`. Raises ConfigurationError."""
        made: dict[str, Price] = {}
        for name, table in self._config.prices.items():
            try:
                made[name] = Price(**table)
            except (ConfigurationError, TypeError) as error:
                raise self._config.document.error(("prices", name), str(error)) from None
        return made

    def model(self, name: str | None = None, *options: llm.Option) -> llm.Model:
        """The chat model a string names: provider/model, a DSN, an alias, a chain; None: MAJORDOMO_CHAT_MODEL, else the default."""
        return cast("llm.Model", self._model("chat", name, options))

    def image_model(self, name: str | None = None, *options: imagegen.Option) -> imagegen.Model:
        """The image model a string names; None: MAJORDOMO_IMAGE_MODEL, else the default."""
        return cast("imagegen.Model", self._model("image", name, options))

    def embedding_model(self, name: str | None = None) -> EmbeddingModel:
        """The embedding model a string names; None: MAJORDOMO_EMBEDDING_MODEL, else the default."""
        return cast("EmbeddingModel", self._model("embedding", name, ()))

    def provider(self, name: str) -> BaseProvider:
        """The provider that a string names: a configured one, a kind of provider, a DSN, or that of a model. The registry closes it.

        Raises ConfigurationError for a chain of several providers."""
        return self._factory.provider(_one_provider(resolve(self._config, name, "chat")))

    async def aclose(self) -> None:
        """Close all providers; whatever one of them raises, the others are closed."""
        await close_all(self._factory.end())

    def __repr__(self) -> str:
        config = getattr(
            self, "_config", Config()
        )  # absent when the constructor has failed, and a traceback shows its locals
        return f"<Registry of {config.source or 'no file'}: {', '.join(config.providers) or 'no providers'}>"

    def _model(self, kind: str, name: str | None, options: Sequence[Any]) -> Any:
        return self._factory.model(resolve(self._config, name, kind), kind, options)


def model(name: str | None = None, *options: llm.Option) -> llm.Model:
    """The chat model a string names; `await model.aclose()` or `async with model` closes its provider.

    Providers, aliases and chains of the configuration count, as in `Registry()`. None: MAJORDOMO_CHAT_MODEL, else the default.
    """
    return cast("llm.Model", _owning("chat", name, options))


def image_model(name: str | None = None, *options: imagegen.Option) -> imagegen.Model:
    """The image model a string names; `await model.aclose()` or `async with model` closes its provider.

    Providers, aliases and chains of the configuration count, as in `Registry()`. None: MAJORDOMO_IMAGE_MODEL, else the default.
    """
    return cast("imagegen.Model", _owning("image", name, options))


def embedding_model(name: str | None = None) -> EmbeddingModel:
    """The embedding model a string names; `await model.aclose()` or `async with model` closes its provider.

    Providers and aliases of the configuration count, as in `Registry()`. None: MAJORDOMO_EMBEDDING_MODEL, else the default.
    """
    return cast("EmbeddingModel", _owning("embedding", name, ()))


def provider(name: str | None = None) -> BaseProvider:
    """The provider a string names, made for the caller, who closes it: a configured one, a kind of provider, a DSN, or that of a model.
    None: that of the default chat model."""
    config = load()
    return ModelFactory(config, owned=True).provider(_one_provider(resolve(config, name, "chat")))


def _one_provider(target: Target) -> ModelName:
    found = {(model.table, model.provider, model.base_url): model for model in members(target)}
    if len(found) > 1:
        shown = ", ".join(str(name) for name in found.values())
        raise ConfigurationError(
            f"a chain has several providers: {shown}; name one of them", details={"field": "model"}
        )
    return next(iter(found.values()))


def _owning(kind: str, name: str | None, options: Sequence[Any]) -> Any:
    config = load()
    return ModelFactory(config, owned=True).model(resolve(config, name, kind), kind, options)
