"""A request as recordings compare it: method, path and a canonical body, with everything that chance made taken out."""

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

from majordomo.redaction import HIDDEN
from majordomo.testing.body_encoding import IMAGES, Keep, named
from majordomo.transport_types import HTTPRequest

# What this library, or a program, makes at random to know its own job again
_ID = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b[0-9a-f]{32}\b|\bmajordomo_[0-9a-f]{8}(?![0-9a-f])"
)
_KEY_NAMES = re.compile(
    r"(?:^|[-_])(?:key|token|secret|password|signature|sig|auth|authorization)$|apikey$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RecordedRequest:
    """`body` is plain JSON, its keys sorted where it is shown; `ids` are the random ids in the order they were met, `<id n>` in their
    places."""

    method: str
    path: str
    body: Any
    ids: tuple[str, ...] = ()

    @cached_property
    def key(self) -> str:
        """The same for requests that are the same."""
        return hashlib.sha256(
            json.dumps([self.method, self.path, self.body], sort_keys=True).encode()
        ).hexdigest()

    @property
    def name(self) -> str:
        """The file's name, without its number."""
        words = re.sub(
            r"[^a-z0-9]+", "-", self.path.partition("?")[0].lower().replace("<id ", "<")
        ).strip("-")
        return f"{self.method.lower()}-{words[-48:].strip('-')}-{self.key[:12]}"

    @property
    def shown(self) -> str:
        """As a person reads it: the first line, then the body in sorted JSON."""
        return f"{self.method} {self.path}\n{json.dumps(self.body, indent=1, sort_keys=True, ensure_ascii=False)}"


def normalize_request(
    request: HTTPRequest,
    base_path: str,
    *,
    redact: Callable[[str], str],
    ignore: Collection[str],
    keep: Keep,
) -> RecordedRequest:
    """The request as it is compared. Images in it are given to `keep`; members called as in `ignore` are left out, however deep."""
    given = request.body
    data = given if isinstance(given, bytes) else b"".join(given.chunks())
    body = _without(_body(data, request.content_type, keep), frozenset(ignore))
    path = redact(_clean_query(request.path if request.from_origin else base_path + request.path))
    ids: dict[str, str] = {}
    body = mapped(body, lambda text: _named_ids(redact(text), ids))
    return RecordedRequest(request.method, _named_ids(path, ids), body, tuple(ids))


def _body(data: bytes, content_type: str, keep: Keep) -> Any:
    if not data:
        return None
    if content_type.startswith("multipart/"):
        return _parts(data, content_type, keep)
    try:
        return mapped(json.loads(data), lambda text: named(text, keep))
    except (ValueError, RecursionError):
        return _text(data, keep)


def _text(data: bytes, keep: Keep) -> str:
    try:
        return named(data.decode(), keep)
    except UnicodeDecodeError:
        return f"<{IMAGES}/{keep(data)}>"


def _parts(data: bytes, content_type: str, keep: Keep) -> Any:
    """The fields of a form, in order; its boundary is chance."""
    boundary = _head(b"Content-Type: " + content_type.encode("latin-1")).get_param("boundary")
    if not isinstance(boundary, str):
        return _text(data, keep)
    fields = []
    for part in (b"\r\n" + data).split(b"\r\n--" + boundary.encode("latin-1"))[1:-1]:
        raw_head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        head = _head(raw_head)
        field = {
            "name": head.get_param("name", header="content-disposition"),
            "filename": head.get_filename(),
            "type": head.get("content-type"),
            "content": _text(content, keep),
        }
        fields.append({name: value for name, value in field.items() if value is not None})
    return {"form": fields}


def _head(raw: bytes) -> Message:
    from email.parser import BytesHeaderParser

    return BytesHeaderParser().parsebytes(raw + b"\r\n\r\n")


def _without(value: Any, ignored: frozenset[str]) -> Any:
    if not ignored:
        return value
    if isinstance(value, Mapping):
        return {
            name: _without(inner, ignored) for name, inner in value.items() if name not in ignored
        }
    if isinstance(value, list):
        return [
            _without(inner, ignored)
            for inner in value
            if not (isinstance(inner, Mapping) and inner.get("name") in ignored)
        ]
    return value


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same value with each of its texts changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): mapped(inner, change) for name, inner in value.items()}
    if isinstance(value, list):
        return [mapped(inner, change) for inner in value]
    return value


def _named_ids(text: str, ids: dict[str, str]) -> str:
    return _ID.sub(lambda found: ids.setdefault(found[0], f"<id {len(ids) + 1}>"), text)


def _clean_query(path: str) -> str:
    """The path without the values of what is called a key in its query."""
    before, mark, query = path.partition("?")
    if not mark or not any(
        _KEY_NAMES.search(name) for name, _ in parse_qsl(query, keep_blank_values=True)
    ):
        return path
    pairs = parse_qsl(query, keep_blank_values=True)
    return f"{before}?" + "&".join(
        f"{quote(name)}={HIDDEN if _KEY_NAMES.search(name) else quote(value)}"
        for name, value in pairs
    )
