"""What a chain asks its members: one request, and the fields that were put back to their default on purpose.

A member's own options lie below the chain's, and a request cannot say "not set, and mean it". So what the chain's options, the call's
options and its keywords unset goes along as keywords of None, which beat a member's own options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

from majordomo import imagegen, llm

R = TypeVar("R")
N = TypeVar("N", "_NotedChat", "_NotedImage")


@dataclass(frozen=True, slots=True)
class ChainRequest(Generic[R]):
    """`model.generate(asking.request, **asking.unset)`."""

    request: R
    unset: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _NotedChat(llm.Request):
    """A request that remembers which of its fields were set, to whatever."""

    noted: frozenset[str] = frozenset()

    def override(self, **changes: Any) -> llm.Request:
        return _note(self, llm.Request.override(self, **changes), changes)


@dataclass(frozen=True, slots=True)
class _NotedImage(imagegen.Request):
    """The same for images."""

    noted: frozenset[str] = frozenset()

    def override(self, **changes: Any) -> imagegen.Request:
        return _note(self, imagegen.Request.override(self, **changes), changes)


def chat_chain_request(
    given: llm.Request,
    below: Sequence[llm.Option],
    options: Sequence[llm.Option],
    overrides: Mapping[str, Any],
) -> ChainRequest[llm.Request]:
    """`below` are the chain's own options, under the fields of the request given; `options` and `overrides` are those of the call."""
    return _asking(given, _NotedChat, llm.Request(), below, options, overrides)


def image_chain_request(
    given: imagegen.Request,
    below: Sequence[imagegen.Option],
    options: Sequence[imagegen.Option],
    overrides: Mapping[str, Any],
) -> ChainRequest[imagegen.Request]:
    """The same for images."""
    return _asking(given, _NotedImage, imagegen.Request(""), below, options, overrides)


def _asking(
    given: Any,
    noting: type[Any],
    blank: Any,
    below: Sequence[Callable[[Any], Any]],
    options: Sequence[Callable[[Any], Any]],
    overrides: Mapping[str, Any],
) -> ChainRequest[Any]:
    names = [item.name for item in fields(type(blank))]
    if "noted" in overrides:
        raise TypeError("a request has no field 'noted'")

    def note(request: Any) -> Any:
        return noting(**{name: getattr(request, name) for name in names})

    noted = given.with_defaults((note, *below)).apply(*options).override(**overrides)
    request = type(blank)(**{name: getattr(noted, name) for name in names})
    touched: frozenset[str] = getattr(
        noted, "noted", frozenset()
    )  # an option may have made a request of its own
    unset = {
        name: None
        for name in names
        if name in touched and getattr(request, name) == getattr(blank, name)
    }
    return ChainRequest(request, unset)


def _note(before: N, after: Any, changes: Mapping[str, Any]) -> N:
    noted: N = replace(after, noted=before.noted | changes.keys()) if changes else after
    return noted
