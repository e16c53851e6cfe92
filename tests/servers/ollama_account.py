"""The hosted service of Ollama: status, account, web search and web fetch.

It answers both as the hosted service itself and as a local server that reports on it.

Sources: ollama/ollama at fb30760, and v0.24.0 as run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.servers.http_helpers import Response, json_response

JSON = "application/json; charset=utf-8"
SIGN_IN = "https://ollama.com/connect?name=here&key=c3NoLWVkMjU1MTk"
DISABLED = "ollama cloud is disabled"
UNAVAILABLE = {"web_search": "web search is unavailable", "web_fetch": "web fetch is unavailable"}
PAGES = [
    {
        "title": f"Page {number}",
        "url": f"https://example.test/{number}",
        "content": f"words {number}",
    }
    for number in range(12)
]


@dataclass
class Service:
    """The account and web routes of a local server or of the hosted service."""

    account: dict[str, Any] | None = None
    """The account that is signed in; None for no account."""
    hosted: bool = False
    """Whether this is the hosted service itself, which requires `key` and has other paths."""
    key: str = "sesame"
    disabled: bool = False
    """Whether the local server must not use the hosted service."""
    pages: list[dict[str, Any]] = field(default_factory=lambda: list(PAGES))
    """Pages that web search and web fetch find."""

    @property
    def methods(self) -> dict[str, tuple[str, ...]]:
        """The accepted methods by path."""
        prefix = "/api" if self.hosted else "/api/experimental"
        return {
            "/api/status": ("GET",),
            "/api/me": ("POST",),
            **{f"{prefix}/{name}": ("POST",) for name in UNAVAILABLE},
        }

    def status(self) -> Response:
        """Answer /api/status."""
        return json_response(
            {"cloud": {"disabled": self.disabled, "source": "env" if self.disabled else "none"}},
            200,
            JSON,
        )

    def me(self) -> Response:
        """Answer /api/me."""
        return (
            self._unauthorized() if self.account is None else json_response(self.account, 200, JSON)
        )

    def web(self, route_name: str, body: dict[str, Any], authorization: str) -> Response:
        """Answer a web search or a web fetch."""
        if self.disabled:
            return json_response({"error": f"{DISABLED}: {UNAVAILABLE[route_name]}"}, 403, JSON)
        if authorization != f"Bearer {self.key}" if self.hosted else self.account is None:
            return (
                json_response({"error": "unauthorized"}, 401, JSON)
                if self.hosted
                else self._unauthorized()
            )
        if route_name == "web_fetch":
            return self._fetch(body.get("url"))
        if not isinstance(body.get("query"), str) or not body["query"]:
            return json_response({"error": "query is required"}, 400, JSON)
        return json_response(
            {"results": self.pages[: min(body.get("max_results") or 5, 10)] or None}, 200, JSON
        )

    def _fetch(self, url: Any) -> Response:
        page = next((page for page in self.pages if page["url"] == url), None)
        if page is None:
            return json_response({"error": "failed to fetch"}, 502, JSON)
        return json_response(
            {
                "title": page["title"],
                "content": page["content"] * 3,
                "links": [other["url"] for other in self.pages[:2]],
            },
            200,
            JSON,
        )

    def _unauthorized(self) -> Response:
        return json_response({"error": "unauthorized", "signin_url": SIGN_IN}, 401, JSON)
