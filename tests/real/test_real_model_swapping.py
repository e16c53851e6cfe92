"""One gateway whose models take turns: images and chat, which models are loaded, and errors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo.queueing.resource_group import ResourceGroup

pytestmark = [pytest.mark.real, pytest.mark.anyio]

SENTENCE = "The image shows colored noise, nothing else."
KEY = "a-key-for-tests"
# The model, its alias, and a name for which the gateway sets `max_tokens`.
NAMES_OF_RECITE = ("recite", "reciter", "recite:short")
SMALL: dict[str, Any] = {"size": "64x64", "steps": 2, "seed": 5}
# Takes tens of seconds on one thread.
LONG: dict[str, Any] = {"size": "192x192", "steps": 100, "seed": 5}


async def wait_for_text(stream: md.llm.Stream) -> None:
    """Consume events until the first text; earlier ones report that the model loads."""
    async for event in stream:
        if isinstance(event, md.llm.TextDelta):
            return


async def loaded(swap: md.LlamaSwap) -> set[str]:
    """Return the ids of the loaded models."""
    return {model.id for model in await swap.models() if model.loaded}


async def test_a_generated_image_is_input_for_chat_on_the_same_gateway(swap: md.LlamaSwap) -> None:
    drawn = await swap.image_model("tiny-image").generate("a red fox", **SMALL)
    assert await loaded(swap) == {"tiny-image"}

    question = md.user("What does this image show?", drawn.image)
    reply = await swap.model("recite").generate(question)
    assert (reply.text, reply.finish_reason) == (SENTENCE, "stop")
    assert await loaded(swap) == {"recite"}

    async with swap.model("recite").stream(
        [question, reply.message, md.user("Say it again.")]
    ) as stream:
        text = "".join(
            [event.text async for event in stream if isinstance(event, md.llm.TextDelta)]
        )
    assert (text, stream.reply.finish_reason) == (SENTENCE, "stop")

    again = await swap.image_model("tiny-image").generate("a red fox", **SMALL)
    assert again.image == drawn.image
    assert await loaded(swap) == {"tiny-image"}


async def test_concurrent_requests_for_two_models_take_turns(swap: md.LlamaSwap) -> None:
    texts: list[str] = []
    sizes: list[int] = []

    async def chat() -> None:
        texts.append((await swap.model("recite").generate("Say it.")).text)

    async def draw() -> None:
        sizes.append(
            (await swap.image_model("tiny-image").generate("a red fox", **SMALL)).image.width
        )

    async with anyio.create_task_group() as tasks:
        for task in (chat, draw, chat, draw):
            tasks.start_soon(task)
    assert texts == [SENTENCE] * 2
    assert sizes == [64] * 2


@pytest.mark.parametrize("unload", [False, True])
async def test_chat_and_images_share_one_gpu_without_a_502(gateway: Any, unload: bool) -> None:
    gpu = ResourceGroup("box", unload=unload)
    events: list[md.llm.ChatEvent] = []
    done: list[str] = []
    async with md.LlamaSwap(gateway.url, gpu=gpu, retries=md.Retries(attempts=1)) as swap:

        async def chat(user_id: str) -> None:
            async with swap.model("recite").stream("Say it.", user_id=user_id) as stream:
                events.extend([event async for event in stream])
            assert stream.reply.text == SENTENCE
            done.append("chat")

        async def draw(user_id: str) -> None:
            assert (
                await swap.image_model("tiny-image").generate("a red fox", user_id=user_id, **SMALL)
            ).image.width == 64
            done.append("image")

        with anyio.fail_after(120):
            async with anyio.create_task_group() as tasks:
                for user_id in ("ann", "bob", "ann"):
                    tasks.start_soon(draw, user_id)
                    tasks.start_soon(chat, user_id)
    assert sorted(done) == ["chat"] * 3 + ["image"] * 3
    assert any(isinstance(event, md.llm.Queued) for event in events)
    assert (gpu.running, gpu.waiting) == (0, 0)


@pytest.mark.parametrize("unload", [False, True])
async def test_ids_of_one_process_share_it_in_a_resource_group(gateway: Any, unload: bool) -> None:
    gpu = ResourceGroup("box", unload=unload)
    async with md.LlamaSwap(gateway.url, gpu=gpu) as swap:
        await swap.unload()
        replies = [await swap.model(name).generate("Say it.") for name in NAMES_OF_RECITE]
        process = gateway.pid("recite")
        replies += [await swap.model(name).generate("Say it.") for name in NAMES_OF_RECITE]
        assert gateway.pid("recite") == process
        assert await loaded(swap) == {"recite"}
    assert [reply.text for reply in replies[:2]] == [SENTENCE] * 2
    assert [reply.finish_reason for reply in replies] == ["stop", "stop", "length"] * 2


async def test_a_resource_group_loads_each_model_once_for_calls_in_turn(gateway: Any) -> None:
    gpu = ResourceGroup("box")
    async with md.LlamaSwap(gateway.url, gpu=gpu) as swap:
        await swap.unload()
        finished: list[str] = []

        async def chat(user_id: str) -> None:
            await swap.model("recite").generate("Say it.", user_id=user_id)
            finished.append("chat")

        async def draw(user_id: str) -> None:
            await swap.image_model("tiny-image").generate("a red fox", user_id=user_id, **SMALL)
            finished.append("image")

        with anyio.fail_after(120):
            async with anyio.create_task_group() as tasks:
                for number in range(6):
                    tasks.start_soon(draw if number % 2 else chat, f"user {number}")
    changes = sum(first != second for first, second in pairwise(finished))
    assert (len(finished), changes) == (6, 1)


async def test_models_are_listed_with_their_state(swap: md.LlamaSwap) -> None:
    await swap.model("recite").generate("Say it.")
    models = {model.id: model for model in await swap.models()}
    assert set(models) == {"tiny-image", "broken-image", "tiny", "recite", "endless", "bytes"}
    assert "image" in models["tiny-image"].capabilities
    assert "chat" in models["recite"].capabilities
    assert (models["recite"].loaded, models["recite"].state) == (True, "ready")
    assert (models["tiny-image"].loaded, models["tiny-image"].state) == (False, "unloaded")
    assert [(model.id, model.loaded, model.state) for model in await swap.running()] == [
        ("recite", True, "ready")
    ]


async def test_a_model_is_unloaded_by_name_or_with_all_others(swap: md.LlamaSwap) -> None:
    for unload in ("tiny-image", None):
        await swap.image_model("tiny-image").generate("a red fox", **SMALL)
        # A model that is not loaded: nothing happens.
        await swap.unload("recite")
        assert await loaded(swap) == {"tiny-image"}
        await swap.unload(unload)
        assert await swap.running() == []


async def test_unloading_an_unknown_model_is_not_found(swap: md.LlamaSwap) -> None:
    with pytest.raises(md.NotFoundError):
        await swap.unload("unknown")


async def test_a_health_check_loads_no_model(swap: md.LlamaSwap) -> None:
    await swap.unload()
    assert (await swap.health()).ok
    assert await swap.running() == []


async def test_an_unknown_model_is_not_found(swap: md.LlamaSwap) -> None:
    with pytest.raises(md.NotFoundError) as caught:
        await swap.model("unknown").generate("Hello?")
    assert (caught.value.status, caught.value.model) == (404, "unknown")
    with pytest.raises(md.NotFoundError):
        await swap.image_model("unknown").generate("a red fox")


@pytest.mark.parametrize("key", [None, "another"])
async def test_a_missing_or_wrong_key_is_an_authentication_error(
    locked_gateway: Any, key: str | None
) -> None:
    async with md.LlamaSwap(locked_gateway.url, api_key=key) as provider:
        with pytest.raises(md.AuthenticationError) as caught:
            await provider.model("recite").generate("Say it.")
        with pytest.raises(md.AuthenticationError):
            await provider.models()
        assert (await provider.health()).ok
    assert key is None or key not in str(caught.value.to_dict())


async def test_the_right_key_is_accepted(locked_gateway: Any) -> None:
    async with md.LlamaSwap(locked_gateway.url, api_key=KEY) as provider:
        assert (await provider.model("recite").generate("Say it.")).text == SENTENCE


async def test_a_chat_over_the_limit_is_a_rate_limit_error(locked_gateway: Any) -> None:
    impatient = md.LlamaSwap(locked_gateway.url, api_key=KEY, retries=md.Retries(attempts=1))
    async with (
        md.LlamaSwap(locked_gateway.url, api_key=KEY) as provider,
        impatient,
        provider.model("endless").stream("Go on.", seed=1) as stream,
    ):
        await wait_for_text(stream)
        with pytest.raises(md.RateLimitError) as caught:
            await impatient.model("endless").generate("Me too.", max_tokens=1)
    assert (caught.value.status, caught.value.retry_after) == (429, 1.0)


async def test_a_rate_limited_call_waits_and_succeeds(locked_gateway: Any) -> None:
    async with md.LlamaSwap(locked_gateway.url, api_key=KEY) as provider:
        model = provider.model("endless")
        started, finished = anyio.Event(), anyio.Event()

        async def stream_for_a_while() -> None:
            async with model.stream("Go on.", seed=1) as stream:
                await wait_for_text(stream)
                started.set()
                await anyio.sleep(0.3)
            finished.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream_for_a_while)
            await started.wait()
            reply = await model.generate("Me too.", max_tokens=1)
            assert finished.is_set()
    assert reply.finish_reason == "length"


async def test_errors_of_every_generation_of_the_gateway_are_decoded(
    gateway_of_each_generation: Any,
) -> None:
    async with md.LlamaSwap(gateway_of_each_generation.url, api_key="another") as provider:
        with pytest.raises(md.AuthenticationError, match="invalid or missing API key"):
            await provider.models()
    async with md.LlamaSwap(
        gateway_of_each_generation.url, api_key=KEY, retries=md.Retries(attempts=1)
    ) as provider:
        with pytest.raises(md.NotFoundError, match="no router for requested model"):
            await provider.model("unknown").generate("Hello?")
        with pytest.raises(md.BackendError, match="upstream command exited prematurely"):
            await provider.image_model("broken-image").generate("a red fox", **SMALL)


async def test_a_process_that_dies_while_loading_is_a_backend_error(swap: md.LlamaSwap) -> None:
    with anyio.fail_after(30), pytest.raises(md.BackendError) as caught:
        await swap.image_model("broken-image").generate("a red fox", **SMALL)
    assert caught.value.status in (500, 502)
    assert (await swap.model("recite").generate("Say it.")).text == SENTENCE


async def test_a_process_killed_while_generating_is_a_backend_error(
    gateway: Any, swap: md.LlamaSwap
) -> None:
    await swap.image_model("tiny-image").generate("a red fox", **SMALL)
    caught: list[BaseException] = []

    async def draw() -> None:
        with pytest.raises(md.BackendError) as info:
            await swap.image_model("tiny-image").generate("a red fox", **LONG)
        caught.append(info.value)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(draw)
            await anyio.sleep(1)
            gateway.kill("tiny-image")
    assert isinstance(caught[0], md.BackendError)
    assert (caught[0].status, caught[0].code) == (502, "UPSTREAM_DIED")
    assert (await swap.image_model("tiny-image").generate("a red fox", **SMALL)).image.width == 64


async def test_a_process_killed_while_streaming_breaks_the_stream(
    gateway: Any, swap: md.LlamaSwap
) -> None:
    async def listen() -> None:
        async with swap.model("endless").stream("Go on.", seed=1) as stream:
            await wait_for_text(stream)
            gateway.kill("endless")
            async for _ in stream:
                pass

    with anyio.fail_after(30), pytest.raises(md.StreamBrokenError) as caught:
        await listen()
    assert caught.value.partial.text
    assert caught.value.partial.finish_reason not in ("stop", "length")
    assert (await swap.model("recite").generate("Say it.")).text == SENTENCE


async def test_unloading_a_model_ends_its_running_call(swap: md.LlamaSwap) -> None:
    async def draw() -> None:
        with pytest.raises(md.BackendError):
            await swap.image_model("tiny-image").generate("a red fox", **LONG)

    await swap.image_model("tiny-image").generate("a red fox", **SMALL)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(draw)
            await anyio.sleep(0.5)
            await swap.unload("tiny-image")
    assert await swap.running() == []


async def test_a_cancelled_image_lets_the_next_model_load(swap: md.LlamaSwap) -> None:
    """The engine continues, but the gateway has no open request and ends its process."""
    await swap.image_model("tiny-image").generate("a red fox", **SMALL)
    with anyio.move_on_after(0.5) as scope:
        await swap.image_model("tiny-image").generate("a red fox", **LONG)
    assert scope.cancelled_caught
    with anyio.fail_after(20):
        assert (await swap.model("recite").generate("Say it.")).text == SENTENCE


async def test_a_call_cancelled_while_the_model_loads_does_not_break_the_gateway(
    swap: md.LlamaSwap,
) -> None:
    await swap.unload()
    with anyio.move_on_after(0.3) as scope:
        await swap.model("tiny").generate("Hello?", max_tokens=1)
    assert scope.cancelled_caught
    assert (await swap.model("recite").generate("Say it.")).text == SENTENCE


async def test_a_total_timeout_ends_a_long_generation(gateway: Any) -> None:
    async with md.LlamaSwap(gateway.url, timeout=1.5) as provider:
        with pytest.raises(md.DeadlineExceededError) as caught:
            await provider.image_model("tiny-image").generate("a red fox", **LONG)
        assert caught.value.phase == "total"
        await provider.unload()


async def test_the_native_api_is_available_through_the_upstream_path(gateway: Any) -> None:
    """The gateway forwards any path to the model's own server; a plain OpenAI client uses it."""
    async with md.OpenAICompatible(f"{gateway.url}/upstream/recite/v1") as provider:
        assert [model.id for model in await provider.models()] == ["recite"]
        assert (await provider.model("recite").generate("Say it.")).text == SENTENCE


def test_sync_methods_give_the_same_results(gateway: Any) -> None:
    with md.LlamaSwap(gateway.url) as provider:
        assert provider.model("recite").generate_sync("Say it.").text == SENTENCE
        assert [(model.id, model.state) for model in provider.running_sync()] == [
            ("recite", "ready")
        ]
        assert {model.id for model in provider.models_sync() if model.loaded} == {"recite"}
        provider.unload_sync("recite")
        assert provider.running_sync() == []
