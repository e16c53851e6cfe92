"""Several models and providers on one GPU: who goes, who waits, who is told, and what is unloaded."""

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
from majordomo.queueing.resource_group import ModelLease, ResourceGroup, named_group
from majordomo.settings import Rate
from majordomo.transport_types import Deadline
from tests.support.loopback import Handler, Loopback, Peer, chat, delta, images_reply

Serve = Callable[[Handler], Loopback]
pytestmark = pytest.mark.anyio


class Box:
    """A llama-swap and an Ollama in one: `running` calls at once, as the GPU sees it; each work lasts until `go` or is instant."""

    def __init__(self, image: bytes, *, instant: bool = True) -> None:
        self.image = image
        self.instant = instant
        self.lock = threading.Condition()
        self.running = self.most = 0
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
        while (seen := peer.request()) is not None:
            if seen.path.startswith("/api/models/unload/"):
                self.unloaded.append(seen.path.rsplit("/", 1)[1])
                peer.reply("OK")
                continue
            if seen.path in ("/running", "/api/ps"):
                peer.reply({"running": [], "models": []})
                continue
            body = seen.json
            if seen.path == "/api/generate" and body.get("keep_alive") == 0:
                self.unloaded.append(body["model"])
                peer.reply(
                    {"model": body["model"], "response": "", "done": True, "done_reason": "unload"}
                )
                continue
            with self.lock:
                self.running += 1
                self.most = max(self.most, self.running)
                self.lock.notify_all()
                if not self.instant:
                    assert self.lock.wait_for(lambda: self.released > 0, 10)
                    self.released -= 1
                self.running -= 1
                self.done.append(body["model"])
            if seen.path == "/api/chat":
                peer.reply(
                    {
                        "model": body["model"],
                        "message": {"role": "assistant", "content": "calm"},
                        "done": True,
                        "done_reason": "stop",
                    }
                )
            elif seen.path.endswith("/images/generations"):
                peer.reply(images_reply(self.image))
            elif body.get("stream"):
                peer.begin()
                peer.chunk(delta("calm") + delta({}, "stop") + b"data: [DONE]\n\n")
                peer.end()
            else:
                peer.reply(chat("calm", usage={"prompt_tokens": 100, "completion_tokens": 20}))


@pytest.fixture
def image_bytes(image: Callable[..., md.ImagePart]) -> bytes:
    return image(64, 64).data


async def test_chat_and_images_of_two_providers_take_turns(
    serve: Serve, image_bytes: bytes
) -> None:
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
    assert box.most == 1
    assert sorted(box.done) == ["gemma"] * 8 + ["qwen"] * 8 + ["sdxl"] * 8
    assert (gpu.running, gpu.waiting) == (0, 0)


async def test_who_waits_is_told_its_place_in_streams_of_both_kinds(
    serve: Serve, image_bytes: bytes
) -> None:
    box = Box(image_bytes, instant=False)
    gpu = ResourceGroup("box")
    told: dict[str, list[Any]] = {"chat": [], "image": []}
    async with md.LlamaSwap(serve(box).url, gpu=gpu) as swap:

        async def talk() -> None:
            async with swap.model("qwen").stream("a") as stream:
                async for event in stream:
                    told["chat"].append(event)

        async def draw() -> None:
            async with swap.image_model("sdxl").stream("a") as stream:
                async for event in stream:
                    told["image"].append(event)

        async with anyio.create_task_group() as group:
            group.start_soon(swap.model("qwen").generate, "first")
            while not gpu.running:
                await anyio.sleep(0.005)
            group.start_soon(talk)
            while not told["chat"]:
                await anyio.sleep(0.005)
            group.start_soon(draw)
            while not told["image"]:
                await anyio.sleep(0.005)
            box.release(3)
    assert told["chat"][0] == llm.Queued(1)
    assert isinstance(told["chat"][-1], llm.Done)
    assert told["image"][:2] == [imagegen.Queued(2), imagegen.Queued(1)]
    assert isinstance(told["image"][-1], imagegen.Done)


async def test_a_user_id_with_many_calls_does_not_keep_another_waiting(
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
                while len(finished) < count:
                    await anyio.sleep(0.002)
    assert finished.index("modest") <= 2
    assert finished.count("greedy") == 6


async def test_before_another_model_begins_the_idle_one_is_unloaded(
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
    assert box.unloaded == ["qwen", "sdxl", "gemma", "other"]


async def test_a_backend_that_cannot_unload_is_no_reason_not_to_go_on(
    serve: Serve, image_bytes: bytes
) -> None:
    box = Box(image_bytes)
    gpu = ResourceGroup("box", unload=True)
    dead = md.LlamaSwap(
        serve(
            lambda peer: (
                peer.request(),
                peer.reply(chat("a")),
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


async def test_who_gives_up_while_others_are_unloaded_leaves_that_to_the_next() -> None:
    asked: list[str] = []
    cancelled = anyio.Event()

    async def release(name: str) -> None:
        asked.append(name)
        if not cancelled.is_set():
            await anyio.sleep_forever()

    gpu = ResourceGroup("box", slots=2, unload=True)
    first, second, third = (
        ModelLease(1, name, functools.partial(release, name)) for name in ("a", "b", "c")
    )
    for holder in (first, second):
        await gpu.acquire(Deadline(md.Timeout()), lease=holder)
    for holder in (first, second):
        gpu.release(holder)
    async with anyio.create_task_group() as group:
        group.start_soon(functools.partial(gpu.acquire, Deadline(md.Timeout()), lease=third))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert len(asked) == 1
    asked.clear()
    cancelled.set()
    with anyio.fail_after(5):
        await gpu.acquire(Deadline(md.Timeout()), lease=third)
    assert sorted(asked) == ["a", "b"]
    gpu.release(third)
    assert (gpu.running, gpu.waiting) == (0, 0)


async def test_a_model_that_is_just_being_unloaded_begins_when_it_is_gone() -> None:
    order: list[str] = []
    gone = anyio.Event()

    async def release() -> None:
        await gone.wait()
        order.append("unloaded")

    async def begin(model: str) -> None:
        await gpu.acquire(Deadline(md.Timeout()), lease=ModelLease(1, model, release))
        order.append(model)

    gpu = ResourceGroup("box", slots=2, unload=True)
    await begin("a")
    gpu.release(ModelLease(1, "a"))
    async with anyio.create_task_group() as group:
        group.start_soon(begin, "b")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(begin, "a")
        await anyio.wait_all_tasks_blocked()
        assert gpu.running == 2
        gone.set()
    assert order[:2] == ["a", "unloaded"]
    assert sorted(order[2:]) == ["a", "b"]


async def test_what_goes_wrong_with_another_providers_unloading_is_not_this_calls_error() -> None:
    async def release() -> None:
        raise RuntimeError("the event loop of that client is closed")

    gpu = ResourceGroup("box", unload=True)
    for model in ("a", "b"):
        await gpu.acquire(Deadline(md.Timeout()), lease=ModelLease(1, model, release))
        gpu.release(ModelLease(1, model))
    assert (gpu.running, gpu.waiting) == (0, 0)


async def test_a_group_keeps_no_provider_alive(serve: Serve, image_bytes: bytes) -> None:
    url = serve(Box(image_bytes)).url
    gpu = ResourceGroup("box")
    async with md.LlamaSwap(url, gpu=gpu) as swap:
        await swap.model("qwen").generate("a")
    gone = weakref.ref(swap)
    del swap
    gc.collect()
    assert gone() is None


async def test_a_full_line_says_so_at_once(serve: Serve, image_bytes: bytes) -> None:
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


async def test_max_queue_bounds_the_line_of_a_provider(serve: Serve, image_bytes: bytes) -> None:
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
async def test_ten_thousand_calls_wait_and_all_give_up_without_a_trace() -> None:
    gpu = ResourceGroup("box")
    image_model = md.Offline(gpu=gpu).image_model("renderer")
    holding = ResourceGroup.acquire
    async with anyio.create_task_group() as group:
        await holding(gpu, _deadline())
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


def test_one_line_serves_all_event_loops_and_threads(serve: Serve, image_bytes: bytes) -> None:
    box = Box(image_bytes)
    gpu = ResourceGroup("box")
    url = serve(box).url
    failures: list[BaseException] = []

    def in_a_loop(backend: str) -> None:
        async def main() -> None:
            async with md.LlamaSwap(url, gpu=gpu) as swap, anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(swap.model(backend).generate, "a")

        try:
            anyio.run(main, backend=backend)
        except BaseException as error:
            failures.append(error)

    def blocking() -> None:
        with md.LlamaSwap(url, gpu=gpu) as swap:
            for _ in range(10):
                swap.model("blocking").generate_sync("a")

    threads = [
        threading.Thread(target=in_a_loop, args=(backend,))
        for backend in ("asyncio", "trio", "asyncio")
    ]
    threads.append(threading.Thread(target=blocking))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert box.most == 1
    assert len(box.done) == 40
    assert (gpu.running, gpu.waiting) == (0, 0)


async def test_who_is_cancelled_while_it_waits_leaves_the_line(
    serve: Serve, image_bytes: bytes
) -> None:
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


async def test_a_stream_left_early_gives_its_place_back(serve: Serve, image_bytes: bytes) -> None:
    gpu = ResourceGroup("box")
    async with md.LlamaSwap(serve(Box(image_bytes)).url, gpu=gpu) as swap:
        async with swap.model("qwen").stream("a") as stream:
            async for event in stream:
                if isinstance(event, llm.TextDelta):
                    break
        assert gpu.running == 0


def test_a_name_means_the_same_group_as_long_as_somebody_uses_it() -> None:
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
    [({"gpu": 3}, "gpu"), ({"rate": 5}, "rate"), ({"max_queue": -1}, "max_queue"), ({"max_queue": True}, "max_queue"), ({"max_concurrency": 0}, "max_concurrency"), ({"gpu": ""}, "name")],
)  # fmt: skip
@pytest.mark.parametrize("provider", [md.LlamaSwap, md.Offline])
def test_what_cannot_be_is_said_when_the_provider_is_made(
    provider: Any, keywords: dict[str, Any], field: str
) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        provider(**keywords)
    assert caught.value.details["field"] == field


@pytest.mark.parametrize(
    "settings", [{"slots": 0}, {"slots": True}, {"max_queue": -1}, {"name": ""}, {"name": "a\n"}]
)
def test_a_group_that_cannot_be_names_its_field(settings: dict[str, Any]) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        ResourceGroup(**settings)
    assert caught.value.details["field"] == next(iter(settings))
