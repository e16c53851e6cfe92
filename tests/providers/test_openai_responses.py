"""What only OpenAI's Responses API has.

Encrypted reasoning, the hosted image tool, documents from tools, and failures with status 200.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from majordomo import llm
from majordomo.llm import ImageReady, TextDelta, ThinkingDelta, ThinkingPart
from tests.servers.hashed_images import fingerprint
from tests.servers.openai_account import Turn, calls, generates, says, searches, thinks
from tests.servers.openai_responses import OpenAIResponses, color
from tests.support.loopback import Handler, Loopback
from tests.support.openai_conversations import look

MODEL = "gpt-5.4"
DRAW: dict[str, Any] = {"tools": [{"type": "image_generation", "partial_images": 2}]}
both = pytest.mark.parametrize("streamed", [False, True])


@pytest.fixture
def server() -> OpenAIResponses:
    return OpenAIResponses()


@pytest.fixture
def openai(server: OpenAIResponses, serve: Callable[[Handler], Loopback]) -> md.OpenAI:
    return md.OpenAI(
        "k", base_url=serve(server).url + "/v1", api="responses", retries=md.Retries(attempts=1)
    )


async def ask(streamed: bool, model: llm.Model, *messages: Any, **fields: Any) -> llm.Reply:
    if not streamed:
        return await model.generate(*messages, **fields)
    async with model.stream(*messages, **fields) as stream:
        async for _ in stream:
            pass
    return stream.reply


def item_types(body: Any) -> list[str]:
    return [item.get("type", item.get("role")) for item in body["input"]]


@both
async def test_encrypted_reasoning_is_sent_back_in_order(
    streamed: bool, openai: md.OpenAI, server: OpenAIResponses
) -> None:
    server.script = [
        Turn(
            [
                thinks("one"),
                says("I look.", phase="commentary"),
                thinks("two", "three"),
                calls("look"),
                thinks("four"),
                calls("look"),
            ]
        ),
        Turn([thinks("five"), calls("look")]),
    ]
    model = openai.model(MODEL, md.with_reasoning("low"), md.with_tools(look))
    history = [md.user("Look")]
    for _ in range(2):
        reply = await ask(streamed, model, history)
        history += [reply.message, *(md.tool_result(call, "a fox") for call in reply.tool_calls)]
    assert (await ask(streamed, model, history)).text.endswith("a fox")
    expected_turn = [
        "reasoning",
        "assistant",
        "reasoning",
        "function_call",
        "reasoning",
        "function_call",
        *["function_call_output"] * 2,
    ]
    assert item_types(server.received_bodies[-1]) == [
        "user",
        *expected_turn,
        "reasoning",
        "function_call",
        "function_call_output",
    ]
    assert server.received_bodies[-1]["store"] is False
    encrypted = [
        item["encrypted_content"]
        for item in server.received_bodies[-1]["input"]
        if item.get("type") == "reasoning"
    ]
    assert [
        server.known[server.reasoning_ids[content]].item["summary"][0]["text"]
        for content in encrypted
    ] == [
        "one",
        "two",
        "four",
        "five",
    ]
    assert (
        next(
            item for item in server.received_bodies[-1]["input"] if item.get("role") == "assistant"
        )["phase"]
        == "commentary"
    )


@both
async def test_reasoning_without_a_summary_is_sent_back(
    streamed: bool, openai: md.OpenAI, server: OpenAIResponses
) -> None:
    model = openai.model(MODEL)
    reply = await ask(streamed, model, "Hi")
    assert reply.thinking == ""
    assert (
        await ask(streamed, model, [md.user("Hi"), reply.message, md.user("and?")])
    ).text == "and?"
    assert item_types(server.received_bodies[-1]) == ["user", "reasoning", "assistant", "user"]


@both
async def test_parts_of_a_reasoning_summary_are_paragraphs(
    streamed: bool, openai: md.OpenAI, server: OpenAIResponses
) -> None:
    server.script = [Turn([thinks("one", "two"), says("x")])]
    assert (
        await ask(streamed, openai.model(MODEL), "Hi", reasoning="low")
    ).thinking == "one\n\ntwo"


async def test_reasoning_of_another_conversation_is_refused(openai: md.OpenAI) -> None:
    foreign_message = llm.assistant(
        ThinkingPart("hm", "openai", {"encrypted_content": "c3RyYW5nZQ=="}), "well"
    )
    with pytest.raises(md.InvalidRequestError, match="could not be verified") as caught:
        await openai.model(MODEL).generate([md.user("Hi"), foreign_message, md.user("and?")])
    assert caught.value.details["backend_code"] == "invalid_encrypted_content"


@both
async def test_each_message_keeps_its_own_phase(
    streamed: bool, openai: md.OpenAI, server: OpenAIResponses
) -> None:
    server.script = [
        Turn(
            [
                says("I look.", phase="commentary"),
                says("A fox.", phase="final_answer"),
                says("Bye."),
            ]
        )
    ]
    reply = await ask(streamed, openai.model(MODEL), "Hi")
    assert reply.text == "I look.A fox.Bye."
    await openai.model(MODEL).generate([md.user("Hi"), reply.message, md.user("and?")])
    sent = [
        (item["content"], item.get("phase"))
        for item in server.received_bodies[-1]["input"]
        if item["role"] == "assistant"
    ]
    assert sent == [("I look.", "commentary"), ("A fox.", "final_answer"), ("Bye.", None)]


def mean(image: md.ImagePart) -> Any:
    return image.to_pil().convert("RGB").getpixel((0, 0))


@both
async def test_the_hosted_image_tool_generates_and_edits(
    streamed: bool, openai: md.OpenAI, server: OpenAIResponses
) -> None:
    model = openai.model(MODEL, md.with_extra(DRAW))
    ready: list[Any] = []
    async with model.stream("a fox") as stream:
        async for event in stream:
            ready += [event.image] if isinstance(event, ImageReady) else []
    reply = stream.reply if streamed else await model.generate("a fox")
    assert (
        [mean(image) for image in reply.images]
        == [mean(image) for image in ready]
        == [color("a fox")]
    )
    history = [md.user("a fox"), reply.message, md.user("a hat on it")]
    again = await ask(streamed, model, history)
    prompt = "a fox\n(from the assistant's turn above)\na hat on it"
    assert mean(again.images[0]) == color(prompt, [fingerprint(reply.images[0].data)])
    # The reasoning before the image is not sent back, because the image is sent in another form.
    assert item_types(server.received_bodies[-1]) == ["user", "user"]
    last = await model.generate([*history, again.message, md.user("thanks")], tool_choice="none")
    assert last.text.endswith(f"64x64 #{bytes(mean(again.images[0])).hex()}")


async def test_text_after_a_generated_image_keeps_its_reasoning(
    openai: md.OpenAI, server: OpenAIResponses
) -> None:
    server.script = [Turn([thinks("one"), generates("a fox"), thinks("two"), says("Here.")])]
    model = openai.model(MODEL, md.with_extra(DRAW))
    reply = await model.generate("a fox")
    assert (len(reply.images), reply.text) == (1, "Here.")
    await model.generate([md.user("a fox"), reply.message, md.user("thanks")])
    assert item_types(server.received_bodies[-1]) == ["user", "reasoning", "assistant", "user"]


@both
async def test_reasoning_before_a_web_search_is_not_sent_back(
    streamed: bool, openai: md.OpenAI, server: OpenAIResponses
) -> None:
    server.script = [
        Turn([thinks("zero"), thinks("one"), searches("a fox"), thinks("two"), says("Red.")])
    ]
    model = openai.model(
        MODEL, md.with_extra({"tools": [{"type": "web_search"}]}), md.with_reasoning("low")
    )
    reply = await ask(streamed, model, "Which color?")
    assert (reply.text, reply.thinking) == ("Red.", "zeroonetwo")
    await model.generate([md.user("Which color?"), reply.message, md.user("thanks")])
    assert item_types(server.received_bodies[-1]) == ["user", "reasoning", "assistant", "user"]


async def test_the_hosted_image_tool_can_be_required(
    openai: md.OpenAI, server: OpenAIResponses
) -> None:
    reply = await openai.model(MODEL).generate(
        "look", tools=[look], extra=DRAW | {"tool_choice": {"type": "image_generation"}}
    )
    assert (len(reply.images), reply.tool_calls) == (1, ())
    assert [tool["type"] for tool in server.received_bodies[-1]["tools"]] == [
        "function",
        "image_generation",
    ]
    await openai.model(MODEL).generate("look", tool_choice="none", extra=DRAW)
    assert server.received_bodies[-1]["tool_choice"] == "none"


async def test_tool_results_may_contain_documents_and_images(
    openai: md.OpenAI, server: OpenAIResponses, image: Callable[..., md.ImagePart]
) -> None:
    call = md.ToolCallPart("c1", "look", "{}")
    document = md.FilePart(b"%PDF-1.4 x", "application/pdf", "a.pdf")
    for is_error, before in ((False, ""), (True, "error: ")):
        history = [
            md.user("Hi"),
            llm.assistant(call),
            md.tool_result(call, "see", document, image(), is_error=is_error),
        ]
        reply = await openai.model(MODEL).generate(history)
        assert (
            reply.text == f"result c1: {before}see a.pdf: application/pdf of 10 bytes 64x48 #000080"
        )
    wrong = md.FilePart(b"PK", "application/zip", "a.zip")
    with pytest.raises(md.InvalidRequestError) as caught:
        await openai.model(MODEL).generate(
            [md.user("Hi"), llm.assistant(call), md.tool_result(call, wrong)]
        )
    assert caught.value.details["param"] == "input[2].output[0].file_data"


async def test_a_failed_response_with_status_200_is_an_error(
    openai: md.OpenAI, server: OpenAIResponses
) -> None:
    server.script = [Turn([], "failed"), Turn([], "failed"), Turn([says("one two")], "failed")]
    with pytest.raises(md.BackendError, match="failed to generate"):
        await openai.model(MODEL).generate("Hi")
    with pytest.raises(md.BackendError, match="failed to generate") as caught:
        await ask(True, openai.model(MODEL), "Hi")
    assert caught.value.retryable
    with pytest.raises(md.StreamBrokenError, match="failed to generate") as broken:
        await ask(True, openai.model(MODEL), "Hi")
    assert broken.value.partial.text == "one two"


@pytest.mark.parametrize("how", ["failed", "wrapped"])
async def test_a_broken_stream_keeps_the_partial_reply(
    how: str, openai: md.OpenAI, server: OpenAIResponses
) -> None:
    server.script = [Turn([thinks("hm"), says("one two"), calls("look", {"at": "a fox"})])]
    server.break_stream, server.break_after = how, 4
    with pytest.raises(md.StreamBrokenError, match="had an error") as caught:
        await ask(True, openai.model(MODEL), "Hi", reasoning="low", tools=[look])
    partial = caught.value.partial
    assert (
        partial.thinking,
        partial.text,
        [call.arguments_json for call in partial.tool_calls],
    ) == ("hm", "one two", ['{"at": '])


async def test_unusual_streams_are_decoded(openai: md.OpenAI, server: OpenAIResponses) -> None:
    server.strange = server.sentinel = server.reversed_lines = True
    received_text: dict[type, str] = {TextDelta: "", ThinkingDelta: ""}
    async with openai.model(MODEL).stream("hello there", reasoning="low") as stream:
        async for event in stream:
            if isinstance(event, (TextDelta, ThinkingDelta)):
                received_text[type(event)] += event.text
    assert list(received_text.values()) == ["hello there", "I think about: hello there"]
    assert (stream.reply.text, stream.reply.finish_reason) == ("hello there", "stop")


@pytest.mark.parametrize(
    "name",
    ["gpt-4o-mini", "chatgpt-4o-latest", "gpt-5-chat-latest", "ft:gpt-4.1:me::x", "gpt-3.5-turbo"],
)
async def test_models_without_reasoning_get_no_reasoning_fields(
    name: str, openai: md.OpenAI, server: OpenAIResponses
) -> None:
    server.models = {name: server.models["gpt-4.1"]}
    assert (await openai.model(name).generate("Hi")).text == "Hi"


@pytest.mark.parametrize(
    "name", ["gpt-5", "gpt-5.6-mini", "o4-mini", "codex-mini-latest", "gpt-5.3-chatty"]
)
async def test_other_models_are_asked_for_encrypted_reasoning(
    name: str, openai: md.OpenAI, server: OpenAIResponses
) -> None:
    server.models = {name: server.models["gpt-5.4"]}
    assert (await openai.model(name).generate("Hi")).text == "Hi"
    assert server.received_bodies[0]["include"] == ["reasoning.encrypted_content"]
