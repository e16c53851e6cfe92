"""A redirect is an error: the prompt goes nowhere else, and no cookie comes back."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import product
from typing import Any

import anyio
import pytest

import majordomo as md
from tests.chaos.fault import RUNNERS, Runner, _over, _public_trust
from tests.support.chat_backends import BACKENDS as CHATTING
from tests.support.image_backends import BACKENDS as DRAWING
from tests.support.loopback import Handler, Loopback, Peer, always, whole

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
EVERYBODY = [*CHATTING, *DRAWING]
COOKIE = "a=b; Path=/"
HOW_MANY = pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["each", "in every pair"]
)


def moves(elsewhere: str, here: str, every: bool) -> list[bytes]:
    """Every status that moves, and every kind of place; together where `every` is wished."""
    places = {
        "elsewhere": f"{elsewhere}/v1/chat/completions",
        "the same": f"{here}/v1/elsewhere",
        "a path": "/v1/elsewhere",
        "itself": "",
        "without a scheme": elsewhere.removeprefix("http:"),
        "a file": "file:///etc/passwd",
        "data": "data:application/json,{}",
        "a password": elsewhere.replace("://", "://user:word@"),
    }
    pairs = list(product((301, 302, 303, 307, 308), places.values()))
    if not every:
        pairs = pairs[:: len(places) + 1] + [(307, place) for place in places.values()]
    found = [
        whole(b"", status, {"location": place, "set-cookie": COOKIE}) for status, place in pairs
    ]
    found += [
        whole(b"", status, {"set-cookie": COOKIE, "refresh": f"0; url={elsewhere}"})
        for status in (300, 301, 305, 306, 399)
    ]
    return found


class Moving:
    answer = b""

    def __call__(self, peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(self.answer)


async def streamed(model: Any) -> None:
    async with model.stream("hi") as stream:
        async for _ in stream:
            pass


async def nobody_follows(
    provider: Any,
    asks: list[Callable[[], Any]],
    moving: Moving,
    server: Loopback,
    elsewhere: Loopback,
    every: bool,
) -> None:
    for answer in moves(elsewhere.url, server.url, every):
        moving.answer = answer
        for ask in asks:
            before = len(server.seen)
            with pytest.raises(md.BadResponseError) as caught:
                await ask()
            assert (caught.value.code, caught.value.retryable, caught.value.provider) == (
                "REDIRECT",
                False,
                provider.name,
            )
            orders = [seen.path for seen in server.seen[before:] if seen.method == "POST"]
            assert len(set(orders)) == len(orders), "it was asked again"
    assert elsewhere.connections == 0
    assert not any("elsewhere" in seen.path for seen in server.seen)
    assert not any("cookie" in seen.headers for seen in server.seen)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "backend",
    EVERYBODY,
    ids=lambda backend: f"{'draw' if backend in DRAWING else 'chat'} {backend.name}",
)
@HOW_MANY
async def test_no_backend_is_followed_elsewhere(backend: Any, every: bool, serve: Serve) -> None:
    moving = Moving()
    server, elsewhere = serve(moving), serve(always(whole({})))
    async with backend.connect(server.url) as provider:
        model: Any = (
            provider.image_model(backend.model)
            if backend in DRAWING
            else provider.model(backend.model)
        )
        asks = [lambda: model.generate("hi"), lambda: streamed(model), provider.models]
        await nobody_follows(provider, asks, moving, server, elsewhere, every)


@pytest.mark.parametrize(
    "runner",
    [runner for runner in RUNNERS if runner.loop != "blocking"],
    ids=lambda runner: runner.id,
)
@HOW_MANY
def test_no_carriage_follows(runner: Runner, every: bool, serve: Serve) -> None:
    """Not even a client that was told to follow; and what it keeps of cookies stays its own."""
    moving = Moving()
    server, elsewhere = serve(moving), serve(always(whole({})))

    async def story() -> None:
        client = None
        if not runner.own:
            client = importlib.import_module(runner.carriage).AsyncClient(
                trust_env=False, verify=_public_trust(), follow_redirects=True
            )
        async with md.OpenAICompatible(
            server.url + "/v1", api_key="k", transport=client
        ) as provider:
            model = provider.model("m")
            await nobody_follows(
                provider,
                [lambda: model.generate("hi"), lambda: streamed(model)],
                moving,
                server,
                elsewhere,
                every,
            )
        if client is not None:
            await client.aclose()

    with _over(runner):
        anyio.run(story, backend=runner.loop)
