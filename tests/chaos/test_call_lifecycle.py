"""A provider's life: closed, forgotten, forked, cancelled anywhere, left in the middle. Nothing stays, and nothing goes out afterwards."""

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
from tests.support.chat_backends import BACKENDS as CHATTING
from tests.support.image_backends import BACKENDS as DRAWING
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    always,
    chat,
    delta,
    images_reply,
    whole,
)

Serve = Callable[[Handler], Loopback]
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "trio"])
TALK = delta("Good ") + delta("evening") + delta({}, "stop") + DONE


def answering(peer: Peer) -> None:
    """Chats whole and in pieces."""
    while (seen := peer.request()) is not None:
        if seen.method == "POST" and seen.json.get("stream"):
            peer.begin()
            peer.chunk(TALK)
            peer.end()
        else:
            peer.reply(chat("fine"))


def compatible(server: Loopback, **settings: Any) -> md.OpenAICompatible:
    return md.OpenAICompatible(server.url + "/v1", **settings)


async def streamed(model: Any) -> str:
    async with model.stream("hi") as stream:
        async for _ in stream:
            pass
    return str(stream.reply.text)


@LOOPS
@pytest.mark.parametrize(
    "backend",
    [*CHATTING, *DRAWING],
    ids=lambda backend: f"{'draw' if backend in DRAWING else 'chat'} {backend.name}",
)
def test_a_closed_provider_refuses_all_and_may_be_closed_again(
    backend: Any, loop: str, serve: Serve
) -> None:
    server = serve(always(whole({})))

    async def story() -> None:
        provider = backend.connect(server.url)
        model: Any = (
            provider.image_model(backend.model)
            if backend in DRAWING
            else provider.model(backend.model)
        )
        await provider.aclose()
        await provider.aclose()

        async def shown() -> None:
            async with model.stream("hi") as stream:
                async for _ in stream:
                    pass

        for ask in (lambda: model.generate("hi"), shown, provider.models):
            with pytest.raises(md.ConfigurationError) as caught:
                await ask()
            assert caught.value.code == "CLOSED"

    anyio.run(story, backend=loop)
    assert server.connections == 0


@pytest.mark.slow
@LOOPS
@pytest.mark.parametrize("streams", [False, True])
def test_closing_during_a_call_ends_it_with_a_typed_error_or_its_answer(
    loop: str, streams: bool, serve: Serve
) -> None:
    def stops(peer: Peer) -> None:
        peer.request()
        if streams:
            peer.begin()
            peer.chunk(delta("Good "))
        peer.wait_for_close()

    server = serve(stops)
    ended: list[BaseException | str] = []

    async def story() -> None:
        provider = compatible(server, retries=md.Retries(attempts=1), timeout=2)

        async def call() -> None:
            try:
                ended.append(
                    await streamed(provider.model("m"))
                    if streams
                    else (await provider.model("m").generate("hi")).text
                )
            except md.MajordomoError as error:
                ended.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            with anyio.fail_after(5):
                while not server.seen:
                    await anyio.sleep(0.002)
            await provider.aclose()
        with pytest.raises(md.ConfigurationError):
            await provider.model("m").generate("hi")

    anyio.run(story, backend=loop)
    assert isinstance(ended[0], md.MajordomoError)
    assert server.peers[0].closed_by_client.wait(2)
    assert len(server.seen) == 1


@pytest.mark.slow
@LOOPS
def test_a_provider_that_nobody_closed_warns_of_resources_at_most(loop: str, serve: Serve) -> None:
    server = serve(answering)

    async def story() -> None:
        for _ in range(3):
            assert (await compatible(server).model("m").generate("hi")).text == "fine"
            gc.collect()
            await anyio.lowlevel.checkpoint()

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        anyio.run(story, backend=loop)
        gc.collect()
    assert {one.category for one in warned} <= {ResourceWarning}
    for peer in server.peers:
        assert peer.closed_by_client.wait(2)


@LOOPS
def test_a_stream_left_anywhere_leaves_nothing(loop: str, serve: Serve) -> None:
    """By break, by an exception, never begun, never entered; its iterator kept or forgotten."""
    server = serve(answering)

    async def story() -> None:
        async with compatible(server) as provider:
            model = provider.model("m")
            model.stream("never entered")
            async with model.stream("never begun"):
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
            assert await streamed(model) == "Good evening"
        del kept, stream
        gc.collect()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anyio.run(story, backend=loop)
    for peer in server.peers:
        assert peer.closed_by_client.wait(2)


@LOOPS
@pytest.mark.parametrize("ask", ["whole", "streamed", "drawn"])
def test_cancelling_at_every_point_is_quick_and_final(
    loop: str, ask: str, serve: Serve, image: Callable[[], md.ImagePart]
) -> None:
    """The n-th time that the loop turns, for each n until the call gets through."""

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            if "images" in seen.path:
                peer.reply(images_reply(image().data))
            elif seen.json.get("stream"):
                peer.begin()
                for piece in (TALK[:20], TALK[20:90], TALK[90:]):
                    peer.chunk(piece)
                peer.end()
            else:
                peer.reply(chat("fine"))

    server = serve(handler)

    async def story() -> None:
        async with compatible(server) as provider:
            asks: dict[str, Callable[[], Any]] = {
                "whole": lambda: provider.model("m").generate("hi"),
                "streamed": lambda: streamed(provider.model("m")),
                "drawn": lambda: provider.image_model("m").generate("a"),
            }
            through = []

            async def call() -> None:
                await asks[ask]()
                through.append(True)

            for turns in range(60):
                async with anyio.create_task_group() as group:
                    group.start_soon(call)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    at = time.monotonic()
                    group.cancel_scope.cancel()
                assert time.monotonic() - at < 0.5, "far above what it takes"
                if len(through) > 3:
                    break
            await asks[ask]()
            rounds.append(turns + 2)

    rounds: list[int] = []
    anyio.run(story, backend=loop)
    for peer in server.peers:
        assert peer.closed_by_client.wait(2)
    assert len(server.seen) <= rounds[0], "something went out after a cancellation"


def test_one_provider_serves_loops_and_threads_at_once(serve: Serve) -> None:
    server = serve(answering)
    provider = compatible(server)
    told: list[str] = []

    async def several() -> None:
        async with anyio.create_task_group() as group:

            async def call() -> None:
                told.append((await provider.model("m").generate("hi")).text)
                told.append(await streamed(provider.model("m")))

            for _ in range(4):
                group.start_soon(call)

    def blocking() -> None:
        told.append(provider.model("m").generate_sync("hi").text)
        told.append("fine")

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
    assert (told.count("fine"), told.count("Good evening")) == (16 + 8, 16)


def test_a_child_forked_in_mid_use_takes_no_answer_of_its_parent(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            peer.reply(chat(seen.json["messages"][0]["content"]))

    provider = compatible(serve(handler))
    model = provider.model("m")
    assert model.generate_sync("warm").text == "warm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
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
    "an open stream": "with model.stream_sync('hi') as stream:\n    next(iter(stream))\n    print('begun', flush=True)\n    sys.exit(3)",
    "a stream never left": "held = model.stream_sync('hi').__enter__()\nnext(iter(held))\nprint('begun', flush=True)\nsys.exit(3)",
    "an open async stream": (
        "async def main():\n    held = model.stream('hi')\n    stream = await held.__aenter__()\n    await anext(aiter(stream))\n"
        "    print('begun', flush=True)\n    sys.exit(3)\nimport asyncio\nasyncio.run(main())"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_ends_with_an_open_stream(ending: str, serve: Serve) -> None:
    def stops(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(delta("Good "))
        peer.wait_for_close(30)

    server = serve(stops)
    code = f"import sys\nimport majordomo as md\nmodel = md.OpenAICompatible({server.url + '/v1'!r}).model('m')\n{ENDINGS[ending]}\n"
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (made.returncode, made.stdout) == (3, "begun\n"), made.stderr
    assert "Traceback" not in made.stderr
    assert server.peers[0].closed_by_client.wait(5)
