from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import majordomo as md
from majordomo import llm
from majordomo.models.slices import FIRST_SLICE_BYTES, Slices
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


@given(st.integers(0, 200_000))
def test_slices_are_the_chunk_and_grow_from_a_small_first_one(size: int) -> None:
    chunk = bytes(index % 251 for index in range(size))
    slices = Slices()
    pieces = [slices.split(chunk)]
    while piece := slices.next():
        pieces.append(piece)
    assert b"".join(pieces) == chunk
    assert len(pieces[0]) == min(size, FIRST_SLICE_BYTES)
    assert all(len(after) <= 2 * len(before) for before, after in pairwise(pieces))


@pytest.mark.anyio
@pytest.mark.parametrize("ndjson", [False, True], ids=["SSE", "JSON lines"])
async def test_the_first_events_of_a_burst_are_delivered_before_the_rest_is_decoded(
    ndjson: bool, serve: Serve
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
    async with provider, provider.model("m").stream("hi") as stream:
        async for text in stream.text_stream:
            assert text == "word "
            break
        assert 5 <= len(stream.reply.text) < 1024
        rest = [text async for text in stream.text_stream]
    assert len(rest) == 1999
    assert stream.reply.text == "word " * 2000
