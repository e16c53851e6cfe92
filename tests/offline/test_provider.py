"""Tests of the offline provider through the public API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel

import majordomo as md
from majordomo import imagegen, llm
from majordomo.transport_types import Deadline

pytestmark = pytest.mark.anyio
SMALL: dict[str, object] = {"size": "48x32", "steps": 3}
Image = Callable[..., md.ImagePart]


async def test_stream_emits_steps_and_previews_and_ends_with_the_result() -> None:
    image_model = md.Offline().image_model("renderer")
    async with image_model.stream(
        "a boat", size="48x32", steps=5, seed=1, n=2, previews=2
    ) as stream:
        with pytest.raises(RuntimeError, match="no result yet"):
            _ = stream.result
        events = [event async for event in stream]
    steps = [(event.step, event.total) for event in events if isinstance(event, imagegen.Step)]
    assert steps == [(number, 10) for number in range(1, 11)]
    assert [event.index for event in events if isinstance(event, imagegen.Preview)] == [0, 0, 1, 1]
    assert events[-1] == imagegen.Done(stream.result)
    assert [detail.seed for detail in stream.result.details] == [1, 2]


async def test_image_i_of_a_batch_has_seed_plus_i() -> None:
    image_model = md.Offline().image_model("renderer")
    batch = await image_model.generate("a boat", **SMALL, seed=5, n=2)  # type: ignore[arg-type]
    second = await image_model.generate("a boat", **SMALL, seed=6)  # type: ignore[arg-type]
    assert batch.images[1] == second.image
    assert batch.images[0] != batch.images[1]


async def test_result_states_that_no_neural_network_was_used() -> None:
    result = await md.Offline().image_model("renderer").generate("a boat", **SMALL)  # type: ignore[arg-type]
    assert result.raw["neural_network"] is False
    assert "no neural network" in result.details[0].settings["Software"]
    assert (result.provider, result.model, result.details[0].seed) == ("offline", "renderer", 0)


async def test_unsupported_field_is_a_warning_or_an_error_when_strict() -> None:
    result = await md.Offline().image_model("renderer").generate("a", extra={"x": 1}, **SMALL)  # type: ignore[arg-type]
    assert [warning.field for warning in result.warnings] == ["extra"]
    with pytest.raises(md.UnsupportedError) as caught:
        await md.Offline(strict=True).image_model("renderer").generate("a", extra={"x": 1})
    assert caught.value.field == "extra"
    opaque = (
        await md.Offline()
        .image_model("renderer")
        .generate("a", background="transparent", output_format="jpeg", **SMALL)
    )  # type: ignore[arg-type]
    assert [warning.field for warning in opaque.warnings] == ["background"]
    reply = await md.Offline().model("rules").generate("hi", temperature=0.5)
    assert [warning.field for warning in reply.warnings] == ["temperature"]
    with pytest.raises(md.UnsupportedError):
        await md.Offline(strict=True).model("rules").generate("hi", temperature=0.5)


async def test_requests_are_validated_and_limited() -> None:
    offline = md.Offline(limits=md.Limits(max_image_pixels=1000))
    for fields in ({"size": "axb"}, {"size": "100x100"}, {"steps": 0}, {"n": 17}):
        with pytest.raises(md.InvalidRequestError) as caught:
            await offline.image_model("renderer").generate("a", **fields)  # type: ignore[arg-type]
        assert caught.value.provider == "offline"
    with pytest.raises(md.InvalidRequestError):
        offline.model("../x")
    with pytest.raises(md.UnsupportedError):
        offline.embedding_model("x")
    with pytest.raises(md.DeadlineExceededError):
        await (
            md.Offline(timeout=0.01)
            .image_model("renderer")
            .generate("a", size="1024x1024", steps=50)
        )
    await offline.aclose()
    with pytest.raises(md.ConfigurationError, match="closed"):
        await offline.model("rules").generate("hi")


async def test_cancellation_is_quick() -> None:
    image_model = md.Offline().image_model("renderer")
    with anyio.fail_after(2), anyio.move_on_after(0.05) as scope:
        await image_model.generate("a", size="1024x1024", steps=500)
    assert scope.cancelled_caught


async def test_chat_describes_the_images_of_the_conversation(image: Image) -> None:
    chat = md.Offline().model("rules")
    red, black = image(30, 20, "red"), image(color="black")
    assert "30 x 20 pixels, PNG" in (await chat.generate([md.user("How big is it?", red)])).text
    assert "red" in (await chat.generate([md.user("Which colors?", red)])).text
    both = (await chat.generate([md.user("How bright are they?", red, black)])).text
    assert "Image 1" in both
    assert "Image 2's brightness is 0%" in both
    history = [md.user("look", red), md.assistant("I see"), md.user("how big was it?")]
    assert "30 x 20" in (await chat.generate(history)).text


async def test_chat_reads_prompt_and_seed_of_a_generated_image() -> None:
    offline = md.Offline()
    image = (await offline.image_model("renderer").generate("a red fox", **SMALL, seed=77)).image  # type: ignore[arg-type]
    reply = await offline.model("rules").generate(
        [md.user("What prompt and seed was this drawn from?", image)]
    )
    assert "a red fox" in reply.text
    assert "77" in reply.text


async def test_text_answer_streams_and_states_that_it_is_rule_based() -> None:
    chat = md.Offline().model("rules")
    async with chat.stream("hello") as stream:
        texts = [event.text async for event in stream if isinstance(event, llm.TextDelta)]
    assert len(texts) > 5
    assert "".join(texts) == stream.reply.text == (await chat.generate("hello")).text
    assert "not by a model" in stream.reply.text
    assert stream.reply.usage == llm.Usage()
    short = await chat.generate("hello", max_tokens=2)
    assert (short.text, short.finish_reason) == ("You said: ", "length")
    assert (await chat.generate("hello", stop=["said"])).text == "You "


async def test_file_is_a_warning_or_an_error_when_strict() -> None:
    message = md.user("what is this?", llm.FilePart(b"%PDF-1.4", "application/pdf", "a.pdf"))
    (warning,) = (await md.Offline().model("rules").generate(message)).warnings
    assert (warning.code, warning.field) == ("UNSUPPORTED_FIELD", "messages")
    with pytest.raises(md.UnsupportedError):
        await md.Offline(strict=True).model("rules").generate(message)


async def test_chat_calls_the_tool_that_the_text_names(image: Image) -> None:
    def draw_image(prompt: str, steps: int = 4) -> str:
        """Draw."""
        return prompt

    def weather(city: str) -> str:
        """Return the weather."""
        return city

    chat = md.Offline().model("rules")
    async with chat.stream(
        "please draw image: a cat in 7 steps", tools=[weather, draw_image]
    ) as stream:
        kinds = [type(event).__name__ async for event in stream]
    assert kinds == ["ToolCallStarted", "ToolCallDelta", "ToolCall", "Done"]
    (call,) = stream.reply.tool_calls
    assert (call.name, call.arguments["prompt"]) == ("draw_image", "a cat in 7 steps")
    assert stream.reply.finish_reason == "tool_calls"
    reply = await chat.generate(
        [md.user("draw"), stream.reply.message, md.tool_result(call, "done", image(color="red"))],
        tools=[weather, draw_image],
    )
    assert reply.text.startswith("draw_image answered: done")
    assert "red" in reply.text
    assert (await chat.generate("Paris", tools=[weather], tool_choice="required")).tool_calls[
        0
    ].arguments == {"city": "Paris"}
    assert (
        await chat.generate("weather in Paris", tools=[weather], tool_choice="none")
    ).tool_calls == ()


class Card(BaseModel):
    description: str
    palette: list[str]
    width: int
    size: Literal["small", "large"]
    rating: int = 3


async def test_chat_fills_an_output_schema(image: Image) -> None:
    reply = (
        await md.Offline()
        .model("rules")
        .generate([md.user("a large one", image(30, 20, "red"))], output=Card)
    )
    assert isinstance(reply.output, Card)
    assert (reply.output.width, reply.output.size, reply.output.rating) == (30, "large", 3)
    assert "red" in reply.output.palette
    assert json.loads(reply.text)["width"] == 30


async def test_health_is_ok_and_models_are_listed(image: Image) -> None:
    offline = md.Offline()
    assert (await offline.health()).ok
    assert {model.id for model in await offline.models()} == {"rules", "renderer"}


def test_sync_methods_give_the_same_results() -> None:
    with md.Offline() as offline:
        image_model = offline.image_model("renderer")
        with image_model.stream_sync("a boat", **SMALL) as stream:  # type: ignore[arg-type]
            kinds = [type(event).__name__ for event in stream]
        assert kinds == ["Step"] * 3 + ["Done"]
        assert image_model.generate_sync("a boat", **SMALL).image == stream.result.image
        assert offline.model("rules").generate_sync("hi").text


async def test_images_above_max_concurrency_are_queued() -> None:
    provider = md.Offline(max_concurrency=1)
    events: list[object] = []
    # Occupy the only slot.
    slot = await provider.admission.acquire(Deadline(md.Timeout()))
    async with anyio.create_task_group() as group:

        async def collect_events() -> None:
            async with provider.image_model("renderer").stream(
                "a", size="64x64", steps=2
            ) as stream:
                events.extend([event async for event in stream])

        group.start_soon(collect_events)
        await anyio.wait_all_tasks_blocked()
        slot.release()
    assert [type(event).__name__ for event in events] == ["Queued", "Step", "Step", "Done"]
    assert events[0] == imagegen.Queued(1)


async def test_size_follows_from_aspect_and_megapixels() -> None:
    result = await md.Offline().image_model("renderer").generate("a", aspect="2:1", megapixels=0.02)
    assert (result.image.width, result.image.height) == (192, 96)
    assert result.details[0].sent_size == (192, 96)


async def test_stream_yields_to_other_tasks_between_words() -> None:
    """Other tasks run between two words, although nothing waits for a network."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with md.Offline().model("rules").stream("hi") as stream:
        # The first word waits for the answer from a worker thread; the others are ready.
        await anext(stream)
        async with anyio.create_task_group() as group:
            group.start_soon(count_turns)
            words = [event async for event in stream if isinstance(event, llm.TextDelta)]
            group.cancel_scope.cancel()
    assert len(words) > 3
    assert turns >= len(words)


async def test_stream_can_be_cancelled_between_words() -> None:
    async with md.Offline().model("rules").stream("hi") as stream:
        await anext(stream)
        with anyio.CancelScope() as scope:
            scope.cancel()
            async for _ in stream:
                pass
        assert scope.cancelled_caught
    assert stream.reply.finish_reason == "unknown"
