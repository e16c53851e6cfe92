"""What every dialect does with a request's body: merge the caller's extra values, and say what it cannot express."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from majordomo.errors import CallWarning, InvalidRequestError, UnsupportedError
from majordomo.framing.base64 import Base64Body
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import encode_json
from majordomo.imagegen.request import Request as ImageRequest
from majordomo.imagegen.request import fields_set
from majordomo.transport_types import HTTPRequest

UNSUPPORTED = "UNSUPPORTED_FIELD"


def own_extra(
    extra: Mapping[str, Any], provider: str, peers: Callable[[], Collection[str]]
) -> Mapping[str, Any]:
    """What of `extra` is for this provider: what stands under its name, and what stands under no provider's name."""
    if not extra:
        return extra
    names = peers()
    named = {key for key, value in extra.items() if isinstance(value, Mapping) and key in names} | {
        provider
    }
    common = {key: value for key, value in extra.items() if key not in named}
    ours = extra.get(provider, {})
    if not isinstance(ours, Mapping) or not all(isinstance(key, str) for key in ours):
        raise InvalidRequestError(f"extra[{provider!r}] is a mapping with text keys", field="extra")
    return deep_merge(common, ours)


def check_extra(extra: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError (field `extra`) for what JSON cannot hold, and for what can be read once only: tries and the members of a
    chain read it again. Said here, it is said before the questions that some backends are asked first."""
    if extra and encode_json(extra) != encode_json(extra):
        raise InvalidRequestError("extra holds something that can be read only once", field="extra")


def json_request(
    path: str,
    body: dict[str, Any],
    extra: Mapping[str, Any],
    splices: Splices,
    *,
    stream: bool = False,
) -> HTTPRequest:
    """A POST of this JSON, `extra` merged into it, its images put in while it leaves."""
    raw = encode_json(deep_merge(body, extra), splices.fallback)
    accept = (
        "application/json"
        if not stream
        else "text/event-stream, application/x-ndjson, application/json"
    )
    return HTTPRequest(
        "POST",
        path,
        Base64Body(splices.cut(raw)) if splices else raw,
        "application/json",
        accept,
        stream,
    )


def deep_merge(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with `extra` merged into it deeply: objects key by key, anything else replaced."""
    if not extra:
        return body
    whole = dict(body)
    for key, value in extra.items():
        below = whole.get(key)
        whole[key] = (
            deep_merge(below, value)
            if isinstance(below, dict) and isinstance(value, Mapping)
            else value
        )
    return whole


def unsupported(request: ImageRequest, names: Iterable[str], reason: str) -> list[CallWarning]:
    """A warning for each of these fields that is set; under `strict=True` the first becomes an UnsupportedError."""
    are_set = fields_set(request)
    return [
        CallWarning(UNSUPPORTED, f"{name} has no effect: {reason}", name)
        for name in names
        if name in are_set
    ]


def refuse_unsupported(warnings: Sequence[CallWarning], strict: bool) -> None:
    """Under `strict`, raise UnsupportedError for the first field that would have no effect. Nothing has been sent then."""
    if strict:
        for warning in warnings:
            if warning.code == UNSUPPORTED:
                raise UnsupportedError(warning.message, field=warning.field)
