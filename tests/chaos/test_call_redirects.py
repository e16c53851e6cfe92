"""A redirect is an error: the prompt is sent nowhere else, and no cookie is returned."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import product
from typing import Any

import anyio
import pytest

import majordomo as md
from tests.chaos.fault import RUNNERS, Runner, _default_tls, _use_library
from tests.support.chat_backends import BACKENDS as CHAT_BACKENDS
from tests.support.image_backends import BACKENDS as IMAGE_BACKENDS
from tests.support.loopback import Handler, Loopback, Peer, http_response, reply_with

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
ALL_BACKENDS = [*CHAT_BACKENDS, *IMAGE_BACKENDS]
COOKIE = "a=b; Path=/"
each_or_every_pair = pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["each", "in every pair"]
)


def redirects(elsewhere: str, here: str, every: bool) -> list[bytes]:
    """Return redirects with every status and every kind of location; every pair with `every`."""
    locations = {
        "elsewhere": f"{elsewhere}/v1/chat/completions",
        "the same server": f"{here}/v1/elsewhere",
        "a path": "/v1/elsewhere",
        "itself": "",
        "without a scheme": elsewhere.removeprefix("http:"),
        "a file": "file:///etc/passwd",
        "data": "data:application/json,{}",
        "a password": elsewhere.replace("://", "://user:word@"),
    }
    pairs = list(product((301, 302, 303, 307, 308), locations.values()))
    if not every:
        pairs = pairs[:: len(locations) + 1] + [(307, location) for location in locations.values()]
    responses = [
        http_response(b"", status, {"location": location, "set-cookie": COOKIE})
        for status, location in pairs
    ]
    responses += [
        http_response(b"", status, {"set-cookie": COOKIE, "refresh": f"0; url={elsewhere}"})
        for status in (300, 301, 305, 306, 399)
    ]
    return responses


class RedirectingServer:
    answer = b""

    def __call__(self, peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(self.answer)


async def read_stream(model: Any) -> None:
    async with model.stream("hi") as stream:
        async for _ in stream:
            pass


async def check_not_followed(
    provider: Any,
    calls: list[Callable[[], Any]],
    redirecting: RedirectingServer,
    server: Loopback,
    elsewhere: Loopback,
    every: bool,
) -> None:
    for answer in redirects(elsewhere.url, server.url, every):
        redirecting.answer = answer
        for call in calls:
            before = len(server.requests)
            with pytest.raises(md.BadResponseError) as caught:
                await call()
            assert (caught.value.code, caught.value.retryable, caught.value.provider) == (
                "REDIRECT",
                False,
                provider.name,
            )
            paths = [
                received.path for received in server.requests[before:] if received.method == "POST"
            ]
            assert len(set(paths)) == len(paths), "a request was repeated"
    assert elsewhere.connections == 0
    assert not any("elsewhere" in request.path for request in server.requests)
    assert not any("cookie" in request.headers for request in server.requests)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "backend",
    ALL_BACKENDS,
    ids=lambda backend: f"{'draw' if backend in IMAGE_BACKENDS else 'chat'} {backend.name}",
)
@each_or_every_pair
async def test_no_backend_can_redirect_a_request(backend: Any, every: bool, serve: Serve) -> None:
    redirecting = RedirectingServer()
    server, elsewhere = serve(redirecting), serve(reply_with(http_response({})))
    async with backend.connect(server.url) as provider:
        model: Any = (
            provider.image_model(backend.model)
            if backend in IMAGE_BACKENDS
            else provider.model(backend.model)
        )
        calls = [lambda: model.generate("hi"), lambda: read_stream(model), provider.models]
        await check_not_followed(provider, calls, redirecting, server, elsewhere, every)


@pytest.mark.parametrize(
    "runner",
    [runner for runner in RUNNERS if runner.loop != "blocking"],
    ids=lambda runner: runner.id,
)
@each_or_every_pair
def test_no_http_library_follows_redirects(runner: Runner, every: bool, serve: Serve) -> None:
    """An httpx client with `follow_redirects=True` does not follow either, and sends no cookies."""
    redirecting = RedirectingServer()
    server, elsewhere = serve(redirecting), serve(reply_with(http_response({})))

    async def run_calls() -> None:
        client = None
        if not runner.own:
            client = importlib.import_module(runner.library).AsyncClient(
                trust_env=False, verify=_default_tls(), follow_redirects=True
            )
        async with md.OpenAICompatible(
            server.url + "/v1", api_key="k", transport=client
        ) as provider:
            model = provider.model("m")
            await check_not_followed(
                provider,
                [lambda: model.generate("hi"), lambda: read_stream(model)],
                redirecting,
                server,
                elsewhere,
                every,
            )
        if client is not None:
            await client.aclose()

    with _use_library(runner):
        anyio.run(run_calls, backend=runner.loop)
