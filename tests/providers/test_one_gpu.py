"""Several models and providers on one GPU: order, queue positions, and unloading."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import imagegen, llm
from majordomo.models import model_aliases
from majordomo.queueing.resource_group import ModelLease, ResourceGroup, named_group
from majordomo.settings import Rate
from majordomo.transport_types import Deadline
from tests.support.loopback import (
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    images_reply,
    reply_with,
)
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
pytestmark = pytest.mark.anyio


class Box:
    """A llama-swap and an Ollama server in one, which count their concurrent calls.

    Each call ends at once (`instant`), or when it is released.
    """

    def __init__(self, image: bytes, *, instant: bool = True) -> None:
        self.image = image
        self.instant = instant
        self.lock = threading.Condition()
        self.running = self.max_running = 0
        self.done: list[str] = []
        self.released = 0
        self.unloaded: list[str] = []

    def release(self, count: int = 1) -> None:
        with self.lock:
            self.released += count
            self.lock.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self.lock:
            assert self.lock.wait_for(condition, 10)

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path.startswith("/api/models/unload/"):
                self.unloaded.append(request.path.rsplit("/", 1)[1])
                peer.reply("OK")
                continue
            if request.path in ("/running", "/api/ps", "/v1/models"):
                peer.reply({"running": [], "models": [], "data": []})
                continue
            body = request.json
            if request.path == "/api/generate" and body.get("keep_alive") == 0:
                self.unloaded.append(body["model"])
                peer.reply(
                    {"model": body["model"], "response": "", "done": True, "done_reason": "unload"}
                )
                continue
            with self.lock:
                self.running += 1
                self.max_running = max(self.max_running, self.running)
                self.lock.notify_all()
                if not self.instant:
                    assert self.lock.wait_for(lambda: self.released > 0, 10)
                    self.released -= 1
                self.running -= 1
                self.done.append(body["model"])
            if request.path == "/api/chat":
                peer.reply(
                    {
                        "model": body["model"],
                        "message": {"role": "assistant", "content": "calm"},
                        "done": True,
                        "done_reason": "stop",
                    }
                )
            elif request.path.endswith("/images/generations"):
                peer.reply(images_reply(self.image))
            elif body.get("stream"):
                peer.begin()
                peer.chunk(delta("calm") + delta({}, "stop") + b"data: [DONE]\n\n")
                peer.end()
            else:
                peer.reply(
                    chat_completion("calm", usage={"prompt_tokens": 100, "completion_tokens": 20})
                )


@pytest.fixture
def image_bytes(image: Callable[..., md.ImagePart]) -> bytes:
    return image(64, 64).data


async def test_calls_of_two_providers_share_one_slot(serve: Serve, image_bytes: bytes) -> None:
    box = Box(image_bytes)
    url = serve(box).url
    gpu = ResourceGroup("box")
    async with (
        md.LlamaSwap(url, gpu=gpu) as swap,
        md.Ollama(url, gpu=gpu) as ollama,
        anyio.create_task_group() as group,
    ):
        for _ in range(8):
            group.start_soon(swap.model("qwen").generate, "a")
            group.start_soon(swap.image_model("sdxl").generate, "a")
            group.start_soon(ollama.model("gemma").generate, "a")
    assert box.max_running == 1
    assert sorted(box.done) == ["gemma"] * 8 + ["qwen"] * 8 + ["sdxl"] * 8
    assert (gpu.running, gpu.waiting) == (0, 0)


async def test_chat_and_image_streams_report_queue_positions(
    serve: Serve, image_bytes: bytes
) -> None:
    box = Box(image_bytes, instant=False)
    gpu = ResourceGroup("box")
    events: dict[str, list[Any]] = {"chat": [], "image": []}
    async with md.LlamaSwap(serve(box).url, gpu=gpu) as swap:

        async def stream_chat() -> None:
            async with swap.model("qwen").stream("a") as stream:
                async for event in stream:
                    events["chat"].append(event)

        async def stream_image() -> None:
            async with swap.image_model("sdxl").stream("a") as stream:
                async for event in stream:
                    events["image"].append(event)

        async with anyio.create_task_group() as group:
            group.start_soon(swap.model("qwen").generate, "first")
            await wait_until(lambda: gpu.running)
            group.start_soon(stream_chat)
            await wait_until(lambda: events["chat"])
            group.start_soon(stream_image)
            await wait_until(lambda: events["image"])
            box.release(3)
    assert events["chat"][0] == llm.Queued(1)
    assert isinstance(events["chat"][-1], llm.Done)
    assert events["image"][:2] == [imagegen.Queued(2), imagegen.Queued(1)]
    assert isinstance(events["image"][-1], imagegen.Done)


async def test_a_user_with_many_calls_does_not_delay_another_user(
    serve: Serve, image_bytes: bytes
) -> None:
    box = Box(image_bytes, instant=False)
    finished: list[str] = []
    async with md.LlamaSwap(serve(box).url, gpu=ResourceGroup("box")) as swap:
        chat_model = swap.model("qwen")

        async def ask(user_id: str) -> None:
            await chat_model.generate("a", user_id=user_id)
            finished.append(user_id)

        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(ask, "greedy")
            await anyio.to_thread.run_sync(box.until, lambda: box.running == 1)
            group.start_soon(ask, "modest")
            await anyio.wait_all_tasks_blocked()
            for count in range(1, 8):
                box.release()
                await wait_until(lambda count=count: len(finished) >= count)
    assert finished.index("modest") <= 2
    assert finished.count("greedy") == 6


async def test_an_idle_model_is_unloaded_before_another_one_starts(
    serve: Serve, image_bytes: bytes
) -> None:
    box = Box(image_bytes)
    url = serve(box).url
    gpu = ResourceGroup("box", unload=True)
    async with md.LlamaSwap(url, gpu=gpu) as swap, md.Ollama(url, gpu=gpu) as ollama:
        await swap.model("qwen").generate("a")
        await swap.model("qwen").generate("a")
        assert box.unloaded == []
        await swap.image_model("sdxl").generate("a")
        assert box.unloaded == ["qwen"]
        await ollama.model("gemma").generate("a")
        assert box.unloaded == ["qwen", "sdxl"]
        await ollama.model("other").generate("a")
        await swap.model("qwen").generate("a")
    assert box.unloaded == ["qwen", "sdxl", "gemma:latest", "other:latest"]


async def test_a_model_whose_process_is_unknown_is_not_unloaded(
    serve: Serve, image_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_aliases, "RETRY_SECONDS", 0.0)
    box, queries = Box(image_bytes), iter([False])

    def answer(peer: Peer) -> None:
        """Fail the first query of the models; afterwards "small" is an alias of "qwen"."""
        while (request := peer.request()) is not None:
            if request.path == "/v1/models":
                entry = {"id": "qwen", "meta": {"llamaswap": {"aliases": ["small"]}}}
                peer.reply({"data": [entry]}) if next(queries, True) else peer.reply("", 500)
            elif request.path.startswith("/api/models/unload/"):
                box.unloaded.append(request.path.rsplit("/", 1)[1])
                peer.reply("OK")
            else:
                peer.reply(chat_completion("calm"))

    url = serve(answer).url
    gpu = ResourceGroup("box", unload=True)
    async with md.LlamaSwap(url, gpu=gpu) as swap:
        await swap.model("small").generate("a")
        await swap.model("qwen").generate("a")
        assert box.unloaded == [], "both are one process"
        await swap.model("small").generate("a")
        await swap.model("gemma").generate("a")
        assert box.unloaded == ["qwen"]


async def test_an_id_that_may_be_any_model_of_its_server_lets_none_of_it_be_unloaded() -> None:
    unload_requests: list[str] = []

    def lease(server: str, model: str, *, verified: bool = True) -> ModelLease:
        async def unload() -> None:
            unload_requests.append(f"{server} {model}")

        return ModelLease(server, model, unload, verified)

    gpu = ResourceGroup("box", slots=2, unload=True)
    loaded = [lease("one", "a"), lease("two", "b")]
    for model in loaded:
        await gpu.acquire(Deadline(md.Timeout()), lease=model)
    for model in loaded:
        gpu.release(model)
    unknown = lease("one", "unknown", verified=False)
    await gpu.acquire(Deadline(md.Timeout()), lease=unknown)
    assert unload_requests == ["two b"], "the call may use model a"
    await gpu.acquire(Deadline(md.Timeout()), lease=lease("three", "c"))
    assert unload_requests == ["two b"], "the running call may use model a"
    gpu.release(unknown)
    gpu.release(lease("three", "c"))
    await gpu.acquire(Deadline(md.Timeout()), lease=lease("four", "d"))
    assert sorted(unload_requests) == ["one a", "three c", "two b"]


async def test_an_id_that_may_be_any_model_waits_while_one_of_its_server_is_unloaded() -> None:
    unloading, may_end = anyio.Event(), anyio.Event()

    async def unload() -> None:
        unloading.set()
        await may_end.wait()

    gpu = ResourceGroup("box", slots=2, unload=True)
    loaded = ModelLease("one", "a", unload)
    await gpu.acquire(Deadline(md.Timeout()), lease=loaded)
    gpu.release(loaded)
    begun: list[str] = []

    async def begin(lease: ModelLease) -> None:
        await gpu.acquire(Deadline(md.Timeout()), lease=lease)
        begun.append(lease.model)

    async with anyio.create_task_group() as group:
        group.start_soon(begin, ModelLease("two", "b"))
        await unloading.wait()
        group.start_soon(begin, ModelLease("one", "unknown", verified=False))
        await wait_until(lambda: gpu.running == 2)
        await anyio.wait_all_tasks_blocked()
        assert begun == []
        may_end.set()
    assert sorted(begun) == ["b", "unknown"]


async def test_a_call_without_a_model_unloads_none(
    serve: Serve, image: Callable[..., md.ImagePart]
) -> None:
    enlarged = {"image": image(16, 16).to_base64()}
    unload_requests: list[str] = []

    async def unload() -> None:
        unload_requests.append("unloaded")

    gpu = ResourceGroup("box", unload=True)
    loaded = ModelLease("server", "model", unload)
    await gpu.acquire(Deadline(md.Timeout()), lease=loaded)
    gpu.release(loaded)
    url = serve(reply_with(http_response(enlarged))).url
    async with md.Automatic1111(url, gpu=gpu) as provider:
        assert (await provider.upscale(image(8, 8))).width == 16
    assert unload_requests == []
    assert (gpu.running, gpu.waiting) == (0, 0)


async def test_a_failed_unload_does_not_block_the_next_call(
    serve: Serve, image_bytes: bytes
) -> None:
    box = Box(image_bytes)
    gpu = ResourceGroup("box", unload=True)
    dead = md.LlamaSwap(
        serve(
            lambda peer: (
                peer.request(),
                peer.reply({"data": []}),
                peer.request(),
                peer.reply(chat_completion("a")),
                peer.request(),
                peer.reply(b"", 500),
            )
        ).url,
        gpu=gpu,
    )
    async with dead, md.LlamaSwap(serve(box).url, gpu=gpu, retries=md.Retries(attempts=1)) as swap:
        await dead.model("a").generate("a")
        with anyio.fail_after(10):
            assert (await swap.model("b").generate("a")).text == "calm"


async def test_a_cancelled_call_leaves_pending_unloads_to_the_next_one() -> None:
    unload_requests: list[str] = []
    cancelled = anyio.Event()

    async def release(name: str) -> None:
        unload_requests.append(name)
        if not cancelled.is_set():
            await anyio.sleep_forever()

    gpu = ResourceGroup("box", slots=2, unload=True)
    first, second, third = (
        ModelLease("box", name, functools.partial(release, name)) for name in ("a", "b", "c")
    )
    for lease in (first, second):
        await gpu.acquire(Deadline(md.Timeout()), lease=lease)
    for lease in (first, second):
        gpu.release(lease)
    async with anyio.create_task_group() as group:
        group.start_soon(functools.partial(gpu.acquire, Deadline(md.Timeout()), lease=third))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert len(unload_requests) == 1
    unload_requests.clear()
    cancelled.set()
    with anyio.fail_after(5):
        await gpu.acquire(Deadline(md.Timeout()), lease=third)
    assert sorted(unload_requests) == ["a", "b"]
    gpu.release(third)
    assert (gpu.running, gpu.waiting) == (0, 0)


async def test_a_model_being_unloaded_starts_again_after_the_unload() -> None:
    order: list[str] = []
    unloaded = anyio.Event()

    async def release() -> None:
        await unloaded.wait()
        order.append("unloaded")

    async def begin(model: str) -> None:
        await gpu.acquire(Deadline(md.Timeout()), lease=ModelLease("box", model, release))
        order.append(model)

    gpu = ResourceGroup("box", slots=2, unload=True)
    await begin("a")
    gpu.release(ModelLease("box", "a"))
    async with anyio.create_task_group() as group:
        group.start_soon(begin, "b")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(begin, "a")
        await anyio.wait_all_tasks_blocked()
        assert gpu.running == 2
        unloaded.set()
    assert order[:2] == ["a", "unloaded"]
    assert sorted(order[2:]) == ["a", "b"]


async def test_an_unload_error_of_another_provider_is_not_raised() -> None:
    async def release() -> None:
        raise RuntimeError("the event loop of that client is closed")

    gpu = ResourceGroup("box", unload=True)
    for model in ("a", "b"):
        await gpu.acquire(Deadline(md.Timeout()), lease=ModelLease("box", model, release))
        gpu.release(ModelLease("box", model))
    assert (gpu.running, gpu.waiting) == (0, 0)


async def test_a_group_keeps_no_provider_alive(serve: Serve, image_bytes: bytes) -> None:
    url = serve(Box(image_bytes)).url
    gpu = ResourceGroup("box")
    async with md.LlamaSwap(url, gpu=gpu) as swap:
        await swap.model("qwen").generate("a")
    unloaded = weakref.ref(swap)
    del swap
    gc.collect()
    assert unloaded() is None


async def test_a_full_group_queue_raises_overloaded_error(serve: Serve, image_bytes: bytes) -> None:
    box = Box(image_bytes, instant=False)
    async with (
        md.LlamaSwap(serve(box).url, gpu=ResourceGroup("box", max_queue=1)) as swap,
        anyio.create_task_group() as group,
    ):
        group.start_soon(swap.model("qwen").generate, "a")
        await anyio.to_thread.run_sync(box.until, lambda: box.running == 1)
        group.start_soon(swap.model("qwen").generate, "a")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(md.OverloadedError) as caught:
            await swap.image_model("sdxl").generate("a")
        box.release(2)
    error = caught.value
    assert (error.code, error.provider, error.model, error.retryable, error.status) == (
        "QUEUE_FULL",
        "llamaswap",
        "sdxl",
        True,
        None,
    )


async def test_max_queue_limits_the_queue_of_a_provider(serve: Serve, image_bytes: bytes) -> None:
    box = Box(image_bytes, instant=False)
    async with (
        md.LlamaSwap(serve(box).url, max_concurrency=1, max_queue=0) as swap,
        anyio.create_task_group() as group,
    ):
        group.start_soon(swap.model("qwen").generate, "a")
        await anyio.to_thread.run_sync(box.until, lambda: box.running == 1)
        with pytest.raises(md.OverloadedError) as caught:
            async with swap.model("qwen").stream("a") as stream:
                async for _ in stream:
                    pass
        box.release()
    assert caught.value.code == "QUEUE_FULL"


async def test_a_rate_counts_the_tokens_of_replies(serve: Serve, image_bytes: bytes) -> None:
    async with md.LlamaSwap(
        serve(Box(image_bytes)).url, rate=Rate(tokens_per_minute=60), timeout=md.Timeout(queue=5)
    ) as swap:
        await swap.model("qwen").generate("a")
        with pytest.raises(md.RateLimitError) as caught:
            await swap.model("qwen").generate("a")
    assert caught.value.code == "LOCAL_RATE_LIMIT"
    assert 55 < (caught.value.retry_after or 0) < 62
    assert caught.value.provider == "llamaswap"


@pytest.mark.slow
async def test_ten_thousand_queued_calls_can_be_cancelled() -> None:
    gpu = ResourceGroup("box")
    image_model = md.Offline(gpu=gpu).image_model("renderer")
    acquire = ResourceGroup.acquire
    async with anyio.create_task_group() as group:
        await acquire(gpu, _deadline())
        for number in range(10_000):
            group.start_soon(
                lambda number=number: image_model.generate("a", user_id=str(number % 100))
            )  # type: ignore[misc]
        await anyio.wait_all_tasks_blocked()
        assert gpu.waiting > 0
        group.cancel_scope.cancel()
    assert gpu.waiting == 0
    gpu.release()
    assert gpu.running == 0


def _deadline() -> Any:
    from majordomo.transport_types import Deadline

    return Deadline(md.Timeout(queue=60))


def test_one_queue_serves_all_event_loops_and_threads(serve: Serve, image_bytes: bytes) -> None:
    box = Box(image_bytes)
    gpu = ResourceGroup("box")
    url = serve(box).url
    failures: list[BaseException] = []

    def run_in_loop(backend: str) -> None:
        async def main() -> None:
            async with md.LlamaSwap(url, gpu=gpu) as swap, anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(swap.model(backend).generate, "a")

        try:
            anyio.run(main, backend=backend)
        except BaseException as error:
            failures.append(error)

    def run_sync() -> None:
        with md.LlamaSwap(url, gpu=gpu) as swap:
            for _ in range(10):
                swap.model("blocking").generate_sync("a")

    threads = [
        threading.Thread(target=run_in_loop, args=(backend,))
        for backend in ("asyncio", "trio", "asyncio")
    ]
    threads.append(threading.Thread(target=run_sync))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert box.max_running == 1
    assert len(box.done) == 40
    assert (gpu.running, gpu.waiting) == (0, 0)


async def test_a_cancelled_queued_call_leaves_the_queue(serve: Serve, image_bytes: bytes) -> None:
    box = Box(image_bytes, instant=False)
    gpu = ResourceGroup("box")
    async with md.LlamaSwap(serve(box).url, gpu=gpu) as swap, anyio.create_task_group() as group:
        group.start_soon(swap.model("qwen").generate, "a")
        await anyio.to_thread.run_sync(box.until, lambda: box.running == 1)
        with anyio.move_on_after(0.05):
            await swap.image_model("sdxl").generate("a")
        with anyio.move_on_after(0.05):
            async with swap.model("qwen").stream("a") as stream:
                async for _ in stream:
                    pass
        assert gpu.waiting == 0
        box.release()
    assert gpu.running == 0
    assert box.done == ["qwen"]


async def test_a_stream_left_early_releases_its_slot(serve: Serve, image_bytes: bytes) -> None:
    gpu = ResourceGroup("box")
    async with md.LlamaSwap(serve(Box(image_bytes)).url, gpu=gpu) as swap:
        async with swap.model("qwen").stream("a") as stream:
            async for event in stream:
                if isinstance(event, llm.TextDelta):
                    break
        assert gpu.running == 0


def test_a_named_group_exists_while_it_is_used() -> None:
    first, second = md.LlamaSwap(gpu="cellar"), md.Ollama(gpu="cellar")
    assert (
        first._client.admission._resource_group
        is second._client.admission._resource_group
        is named_group("cellar")
    )
    with pytest.raises(md.ConfigurationError, match="another value of slots"):
        named_group("cellar", slots=3)
    del first, second
    gc.collect()
    assert named_group("cellar", slots=3).slots == 3


@pytest.mark.parametrize(
    ("keywords", "field"),
    [
        ({"gpu": 3}, "gpu"),
        ({"rate": 5}, "rate"),
        ({"max_queue": -1}, "max_queue"),
        ({"max_queue": True}, "max_queue"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"gpu": ""}, "name"),
    ],
)
@pytest.mark.parametrize("provider", [md.LlamaSwap, md.Offline])
def test_invalid_settings_are_refused_by_the_constructor(
    provider: Any, keywords: dict[str, Any], field: str
) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        provider(**keywords)
    assert caught.value.details["field"] == field


@pytest.mark.parametrize(
    "settings",
    [
        {"slots": 0},
        {"slots": True},
        {"max_queue": -1},
        {"name": ""},
        {"name": "a\n"},
        {"max_batch_calls": -1},
        {"max_batch_calls": None},
        {"max_batch_seconds": -0.5},
        {"max_batch_seconds": float("nan")},
        {"max_batch_seconds": "60"},
    ],
)
def test_an_invalid_group_setting_is_refused_with_its_field(settings: dict[str, Any]) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        ResourceGroup(**settings)
    assert caught.value.details["field"] == next(iter(settings))
