"""Batches of a resource group: how often models are loaded, and ids of the same process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo.transport_types import Deadline
from tests.servers.http_helpers import Response, json_response
from tests.servers.llamaswap import LlamaSwap
from tests.servers.stable_diffusion import StableDiffusion
from tests.support.loopback import Handler, Loopback, ReceivedRequest, chat_completion
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
pytestmark = pytest.mark.anyio


class ChatServer:
    """A chat server behind llama-swap, which keeps the bodies of its requests."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def answer(self, request: ReceivedRequest) -> Response:
        self.bodies.append(json.loads(request.body))
        return json_response(chat_completion("calm"))

    def lose_jobs(self) -> None:
        """Do nothing: it has no jobs."""


def swap_server(**settings: Any) -> LlamaSwap:
    return LlamaSwap(
        {
            "qwen": ChatServer(),
            "gemma": ChatServer(),
            "sdxl": StableDiffusion(size=(64, 64)),
        },
        aliases={"gpt-4o-mini": "qwen", "helper": "qwen"},
        **settings,
    )


@asynccontextmanager
async def all_waiting(gpu: md.ResourceGroup, calls: int) -> AsyncIterator[anyio.abc.TaskGroup]:
    """Let the calls that the block starts run once all of them wait for the GPU."""
    await gpu.acquire(Deadline(md.Timeout(queue=10)))
    async with anyio.create_task_group() as tasks:
        yield tasks
        await wait_until(lambda: gpu.waiting == calls)
        gpu.release()


async def call_alternating(provider: md.LlamaSwap, gpu: md.ResourceGroup, calls: int) -> list[str]:
    """Send chats and images in turn, each from its own user; return what has finished, in order."""
    finished: list[str] = []

    async def chat(user_id: str) -> None:
        await provider.model("qwen").generate("hello", user_id=user_id)
        finished.append("chat")

    async def draw(user_id: str) -> None:
        await provider.image_model("sdxl").generate("a fox", size="64x64", user_id=user_id)
        finished.append("image")

    async with all_waiting(gpu, calls) as tasks:
        for number in range(calls):
            tasks.start_soon(draw if number % 2 else chat, f"user {number}")
            # Trio would start the tasks in any order.
            await wait_until(lambda number=number: gpu.waiting > number)
    return finished


@pytest.mark.parametrize("unload", [False, True])
async def test_chats_and_images_of_twenty_users_load_each_model_once(
    serve: Serve, unload: bool
) -> None:
    server = swap_server()
    gpu = md.ResourceGroup("box", unload=unload)
    async with md.LlamaSwap(serve(server).url, gpu=gpu) as provider:
        finished = await call_alternating(provider, gpu, 20)
    assert sorted(finished) == ["chat"] * 10 + ["image"] * 10
    assert sorted(server.loads) == ["qwen", "sdxl"]
    assert (gpu.running, gpu.waiting) == (0, 0)


async def test_max_batch_calls_bounds_a_batch_and_0_turns_batches_off(serve: Serve) -> None:
    loads = []
    for max_batch_calls in (0, 1, 5, 20):
        server = swap_server()
        gpu = md.ResourceGroup("box", max_batch_calls=max_batch_calls)
        async with md.LlamaSwap(serve(server).url, gpu=gpu) as provider:
            await call_alternating(provider, gpu, 20)
        loads.append(len(server.loads))
    assert loads == [20, 20, 4, 2]


async def test_max_batch_seconds_bounds_a_batch(serve: Serve) -> None:
    server = swap_server()
    gpu = md.ResourceGroup("box", max_batch_seconds=0)
    async with md.LlamaSwap(serve(server).url, gpu=gpu) as provider:
        await call_alternating(provider, gpu, 6)
    assert len(server.loads) == 6


async def test_models_of_two_providers_of_one_server_are_the_same_model(serve: Serve) -> None:
    server = swap_server()
    url, gpu = serve(server).url, md.ResourceGroup("box", unload=True)
    async with (
        md.LlamaSwap(url, gpu=gpu) as first,
        md.LlamaSwap(url, gpu=gpu) as second,
        all_waiting(gpu, 16) as tasks,
    ):
        for _ in range(4):
            for provider in (first, second):
                tasks.start_soon(provider.model("qwen").generate, "hello")
                tasks.start_soon(provider.model("gemma").generate, "hello")
    assert sorted(server.loads) == ["gemma", "qwen"]


@pytest.mark.parametrize("max_concurrency", [1, 2, None])
async def test_calls_of_providers_with_limits_of_their_own_are_batched(
    serve: Serve, max_concurrency: int | None
) -> None:
    """Providers of an engine that runs one job at a time have `max_concurrency=1` by default."""
    server = swap_server()
    url, gpu = serve(server).url, md.ResourceGroup("box")
    async with (
        md.LlamaSwap(url, gpu=gpu, max_concurrency=max_concurrency) as chats,
        md.LlamaSwap(url, gpu=gpu, max_concurrency=max_concurrency) as images,
        all_waiting(gpu, 16) as tasks,
    ):
        for _ in range(4):
            tasks.start_soon(chats.model("qwen").generate, "hello")
            tasks.start_soon(images.image_model("sdxl").generate, "a fox")
            tasks.start_soon(chats.model("gemma").generate, "hello")
            tasks.start_soon(images.model("qwen").generate, "hello")
    assert sorted(server.loads) == ["gemma", "qwen", "sdxl"]


async def test_a_provider_runs_max_concurrency_calls_in_a_group_with_more_slots(
    serve: Serve,
) -> None:
    server = swap_server(instant=False)
    url, gpu = serve(server).url, md.ResourceGroup("box", slots=3)
    async with (
        md.LlamaSwap(url, gpu=gpu, max_concurrency=1, max_queue=1) as limited,
        md.LlamaSwap(url, gpu=gpu) as unlimited,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(2):
            tasks.start_soon(limited.model("qwen").generate, "hello")
        await wait_until(lambda: (gpu.running, gpu.waiting) == (1, 1))
        with pytest.raises(md.OverloadedError) as caught:
            await limited.model("qwen").generate("hello")
        assert caught.value.code == "QUEUE_FULL"
        tasks.start_soon(unlimited.model("qwen").generate, "hello")
        await wait_until(lambda: (gpu.running, gpu.waiting) == (2, 1))
        await anyio.to_thread.run_sync(server.loaded, "qwen")
    assert (gpu.running, gpu.waiting) == (0, 0)


@pytest.mark.parametrize("aliases_listed", [False, True])
@pytest.mark.parametrize("unload", [False, True])
async def test_ids_of_one_process_are_one_model(
    serve: Serve, unload: bool, aliases_listed: bool
) -> None:
    server = swap_server(
        set_params_by_id={"qwen": {"qwen:high": {"reasoning_effort": "high"}}},
        aliases_listed=aliases_listed,
    )
    loopback, gpu = serve(server), md.ResourceGroup("box", unload=unload)
    names = ("qwen", "gpt-4o-mini", "qwen:high", "helper")
    async with md.LlamaSwap(loopback.url, gpu=gpu) as provider:
        async with all_waiting(gpu, 24) as tasks:
            for name in names * 3:
                tasks.start_soon(provider.model(name).generate, "hello")
                tasks.start_soon(provider.model("gemma").generate, "hello")
        assert sorted(server.loads) == ["gemma", "qwen"]
        # One after the other, no call for another model waits: only an unload could restart it.
        server.loads.clear()
        for name in names:
            await provider.model(name).generate("hello")
        assert len(server.loads) <= 1
        assert server.state("qwen") == "ready"
        loaded = {model.id for model in await provider.models() if model.loaded}
        assert loaded == ({"qwen", *names} if aliases_listed else {"qwen"})


async def test_the_ids_are_queried_once_for_all_calls(serve: Serve) -> None:
    loopback, gpu = serve(swap_server()), md.ResourceGroup("box")
    async with md.LlamaSwap(loopback.url, gpu=gpu) as provider:
        await call_alternating(provider, gpu, 20)
    paths = [request.path for request in loopback.requests]
    assert paths.count("/v1/models") == 1
    async with md.LlamaSwap(loopback.url) as provider:
        await provider.model("qwen").generate("hello")
    paths = [request.path for request in loopback.requests]
    assert paths.count("/v1/models") == 1, "without a group nothing depends on the ids"


async def test_users_take_turns_within_the_batch_of_a_model(serve: Serve) -> None:
    gpu, finished = md.ResourceGroup("box"), []
    async with md.LlamaSwap(serve(swap_server()).url, gpu=gpu) as provider:

        async def chat(user_id: str) -> None:
            await provider.model("qwen").generate("hello", user_id=user_id)
            finished.append(user_id)

        async with all_waiting(gpu, 7) as tasks:
            for user_id in ("greedy",) * 6:
                tasks.start_soon(chat, user_id)
            await wait_until(lambda: gpu.waiting == 6)
            tasks.start_soon(chat, "modest")
    assert finished.index("modest") == 1
