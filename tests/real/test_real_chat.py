"""Chat with llama.cpp, through the swapping gateway and with llama-cpp-python's own server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

import majordomo as md

pytestmark = [pytest.mark.real, pytest.mark.anyio]

SENTENCE = "The image shows colored noise, nothing else."
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
async def llama(llama_url: str) -> AsyncIterator[md.OpenAICompatible]:
    async with md.OpenAICompatible(f"{llama_url}/v1", json_output="json_object") as provider:
        yield provider


async def streamed(model: md.llm.Model, messages: Any, **settings: Any) -> tuple[str, md.Reply]:
    """Return the text of the deltas, and the reply at the end."""
    texts = []
    async with model.stream(messages, **settings) as stream:
        async for event in stream:
            if isinstance(event, md.llm.TextDelta):
                texts.append(event.text)
            last = event
    assert isinstance(last, md.llm.Done)
    assert last.reply == stream.reply
    return "".join(texts), last.reply


async def test_a_known_sentence_is_returned_completely(swap: md.LlamaSwap) -> None:
    reply = await swap.model("recite").generate("Say it.")
    assert (reply.text, reply.finish_reason, reply.provider) == (SENTENCE, "stop", "llamaswap")
    assert reply.usage.output_tokens
    assert reply.usage.input_tokens


async def test_the_text_deltas_form_the_sentence(swap: md.LlamaSwap) -> None:
    text, reply = await streamed(swap.model("recite"), "Say it.")
    assert (text, reply.text, reply.finish_reason) == (SENTENCE, SENTENCE, "stop")


async def test_a_stream_has_the_text_of_the_plain_call(llama: md.OpenAICompatible) -> None:
    model = llama.model("tiny")
    plain = await model.generate("Tell me a story.", seed=7, max_tokens=60, temperature=1.0)
    text, reply = await streamed(model, "Tell me a story.", seed=7, max_tokens=60, temperature=1.0)
    assert (text, reply.finish_reason) == (plain.text, plain.finish_reason)
    assert plain.text


async def test_the_seed_decides_the_text(swap: md.LlamaSwap) -> None:
    model = swap.model("tiny")
    texts = [
        (await model.generate("Tell me a story.", seed=seed, max_tokens=40, temperature=1.0)).text
        for seed in (7, 7, 8)
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_max_tokens_ends_the_answer(swap: md.LlamaSwap) -> None:
    reply = await swap.model("endless").generate("Go on.", seed=1, max_tokens=5)
    assert (reply.finish_reason, reply.usage.output_tokens) == ("length", 5)


async def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(swap: md.LlamaSwap) -> None:
    for stop in ("noise", ["nowhere in it", "noise"]):
        reply = await swap.model("recite").generate("Say it.", stop=stop)
        assert (reply.text, reply.finish_reason) == (
            "The image shows colored ",
            "stop",
        ) or reply.text == "The image shows colored"


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_invalid_utf_8_never_breaks_a_stream(swap: md.LlamaSwap, seed: int) -> None:
    text, reply = await streamed(
        swap.model("bytes"), "Go on.", seed=seed, max_tokens=80, temperature=1.5
    )
    assert text == reply.text
    assert reply.finish_reason == "length"
    # No unpaired surrogates.
    text.encode()


async def test_a_stream_left_early_frees_the_engine(swap: md.LlamaSwap) -> None:
    model = swap.model("endless")
    async with model.stream("Go on.", seed=1) as stream:
        async for event in stream:
            if isinstance(event, md.llm.TextDelta):
                break
    with anyio.fail_after(10):
        reply = await model.generate("Go on.", seed=1, max_tokens=3)
    assert reply.finish_reason == "length"


async def test_a_cancelled_stream_frees_the_engine(swap: md.LlamaSwap) -> None:
    model = swap.model("endless")
    await model.generate("Be there.", max_tokens=1)
    received = 0
    with anyio.CancelScope() as scope:
        async with model.stream("Go on.", seed=1) as stream:
            async for _ in stream:
                received += 1
                if received == 3:
                    scope.cancel()
    assert scope.cancelled_caught
    # Events that came with the same chunk are still delivered.
    assert received >= 3
    with anyio.fail_after(10):
        reply = await model.generate("Go on.", seed=1, max_tokens=3)
    assert reply.finish_reason == "length"


async def test_a_call_after_a_cancelled_plain_call_is_answered(swap: md.LlamaSwap) -> None:
    """llama-cpp-python's server finishes a plain answer after the client has left, in seconds."""
    model = swap.model("endless")
    await model.generate("Be there.", max_tokens=1)
    with anyio.move_on_after(0.2) as scope:
        # Without a limit the model fills its context, which takes long on a slow machine.
        await model.generate("Go on.", seed=1, max_tokens=800)
    assert scope.cancelled_caught
    with anyio.fail_after(10):
        reply = await model.generate("Go on.", seed=1, max_tokens=3)
    assert reply.finish_reason == "length"


async def test_structured_output_is_validated_json(llama: md.OpenAICompatible) -> None:
    reply = await llama.model("tiny").generate("Who?", output=PERSON, seed=3, max_tokens=400)
    assert reply.finish_reason == "stop"
    assert set(reply.output) == {"name", "age"}
    assert isinstance(reply.output["age"], int)


async def test_a_server_that_lacks_json_schema_is_a_backend_error(llama_url: str) -> None:
    async with md.OpenAICompatible(f"{llama_url}/v1", retries=md.Retries(attempts=1)) as provider:
        with pytest.raises(md.BackendError) as caught:
            await provider.model("tiny").generate("Who?", output=PERSON, max_tokens=50)
    assert caught.value.status == 500


async def test_a_conversation_longer_than_the_context_is_an_invalid_request(
    llama: md.OpenAICompatible,
) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await llama.model("tiny").generate("word " * 3000)
    assert caught.value.status == 400
    assert caught.value.code == "CONTEXT_TOO_LONG"


async def test_a_stream_interrupted_by_another_call_is_an_error(
    llama: md.OpenAICompatible,
) -> None:
    """By default a new request interrupts the running stream of the server.

    The stream then ends with [DONE], but without a finish reason.
    """
    model = llama.model("endless")
    await model.generate("Be there.", max_tokens=1)

    async def stream_and_interrupt() -> None:
        async with model.stream("Go on.", seed=1) as stream:
            await anext(aiter(stream))
            await model.generate("Me first.", max_tokens=1)
            async for _ in stream:
                pass

    with pytest.raises(md.StreamBrokenError) as caught:
        await stream_and_interrupt()
    assert caught.value.partial.text
    assert caught.value.partial.finish_reason != "stop"


async def test_the_server_lists_its_models(llama: md.OpenAICompatible) -> None:
    assert [model.id for model in await llama.models()] == ["tiny", "recite", "endless", "bytes"]
    assert (await llama.health()).ok


def test_sync_methods_give_the_same_text(llama_url: str) -> None:
    with md.OpenAICompatible(f"{llama_url}/v1") as provider:
        model = provider.model("recite")
        assert model.generate_sync("Say it.").text == SENTENCE
        with model.stream_sync("Say it.") as stream:
            assert (
                "".join(event.text for event in stream if isinstance(event, md.llm.TextDelta))
                == SENTENCE
            )
        assert stream.reply.finish_reason == "stop"


def test_a_sync_stream_left_early_frees_the_engine(llama_url: str) -> None:
    with md.OpenAICompatible(f"{llama_url}/v1") as provider:
        model = provider.model("endless")
        with model.stream_sync("Go on.", seed=1) as stream:
            next(iter(stream))
        started_at = time.monotonic()
        assert model.generate_sync("Go on.", seed=1, max_tokens=3).finish_reason == "length"
        assert time.monotonic() - started_at < 10
