"""What a chain's members can do, as far as it is known for free: said by the program, or listed by the provider."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, get_args

import anyio
from anyio.lowlevel import current_token

from majordomo import imagegen, llm
from majordomo.backend_status import Capability
from majordomo.errors import ConfigurationError, UnsupportedError
from majordomo.models.image_conversion import images_in

PATIENCE = 3.0  # seconds that a list of models may take; without it every member is asked as if nothing were known
Known = frozenset[Capability]
# What a request may need, beside what it is an addition to: a list that lacks even that says nothing about the addition
NEEDS: dict[Capability, Capability] = {"vision": "chat", "edit": "image"}
_WORDS = {"vision": "sees no images", "edit": "begins with no images"}
_FIELDS = {"vision": "messages", "edit": "images"}


def chat_need(request: llm.Request) -> Capability | None:
    """ "vision" for a request with an image in it, those that tools gave included."""
    return "vision" if any(True for _ in images_in(request)) else None


def image_need(request: imagegen.Request) -> Capability | None:
    return "edit" if request.images else None


class Capabilities:
    """`said` maps "provider/model" to what that member can do, whatever its provider lists.

    A provider is asked at most once in each event loop, when a request first needs to know; what goes wrong then proves nothing, and
    neither does a model that is not listed or an empty set.
    """

    def __init__(self, said: Mapping[str, Collection[Capability]], names: Collection[str]) -> None:
        self._said: dict[str, Known] = {}
        for name, capabilities in said.items():
            if name not in names:
                raise ConfigurationError(
                    f"capabilities speak of {name!r}, which is no member",
                    details={"field": "capabilities"},
                )
            unknown = (
                {capabilities}
                if isinstance(capabilities, str)
                else set(capabilities) - set(get_args(Capability))
            )
            if unknown:
                words = ", ".join(sorted(map(str, unknown)))
                raise ConfigurationError(
                    f"capabilities of {name} hold what is none: {words}",
                    details={"field": "capabilities"},
                )
            self._said[name] = frozenset(capabilities)
        self._listed: dict[int, dict[str, Known]] = {}
        self._asking: dict[tuple[int, Any], anyio.Event] = {}

    async def check(self, model: llm.Model | imagegen.Model, need: Capability) -> None:
        """Raise UnsupportedError when the model is known to lack `need`."""
        known = self._said.get(f"{model.provider}/{model.id}")
        if known is None:
            known = await self._list_of(model)
        if need not in known and NEEDS[need] in known:
            raise UnsupportedError(
                f"{model.id} {_WORDS[need]}: it is listed with {', '.join(sorted(known))}",
                code=f"LACKS_{need.upper()}",
                field=_FIELDS[need],
                provider=model.provider,
                model=model.id,
            )

    async def _list_of(self, model: llm.Model | imagegen.Model) -> Known:
        provider = model.provider_instance
        if provider is None:
            return frozenset()
        key = id(provider)  # the chain holds the model, and the model its provider
        while key not in self._listed:
            place = (key, current_token())
            asking = self._asking.get(place)
            if asking is not None:
                await asking.wait()
                continue
            self._asking[place] = anyio.Event()
            try:
                self._listed[key] = await _listed(provider)
            finally:  # who is cancelled leaves the question to the next
                self._asking.pop(place).set()
        found = self._listed[key]
        # Ollama lists "gemma3:latest" for what everybody calls "gemma3"
        return found.get(model.id) or found.get(f"{model.id}:latest") or frozenset()


async def _listed(provider: llm.Provider | imagegen.Provider) -> dict[str, Known]:
    try:
        with anyio.move_on_after(PATIENCE):
            return {info.id: info.capabilities for info in await provider.models()}
    except Exception:
        return {}
    return {}
