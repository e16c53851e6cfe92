"""The class that a provider's name means: a file of ours, else a plug-in, loaded only when its name is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from majordomo.errors import ConfigurationError
from majordomo.providers.base import BaseProvider, provider_names

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "majordomo.providers"


def provider_class(name: str) -> type[BaseProvider] | None:
    """The class in `providers/<name>.py`, else of the plug-in of that name; None when there is neither.

    Raises ConfigurationError, naming it, for a plug-in that cannot be loaded, is no provider, or has another name.
    """
    if name not in provider_names():
        return _plugin_class(name)
    module = importlib.import_module(f"majordomo.providers.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, BaseProvider) and value.name == name:
            return value
    raise ConfigurationError(f"the file of provider {name!r} holds no provider of that name")


def plugins() -> dict[str, list[EntryPoint]]:
    """The plug-ins installed, by canonical name. Loads none of them."""
    from importlib.metadata import entry_points  # rare, and slow to load

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(_plain(entry.name), []).append(entry)
    return found


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _plugin_class(name: str) -> type[BaseProvider] | None:
    entries = plugins().get(name, [])
    if not entries:
        return None
    if len({entry.value for entry in entries}) > 1:
        raise _broken(name, entries, "they have the same name; uninstall one")
    try:
        loaded = entries[0].load()
    except Exception as error:  # whatever a stranger's module raises
        raise _broken(
            name, entries, f"it cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, type) or not issubclass(loaded, BaseProvider):
        raise _broken(
            name, entries, f"{entries[0].value} is no subclass of majordomo.providers.base.Provider"
        )
    if loaded.name != name:
        raise _broken(name, entries, f"its class calls itself {loaded.name!r}")
    return loaded


def _broken(name: str, entries: list[EntryPoint], reason: str) -> ConfigurationError:
    owners = sorted({entry.dist.name for entry in entries if entry.dist is not None})
    who = f"provider plug-in {name!r}" + (f" of {', '.join(owners)}" if owners else "")
    return ConfigurationError(
        f"{who}: {reason}", code="BROKEN_PLUGIN", details={"field": "provider", "plugin": name}
    )
