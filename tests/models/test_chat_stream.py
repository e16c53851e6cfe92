from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any

import pytest

import majordomo as md
from majordomo import llm
from majordomo.models.sliced_stream import FIRST_SLICE_BYTES, SlicedStream
from majordomo.testing import ScriptedChatModel
from tests.support.loopback import Loopback, Peer, delta

Serve = Callable[..., Loopback]
ANSWER = [llm.ThinkingDelta("hm"), "Good ", "evening", md.ConnectionFailedError("gone")]


@pytest.mark.anyio
async def test_text_stream_gives_the_texts_and_then_the_error() -> None:
    texts = []
    async with ScriptedChatModel([ANSWER]).stream("hi") as stream:
        with pytest.raises(md.StreamBrokenError):
            async for text in stream.text_stream:
                texts.append(text)
    assert texts == ["Good ", "evening"]
    assert stream.reply.text == "Good evening"


@pytest.mark.anyio
async def test_text_stream_may_be_left_and_the_events_read_on() -> None:
    async with ScriptedChatModel(["one two three"]).stream("hi") as stream:
        async for text in stream.text_stream:
            assert text == "one "
            break
        events = [event async for event in stream]
    assert events[:-1] == [llm.TextDelta("two "), llm.TextDelta("three")]
    assert events[-1] == llm.Done(stream.reply)


def test_text_stream_of_a_blocking_stream() -> None:
    with ScriptedChatModel(["one two three"]).stream_sync("hi") as stream:
        assert list(stream.text_stream) == ["one ", "two ", "three"]
    assert stream.reply.finish_reason == "stop"


class Chunks:
    """A stream of chunks that have arrived."""

    status = 200
    headers: Mapping[str, str] = {}

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    async def read(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""

    async def finish(self) -> None: ...

    async def aclose(self) -> None: ...


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 1024, 1025, 3072, 3073, 65536, 200_000])
async def test_slices_are_the_chunk_and_grow_from_a_small_first_one(size: int) -> None:
    chunk = bytes(index % 251 for index in range(size))
    stream = SlicedStream(Chunks(chunk, b"next"))
    slices = []
    while part := await stream.read():
        slices.append(part)
    assert slices.pop() == b"next"
    assert b"".join(slices) == chunk
    assert len(slices[0]) == min(size, FIRST_SLICE_BYTES)
    assert all(len(after) <= 2 * len(before) for before, after in pairwise(slices))


def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


RELAYS: dict[str, Callable[[llm.Model], llm.Stream]] = {
    "direct": lambda model: model.stream("hi"),
    "chain": lambda model: md.Chain([model]).stream("hi"),
    "tool loop": lambda model: md.stream_tools(model, "hi", tools=[shout]),
}


@pytest.mark.anyio
@pytest.mark.parametrize("ndjson", [False, True], ids=["SSE", "JSON lines"])
@pytest.mark.parametrize("relay", RELAYS.values(), ids=RELAYS.keys())
async def test_the_first_events_of_a_burst_are_delivered_before_the_rest_is_decoded(
    relay: Callable[[llm.Model], llm.Stream], ndjson: bool, serve: Serve
) -> None:
    """The reply so far shows what has been decoded: not the 2,000 words of the burst."""

    def answer(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path == "/api/ps":
                peer.reply({"models": [{"name": "m:latest"}]})
                continue
            if ndjson:
                lines = [
                    json.dumps(
                        {"message": {"role": "assistant", "content": "word "}, "done": False}
                    )
                    for _ in range(2000)
                ]
                burst = "\n".join([*lines, '{"done":true,"done_reason":"stop"}\n']).encode()
            else:
                end = delta("", "stop") + b"data: [DONE]\n\n"
                burst = delta("word ") * 2000 + end
            content_type = "application/x-ndjson" if ndjson else "text/event-stream"
            peer.begin(headers={"content-type": content_type})
            peer.chunk(burst)
            peer.end()

    url = serve(answer).url
    provider: md.Ollama | md.OpenAICompatible = (
        md.Ollama(url) if ndjson else md.OpenAICompatible(url)
    )
    decoded = 0

    class CountingDecoder:
        """Counts the bytes that were decoded."""

        def __init__(self, decoder: Any) -> None:
            self._decoder = decoder

        def __getattr__(self, name: str) -> Any:
            return getattr(self._decoder, name)

        def feed(self, chunk: bytes) -> Any:
            nonlocal decoded
            decoded += len(chunk)
            return self._decoder.feed(chunk)

    model = provider.model("m")
    kind = type(model._codec)

    class CountingCodec(kind):  # type: ignore[misc, valid-type]
        def stream_decoder(self, *arguments: Any) -> Any:
            return CountingDecoder(super().stream_decoder(*arguments))

    model._codec = CountingCodec(
        **{item.name: getattr(model._codec, item.name) for item in fields(model._codec)}
    )
    async with provider, relay(model) as stream:
        async for text in stream.text_stream:
            assert text == "word "
            break
        assert 0 < decoded < 8 * FIRST_SLICE_BYTES
        rest = [text async for text in stream.text_stream]
    assert len(rest) == 1999
    assert stream.reply.text == "word " * 2000


@pytest.mark.anyio
async def test_a_stream_that_succeeds_refills_the_retry_budget(serve: Serve) -> None:
    def answer(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            peer.chunk(delta("hi", "stop") + b"data: [DONE]\n\n")
            peer.end()

    async with md.OpenAICompatible(serve(answer).url) as provider:
        budget = provider._client.budget
        budget.spend()
        before = budget.remaining
        async with provider.model("m").stream("hi") as stream:
            assert [text async for text in stream.text_stream] == ["hi"]
    assert budget.remaining > before
