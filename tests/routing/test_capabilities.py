"""Capabilities of chain members: declared by the program or listed by the provider."""

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
from tests.support.loopback import Handler, Loopback, Peer, chat_completion
from tests.support.scripted_members import PIXEL, FakeChatModel, FakeImageModel, FakeProvider

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
IMAGE_QUESTION = md.user("what is this?", PIXEL)


async def test_an_image_skips_a_model_listed_without_vision() -> None:
    provider = FakeProvider({"a": {"chat", "tools"}, "b": {"chat", "vision"}})
    first = FakeChatModel("a", fake_provider=provider)
    chain = Chain([first, FakeChatModel("b", fake_provider=provider)])
    assert (await chain.generate("no image")).model == "a"
    assert provider.list_calls == 0
    reply = await chain.generate(IMAGE_QUESTION)
    (attempt,) = reply.failed_attempts
    assert (reply.model, attempt.code, attempt.skipped) == ("b", "LACKS_VISION", True)
    assert attempt.message == "a does not accept images: it is listed with chat, tools"
    assert len(first.requests) == 1
    assert [(status.attempts, status.errors, status.code) for status in chain.status()] == [
        (1, 0, ""),
        (1, 0, ""),
    ]
    call = ToolCallPart("c1", "draw", "{}")
    await chain.generate([md.user("draw"), md.assistant(call), md.tool_result(call, PIXEL)])
    async with chain.stream(IMAGE_QUESTION) as stream:
        assert [event async for event in stream][-1] == llm.Done(stream.reply)
    assert len(first.requests) == 1
    assert provider.list_calls == 1


async def test_an_input_image_skips_a_model_listed_without_edit() -> None:
    provider = FakeProvider({"a": {"image"}, "b": {"image", "edit"}})
    first = FakeImageModel("a", fake_provider=provider)
    chain = ImageChain([first, FakeImageModel("b", fake_provider=provider)])
    result = await chain.generate("a", images=[PIXEL])
    assert (result.model, result.failed_attempts[0].code) == ("b", "LACKS_EDIT")
    assert first.requests == []
    assert (await chain.generate("a")).model == "a"


@pytest.mark.parametrize(
    "listing",
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
async def test_an_unknown_capability_does_not_skip_a_model(listing: Any) -> None:
    provider = FakeProvider(listing)
    chain = Chain([FakeChatModel("a", fake_provider=provider), FakeChatModel("b")])
    for _ in range(2):
        assert (await chain.generate(IMAGE_QUESTION)).model == "a"
    assert provider.list_calls == 1


async def test_a_slow_model_list_is_ignored_after_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capabilities, "LISTING_TIMEOUT_SECONDS", 0.01)
    provider = FakeProvider()
    provider.list_gate = anyio.Event()
    chain = Chain([FakeChatModel("a", fake_provider=provider)])
    for _ in range(2):
        assert (await chain.generate(IMAGE_QUESTION)).model == "a"
    assert provider.list_calls == 1


async def test_declared_capabilities_override_the_list() -> None:
    provider = FakeProvider({"a": {"chat", "vision"}, "b": {"chat"}})
    chain = Chain(
        [FakeChatModel("a", fake_provider=provider), FakeChatModel("b", fake_provider=provider)],
        capabilities={"fake/a": ["chat"], "fake/b": ["chat", "vision"]},
    )
    assert (await chain.generate(IMAGE_QUESTION)).model == "b"
    assert provider.list_calls == 0


async def test_a_chain_without_a_vision_model_raises_unsupported_errors() -> None:
    with pytest.raises(md.ChainExhaustedError) as caught:
        await Chain([FakeChatModel("a")], capabilities={"own/a": ["chat"]}).generate(IMAGE_QUESTION)
    (error,) = caught.value.failures
    assert isinstance(error, md.UnsupportedError)
    assert (error.field, caught.value.retryable) == ("messages", False)
    reply = await Chain(
        [Chain([FakeChatModel("a")], capabilities={"own/a": ["chat"]}), FakeChatModel("b")]
    ).generate(IMAGE_QUESTION)
    assert (reply.model, reply.failed_attempts[0].code) == ("b", "LACKS_VISION")


async def test_concurrent_calls_share_one_list_request_that_survives_cancellation() -> None:
    provider = FakeProvider({"a": {"chat"}, "b": {"chat", "vision"}})
    provider.list_gate = anyio.Event()
    first = FakeChatModel("a", fake_provider=provider)
    chain = Chain([first, FakeChatModel("b", fake_provider=provider)])
    async with anyio.create_task_group() as group:
        group.start_soon(chain.generate, IMAGE_QUESTION)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as others:
            for _ in range(20):
                others.start_soon(chain.generate, IMAGE_QUESTION)
            await anyio.wait_all_tasks_blocked()
            assert provider.list_calls == 1
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
    assert first.requests == []


async def test_the_list_is_requested_once_per_event_loop() -> None:
    provider = FakeProvider({"a": {"chat"}, "b": {"chat", "vision"}})
    chain = Chain(
        [FakeChatModel("a", fake_provider=provider), FakeChatModel("b", fake_provider=provider)]
    )
    models: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: models.append(anyio.run(chain.generate, IMAGE_QUESTION).model)
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert models == ["b"] * 4
    assert provider.list_calls <= 4
    assert (await chain.generate(IMAGE_QUESTION)).model == "b"


async def test_the_model_list_of_ollama_is_used(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path == "/api/version":
                peer.reply({"version": "0.31.0"})
            elif request.path == "/api/tags":
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
            elif request.path == "/api/ps":
                peer.reply({"models": []})
            else:
                peer.reply(chat_completion("I see"))

    server = serve(handler)
    async with md.Ollama(server.url) as ollama, md.OpenAICompatible(server.url + "/v1") as other:
        reply = await Chain([ollama.model("gemma3"), other.model("m")]).generate(IMAGE_QUESTION)
    assert (reply.text, reply.failed_attempts[0].code) == ("I see", "LACKS_VISION")
    assert [request.path for request in server.requests if request.method == "POST"] == [
        "/v1/chat/completions"
    ]
