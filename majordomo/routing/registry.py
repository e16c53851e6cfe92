"""From a model string to a model: the provider's file is found by its name, and closed with the model."""

from __future__ import annotations

import difflib
import importlib
from typing import Any, cast

from majordomo import imagegen, llm
from majordomo.errors import ConfigurationError
from majordomo.providers.base import Provider, provider_names
from majordomo.routing.names import ModelName, parse


def provider_class(name: str) -> type[Provider]:
    """The class in `providers/<name>.py`. Raises ConfigurationError, with what may have been meant, when there is none."""
    known = sorted(provider_names())
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
        raise ConfigurationError(f"there is no provider {name!r}{hint}", code="UNKNOWN_PROVIDER", details={"known": known})
    module = importlib.import_module(f"majordomo.providers.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Provider) and value.name == name and value.__module__ == module.__name__:
            return value
    raise ConfigurationError(f"the file of provider {name!r} holds no provider of that name")


def provider(name: str | ModelName) -> Provider:
    """The provider a string names, made with its defaults or the DSN's address and key."""
    wanted = parse(name) if isinstance(name, str) else name
    kind: Any = provider_class(wanted.provider)
    if not wanted.base_url:
        return cast("Provider", kind())
    if not hasattr(kind, "local"):
        raise ConfigurationError(f"{wanted.provider} has no address", details={"field": "model"})
    base_url = wanted.base_url
    if base_url.count("/") == 2:
        base_url += kind.version_path
    return cast("Provider", kind(base_url=base_url, api_key=wanted.key))


def model(name: str, *options: llm.Option) -> llm.Model:
    """The chat model a string names; `await model.aclose()` or `async with model` closes its provider."""
    wanted, owner = _owner(name)
    made = owner.model(wanted.model or _default(owner, "chat"), *_preset(llm.Request(), wanted), *options)
    made._owner = owner  # type: ignore[attr-defined]  # every model of ours has an owner, None unless made by name
    return made


def image_model(name: str, *options: imagegen.Option) -> imagegen.Model:
    """The picture model a string names; `await model.aclose()` or `async with model` closes its provider."""
    wanted, owner = _owner(name)
    made = owner.image_model(wanted.model or _default(owner, "image"), *_preset(imagegen.Request(""), wanted), *options)
    made._owner = owner  # type: ignore[attr-defined]  # as above
    return made


def _owner(name: str) -> tuple[ModelName, Provider]:
    wanted = parse(name)
    return wanted, provider(wanted)


def _default(owner: Provider, capability: str) -> str:
    chosen = getattr(owner, "default_models", {}).get(capability)
    if chosen is None:
        raise ConfigurationError(f"which model of {owner.name}? Say {owner.name}/MODEL", details={"field": "model"})
    return str(chosen)


def _preset(blank: Any, wanted: ModelName) -> list[Any]:
    """The DSN's options as an option of the model, tried on an empty request so that a misspelt one is said at once."""
    if not wanted.options:
        return []
    try:
        blank.override(**wanted.options)
    except TypeError:
        unknown = [name for name in wanted.options if not hasattr(blank, name)]
        raise ConfigurationError(
            f"unknown option {', '.join(unknown) or 'value'} in the model string", details={"field": "model"}
        ) from None
    return [lambda request: request.override(**wanted.options)]
