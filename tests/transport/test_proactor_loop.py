"""The event loop that asyncio has on Windows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import majordomo as md
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
)
from tests.support.proactor_loop import ProactorEventLoop

# On Windows, the loop itself.
LOOP = getattr(asyncio, "ProactorEventLoop", ProactorEventLoop)
Serve = Callable[[Handler], Loopback]


def test_calls_and_streams_work_on_the_event_loop_of_windows(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.reply(chat_completion("complete"))
        peer.request()
        peer.begin()
        for text in ("Good ", "evening"):
            peer.chunk(delta(text))
        peer.chunk(delta({}, "stop") + DONE)
        peer.end()

    server = serve(handler)

    async def main() -> tuple[str, str]:
        async with md.OpenAICompatible(server.url + "/v1") as provider:
            model = provider.model("m")
            complete = (await model.generate("x" * 200_000)).text
            async with model.stream("x") as stream:
                return complete, "".join([text async for text in stream.text_stream])

    with asyncio.Runner(loop_factory=LOOP) as runner:
        assert runner.run(main()) == ("complete", "Good evening")
    assert server.connections == 1


def test_an_unsolicited_response_is_not_used_on_the_event_loop_of_windows(serve: Serve) -> None:
    received = threading.Event()

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(http_response(chat_completion(f"call {peer.number}")))
        if peer.number == 0:
            received.wait(5)
            peer.send(http_response(chat_completion("unsolicited")))
        peer.wait_for_close()

    server = serve(handler)

    async def main() -> tuple[str, str]:
        async with md.OpenAICompatible(server.url + "/v1") as provider:
            model = provider.model("m")
            first = (await model.generate("a")).text
            received.set()
            # The second response is in the socket, and the event loop runs meanwhile.
            await asyncio.sleep(0.2)
            return first, (await model.generate("b")).text

    with asyncio.Runner(loop_factory=LOOP) as runner:
        assert runner.run(main()) == ("call 0", "call 1")
