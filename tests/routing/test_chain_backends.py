"""Chains over real providers and raw servers on the loopback."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import llm
from majordomo.routing.chain import Chain
from majordomo.routing.health import ChainHealth
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    reply_with,
)
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
pytestmark = pytest.mark.anyio
ONCE = md.Retries(attempts=1)


class ManualClock:
    """A clock that tests move by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Backend:
    """A chat completions server that echoes the last message.

    It answers with status 503 while `dead` is true, and to every request whose number is a multiple
    of `fail_every`.
    """

    def __init__(self, serve: Serve, name: str, fail_every: int = 0) -> None:
        self.name = name
        self.dead = False
        self.fail_every = fail_every
        self.request_count = 0
        self._lock = threading.Lock()
        self.server = serve(self._serve)

    def _serve(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            with self._lock:
                self.request_count += 1
                failing = self.dead or (
                    self.fail_every and self.request_count % self.fail_every == 0
                )
            if failing:
                peer.reply({"error": "busy"}, 503)
                continue
            text = (
                f"{self.name} {request.json['messages'][-1]['content']}"
                if request.method == "POST"
                else ""
            )
            if request.method == "GET":
                peer.reply({"data": []})
            elif request.json.get("stream"):
                peer.begin()
                peer.chunk(delta(text) + delta({}, "stop") + DONE)
                peer.end()
            else:
                peer.reply(chat_completion(text))

    def provider(self, **common: Any) -> md.OpenAICompatible:
        return md.OpenAICompatible(
            self.server.url + "/v1", **{"retries": ONCE, "max_concurrency": 50, **common}
        )

    def all_connections_closed(self) -> bool:
        """Return whether the client has closed every connection."""
        return all(
            peer.closed_by_client.wait(5) or peer.socket.fileno() < 0 for peer in self.server.peers
        )


def task_count() -> int:
    """Return the number of tasks in the running event loop."""
    if "trio" in sys.modules and sys.modules["trio"].lowlevel.in_trio_task():
        import trio

        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.slow
async def test_a_thousand_calls_over_two_unreliable_servers_all_succeed(serve: Serve) -> None:
    clock = ManualClock()
    first, second = Backend(serve, "a", fail_every=3), Backend(serve, "b")
    health = ChainHealth(30, failures=20, clock=clock, fraction=lambda: 0.0)
    before = task_count()
    async with first.provider() as here, second.provider() as there:
        chain = Chain([here.model("m"), there.model("m")], health=health)

        async def run_calls(calls: int) -> Counter[str]:
            answered: Counter[str] = Counter()

            async def call(number: int) -> None:
                if number % 2:
                    text = (await chain.generate(f"{number}")).text
                else:
                    async with chain.stream(f"{number}") as stream:
                        async for event in stream:
                            if isinstance(event, llm.Done):
                                text = event.reply.text
                name, echoed = text.split()
                assert echoed == f"{number}"
                answered[name] += 1

            async with anyio.create_task_group() as group:
                for number in range(calls):
                    group.start_soon(call, number)
            assert answered.total() == calls
            return answered

        # The first fails now and then: the second takes over, and the breaker stays closed.
        answered = await run_calls(1000)
        assert (first.request_count, answered) == (1000, {"a": 667, "b": 333})
        assert chain.status()[0].state == "closed"

        # The first dies: running calls try it at most once each, and later calls skip it.
        first.dead, first.request_count = True, 0
        assert await run_calls(40) == {"b": 40}
        count = first.request_count
        assert 20 <= count <= 40
        assert await run_calls(40) == {"b": 40}
        assert first.request_count == count

        # The cooldown is over: one call probes it.
        clock.now += 31
        assert await run_calls(40) == {"b": 40}
        assert first.request_count == count + 1

        # The first works again, and the second dies.
        clock.now += 61
        first.dead, first.fail_every = False, 0
        assert (await chain.generate("once")).text == "a once"
        second.dead, second.request_count = True, 0
        assert await run_calls(40) == {"a": 40}
        assert second.request_count == 0
    assert task_count() == before
    assert await anyio.to_thread.run_sync(first.all_connections_closed)
    assert await anyio.to_thread.run_sync(second.all_connections_closed)


@pytest.mark.slow
async def test_a_thousand_calls_to_dead_servers_send_few_requests(serve: Serve) -> None:
    first, second = Backend(serve, "a"), Backend(serve, "b")
    first.dead = second.dead = True
    async with first.provider() as here, second.provider() as there:
        chain = Chain([here.model("m"), there.model("m")])
        for _ in range(5):
            with pytest.raises(md.ChainExhaustedError):
                await chain.generate("x")
        assert [status.state for status in chain.status()] == ["open", "open"]
        first.request_count = second.request_count = failed = 0

        async def call() -> None:
            nonlocal failed
            with pytest.raises(md.ChainExhaustedError) as caught:
                await chain.generate("x")
            assert caught.value.retryable
            failed += 1

        async with anyio.create_task_group() as group:
            for _ in range(1000):
                group.start_soon(call)
    assert failed == 1000
    assert first.request_count + second.request_count <= 20, (
        "one probe at a time, and other calls fail at once"
    )


async def test_a_refused_connection_fails_over(serve: Serve) -> None:
    dead = md.OpenAICompatible(f"http://127.0.0.1:{closed_port()}/v1", retries=ONCE)
    alive = Backend(serve, "b")
    async with dead, alive.provider() as there:
        chain = Chain([dead.model("m"), there.model("m")])
        reply = await chain.generate("hi")
        assert (reply.text, reply.provider, reply.model) == ("b hi", "openaicompatible", "m-2026")
        assert [(attempt.code, attempt.skipped) for attempt in reply.failed_attempts] == [
            ("CONNECTION_FAILED", False)
        ]
        assert [status.state for status in await chain.probe()] == ["open", "closed"]
        assert (await chain.generate("hi")).failed_attempts[0].code == "COOLING_DOWN"


async def test_a_server_without_a_health_route_is_still_called(
    serve: Serve,
) -> None:
    async with md.OpenAICompatible(
        serve(reply_with(http_response("404 page not found", 404))).url + "/v1"
    ) as here:
        chain = Chain([here.model("m")])
        assert [status.state for status in await chain.probe()] == ["closed"]


async def test_a_silent_server_fails_over_and_its_connection_is_closed(serve: Serve) -> None:
    def silent(peer: Peer) -> None:
        peer.request()
        peer.wait_for_close()

    server, alive = serve(silent), Backend(serve, "b")
    async with (
        md.OpenAICompatible(
            server.url + "/v1", retries=ONCE, timeout=md.Timeout(first_byte=0.05)
        ) as here,
        alive.provider() as there,
    ):
        chain = Chain([here.model("m"), there.model("m")])
        assert (await chain.generate("hi")).failed_attempts[0].code == "DEADLINE_EXCEEDED"
        async with chain.stream("hi") as stream:
            assert [type(event).__name__ async for event in stream] == ["TextDelta", "Done"]
    assert all(
        [await anyio.to_thread.run_sync(peer.closed_by_client.wait, 5) for peer in server.peers]
    )


async def test_a_cut_stream_keeps_the_received_text(serve: Serve) -> None:
    def cut(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            peer.chunk(delta("Good "))
            peer.chunk(delta("eve"))
            peer.reset()

    alive = Backend(serve, "b")
    async with (
        md.OpenAICompatible(serve(cut).url + "/v1", retries=ONCE) as here,
        alive.provider() as there,
    ):
        chain = Chain([here.model("m"), there.model("m")])
        text = ""
        with pytest.raises(md.StreamBrokenError) as caught:
            async with chain.stream("hi") as stream:
                async for event in stream:
                    assert isinstance(event, llm.TextDelta)
                    text += event.text
    assert text == caught.value.partial.text
    assert "Good eve".startswith(text)
    assert text
    assert alive.request_count == 0


async def test_retry_after_of_a_rate_limit_is_honored(serve: Serve) -> None:
    clock = ManualClock()
    limited = serve(
        reply_with(
            http_response({"error": "slowly"}, 429, {"retry-after": "7"}),
            http_response(chat_completion("at last")),
        )
    )
    alive = Backend(serve, "b")
    async with (
        md.OpenAICompatible(limited.url + "/v1", retries=ONCE) as here,
        alive.provider() as there,
    ):
        chain = Chain([here.model("m"), there.model("m")], health=ChainHealth(clock=clock))
        assert (await chain.generate("hi")).failed_attempts[0].code == "RATE_LIMITED"
        clock.now += 6
        assert (await chain.generate("hi")).failed_attempts[0].code == "COOLING_DOWN"
        assert len(limited.requests) == 1
        clock.now += 1.5
        assert (await chain.generate("hi")).text == "at last"
    assert [status.state for status in chain.status()] == ["closed", "closed"]


async def test_cancellation_closes_the_connection_without_failover(serve: Serve) -> None:
    def silent(peer: Peer) -> None:
        peer.request()
        peer.wait_for_close()

    server, alive = serve(silent), Backend(serve, "b")
    async with md.OpenAICompatible(server.url + "/v1") as here, alive.provider() as there:
        chain = Chain([here.model("m"), there.model("m")])

        async def listen() -> None:
            async with chain.stream("hi") as stream:
                await anext(aiter(stream))

        for call in (lambda: chain.generate("hi"), listen):
            request_count = len(server.requests)
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await wait_until(
                    lambda request_count=request_count: len(server.requests) != request_count
                )
                group.cancel_scope.cancel()
            assert await anyio.to_thread.run_sync(server.peers[-1].closed_by_client.wait, 5)
        await chain.aclose()
    assert alive.request_count == 0
    assert [status.failures for status in chain.status()] == [0, 0]


async def test_one_health_works_in_several_event_loops(serve: Serve) -> None:
    clock = ManualClock()
    first, second = Backend(serve, "a"), Backend(serve, "b")
    first.dead = True
    async with first.provider() as here, second.provider() as there:
        chain = Chain([here.model("m"), there.model("m")], health=ChainHealth(clock=clock))
        for _ in range(3):
            await chain.generate("hi")
        for _ in range(2):
            await anyio.to_thread.run_sync(lambda: chain.generate_sync("hi"))
        assert chain.status()[0].state == "open"
        assert (await chain.generate("hi")).failed_attempts[0].skipped
        assert first.request_count == 5
        here.close()


async def test_a_chain_of_model_strings_works(serve: Serve) -> None:
    alive = Backend(serve, "b")
    address = alive.server.url.removeprefix("http://")
    broken = serve(reply_with(http_response("<html>"))).url.removeprefix("http://")
    async with Chain([f"llamaswap://{broken}/a", f"llamaswap://{address}/b"]) as chain:
        reply = await chain.generate("hi")
    assert (reply.text, reply.failed_attempts[0].code) == ("b hi", "NOT_JSON")
    assert await anyio.to_thread.run_sync(alive.all_connections_closed)
    with pytest.raises(md.ConfigurationError, match="closed"):
        await chain.generate("hi")
