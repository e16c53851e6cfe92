from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

import majordomo as md
from majordomo.dialects.ollama.account import Account, CloudStatus, SearchResult, WebPage
from tests.servers.ollama_account import PAGES, SIGN_IN
from tests.servers.ollama_chat import OllamaChat
from tests.support.loopback import Handler, Loopback

ACCOUNT_JSON = {"id": "7e0c", "email": "ada@example.test", "name": "ada", "plan": "free"}


@pytest.fixture
def server() -> OllamaChat:
    return OllamaChat()


@pytest.fixture
def url(server: OllamaChat, serve: Callable[[Handler], Loopback]) -> str:
    return serve(server).url


@pytest.fixture
def ollama(url: str) -> md.Ollama:
    return md.Ollama(url, retries=md.Retries(attempts=1))


async def test_status_reports_whether_the_hosted_service_is_disabled(
    ollama: md.Ollama, server: OllamaChat
) -> None:
    assert await ollama.admin.status() == CloudStatus(disabled=False, source="none")
    server.service.disabled = True
    assert await ollama.admin.status() == CloudStatus(disabled=True, source="env")
    with pytest.raises(md.PermissionDeniedError, match="web search is unavailable"):
        await ollama.admin.web_search("lighthouses")


async def test_account_returns_the_signed_in_user(ollama: md.Ollama, server: OllamaChat) -> None:
    server.service.account = ACCOUNT_JSON
    assert await ollama.admin.account() == Account("ada", "ada@example.test", "7e0c", "free")


@pytest.mark.parametrize("method", ["account", "web_search", "web_fetch"])
async def test_without_an_account_the_error_has_a_sign_in_url(
    ollama: md.Ollama, method: str
) -> None:
    call = getattr(ollama.admin, method)
    with pytest.raises(md.AuthenticationError) as caught:
        await (call() if method == "account" else call("https://example.test/1"))
    assert caught.value.details["signin_url"] == SIGN_IN
    assert (caught.value.provider, caught.value.status) == ("ollama", 401)


async def test_a_local_server_searches_with_its_account(
    ollama: md.Ollama, server: OllamaChat
) -> None:
    server.service.account = ACCOUNT_JSON
    pages = await ollama.admin.web_search("lighthouses")
    assert pages == [
        SearchResult(page["title"], page["url"], page["content"]) for page in PAGES[:5]
    ]
    assert server.received_bodies[-1] == {"query": "lighthouses"}
    assert (
        len(await ollama.admin.web_search("lighthouses", 10))
        == server.received_bodies[-1]["max_results"]
        == 10
    )
    server.service.pages = []
    assert await ollama.admin.web_search("nothing") == []


async def test_web_fetch_returns_the_page_read_by_the_service(
    ollama: md.Ollama, server: OllamaChat
) -> None:
    server.service.account = ACCOUNT_JSON
    page = await ollama.admin.web_fetch("https://example.test/1")
    assert page == WebPage(
        "Page 1", "words 1" * 3, ("https://example.test/0", "https://example.test/1")
    )
    with pytest.raises(md.BackendError, match="failed to fetch"):
        await ollama.admin.web_fetch("https://example.test/none")


async def test_the_hosted_service_has_its_own_paths_and_needs_a_key(
    server: OllamaChat, url: str
) -> None:
    server.service.hosted = True

    class Rerouted(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert request.url.host == "ollama.com"
            request.url = httpx.URL(url).join(request.url.path)
            return await super().handle_async_request(request)

    async with (
        Rerouted() as transport,
        md.Ollama("https://ollama.com", api_key="sesame", transport=transport) as ollama,
    ):
        assert len(await ollama.admin.web_search("lighthouses", max_results=2)) == 2
        assert (await ollama.admin.web_fetch("https://example.test/1")).title == "Page 1"
    async with (
        Rerouted() as transport,
        md.Ollama("https://ollama.com", api_key="wrong", transport=transport) as ollama,
    ):
        with pytest.raises(md.AuthenticationError) as caught:
            await ollama.admin.web_search("lighthouses")
    assert "signin_url" not in caught.value.details


def test_sync_methods_work_like_async_ones(ollama: md.Ollama, server: OllamaChat) -> None:
    server.service.account = ACCOUNT_JSON
    assert ollama.admin.status_sync().disabled is False
    assert ollama.admin.account_sync().name == "ada"
    assert ollama.admin.web_search_sync("lighthouses", 1)[0].title == "Page 0"
    assert ollama.admin.web_fetch_sync("https://example.test/2").content == "words 2" * 3
    ollama.close()


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("query", lambda admin: admin.web_search(" ")),
        ("query", lambda admin: admin.web_search(7)),
        ("max_results", lambda admin: admin.web_search("a", 11)),
        ("max_results", lambda admin: admin.web_search("a", True)),
        ("url", lambda admin: admin.web_fetch("")),
    ],
)
async def test_invalid_input_is_refused_before_sending(
    ollama: md.Ollama, server: OllamaChat, field: str, call: Any
) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await call(ollama.admin)
    assert caught.value.details["field"] == field
    assert server.received_bodies == []


@pytest.mark.parametrize("answer", [{}, {"cloud": {}}, {"results": "none"}, {"name": ""}])
async def test_an_invalid_reply_raises_bad_response_error(answer: dict[str, Any]) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=answer))
    async with md.Ollama(transport=transport) as ollama:
        for ask in (
            ollama.admin.status,
            ollama.admin.account,
            lambda: ollama.admin.web_search("a"),
            lambda: ollama.admin.web_fetch("a"),
        ):
            with pytest.raises(md.BadResponseError) as caught:
                await ask()
            assert caught.value.provider == "ollama"
