"""What a server of Ollama's tells of the hosted service: its switch, its account, and what it finds on the web.

Source: ollama/ollama at fb30760 (api types, routes, docs), and tag v0.24.0 as run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from majordomo.dialects.chat_accumulator import as_objects, as_text
from majordomo.dialects.request_body import json_request
from majordomo.errors import BadResponseError, InvalidRequestError
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_object
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_number, check_text

MAX_RESULTS = 10
HOSTED, LOCAL = "/api", "/api/experimental"  # a local server asks in the name of its account


@dataclass(frozen=True, slots=True)
class CloudStatus:
    """Whether the server keeps away from the hosted service, and what told it so: "none", "env", "config" or "both"."""

    disabled: bool
    source: str = ""
    raw: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Account:
    """Who is signed in. `plan` is the service's word, as "free"."""

    name: str
    email: str = ""
    id: str = ""
    plan: str = ""
    raw: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One page found. `content` is an extract of it."""

    title: str
    url: str
    content: str
    raw: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class WebPage:
    """One page read: its text, and where its links lead."""

    title: str
    content: str
    links: tuple[str, ...] = ()
    raw: Any = field(default=None, repr=False, compare=False)


def encode_search(
    query: str, max_results: int | None, limits: Limits, *, hosted: bool
) -> HTTPRequest:
    """Raises InvalidRequestError for a query that is empty or no text, and unless `max_results` is from 1 to 10."""
    check_text(query, "query", limits.max_prompt_characters)
    _refuse_empty(query, "query")
    check_number("max_results", max_results, 1, MAX_RESULTS, whole=True)
    body: dict[str, Any] = {"query": query} | (
        {} if max_results is None else {"max_results": max_results}
    )
    return json_request(f"{HOSTED if hosted else LOCAL}/web_search", body, {}, Splices())


def encode_fetch(url: str, limits: Limits, *, hosted: bool) -> HTTPRequest:
    """Raises InvalidRequestError for a URL that is empty or no text; what can be fetched is the service's to say."""
    check_text(url, "url", limits.max_prompt_characters)
    _refuse_empty(url, "url")
    return json_request(f"{HOSTED if hosted else LOCAL}/web_fetch", {"url": url}, {}, Splices())


def decode_status(body: bytes, limits: Limits) -> CloudStatus:
    document = decode_object(body, limits.max_json_depth)
    cloud = document.get("cloud")
    if not isinstance(cloud, dict) or not isinstance(cloud.get("disabled"), bool):
        raise BadResponseError('the answer has no "cloud" with its "disabled"')
    return CloudStatus(cloud["disabled"], _word(cloud, "source"), document)


def decode_account(body: bytes, limits: Limits) -> Account:
    document = decode_object(body, limits.max_json_depth)
    if not (name := _word(document, "name")):
        raise BadResponseError("the answer names no account")
    return Account(
        name, _word(document, "email"), _word(document, "id"), _word(document, "plan"), document
    )


def decode_search(body: bytes, limits: Limits) -> list[SearchResult]:
    document = decode_object(body, limits.max_json_depth)
    if (
        not isinstance(document.get("results"), list | None) or "results" not in document
    ):  # Go writes an empty list as null
        raise BadResponseError('the answer has no list "results"')
    return [
        SearchResult(_word(item, "title"), _word(item, "url"), _word(item, "content"), item)
        for item in as_objects(document["results"])
    ]


def decode_fetch(body: bytes, limits: Limits) -> WebPage:
    document = decode_object(body, limits.max_json_depth)
    if not isinstance(document.get("content"), str):
        raise BadResponseError("the answer has no text of the page")
    links = document.get("links")
    found = (
        tuple(link for link in links if isinstance(link, str)) if isinstance(links, list) else ()
    )
    return WebPage(_word(document, "title"), document["content"], found, document)


def _word(item: dict[str, Any], name: str) -> str:
    return as_text(item.get(name)) or ""


def _refuse_empty(text: str, name: str) -> None:
    if not text.strip():
        raise InvalidRequestError(f"{name} is empty", field=name)
