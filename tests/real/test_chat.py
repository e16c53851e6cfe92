"""Chat with real engines: by themselves, behind the proxy, and in turn with pictures."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from starting import SENTENCE, end, process_on, start_swap

import majordomo as md
from majordomo import llm

pytestmark = [pytest.mark.real, pytest.mark.anyio]


async def test_draw_then_talk_about_it(swap: Any) -> None:
    async with md.LlamaSwap(swap.url) as box:
        painter, chat = box.image_model("tiny-image"), box.model("recite")
        picture = (await painter.generate("a fox", size="64x64", steps=1, seed=1)).image
        assert {model.id: model.loaded for model in await box.models()}["tiny-image"] is True
        reply = await chat.generate([md.user("What mood is this?", picture)], max_tokens=50)
        assert (reply.text.strip(), reply.finish_reason) == (SENTENCE, "stop")
        assert reply.usage.output_tokens
        assert [(model.id, model.state) for model in await box.running()] == [("recite", "ready")]
        async with chat.stream([md.user("And now?", picture)], max_tokens=50) as stream:
            texts = [event.text async for event in stream if isinstance(event, llm.TextDelta)]
        assert "".join(texts) == stream.reply.text
        assert stream.reply.text.strip() == SENTENCE
        assert len(texts) > 3
        again = (await painter.generate("a fox", size="64x64", steps=1, seed=1)).image
        assert again == picture


async def test_models_are_unloaded(swap: Any) -> None:
    async with md.LlamaSwap(swap.url) as box:
        await box.model("recite").generate("hi", max_tokens=3)
        await box.unload("recite")
        assert await box.running() == []
        await box.model("recite").generate("hi", max_tokens=3)
        await box.unload()
        assert {model.loaded for model in await box.models()} == {False}
        assert (await box.health()).ok


async def test_what_the_proxy_refuses_is_typed(swap: Any) -> None:
    async with md.LlamaSwap(swap.url, retries=md.Retries(attempts=1)) as box:
        for call in (box.model("nobody").generate("hi"), box.image_model("nobody").generate("hi")):
            with pytest.raises(md.NotFoundError, match="llama-swap: no router") as caught:
                await call
            assert caught.value.model == "nobody"
        with pytest.raises(md.BackendError, match="exited prematurely"):
            await box.model("broken").generate("hi")
        with pytest.raises(md.NotFoundError):
            await box.unload("nobody")
        assert (await box.model("recite").generate("hi", max_tokens=50)).text.strip() == SENTENCE


async def test_an_engine_killed_in_mid_answer_is_a_typed_error_and_the_next_call_works(swap: Any) -> None:
    async with md.LlamaSwap(swap.url, retries=md.Retries(attempts=1)) as box:
        with pytest.raises((md.StreamBrokenError, md.BackendError)) as caught:
            async with box.model("bytes").stream("go on", seed=1, max_tokens=900) as stream:
                async for event in stream:
                    if isinstance(event, llm.TextDelta) and (pid := process_on(swap.ports["bytes"])):
                        os.kill(pid, signal.SIGKILL)
        assert caught.value.provider == "llamaswap"
        with pytest.raises((md.BackendError, md.ConnectionFailedError)):
            async with anyio.create_task_group() as group:
                group.start_soon(kill_soon, swap.ports["tiny-image"])
                try:
                    await box.image_model("tiny-image").generate("a fox", size="256x256", steps=50)
                except md.MajordomoError as error:
                    failure = error
                    group.cancel_scope.cancel()
            raise failure
        assert (await box.model("recite").generate("hi", max_tokens=50)).text.strip() == SENTENCE


async def kill_soon(port: int) -> None:
    """Kill what listens there once it does, and has had a second to work."""
    while True:
        await anyio.sleep(0.5)
        if pid := process_on(port):
            await anyio.sleep(1)
            os.kill(pid, signal.SIGKILL)
            return


async def test_cancelling_a_stream_frees_the_engine(swap: Any) -> None:
    async with md.LlamaSwap(swap.url) as box:
        chat = box.model("tiny")
        assert await chat.generate("hi", max_tokens=2, seed=1)
        with anyio.move_on_after(0.3):
            async with chat.stream("go on", seed=1, max_tokens=900) as stream:
                async for _ in stream:
                    pass
        began = time.monotonic()
        assert await chat.generate("hi", max_tokens=2, seed=1)
        assert time.monotonic() - began < 5


async def test_text_is_deterministic_and_streams_as_it_is(llama: str) -> None:
    async with md.OpenAICompatible(llama) as provider:
        chat = provider.model("tiny", md.with_seed(3), md.with_max_tokens(24), md.with_temperature(0.0))
        first = await chat.generate("hello")
        assert (await chat.generate("hello")).text == first.text
        assert first.finish_reason == "length"
        assert first.usage.output_tokens == 24
        async with chat.stream("hello") as stream:
            events = [event async for event in stream]
        assert stream.reply.text == first.text
        assert isinstance(events[-1], llm.Done)
        assert stream.reply.usage == llm.Usage(), "this server sends no usage in streams; unknown is not 0"
        word = first.text.split()[2]
        cut = await chat.generate("hello", stop=[word])
        assert cut.text == first.text[: first.text.index(word)]
        assert cut.finish_reason == "stop"


async def test_bytes_that_are_no_text_never_break_a_stream(swap: Any) -> None:
    async with md.LlamaSwap(swap.url) as box, box.model("bytes").stream("hé 🦊", seed=2, max_tokens=120) as stream:
        async for _ in stream:
            pass
    assert stream.reply.finish_reason == "length"
    assert stream.reply.text.encode()


async def test_a_grammar_gives_the_output_asked_for(llama: str) -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["calm", "wild"]}}, "required": ["mood"]}
    async with md.OpenAICompatible(llama, json_output="json_object") as provider:
        reply = await provider.model("tiny").generate("hi", output=schema, max_tokens=60, seed=1)
    assert reply.output["mood"] in ("calm", "wild")
    assert json.loads(reply.text) == reply.output


async def test_the_servers_models_are_listed(llama: str) -> None:
    async with md.OpenAICompatible(llama) as provider:
        assert [model.id for model in await provider.models()] == ["tiny"]
        assert (await provider.health()).ok


@pytest.fixture(scope="module", params=["object", "text", "bare"])
def locked(request: pytest.FixtureRequest, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The stand-in with a key, in each generation of the proxy's error bodies."""
    process, started = start_swap(models, tmp_path_factory.mktemp("locked"), "--key", "sk-right", "--generation", str(request.param))
    yield started.url
    end(process)


async def test_the_key_opens_and_a_wrong_one_does_not(locked: str) -> None:
    async with md.LlamaSwap(locked, "sk-right") as box:
        assert {model.id for model in await box.models()} == {"tiny-image", "tiny", "recite", "bytes", "broken"}
        assert (await box.health()).ok
    for key in (None, "sk-wrong"):
        async with md.LlamaSwap(locked, key) as box:
            with pytest.raises(md.AuthenticationError, match="invalid or missing API key") as caught:
                await box.model("recite").generate("hi")
            assert "sk-wrong" not in str(caught.value)
            assert (await box.health()).ok, "health needs no key"
