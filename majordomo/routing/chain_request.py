"""What a chain sends to its members: one request, and the fields that were reset on purpose.

A member's own options have a lower precedence than the chain's, and a request cannot express "unset
on purpose". So a field that the chain's options, the call's options or the call's keywords reset to
its default is also passed as the keyword `field=None`, which overrides the member's own options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Self, TypeVar

from majordomo import imagegen, llm
from majordomo.requests.base import BaseRequest

R = TypeVar("R", "llm.Request", "imagegen.Request")


@dataclass(frozen=True, slots=True)
class ChainRequest(Generic[R]):
    """A request for a member: `model.generate(chain_request.request, **chain_request.unset)`."""

    request: R
    """The request with the options of the chain and of the call applied."""
    unset: Mapping[str, Any]
    """Keywords with the value None, for the fields that were reset to their default on purpose."""

    @property
    def user_id(self) -> str:
        """The end user of the request."""
        return self.request.user_id


class _Tracking(BaseRequest):
    """A request that remembers which of its fields were set, to whatever value."""

    __slots__ = ()
    touched: frozenset[str]

    def override(self, **changes: Any) -> Self:
        changed: Any = super().override(**changes)
        tracked: Self = replace(changed, touched=self.touched | changes.keys())
        return tracked


@dataclass(frozen=True, slots=True)
class _TrackedChatRequest(_Tracking, llm.Request):
    touched: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _TrackedImageRequest(_Tracking, imagegen.Request):
    touched: frozenset[str] = frozenset()


def chat_chain_request(
    request: llm.Request,
    defaults: Sequence[llm.Option],
    options: Sequence[llm.Option],
    overrides: Mapping[str, Any],
) -> ChainRequest[llm.Request]:
    """Combine a chat request with the options of the chain and of the call.

    Args:
        request: The request of the call. Its fields override `defaults`.
        defaults: The chain's own options.
        options: The options of the call; they override the request.
        overrides: The keywords of the call; they override the options.
    """
    return _combine(request, _TrackedChatRequest, llm.Request(), defaults, options, overrides)


def image_chain_request(
    request: imagegen.Request,
    defaults: Sequence[imagegen.Option],
    options: Sequence[imagegen.Option],
    overrides: Mapping[str, Any],
) -> ChainRequest[imagegen.Request]:
    """Combine an image request with the options of the chain and of the call.

    The precedence is that of `chat_chain_request`.
    """
    return _combine(
        request, _TrackedImageRequest, imagegen.Request(""), defaults, options, overrides
    )


def _combine(
    request: Any,
    tracked_type: type[Any],
    blank: Any,
    defaults: Sequence[Callable[[Any], Any]],
    options: Sequence[Callable[[Any], Any]],
    overrides: Mapping[str, Any],
) -> ChainRequest[Any]:
    names = [item.name for item in fields(type(blank))]
    if "touched" in overrides:
        raise TypeError("a request has no field 'touched'")

    def track(request: Any) -> Any:
        return tracked_type(**{name: getattr(request, name) for name in names})

    tracked = request.with_defaults((track, *defaults)).apply(*options).override(**overrides)
    combined = type(blank)(**{name: getattr(tracked, name) for name in names})
    # An option may have returned a new plain request, which tracks nothing.
    touched: frozenset[str] = getattr(tracked, "touched", frozenset())
    unset = {
        name: None
        for name in names
        if name in touched and getattr(combined, name) == getattr(blank, name)
    }
    return ChainRequest(combined, unset)
