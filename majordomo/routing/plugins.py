"""The provider class that a name means: a module of `majordomo.providers`, otherwise a plug-in.

Either is imported only when its name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from majordomo.errors import ConfigurationError
from majordomo.providers.base import BaseProvider, provider_names

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "majordomo.providers"


def provider_class(name: str) -> type[BaseProvider] | None:
    """Return the class in `providers/<name>.py`, otherwise that of the plug-in of that name.

    None means that there is neither. Raises ConfigurationError, naming the plug-in, for one that
    cannot be imported, is not a provider, or has another name.
    """
    if name not in provider_names():
        return _plugin_class(name)
    module = importlib.import_module(f"majordomo.providers.{name}")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, BaseProvider) and value.name == name:
            return value
    raise ConfigurationError(f"the module of provider {name!r} has no provider class of that name")


def plugins() -> dict[str, list[EntryPoint]]:
    """Return the installed plug-ins by canonical name, without importing any of them."""
    # Imported here because it is slow and rarely needed.
    from importlib.metadata import entry_points

    entries: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        entries.setdefault(_canonical_name(entry.name), []).append(entry)
    return entries


def _canonical_name(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _plugin_class(name: str) -> type[BaseProvider] | None:
    entries = plugins().get(name, [])
    if not entries:
        return None
    if len({entry.value for entry in entries}) > 1:
        raise _plugin_error(name, entries, "they have the same name; uninstall one")
    try:
        loaded = entries[0].load()
    except Exception as error:
        # A plug-in may raise anything.
        raise _plugin_error(
            name, entries, f"it cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, type) or not issubclass(loaded, BaseProvider):
        raise _plugin_error(
            name,
            entries,
            f"{entries[0].value} must be a subclass of majordomo.providers.base.BaseProvider",
        )
    if loaded.name != name:
        raise _plugin_error(name, entries, f"its class has the name {loaded.name!r}")
    return loaded


def _plugin_error(name: str, entries: list[EntryPoint], reason: str) -> ConfigurationError:
    packages = sorted({entry.dist.name for entry in entries if entry.dist is not None})
    plugin = f"provider plug-in {name!r}" + (f" of {', '.join(packages)}" if packages else "")
    return ConfigurationError(
        f"{plugin}: {reason}", code="BROKEN_PLUGIN", details={"field": "provider", "plugin": name}
    )
