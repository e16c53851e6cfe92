from __future__ import annotations

import anyio
import pytest

import majordomo as md
from majordomo.models.client import BackendCall, BackendClient
from majordomo.models.model_aliases import REFRESH_SECONDS, RETRY_SECONDS, ModelAliases

pytestmark = pytest.mark.anyio


class Server:
    """A server whose aliases a test changes, and its clock."""

    def __init__(self) -> None:
        self.aliases = {"small": "qwen"}
        self.now = 100.0
        self.queries = 0
        self.error: md.MajordomoError | None = None
        self.model_aliases = ModelAliases(self.query, lambda: self.now)
        self.client: BackendClient = md.LlamaSwap()._client

    async def query(self, call: BackendCall) -> dict[str, str]:
        self.queries += 1
        assert 0 < call.deadline.remaining() <= 5, "a call waits only shortly for the query"
        await anyio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return dict(self.aliases)

    async def find(self, model: str) -> str | None:
        return await self.model_aliases.find(self.client.call(md.Timeout(total=600), model))


async def test_aliases_are_replaced_and_other_ids_are_their_own_process() -> None:
    server = Server()
    assert server.model_aliases.known("small") == "small"
    assert [await server.find(model) for model in ("small", "qwen", "unknown")] == [
        "qwen",
        "qwen",
        "unknown",
    ]
    assert server.model_aliases.known("small") == "qwen"


async def test_concurrent_calls_share_one_query() -> None:
    server, found = Server(), []

    async def find() -> None:
        found.append(await server.find("small"))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(find)
    assert (found, server.queries) == (["qwen"] * 20, 1)


async def test_aliases_are_queried_again_after_a_minute() -> None:
    server = Server()
    await server.find("small")
    server.aliases = {"small": "gemma"}
    server.now += REFRESH_SECONDS - 1
    assert (await server.find("small"), server.queries) == ("qwen", 1)
    server.now += 1
    assert (await server.find("small"), server.queries) == ("gemma", 2)


async def test_a_failed_query_keeps_the_known_aliases_and_is_repeated_soon() -> None:
    server = Server()
    await server.find("small")
    server.error = md.ConnectionFailedError("no")
    server.now += REFRESH_SECONDS
    assert await server.find("small") == "qwen"
    server.now += RETRY_SECONDS - 1
    assert (await server.find("small"), server.queries) == ("qwen", 2)
    server.now += 1
    server.error, server.aliases = None, {"small": "gemma"}
    assert (await server.find("small"), server.queries) == ("gemma", 3)


async def test_processes_are_unknown_until_a_query_has_succeeded() -> None:
    server = Server()
    server.error = md.ConnectionFailedError("no")
    assert [await server.find(model) for model in ("small", "qwen")] == [None, None]
    assert server.model_aliases.known("small") == "small"
    server.error = None
    server.now += RETRY_SECONDS
    assert [await server.find(model) for model in ("small", "qwen")] == ["qwen", "qwen"]


async def test_a_cancelled_query_leaves_it_to_the_next_call() -> None:
    server = Server()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await server.find("small")
    assert scope.cancelled_caught
    assert await server.find("small") == "qwen"


def test_aliases_are_found_in_every_event_loop() -> None:
    server = Server()
    for backend in ("asyncio", "trio", "asyncio"):
        assert anyio.run(server.find, "small", backend=backend) == "qwen"
    assert server.queries == 1
