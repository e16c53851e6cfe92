"""What the members of a chain can do, as far as that is known at no cost.

A capability is known when the program declares it or when the provider lists it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, get_args

import anyio
from anyio.lowlevel import current_token

from majordomo import imagegen, llm
from majordomo.backend_status import Capability
from majordomo.errors import ConfigurationError, UnsupportedError
from majordomo.models.image_conversion import images_in

# A model list that takes longer is ignored: every member is then called as if nothing were known.
LISTING_TIMEOUT_SECONDS = 3.0
CapabilitySet = frozenset[Capability]
# Capability -> the base capability that it extends. A listing without the base is incomplete, so
# it says nothing about the extension either.
BASE_CAPABILITIES: dict[Capability, Capability] = {"vision": "chat", "edit": "image"}
_LACKS = {"vision": "does not accept images", "edit": "does not accept input images"}
_REQUEST_FIELDS = {"vision": "messages", "edit": "images"}


def chat_need(request: llm.Request) -> Capability | None:
    """Return "vision" for a request with an image, tool results included; otherwise None."""
    return "vision" if any(True for _ in images_in(request)) else None


def image_need(request: imagegen.Request) -> Capability | None:
    """Return "edit" for a request with input images; otherwise None."""
    return "edit" if request.images else None


class Capabilities:
    """The known capabilities of the members of one chain.

    A provider's model list is requested at most once per event loop, when a request first needs
    it. An error while listing proves nothing, and neither does a model that is not listed or that
    is listed with an empty set.

    Args:
        declared: Maps "provider/model" to what that member can do. Overrides the provider's list.
        names: The names of the chain's members.

    Raises:
        ConfigurationError: `declared` names a model that is not a member, or an unknown capability.
    """

    def __init__(
        self, declared: Mapping[str, Collection[Capability]], names: Collection[str]
    ) -> None:
        self._declared: dict[str, CapabilitySet] = {}
        for name, capabilities in declared.items():
            if name not in names:
                raise ConfigurationError(
                    f"capabilities must be given for members of the chain; {name!r} is not one",
                    details={"field": "capabilities"},
                )
            known = get_args(Capability)
            unknown = (
                {capabilities} if isinstance(capabilities, str) else set(capabilities) - set(known)
            )
            if unknown:
                raise ConfigurationError(
                    f"capabilities of {name} must be a collection of {', '.join(known)}; "
                    f"got {', '.join(sorted(map(str, unknown)))}",
                    details={"field": "capabilities"},
                )
            self._declared[name] = frozenset(capabilities)
        self._listings: dict[int, dict[str, CapabilitySet]] = {}
        self._pending_listings: dict[tuple[int, Any], anyio.Event] = {}

    async def check(self, model: llm.Model | imagegen.Model, need: Capability) -> None:
        """Raise UnsupportedError when the model is known to lack `need`."""
        known = self._declared.get(f"{model.provider}/{model.id}")
        if known is None:
            known = await self._listed_capabilities(model)
        if need not in known and BASE_CAPABILITIES[need] in known:
            raise UnsupportedError(
                f"{model.id} {_LACKS[need]}: it is listed with {', '.join(sorted(known))}",
                code=f"LACKS_{need.upper()}",
                field=_REQUEST_FIELDS[need],
                provider=model.provider,
                model=model.id,
            )

    async def _listed_capabilities(self, model: llm.Model | imagegen.Model) -> CapabilitySet:
        provider = model.provider_instance
        if provider is None:
            return frozenset()
        # The id stays valid: the chain references the model, and the model its provider.
        key = id(provider)
        while key not in self._listings:
            pending_key = (key, current_token())
            pending = self._pending_listings.get(pending_key)
            if pending is not None:
                await pending.wait()
                continue
            self._pending_listings[pending_key] = anyio.Event()
            try:
                self._listings[key] = await _list_capabilities(provider)
            finally:
                # After a cancellation the next waiting task repeats the request.
                self._pending_listings.pop(pending_key).set()
        listing = self._listings[key]
        # Ollama lists "gemma3:latest" for the model that is commonly called "gemma3".
        return listing.get(model.id) or listing.get(f"{model.id}:latest") or frozenset()


async def _list_capabilities(
    provider: llm.Provider | imagegen.Provider,
) -> dict[str, CapabilitySet]:
    """Return the capabilities by model id; empty when the list cannot be read in time."""
    try:
        with anyio.move_on_after(LISTING_TIMEOUT_SECONDS):
            return {info.id: info.capabilities for info in await provider.models()}
    except Exception:
        return {}
    return {}
