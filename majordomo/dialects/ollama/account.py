"""Ollama's routes about the hosted service: its status, the account, web search and web fetch.

Source: ollama/ollama at fb30760 (api types, routes, docs), and tag v0.24.0 as run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from majordomo.dialects.chat_accumulator import as_objects, as_text
from majordomo.dialects.request_body import json_request
from majordomo.errors import BadResponseError, InvalidRequestError
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.json import decode_object
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_number, check_text

MAX_RESULTS = 10

# A local server sends web requests with the account that is signed in on it.
_HOSTED_PREFIX, _LOCAL_PREFIX = "/api", "/api/experimental"


@dataclass(frozen=True, slots=True)
class CloudStatus:
    """Whether an Ollama server uses the hosted service."""

    disabled: bool
    """True when the server does not use the hosted service."""
    source: str = ""
    """What set `disabled`: "none", "env", "config" or "both"; "" when the server does not say."""
    raw: Any = field(default=None, repr=False, compare=False)
    """The response as the server sent it."""


@dataclass(frozen=True, slots=True)
class Account:
    """The account that is signed in."""

    name: str
    """User name."""
    email: str = ""
    """Email address; "" when the server does not say."""
    id: str = ""
    """The service's id of the account; "" when the server does not say."""
    plan: str = ""
    """The service's name of the plan, for example "free"; "" when the server does not say."""
    raw: Any = field(default=None, repr=False, compare=False)
    """The response as the server sent it."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A page that a web search found."""

    title: str
    """Title of the page; "" when the service does not say."""
    url: str
    """URL of the page."""
    content: str
    """An extract of the page."""
    raw: Any = field(default=None, repr=False, compare=False)
    """The result as the server sent it."""


@dataclass(frozen=True, slots=True)
class WebPage:
    """A fetched web page."""

    title: str
    """Title of the page; "" when the service does not say."""
    content: str
    """The text of the page."""
    links: tuple[str, ...] = ()
    """The URLs that the page links to."""
    raw: Any = field(default=None, repr=False, compare=False)
    """The response as the server sent it."""


def encode_search(
    query: str, max_results: int | None, limits: Limits, *, hosted: bool
) -> HTTPRequest:
    """Return the request for a web search.

    Raises:
        InvalidRequestError: `query` is empty or not a text, or `max_results` is not an integer
            from 1 to 10.
    """
    check_text(query, "query", limits.max_prompt_characters)
    _refuse_empty(query, "query")
    check_number("max_results", max_results, 1, MAX_RESULTS, integer=True)
    body: dict[str, Any] = {"query": query}
    if max_results is not None:
        body["max_results"] = max_results
    return json_request(f"{_prefix(hosted)}/web_search", body, {}, Base64Placeholders())


def encode_fetch(url: str, limits: Limits, *, hosted: bool) -> HTTPRequest:
    """Return the request to fetch a web page. The service decides which URLs it can fetch.

    Raises:
        InvalidRequestError: `url` is empty or not a text.
    """
    check_text(url, "url", limits.max_prompt_characters)
    _refuse_empty(url, "url")
    return json_request(f"{_prefix(hosted)}/web_fetch", {"url": url}, {}, Base64Placeholders())


def decode_status(body: bytes, limits: Limits) -> CloudStatus:
    """Return the status in a response body. Raises BadResponseError when there is none."""
    document = decode_object(body, limits.max_json_depth)
    cloud = document.get("cloud")
    if not isinstance(cloud, dict) or not isinstance(cloud.get("disabled"), bool):
        raise BadResponseError('the response has no "cloud" with a boolean "disabled"')
    return CloudStatus(cloud["disabled"], _text_field(cloud, "source"), document)


def decode_account(body: bytes, limits: Limits) -> Account:
    """Return the account in a response body. Raises BadResponseError when there is none."""
    document = decode_object(body, limits.max_json_depth)
    if not (name := _text_field(document, "name")):
        raise BadResponseError('the response has no account "name"')
    return Account(
        name,
        _text_field(document, "email"),
        _text_field(document, "id"),
        _text_field(document, "plan"),
        document,
    )


def decode_search(body: bytes, limits: Limits) -> list[SearchResult]:
    """Return the results in a response body. Raises BadResponseError when there is no list."""
    document = decode_object(body, limits.max_json_depth)
    # Go writes an empty list as null.
    if not isinstance(document.get("results"), list | None) or "results" not in document:
        raise BadResponseError('the response has no list "results"')
    return [
        SearchResult(
            _text_field(item, "title"), _text_field(item, "url"), _text_field(item, "content"), item
        )
        for item in as_objects(document["results"])
    ]


def decode_fetch(body: bytes, limits: Limits) -> WebPage:
    """Return the page in a response body. Raises BadResponseError when there is no text."""
    document = decode_object(body, limits.max_json_depth)
    if not isinstance(document.get("content"), str):
        raise BadResponseError('the response has no text "content"')
    items = document.get("links")
    links = (
        tuple(link for link in items if isinstance(link, str)) if isinstance(items, list) else ()
    )
    return WebPage(_text_field(document, "title"), document["content"], links, document)


def _prefix(hosted: bool) -> str:
    return _HOSTED_PREFIX if hosted else _LOCAL_PREFIX


def _text_field(item: dict[str, Any], name: str) -> str:
    return as_text(item.get(name)) or ""


def _refuse_empty(text: str, name: str) -> None:
    if not text.strip():
        raise InvalidRequestError(f"{name} must not be empty", field=name)
