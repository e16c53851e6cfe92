"""An event loop ends while something is open in it. The provider goes on in the next one; no socket stays, and nothing is said."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import majordomo as md
from tests.support.loopback import DONE, Handler, Loopback, Peer, chat, delta, images_reply

Serve = Callable[[Handler], Loopback]
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "trio"])
PATIENCE = md.Timeout(queue=2, total=10)


@pytest.fixture(autouse=True)
def nothing_is_said() -> Iterator[None]:
    """Warnings are errors, those of finalisers too."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(one.message) for one in warned] == []


@pytest.fixture
def server(serve: Serve, image: Callable[[], md.ImagePart]) -> Loopback:
    """Streams stop in their middle, and wait for the client to leave; the rest is answered at once."""

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            if "images" in seen.path:
                peer.reply(images_reply(image().data))
            elif not seen.json.get("stream"):
                peer.reply(chat("fine"))
            else:
                peer.begin()
                peer.chunk(delta("Good "))
                if seen.json["messages"][-1]["content"] == "stop":
                    peer.wait_for_close()
                    return
                peer.chunk(delta({}, "stop") + DONE)
                peer.end()

    return serve(handler)


def connected(server: Loopback) -> md.OpenAICompatible:
    return md.OpenAICompatible(
        server.url + "/v1", max_concurrency=1, timeout=PATIENCE, retries=md.Retries(attempts=1)
    )


async def works(provider: md.OpenAICompatible) -> None:
    """A call of each kind; with one place, a place that was never left is waited for in vain."""
    assert (await provider.model("m").generate("hi")).text == "fine"
    async with provider.model("m").stream("go on") as stream:
        async for _ in stream:
            pass
    assert stream.reply.text == "Good "
    assert len((await provider.image_model("m").generate("a")).images) == 1


def all_left(server: Loopback, count: int) -> None:
    gc.collect()
    for peer in server.peers[:count]:
        assert peer.closed_by_client.wait(2)


async def begun(provider: md.OpenAICompatible) -> Any:
    """A stream of which the first word has come, and that nobody will leave."""
    stream = await provider.model("m").stream("stop").__aenter__()
    await anext(aiter(stream))
    return stream


@LOOPS
@pytest.mark.parametrize("kept", [True, False])
def test_a_stream_is_open_when_its_loop_ends(loop: str, kept: bool, server: Loopback) -> None:
    """Held on to, or forgotten with the loop."""
    provider = connected(server)
    held = []

    async def story() -> None:
        stream = await begun(provider)
        if kept:
            held.append(stream)

    anyio.run(story, backend=loop)
    all_left(server, 1)
    anyio.run(works, provider, backend=loop)
    all_left(server, len(server.peers))
    provider.close()


EVENT = b'data: {"type":"modelStatus","data":"[]"}\n\n'
STANDING: dict[
    str, tuple[bytes, Callable[[str], tuple[Any, Any]]]
] = {  # what is said once, and who listens
    "feed": (EVENT, lambda url: (provider := md.LlamaSwap(url), provider.changes())),
    "pull": (
        b'{"status":"pulling"}\n',
        lambda url: (provider := md.Ollama(url), provider.admin.stream_pull("m")),
    ),
}


@pytest.mark.parametrize(
    ("loop", "kept"), [("asyncio", True), ("asyncio", False), ("trio", True)]
)  # of a forgotten one trio warns
@pytest.mark.parametrize(("said", "listen"), STANDING.values(), ids=STANDING.keys())
def test_what_is_listened_to_is_left_when_the_loop_ends(
    loop: str, kept: bool, said: bytes, listen: Any, serve: Serve
) -> None:
    server = serve(
        lambda peer: (peer.request(), peer.begin(), peer.chunk(said), peer.wait_for_close(10))
    )
    held = []

    async def story() -> None:
        provider, stream = listen(server.url)
        heard = await stream.__aenter__()
        await anext(heard)
        held.extend([provider, stream, heard] if kept else [])

    anyio.run(story, backend=loop)
    assert len(server.peers) == 1
    all_left(server, 1)


@LOOPS
def test_a_stream_is_left_after_its_loop_has_ended(loop: str, server: Loopback) -> None:
    provider = connected(server)
    held = []

    async def story() -> None:
        held.append(await begun(provider))

    async def leaving() -> None:
        with pytest.raises(md.MajordomoError):
            while True:
                await anext(held[0])
        await held[0].__aexit__(None, None, None)
        await works(provider)

    anyio.run(story, backend=loop)
    anyio.run(leaving, backend=loop)
    all_left(server, len(server.peers))
    provider.close()


@LOOPS
def test_a_task_reads_a_stream_when_its_loop_is_stopped(loop: str, server: Loopback) -> None:
    """By an exception of the main task, which cancels it."""
    provider = connected(server)

    async def reading() -> None:
        async with provider.model("m").stream("stop") as stream:
            async for _ in stream:
                pass

    async def story() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(reading)
            while not server.seen:
                await anyio.lowlevel.checkpoint()
            raise LookupError

    with pytest.raises(ExceptionGroup):
        anyio.run(story, backend=loop)
    all_left(server, 1)
    anyio.run(works, provider, backend=loop)
    provider.close()


def test_a_loop_is_stopped_in_the_middle_of_a_call(server: Loopback) -> None:
    """As programs do that keep their loop in a thread: stop, cancel what is left, close."""
    provider = connected(server)

    def ended(main: Coroutine[Any, Any, Any], *, wait: bool) -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(main)
        if wait:
            loop.run_until_complete(task)
        else:
            seen = len(server.seen)
            thread = threading.Thread(target=loop.run_forever)
            thread.start()
            while len(server.seen) == seen:
                pass
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5)
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    async def reading() -> None:
        async with provider.model("m").stream("stop") as stream:
            async for _ in stream:
                pass

    ended(works(provider), wait=True)
    ended(reading(), wait=False)
    ended(works(provider), wait=True)
    all_left(server, len(server.peers))
    provider.close()
    all_left(server, len(server.peers))


@pytest.mark.parametrize("first", ["asyncio", "trio"])
def test_a_provider_goes_from_one_kind_of_loop_to_the_other_and_to_none(
    first: str, server: Loopback
) -> None:
    provider = connected(server)
    for loop in (first, "trio" if first == "asyncio" else "asyncio", first):
        anyio.run(works, provider, backend=loop)
        assert provider.model("m").generate_sync("hi").text == "fine"
    provider.close()
    all_left(server, len(server.peers))


def test_a_loop_is_closed_over_an_open_stream_and_kept_connections(server: Loopback) -> None:
    """Without its asynchronous generators being ended, as asyncio.run does: of sockets left so, asyncio itself warns."""
    provider = connected(server)
    loop = asyncio.new_event_loop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop.run_until_complete(works(provider))
        held = [loop.run_until_complete(begun(provider))]
        loop.close()

        async def leaving() -> None:
            await held[0].__aexit__(None, None, None)
            await works(provider)

        asyncio.run(leaving())
        held.clear()
        provider.close()
        del loop
        gc.collect()
    all_left(server, len(server.peers))
