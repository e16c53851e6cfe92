"""The life cycle of a provider: closed, not closed, forked, cancelled, and streams left early.

No resource stays open, and nothing is sent afterwards.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import majordomo as md
from tests.support import system
from tests.support.chat_backends import BACKENDS as CHAT_BACKENDS
from tests.support.image_backends import BACKENDS as IMAGE_BACKENDS
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    images_reply,
    reply_with,
)
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "trio"])
STREAM = delta("Good ") + delta("evening") + delta({}, "stop") + DONE


def chat_handler(peer: Peer) -> None:
    """Answer chat calls with and without streaming."""
    while (request := peer.request()) is not None:
        if request.method == "POST" and request.json.get("stream"):
            peer.begin()
            peer.chunk(STREAM)
            peer.end()
        else:
            peer.reply(chat_completion("fine"))


def compatible(server: Loopback, **settings: Any) -> md.OpenAICompatible:
    return md.OpenAICompatible(server.url + "/v1", **settings)


async def stream_text(model: Any) -> str:
    async with model.stream("hi") as stream:
        async for _ in stream:
            pass
    return str(stream.reply.text)


@LOOPS
@pytest.mark.parametrize(
    "backend",
    [*CHAT_BACKENDS, *IMAGE_BACKENDS],
    ids=lambda backend: f"{'draw' if backend in IMAGE_BACKENDS else 'chat'} {backend.name}",
)
def test_closed_provider_refuses_calls_and_can_be_closed_again(
    backend: Any, loop: str, serve: Serve
) -> None:
    server = serve(reply_with(http_response({})))

    async def run_calls() -> None:
        provider = backend.connect(server.url)
        model: Any = (
            provider.image_model(backend.model)
            if backend in IMAGE_BACKENDS
            else provider.model(backend.model)
        )
        await provider.aclose()
        await provider.aclose()

        async def read_stream() -> None:
            async with model.stream("hi") as stream:
                async for _ in stream:
                    pass

        for ask in (lambda: model.generate("hi"), read_stream, provider.models):
            with pytest.raises(md.ConfigurationError) as caught:
                await ask()
            assert caught.value.code == "CLOSED"

    anyio.run(run_calls, backend=loop)
    assert server.connections == 0


@pytest.mark.slow
@LOOPS
@pytest.mark.parametrize("streams", [False, True])
def test_closing_during_a_call_ends_it_with_a_typed_error(
    loop: str, streams: bool, serve: Serve
) -> None:
    def stop_in_call(peer: Peer) -> None:
        peer.request()
        if streams:
            peer.begin()
            peer.chunk(delta("Good "))
        peer.wait_for_close()

    server = serve(stop_in_call)
    ended: list[BaseException | str] = []

    async def run_calls() -> None:
        provider = compatible(server, retries=md.Retries(attempts=1), timeout=2)

        async def call() -> None:
            try:
                ended.append(
                    await stream_text(provider.model("m"))
                    if streams
                    else (await provider.model("m").generate("hi")).text
                )
            except md.MajordomoError as error:
                ended.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await wait_until(lambda: server.requests, seconds=5)
            await provider.aclose()
        with pytest.raises(md.ConfigurationError):
            await provider.model("m").generate("hi")

    anyio.run(run_calls, backend=loop)
    assert isinstance(ended[0], md.MajordomoError)
    assert server.peers[0].closed_by_client.wait(2)
    assert len(server.requests) == 1


@pytest.mark.slow
@LOOPS
def test_unclosed_provider_only_emits_resource_warnings(loop: str, serve: Serve) -> None:
    server = serve(chat_handler)

    async def run_calls() -> None:
        for _ in range(3):
            assert (await compatible(server).model("m").generate("hi")).text == "fine"
            gc.collect()
            await anyio.lowlevel.checkpoint()

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        anyio.run(run_calls, backend=loop)
        gc.collect()
    assert {warning.category for warning in warned} <= {ResourceWarning}
    for peer in server.peers:
        assert peer.closed_by_client.wait(2)


@LOOPS
def test_abandoned_stream_closes_its_connection(loop: str, serve: Serve) -> None:
    """Left by break, by an exception, not iterated, not entered; with and without its iterator."""
    server = serve(chat_handler)

    async def run_calls() -> None:
        async with compatible(server) as provider:
            model = provider.model("m")
            model.stream("never entered")
            async with model.stream("never iterated"):
                pass
            async with model.stream("hi") as stream:
                async for _ in stream:
                    break
            async with model.stream("hi") as stream:
                kept = aiter(stream)
                await anext(kept)
            with pytest.raises(LookupError):
                async with model.stream("hi") as stream:
                    await anext(aiter(stream))
                    raise LookupError
            gc.collect()
            assert await stream_text(model) == "Good evening"
        del kept, stream
        gc.collect()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anyio.run(run_calls, backend=loop)
    for peer in server.peers:
        assert peer.closed_by_client.wait(2)


@LOOPS
@pytest.mark.parametrize("ask", ["reply", "reply stream", "image"])
def test_cancelling_at_every_point_is_quick_and_sends_nothing_more(
    loop: str, ask: str, serve: Serve, image: Callable[[], md.ImagePart]
) -> None:
    """Cancel after n checkpoints, for each n until the call completes."""

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if "images" in request.path:
                peer.reply(images_reply(image().data))
            elif request.json.get("stream"):
                peer.begin()
                for piece in (STREAM[:20], STREAM[20:90], STREAM[90:]):
                    peer.chunk(piece)
                peer.end()
            else:
                peer.reply(chat_completion("fine"))

    server = serve(handler)

    async def run_calls() -> None:
        async with compatible(server) as provider:
            asks: dict[str, Callable[[], Any]] = {
                "reply": lambda: provider.model("m").generate("hi"),
                "reply stream": lambda: stream_text(provider.model("m")),
                "image": lambda: provider.image_model("m").generate("a"),
            }
            completed = []

            async def call() -> None:
                await asks[ask]()
                completed.append(True)

            for turns in range(60):
                async with anyio.create_task_group() as group:
                    group.start_soon(call)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    at = time.monotonic()
                    group.cancel_scope.cancel()
                assert time.monotonic() - at < 0.5, "a generous limit"
                if len(completed) > 3:
                    break
            await asks[ask]()
            rounds.append(turns + 2)

    rounds: list[int] = []
    anyio.run(run_calls, backend=loop)
    for peer in server.peers:
        assert peer.closed_by_client.wait(2)
    assert len(server.requests) <= rounds[0], "a request was sent after a cancellation"


def test_one_provider_serves_event_loops_and_threads_at_once(serve: Serve) -> None:
    server = serve(chat_handler)
    provider = compatible(server)
    texts: list[str] = []

    async def several() -> None:
        async with anyio.create_task_group() as group:

            async def call() -> None:
                texts.append((await provider.model("m").generate("hi")).text)
                texts.append(await stream_text(provider.model("m")))

            for _ in range(4):
                group.start_soon(call)

    def blocking() -> None:
        texts.append(provider.model("m").generate_sync("hi").text)
        texts.append("fine")

    threads = [
        threading.Thread(target=lambda loop=loop: anyio.run(several, backend=loop))
        for loop in ("asyncio", "trio") * 2
    ]
    threads += [threading.Thread(target=blocking) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    provider.close()
    assert (texts.count("fine"), texts.count("Good evening")) == (16 + 8, 16)


@system.needs_fork
def test_forked_child_does_not_read_responses_of_its_parent(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            peer.reply(chat_completion(request.json["messages"][0]["content"]))

    provider = compatible(serve(handler))
    model = provider.model("m")
    assert model.generate_sync("warm").text == "warm"
    with warnings.catch_warnings():
        # Forking a process that has threads is deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(
            0
            if all(
                model.generate_sync(f"child {number}").text == f"child {number}"
                for number in range(5)
            )
            else 1
        )
    for number in range(5):
        assert model.generate_sync(f"parent {number}").text == f"parent {number}"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    provider.close()


ENDINGS = {
    "an open stream": """
with model.stream_sync('hi') as stream:
    next(iter(stream))
    print('started', flush=True)
    sys.exit(3)
""",
    "a stream that is never left": """
stream = model.stream_sync('hi').__enter__()
next(iter(stream))
print('started', flush=True)
sys.exit(3)
""",
    "an open async stream": """
import asyncio
async def main():
    manager = model.stream('hi')
    stream = await manager.__aenter__()
    await anext(aiter(stream))
    print('started', flush=True)
    sys.exit(3)
asyncio.run(main())
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_interpreter_exits_with_an_open_stream(ending: str, serve: Serve) -> None:
    def stop_in_stream(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(delta("Good "))
        peer.wait_for_close(30)

    server = serve(stop_in_stream)
    code = f"""
import sys
import majordomo as md
model = md.OpenAICompatible({server.url + "/v1"!r}).model('m')
{ENDINGS[ending]}
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (process.returncode, process.stdout) == (3, "started\n"), process.stderr
    assert "Traceback" not in process.stderr
    assert server.peers[0].closed_by_client.wait(5)
