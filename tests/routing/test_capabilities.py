from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import llm
from majordomo.llm import ToolCallPart
from majordomo.routing import capabilities
from majordomo.routing.chain import Chain, ImageChain
from tests.support.loopback import Handler, Loopback, Peer, chat
from tests.support.scripted_members import PIXEL, Brush, House, Voice

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
LOOK = md.user("what is this?", PIXEL)


async def test_an_image_passes_over_a_model_that_is_listed_without_vision() -> None:
    house = House({"a": {"chat", "tools"}, "b": {"chat", "vision"}})
    first = Voice("a", house=house)
    chain = Chain([first, Voice("b", house=house)])
    assert (await chain.generate("no image")).model == "a"
    assert house.lists == 0
    reply = await chain.generate(LOOK)
    (tried,) = reply.failed_attempts
    assert (reply.model, tried.code, tried.skipped) == ("b", "LACKS_VISION", True)
    assert tried.message == "a sees no images: it is listed with chat, tools"
    assert len(first.asked) == 1
    assert [(status.attempts, status.errors, status.code) for status in chain.status()] == [
        (1, 0, ""),
        (1, 0, ""),
    ]
    call = ToolCallPart("c1", "draw", "{}")
    await chain.generate([md.user("draw"), md.assistant(call), md.tool_result(call, PIXEL)])
    async with chain.stream(LOOK) as stream:
        assert [event async for event in stream][-1] == llm.Done(stream.reply)
    assert len(first.asked) == 1
    assert house.lists == 1


async def test_an_image_to_edit_passes_over_a_model_that_only_draws() -> None:
    house = House({"a": {"image"}, "b": {"image", "edit"}})
    first = Brush("a", house=house)
    chain = ImageChain([first, Brush("b", house=house)])
    result = await chain.generate("a", images=[PIXEL])
    assert (result.model, result.failed_attempts[0].code) == ("b", "LACKS_EDIT")
    assert first.asked == []
    assert (await chain.generate("a")).model == "a"


@pytest.mark.parametrize(
    "listed",
    [
        {},
        {"a": set()},
        {"z": {"chat"}},
        {"a": {"image"}},
        md.ConnectionFailedError("refused"),
        ZeroDivisionError(),
    ],
    ids=repr,
)
async def test_what_is_not_known_proves_nothing(listed: Any) -> None:
    house = House(listed)
    chain = Chain([Voice("a", house=house), Voice("b")])
    for _ in range(2):
        assert (await chain.generate(LOOK)).model == "a"
    assert house.lists == 1


async def test_a_list_that_does_not_come_holds_up_no_call_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capabilities, "PATIENCE", 0.01)
    house = House()
    house.gate = anyio.Event()
    chain = Chain([Voice("a", house=house)])
    for _ in range(2):
        assert (await chain.generate(LOOK)).model == "a"
    assert house.lists == 1


async def test_what_the_program_says_counts_for_more_than_the_list() -> None:
    house = House({"a": {"chat", "vision"}, "b": {"chat"}})
    chain = Chain(
        [Voice("a", house=house), Voice("b", house=house)],
        capabilities={"house/a": ["chat"], "house/b": ["chat", "vision"]},
    )
    assert (await chain.generate(LOOK)).model == "b"
    assert house.lists == 0


async def test_when_nobody_sees_the_failures_say_so() -> None:
    with pytest.raises(md.ChainExhaustedError) as caught:
        await Chain([Voice("a")], capabilities={"own/a": ["chat"]}).generate(LOOK)
    (error,) = caught.value.failures
    assert isinstance(error, md.UnsupportedError)
    assert (error.field, caught.value.retryable) == ("messages", False)
    reply = await Chain(
        [Chain([Voice("a")], capabilities={"own/a": ["chat"]}), Voice("b")]
    ).generate(LOOK)
    assert (reply.model, reply.failed_attempts[0].code) == ("b", "LACKS_VISION")


async def test_it_asks_once_for_many_calls_and_hands_a_cancelled_question_on() -> None:
    house = House({"a": {"chat"}, "b": {"chat", "vision"}})
    house.gate = anyio.Event()
    first = Voice("a", house=house)
    chain = Chain([first, Voice("b", house=house)])
    async with anyio.create_task_group() as group:
        group.start_soon(chain.generate, LOOK)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as others:
            for _ in range(20):
                others.start_soon(chain.generate, LOOK)
            await anyio.wait_all_tasks_blocked()
            assert house.lists == 1
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
    assert first.asked == []


async def test_it_asks_once_in_each_event_loop() -> None:
    house = House({"a": {"chat"}, "b": {"chat", "vision"}})
    chain = Chain([Voice("a", house=house), Voice("b", house=house)])
    models: list[str] = []
    threads = [
        threading.Thread(target=lambda: models.append(anyio.run(chain.generate, LOOK).model))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert models == ["b"] * 4
    assert house.lists <= 4
    assert (await chain.generate(LOOK)).model == "b"


async def test_ollamas_own_list_is_understood(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            if seen.path == "/api/version":
                peer.reply({"version": "0.31.0"})
            elif seen.path == "/api/tags":
                peer.reply(
                    {
                        "models": [
                            {
                                "name": "gemma3:latest",
                                "model": "gemma3:latest",
                                "capabilities": ["completion"],
                            }
                        ]
                    }
                )
            elif seen.path == "/api/ps":
                peer.reply({"models": []})
            else:
                peer.reply(chat("I see"))

    server = serve(handler)
    async with md.Ollama(server.url) as ollama, md.OpenAICompatible(server.url + "/v1") as other:
        reply = await Chain([ollama.model("gemma3"), other.model("m")]).generate(LOOK)
    assert (reply.text, reply.failed_attempts[0].code) == ("I see", "LACKS_VISION")
    assert [seen.path for seen in server.seen if seen.method == "POST"] == ["/v1/chat/completions"]
