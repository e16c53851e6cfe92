"""Normalization of requests: method, path and a canonical body without random values."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from email.message import Message
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote

from majordomo.redaction import REDACTED
from majordomo.testing.body_encoding import IMAGES, AddImage, replace_images
from majordomo.transport_types import HTTPRequest

# Random ids with which this library, or a program, recognizes its own jobs.
_RANDOM_ID = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"
    r"|\b[0-9a-f]{32}\b|\bmajordomo_[0-9a-f]{8}(?![0-9a-f])"
)
_SECRET_NAMES = re.compile(
    r"(?:^|[-_])(?:key|token|secret|password|signature|sig|auth|authorization)$|apikey$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RecordedRequest:
    """A request in the form in which requests are compared and recorded."""

    method: str
    """HTTP method."""
    path: str
    """Path with query, without secrets."""
    body: Any
    """The body as plain JSON, without secrets; random ids are replaced with "<id N>"."""
    ids: tuple[str, ...] = ()
    """The random ids, in order of their first occurrence."""

    @cached_property
    def key(self) -> str:
        """Hash of method, path and body; equal requests have equal keys."""
        return hashlib.sha256(
            json.dumps([self.method, self.path, self.body], sort_keys=True).encode()
        ).hexdigest()

    @property
    def name(self) -> str:
        """File name of the recording, without its number."""
        path = self.path.partition("?")[0].lower().replace("<id ", "<")
        slug = re.sub(r"[^a-z0-9]+", "-", path).strip("-")
        return f"{self.method.lower()}-{slug[-48:].strip('-')}-{self.key[:12]}"

    @property
    def display_text(self) -> str:
        """The request for people: method and path, then the body as sorted JSON."""
        body = json.dumps(self.body, indent=1, sort_keys=True, ensure_ascii=False)
        return f"{self.method} {self.path}\n{body}"


def normalize_request(
    request: HTTPRequest,
    base_path: str,
    *,
    redact: Callable[[str], str],
    ignore: Collection[str],
    add_image: AddImage,
) -> RecordedRequest:
    """Normalize a request.

    Args:
        request: The request as it is sent.
        base_path: Path of the provider's base URL.
        redact: Removes secrets from a text.
        ignore: Names of members to leave out at any depth.
        add_image: Stores an image and returns its file name.
    """
    body_source = request.body
    data = body_source if isinstance(body_source, bytes) else b"".join(body_source.chunks())
    body = _drop_ignored(_normalize_body(data, request.content_type, add_image), frozenset(ignore))
    path = redact(_redact_query(request.path if request.from_origin else base_path + request.path))
    ids: dict[str, str] = {}
    body = map_texts(body, lambda text: _replace_ids(redact(text), ids))
    return RecordedRequest(request.method, _replace_ids(path, ids), body, tuple(ids))


def _normalize_body(data: bytes, content_type: str, add_image: AddImage) -> Any:
    if not data:
        return None
    if content_type.startswith("multipart/"):
        return _normalize_form(data, content_type, add_image)
    try:
        return map_texts(json.loads(data), lambda text: replace_images(text, add_image))
    except (ValueError, RecursionError):
        return _normalize_text(data, add_image)


def _normalize_text(data: bytes, add_image: AddImage) -> str:
    try:
        return replace_images(data.decode(), add_image)
    except UnicodeDecodeError:
        return f"<{IMAGES}/{add_image(data)}>"


def _normalize_form(data: bytes, content_type: str, add_image: AddImage) -> Any:
    """Return the fields of a form in order, without the random boundary."""
    boundary = _parse_headers(b"Content-Type: " + content_type.encode("latin-1")).get_param(
        "boundary"
    )
    if not isinstance(boundary, str):
        return _normalize_text(data, add_image)
    fields = []
    for part in (b"\r\n" + data).split(b"\r\n--" + boundary.encode("latin-1"))[1:-1]:
        raw_headers, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = _parse_headers(raw_headers)
        field = {
            "name": headers.get_param("name", header="content-disposition"),
            "filename": headers.get_filename(),
            "type": headers.get("content-type"),
            "content": _normalize_text(content, add_image),
        }
        fields.append({name: value for name, value in field.items() if value is not None})
    return {"form": fields}


def _parse_headers(raw: bytes) -> Message:
    from email.parser import BytesHeaderParser

    return BytesHeaderParser().parsebytes(raw + b"\r\n\r\n")


def _drop_ignored(value: Any, ignored_names: frozenset[str]) -> Any:
    if not ignored_names:
        return value
    if isinstance(value, Mapping):
        return {
            name: _drop_ignored(inner, ignored_names)
            for name, inner in value.items()
            if name not in ignored_names
        }
    if isinstance(value, list):
        return [
            _drop_ignored(inner, ignored_names)
            for inner in value
            if not (isinstance(inner, Mapping) and inner.get("name") in ignored_names)
        ]
    return value


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return the value with `change` applied to each of its texts."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): map_texts(inner, change) for name, inner in value.items()}
    if isinstance(value, list):
        return [map_texts(inner, change) for inner in value]
    return value


def _replace_ids(text: str, ids: dict[str, str]) -> str:
    return _RANDOM_ID.sub(lambda match: ids.setdefault(match[0], f"<id {len(ids) + 1}>"), text)


def _redact_query(path: str) -> str:
    """Return the path without the values of query parameters that are named like secrets."""
    before, mark, query = path.partition("?")
    if not mark or not any(
        _SECRET_NAMES.search(name) for name, _ in parse_qsl(query, keep_blank_values=True)
    ):
        return path
    pairs = parse_qsl(query, keep_blank_values=True)
    return f"{before}?" + "&".join(
        f"{quote(name)}={REDACTED if _SECRET_NAMES.search(name) else quote(value)}"
        for name, value in pairs
    )
