"""Request bodies of every dialect: merge extra values, warn about what cannot be expressed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from majordomo.errors import CallWarning, InvalidRequestError, UnsupportedError
from majordomo.framing.base64 import Base64Body
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.json import encode_json
from majordomo.requests.base import BaseRequest, declaration, fields_set
from majordomo.transport_types import HTTPRequest

UNSUPPORTED = "UNSUPPORTED_FIELD"


def own_extra(
    extra: Mapping[str, Any], provider: str, peers: Callable[[], Collection[str]]
) -> Mapping[str, Any]:
    """Return the values of `extra` that are for this provider.

    These are the values under its own name, merged into those under no provider's name. `peers`
    returns the names of all providers. Raises InvalidRequestError (field `extra`) when the value
    under the provider's name is not a mapping with string keys.
    """
    if not extra:
        return extra
    peer_names = peers()
    provider_keys = {
        key for key, value in extra.items() if isinstance(value, Mapping) and key in peer_names
    } | {provider}
    common = {key: value for key, value in extra.items() if key not in provider_keys}
    own = extra.get(provider, {})
    if not isinstance(own, Mapping) or not all(isinstance(key, str) for key in own):
        raise InvalidRequestError(
            f"extra[{provider!r}] must be a mapping with string keys", field="extra"
        )
    return deep_merge(common, own)


def check_extra(extra: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError (field `extra`) for values that cannot be encoded repeatedly.

    JSON must be able to express them, and iterating over them must not consume them, because
    retries and the other models of a chain encode them again. Checked before the first request,
    because some backends are queried before the body is encoded.
    """
    if extra and encode_json(extra) != encode_json(extra):
        raise InvalidRequestError(
            "extra must hold values that can be encoded repeatedly; got an iterator or similar",
            field="extra",
        )


def json_request(
    path: str,
    body: dict[str, Any],
    extra: Mapping[str, Any],
    placeholders: Base64Placeholders,
    *,
    stream: bool = False,
) -> HTTPRequest:
    """Build a POST of this JSON with `extra` merged into it.

    The images of the body are encoded and inserted while the request is being sent.
    """
    encoded = encode_json(deep_merge(body, extra), placeholders.encode_placeholder)
    accept = (
        "application/json"
        if not stream
        else "text/event-stream, application/x-ndjson, application/json"
    )
    return HTTPRequest(
        "POST",
        path,
        Base64Body(placeholders.split(encoded)) if placeholders else encoded,
        "application/json",
        accept,
        stream,
    )


def deep_merge(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return `body` with `extra` merged into it: objects key by key, anything else replaced."""
    if not extra:
        return body
    merged = dict(body)
    for key, value in extra.items():
        current = merged.get(key)
        merged[key] = (
            deep_merge(current, value)
            if isinstance(current, dict) and isinstance(value, Mapping)
            else value
        )
    return merged


def named_values(request: BaseRequest, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the set numbers by their names in the body.

    Args:
        request: The request.
        names: Names in the body by the name of the field. The default of the fields is None.
    """
    return {
        name: value
        for field, name in names.items()
        if (value := getattr(request, field)) is not None
    }


def other_fields(request: BaseRequest, supported: Collection[str]) -> list[str]:
    """Return the fields that are set, that a backend may lack, and that are not in `supported`."""
    declared = declaration(type(request)).fields
    return [
        name
        for name in fields_set(request)
        if name not in supported and not declared[name].universal
    ]


def unsupported(
    request: BaseRequest,
    names: Iterable[str],
    reason: str,
    reasons: Mapping[str, str] | None = None,
) -> list[CallWarning]:
    """Return a warning for each of these fields that is set.

    With `strict=True`, `refuse_unsupported` turns the first one into an UnsupportedError.

    Args:
        request: The request.
        names: The fields.
        reason: Why they have no effect.
        reasons: Other reasons, by field.
    """
    set_fields = fields_set(request)
    return [
        CallWarning(UNSUPPORTED, f"{name} has no effect: {(reasons or {}).get(name, reason)}", name)
        for name in names
        if name in set_fields
    ]


def refuse_unsupported(warnings: Sequence[CallWarning], strict: bool) -> None:
    """Raise UnsupportedError for the first field without effect if `strict`.

    Called before anything is sent.
    """
    if strict:
        for warning in warnings:
            if warning.code == UNSUPPORTED:
                raise UnsupportedError(warning.message, field=warning.field)
