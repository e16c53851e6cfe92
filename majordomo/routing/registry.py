"""Models and providers by name, under the configuration that is found or passed."""

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
from majordomo.routing.chain import make_model, model_from_string
from majordomo.routing.config import Config, load
from majordomo.routing.config_file import has_variable
from majordomo.routing.factory import ModelFactory, configured_class
from majordomo.routing.model_string import ModelName
from majordomo.routing.provider_options import check_options
from majordomo.routing.resolve import Target, members, resolve


class Registry(Closeable):
    """The providers of one configuration.

    Each provider is constructed when it is first named, shared by all models of the registry, and
    closed with it. The registry can be used from several threads.

    The configuration is checked at once, including the keywords of its providers. A variable that
    is not set, and a value that only the provider's constructor can check, is reported when that
    provider is first named.

    Args:
        config: A file, a mapping of the same structure, or None. None uses the first existing file
            of MAJORDOMO_CONFIG, `majordomo.toml` in the working directory, and
            `majordomo/majordomo.toml` in the user's configuration directory; without a file the
            configuration is empty.
        observers: Observers for every call of the providers.

    Raises:
        ConfigurationError: The configuration is invalid. The message names file, line and key.

    Example:
        ```python
        async with md.Registry() as registry:
            chat = registry.model()              # [defaults] chat
            images = registry.image_model("images", md.with_steps(8))
        ```
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
                check_options(
                    configured_class(self._config, name),
                    table.keywords,
                    self._config.document,
                    ("providers", name),
                )

    @property
    def source(self) -> str:
        """The path of the configuration file; "" when there is none."""
        return self._config.source

    @property
    def config(self) -> Config:
        """The checked configuration."""
        return self._config

    @property
    def prices(self) -> dict[str, Price]:
        """The prices in `[prices]`, by model string.

        For `md.Ledger(registry.prices)` and `md.cost(reply, registry.prices)`. Raises
        ConfigurationError for a key that is not a field of `Price`.
        """
        prices: dict[str, Price] = {}
        for name, table in self._config.prices.items():
            try:
                prices[name] = Price(**table)
            except (ConfigurationError, TypeError) as error:
                raise self._config.document.error(("prices", name), str(error)) from None
        return prices

    def model(self, name: str | None = None, *options: llm.Option) -> llm.Model:
        """Return a chat model.

        Args:
            name: provider/model, a model URL, an alias, or a chain. None uses MAJORDOMO_CHAT_MODEL,
                otherwise `[defaults] chat`.
            *options: Options for all calls of the model.

        Raises:
            ConfigurationError: The string names no model, or its provider cannot be constructed.
        """
        return cast("llm.Model", self._model("chat", name, options))

    def image_model(self, name: str | None = None, *options: imagegen.Option) -> imagegen.Model:
        """Return an image model.

        Args:
            name: provider/model, a model URL, an alias, or a chain. None uses
                MAJORDOMO_IMAGE_MODEL, otherwise `[defaults] image`.
            *options: Options for all calls of the model.

        Raises:
            ConfigurationError: The string names no model, or its provider cannot be constructed.
        """
        return cast("imagegen.Model", self._model("image", name, options))

    def embedding_model(self, name: str | None = None) -> EmbeddingModel:
        """Return an embedding model.

        Args:
            name: provider/model, a model URL, or an alias. None uses MAJORDOMO_EMBEDDING_MODEL,
                otherwise `[defaults] embedding`.

        Raises:
            ConfigurationError: The string names no model or a chain, or its provider cannot be
                constructed.
        """
        return cast("EmbeddingModel", self._model("embedding", name, ()))

    def provider(self, name: str) -> BaseProvider:
        """Return a provider. The registry closes it.

        Args:
            name: A configured provider, a kind of provider, a model URL, or a model string, which
                gives the model's provider.

        Raises:
            ConfigurationError: The string names no provider, or a chain of several.
        """
        return self._factory.provider(_single_provider(resolve(self._config, name, "chat")))

    async def aclose(self) -> None:
        """Close all providers; an error of one does not keep the others open."""
        await close_all(self._factory.shut_down())

    def __repr__(self) -> str:
        # The attribute is missing when the constructor failed and a traceback shows its locals.
        config = getattr(self, "_config", Config())
        providers = ", ".join(config.providers) or "no providers"
        return f"<Registry of {config.source or 'no file'}: {providers}>"

    def _model(self, kind: str, name: str | None, options: Sequence[Any]) -> Any:
        return make_model(self._factory, resolve(self._config, name, kind), kind, options)


def model(name: str | None = None, *options: llm.Option) -> llm.Model:
    """Return a chat model with a provider of its own.

    `await model.aclose()` or `async with model` closes the provider. Providers, aliases and chains
    of the configuration are available as in `Registry()`.

    Args:
        name: provider/model, a model URL, an alias, or a chain. None uses MAJORDOMO_CHAT_MODEL,
            otherwise `[defaults] chat`.
        *options: Options for all calls of the model.

    Raises:
        ConfigurationError: The configuration is invalid, the string names no model, or its provider
            cannot be constructed.

    Example:
        ```python
        async with md.model("ollama/gemma3") as chat:
            reply = await chat.generate("Hello")
        ```
    """
    return cast("llm.Model", model_from_string("chat", name, options))


def image_model(name: str | None = None, *options: imagegen.Option) -> imagegen.Model:
    """Return an image model with a provider of its own.

    `await model.aclose()` or `async with model` closes the provider. Providers, aliases and chains
    of the configuration are available as in `Registry()`.

    Args:
        name: provider/model, a model URL, an alias, or a chain. None uses MAJORDOMO_IMAGE_MODEL,
            otherwise `[defaults] image`.
        *options: Options for all calls of the model.

    Raises:
        ConfigurationError: The configuration is invalid, the string names no model, or its provider
            cannot be constructed.
    """
    return cast("imagegen.Model", model_from_string("image", name, options))


def embedding_model(name: str | None = None) -> EmbeddingModel:
    """Return an embedding model with a provider of its own.

    `await model.aclose()` or `async with model` closes the provider. Providers and aliases of the
    configuration are available as in `Registry()`.

    Args:
        name: provider/model, a model URL, or an alias. None uses MAJORDOMO_EMBEDDING_MODEL,
            otherwise `[defaults] embedding`.

    Raises:
        ConfigurationError: The configuration is invalid, the string names no model or a chain, or
            its provider cannot be constructed.
    """
    return cast("EmbeddingModel", model_from_string("embedding", name, ()))


def provider(name: str | None = None) -> BaseProvider:
    """Return a new provider. Close it with `await provider.aclose()`.

    Args:
        name: A configured provider, a kind of provider, a model URL, or a model string, which gives
            the model's provider. None gives the provider of the default chat model.

    Raises:
        ConfigurationError: The configuration is invalid, or the string names no provider or a chain
            of several.
    """
    config = load()
    factory = ModelFactory(config, owned=True)
    return factory.provider(_single_provider(resolve(config, name, "chat")))


def _single_provider(target: Target) -> ModelName:
    providers = {(model.table, model.provider, model.base_url): model for model in members(target)}
    if len(providers) > 1:
        names = ", ".join(str(name) for name in providers.values())
        raise ConfigurationError(
            f"a chain of several providers is ambiguous here; name one of {names}",
            details={"field": "model"},
        )
    return next(iter(providers.values()))
