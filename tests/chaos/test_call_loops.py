"""An event loop ends while a call or a stream is open in it.

The provider check_works in the next event loop, no socket stays open, and there are no warnings.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import nullcontext
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import majordomo as md
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    images_reply,
)

Serve = Callable[[Handler], Loopback]
LOOPS = pytest.mark.parametrize("loop", ["asyncio", "trio"])
TIMEOUT = md.Timeout(queue=2, total=10)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Fail on any warning, also from finalizers."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in warned] == []


@pytest.fixture
def server(serve: Serve, image: Callable[[], md.ImagePart]) -> Loopback:
    """A server whose streams for "stop" wait until the client closes."""

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if "images" in request.path:
                peer.reply(images_reply(image().data))
            elif not request.json.get("stream"):
                peer.reply(chat_completion("fine"))
            else:
                peer.begin()
                peer.chunk(delta("Good "))
                if request.json["messages"][-1]["content"] == "stop":
                    peer.wait_for_close()
                    return
                peer.chunk(delta({}, "stop") + DONE)
                peer.end()

    return serve(handler)


def provider_for(server: Loopback) -> md.OpenAICompatible:
    return md.OpenAICompatible(
        server.url + "/v1", max_concurrency=1, timeout=TIMEOUT, retries=md.Retries(attempts=1)
    )


async def check_works(provider: md.OpenAICompatible) -> None:
    """Make a call of each kind.

    With `max_concurrency=1`, a slot that was not released would block the next call.
    """
    assert (await provider.model("m").generate("hi")).text == "fine"
    async with provider.model("m").stream("go on") as stream:
        async for _ in stream:
            pass
    assert stream.reply.text == "Good "
    assert len((await provider.image_model("m").generate("a")).images) == 1


def check_closed(server: Loopback, count: int) -> None:
    gc.collect()
    for peer in server.peers[:count]:
        assert peer.closed_by_client.wait(2)


async def open_stream(provider: md.OpenAICompatible) -> Any:
    """Return a stream after its first event; it is never left."""
    stream = await provider.model("m").stream("stop").__aenter__()
    await anext(aiter(stream))
    return stream


@LOOPS
@pytest.mark.parametrize("kept", [True, False])
def test_stream_is_closed_when_its_loop_ends(loop: str, kept: bool, server: Loopback) -> None:
    """The stream is kept, or garbage-collected with the loop; trio warns of the latter."""
    provider = provider_for(server)
    kept_objects = []

    async def open_and_end() -> None:
        stream = await open_stream(provider)
        if kept:
            kept_objects.append(stream)

    warns = loop == "trio" and not kept
    with pytest.warns(ResourceWarning, match="_until_loop_ends") if warns else nullcontext():
        anyio.run(open_and_end, backend=loop)
    check_closed(server, 1)
    anyio.run(check_works, provider, backend=loop)
    check_closed(server, len(server.peers))
    provider.close()


EVENT = b'data: {"type":"modelStatus","data":"[]"}\n\n'
# What the server sends once, and the client that waits for more.
SUBSCRIPTIONS: dict[str, tuple[bytes, Callable[[str], tuple[Any, Any]]]] = {
    "feed": (EVENT, lambda url: (provider := md.LlamaSwap(url), provider.changes())),
    "pull": (
        b'{"status":"pulling"}\n',
        lambda url: (provider := md.Ollama(url), provider.admin.stream_pull("m")),
    ),
}


# A stream that is garbage-collected is not tried with trio, which warns about it.
@pytest.mark.parametrize(("loop", "kept"), [("asyncio", True), ("asyncio", False), ("trio", True)])
@pytest.mark.parametrize(("sent", "subscribe"), SUBSCRIPTIONS.values(), ids=SUBSCRIPTIONS.keys())
def test_subscription_is_closed_when_its_loop_ends(
    loop: str, kept: bool, sent: bytes, subscribe: Any, serve: Serve
) -> None:
    server = serve(
        lambda peer: (peer.request(), peer.begin(), peer.chunk(sent), peer.wait_for_close(10))
    )
    kept_objects = []

    async def open_and_end() -> None:
        provider, stream = subscribe(server.url)
        events = await stream.__aenter__()
        await anext(events)
        kept_objects.extend([provider, stream, events] if kept else [])

    anyio.run(open_and_end, backend=loop)
    assert len(server.peers) == 1
    check_closed(server, 1)


@LOOPS
def test_stream_can_be_left_after_its_loop_has_ended(loop: str, server: Loopback) -> None:
    provider = provider_for(server)
    kept_objects = []

    async def open_and_end() -> None:
        kept_objects.append(await open_stream(provider))

    async def leaving() -> None:
        with pytest.raises(md.MajordomoError):
            while True:
                await anext(kept_objects[0])
        await kept_objects[0].__aexit__(None, None, None)
        await check_works(provider)

    anyio.run(open_and_end, backend=loop)
    anyio.run(leaving, backend=loop)
    check_closed(server, len(server.peers))
    provider.close()


@LOOPS
def test_stream_is_closed_when_its_task_is_cancelled_with_the_loop(
    loop: str, server: Loopback
) -> None:
    """An exception in the main task cancels the reading task."""
    provider = provider_for(server)

    async def reading() -> None:
        async with provider.model("m").stream("stop") as stream:
            async for _ in stream:
                pass

    async def open_and_end() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(reading)
            while not server.requests:
                await anyio.lowlevel.checkpoint()
            raise LookupError

    with pytest.raises(ExceptionGroup):
        anyio.run(open_and_end, backend=loop)
    check_closed(server, 1)
    anyio.run(check_works, provider, backend=loop)
    provider.close()


def test_loop_is_stopped_during_a_call(server: Loopback) -> None:
    """Stop a loop in a thread, cancel its tasks and close it, as some programs do."""
    provider = provider_for(server)

    def run_and_close(main: Coroutine[Any, Any, Any], *, wait: bool) -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(main)
        if wait:
            loop.run_until_complete(task)
        else:
            request_count = len(server.requests)
            thread = threading.Thread(target=loop.run_forever)
            thread.start()
            while len(server.requests) == request_count:
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

    run_and_close(check_works(provider), wait=True)
    run_and_close(reading(), wait=False)
    run_and_close(check_works(provider), wait=True)
    check_closed(server, len(server.peers))
    provider.close()
    check_closed(server, len(server.peers))


@pytest.mark.parametrize("first", ["asyncio", "trio"])
def test_provider_works_on_asyncio_and_trio_and_without_a_loop_in_turn(
    first: str, server: Loopback
) -> None:
    provider = provider_for(server)
    for loop in (first, "trio" if first == "asyncio" else "asyncio", first):
        anyio.run(check_works, provider, backend=loop)
        assert provider.model("m").generate_sync("hi").text == "fine"
    provider.close()
    check_closed(server, len(server.peers))


def test_loop_is_closed_with_an_open_stream_and_pooled_connections(server: Loopback) -> None:
    """Close a loop without `shutdown_asyncgens`; asyncio itself warns about open sockets."""
    provider = provider_for(server)
    loop = asyncio.new_event_loop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop.run_until_complete(check_works(provider))
        kept_objects = [loop.run_until_complete(open_stream(provider))]
        loop.close()

        async def leaving() -> None:
            await kept_objects[0].__aexit__(None, None, None)
            await check_works(provider)

        asyncio.run(leaving())
        kept_objects.clear()
        provider.close()
        del loop
        gc.collect()
    check_closed(server, len(server.peers))
