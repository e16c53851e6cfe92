"""Cancellation of a call.

A cancelled call ends within 100 ms, its socket is closed within 1 s, no request follows, and the
next call works. A busy machine may be late for other reasons, so the best of several attempts
counts; a wait that is part of cancelling would be in each of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import anyio
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
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
ATTEMPTS = 5
MAX_RAISE_SECONDS, MAX_CLOSE_SECONDS = 0.1, 1.0

KINDS = ["reply", "reply stream", "image", "image stream"]
STAGES = ["before the headers", "in the body", "in the wait before a retry"]


def response_body(request: Any, image: bytes) -> bytes:
    """Return the body of a valid response."""
    if "images" in request.path:
        if not request.json.get("stream"):
            return json.dumps(images_reply(image)).encode()
        event = {"type": "image_generation.completed", **images_reply(image)["data"][0]}
        return b"data: " + json.dumps(event).encode() + b"\n\n"
    return (
        delta("Good") + delta({}, "stop") + DONE
        if request.json.get("stream")
        else json.dumps(chat_completion("fine")).encode()
    )


class StoppingServer:
    """A server that stops responding at a stage until `healthy` is set."""

    def __init__(self, stage: str, image: bytes) -> None:
        self.stage = stage
        self.image = image
        self.healthy = False
        self.stopped = 0

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            body = response_body(request, self.image)
            kind = {
                "content-type": "text/event-stream"
                if request.json.get("stream")
                else "application/json"
            }
            if self.healthy:
                peer.reply(body, headers=kind)
            elif self.stage == "in the wait before a retry":
                peer.reply(b"{}", 503, {"retry-after": "5"})
                self.stopped += 1
            else:
                if self.stage == "in the body":
                    peer.begin(headers=kind)
                    peer.chunk(body[: len(body) // 3])
                self.stopped += 1
                peer.wait_for_close()
                return


async def read_to_end(stream: Any) -> None:
    async with stream:
        async for _ in stream:
            pass


def call_of_kind(provider: md.OpenAI, kind: str) -> Callable[[], Any]:
    chat, image_model = provider.model("m"), provider.image_model("gpt-image-1")
    calls: dict[str, Callable[[], Any]] = {
        "reply": lambda: chat.generate("hi"),
        "reply stream": lambda: read_to_end(chat.stream("hi")),
        "image": lambda: image_model.generate("a"),
        "image stream": lambda: read_to_end(image_model.stream("a")),
    }
    return calls[kind]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", STAGES)
def test_cancelled_call_ends_promptly_and_sends_nothing_more(
    loop: str, kind: str, stage: str, serve: Serve, image: Callable[[], md.ImagePart]
) -> None:
    stopping_server = StoppingServer(stage, image().data)
    server = serve(stopping_server)
    raised: list[float] = []
    closed: list[float] = []

    async def cancel_once(start_call: Callable[[], Any]) -> None:
        """Cancel one call while it waits for the server, which has stopped responding."""
        before = stopping_server.stopped
        ended: list[str] = []

        async def call() -> None:
            try:
                await start_call()
            except anyio.get_cancelled_exc_class():
                ended.append("cancelled")
                raise
            except md.MajordomoError as error:
                ended.append(repr(error))

        async with anyio.create_task_group() as group:
            group.start_soon(call)
            with anyio.fail_after(10):
                await wait_until(lambda: stopping_server.stopped != before)
                await anyio.sleep(
                    0.001
                )  # a turn of the loop in which it sees what has arrived, all of it on this machine
                await anyio.wait_all_tasks_blocked()
            at = time.monotonic()
            group.cancel_scope.cancel()
        raised.append(time.monotonic() - at)
        assert ended == ["cancelled"]
        if stage != "in the wait before a retry":
            assert await anyio.to_thread.run_sync(server.peers[-1].closed_by_client.wait, 10)
            closed.append(time.monotonic() - at)
        assert len(server.requests) == before + 1, "a request was sent after a cancellation"

    async def run_calls() -> None:
        async with md.OpenAI(
            "k", base_url=server.url + "/v1", max_concurrency=1, timeout=md.Timeout(queue=5)
        ) as provider:
            start_call = call_of_kind(provider, kind)
            for _ in range(ATTEMPTS):
                await cancel_once(start_call)
            stopping_server.healthy = True
            await start_call()

    anyio.run(run_calls, backend=loop)
    assert min(raised) <= MAX_RAISE_SECONDS, raised
    assert min(closed, default=0) <= MAX_CLOSE_SECONDS, closed
    assert len(server.requests) == ATTEMPTS + 1, "a request was sent after a cancellation"
