from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import imagegen
from majordomo.imaging import Derivative, Text, Watermark
from majordomo.studio import (
    Classification,
    Classified,
    DerivativeReady,
    GenerationConfig,
    ImageFailed,
    ImageFinished,
    ImageProgress,
    NamedPrompt,
    Plan,
    PlanReady,
    PromptAssistant,
    StageOverrides,
    Studio,
    StudioDone,
    StudioEvent,
    StudioImage,
    StudioResult,
    classify,
)
from majordomo.testing import Pause, ScriptedChatModel, ScriptedImageModel, plain_image

BRIEF = "a poster for a jazz night, portrait, with the title BLUE ROOM"
IMAGE = plain_image(64, 96)
THUMB = Derivative("thumb", size=32, format="webp")


def plan_of(*names: str, **config: Any) -> Plan:
    prompts = tuple(NamedPrompt(name, f"an image of {name}") for name in names)
    return Plan(classify(BRIEF), GenerationConfig(n=len(names), **config), prompts)


def model_by_prompt(answers: dict[str, Any]) -> ScriptedImageModel:
    """An image model that answers by the name at the end of the prompt, in any order."""
    return ScriptedImageModel(lambda request: answers.get(request.prompt.split()[-1], IMAGE))


async def events_of(studio: Studio, studio_input: Any, **overrides: Any) -> list[StudioEvent]:
    async with studio.stream(studio_input, **overrides) as stream:
        return [event async for event in stream]


async def test_brief_becomes_finished_files_offline(tmp_path: Path) -> None:
    offline = md.Offline()
    studio = Studio(
        offline.image_model("renderer"),
        offline.model("rules"),
        recipe="sanitize,convert=webp",
        derivatives=[THUMB],
        overlay=True,
        previews=1,
    )
    events = await events_of(studio, BRIEF, n=2, size="64x96", steps=2, seed=7)
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Classified, PlanReady]
    assert kinds[-1] is StudioDone
    assert kinds.count(ImageFinished) == kinds.count(DerivativeReady) == 2
    assert {
        (event.name, type(event.event)) for event in events if isinstance(event, ImageProgress)
    } == {(name, kind) for name in ("main", "main-2") for kind in (imagegen.Step, imagegen.Preview)}
    result = events[-1].result  # type: ignore[union-attr]
    assert [(image.name, image.image.mime, image.seed) for image in result.items] == [
        ("main", "image/webp", 7),
        ("main-2", "image/webp", 8),
    ]
    assert list(result.files) == [
        "main.webp",
        "main-thumb.webp",
        "main-2.webp",
        "main-2-thumb.webp",
    ]
    assert all(item.image.parameters == {} for item in result.items), "sanitized"
    assert result.errors == ()
    written = result.save(tmp_path / "out")
    assert sorted(path.name for path in written) == sorted([*result.files, "manifest.json"])
    assert StudioResult.load(tmp_path / "out").to_dict() == result.to_dict()


def test_run_sync_and_stream_sync_return_the_same_images() -> None:
    offline = md.Offline()
    studio = Studio(offline.image_model("renderer"), derivatives=[THUMB])
    result = studio.run_sync("a cat", size="64x64", steps=1)
    with studio.stream_sync("a cat", size="64x64", steps=1) as stream:
        events = list(stream)
    assert isinstance(events[-1], StudioDone)
    assert stream.result.images == result.images


async def test_text_and_watermark_come_before_the_encoding_steps() -> None:
    steps: list[list[str]] = []
    studio = Studio(
        model_by_prompt({}),
        recipe="resize=48,convert=jpeg,fit=20000",
        overlay=Text("x", anchor="top"),
        watermark="me",
        assistant=PromptAssistant(overlay=True),
    )
    finisher = studio._config.finisher
    for text in ("BLUE ROOM", ""):
        steps.append([type(step).__name__ for step in finisher.recipe_for(text)])
    assert steps == [
        ["Resize", "Text", "Watermark", "Convert", "Fit"],
        ["Resize", "Watermark", "Convert", "Fit"],
    ]
    assert finisher.recipe_for("BLUE ROOM").steps[1] == Text("BLUE ROOM", anchor="top")
    plain = (await Studio(model_by_prompt({})).run(plan_of("a"))).images[0]
    assert plain == IMAGE, "without steps the image is unchanged"
    assert (await Studio(model_by_prompt({}), overlay=True).run(plan_of("a"))).images[0] != IMAGE
    assert (await Studio(model_by_prompt({}), watermark=Watermark("me")).run(plan_of("a"))).images[
        0
    ] != IMAGE


FAILURES: dict[str, tuple[Exception, str, str]] = {
    "out of memory": (
        md.BackendError("CUDA out of memory", code="GPU_OOM"),
        "GPU_OOM",
        "fewer pixels",
    ),
    "refused": (
        md.ContentRefusedError("not this"),
        "CONTENT_REFUSED",
        "word the brief differently",
    ),
    "slow": (md.DeadlineExceededError("slow", phase="total"), "DEADLINE_EXCEEDED", "more time"),
    "gone": (md.ConnectionFailedError("gone"), "CONNECTION_FAILED", "runs"),
    "a bug": (ZeroDivisionError("oops"), "STAGE_FAILED", "try again"),
}


@pytest.mark.parametrize(("error", "code", "expected_help"), FAILURES.values(), ids=FAILURES.keys())
async def test_failure_of_one_image_leaves_the_other_images(
    error: Exception, code: str, expected_help: str
) -> None:
    studio = Studio(model_by_prompt({"c": error}), derivatives=[THUMB], max_concurrency=4)
    result = await studio.run(plan_of("a", "b", "c", "d"))
    assert [image.name for image in result.items] == ["a", "b", "d"]
    assert all(len(item.derivatives) == 1 for item in result.items)
    [failure] = result.errors
    assert failure.code == code
    assert failure.details["stage"] == "generate"
    assert failure.details["input"] == "an image of c"
    assert failure.details["image"] == "c"
    assert expected_help in failure.details["help"]
    manifest_error = json.loads(result.to_json())["errors"][0]
    assert (manifest_error["code"], manifest_error["details"]["stage"]) == (code, "generate")


async def test_run_without_any_image_raises_the_first_error_with_all_failures() -> None:
    studio = Studio(
        model_by_prompt(
            {"a": md.BackendError("oom", code="GPU_OOM"), "b": md.ContentRefusedError("no")}
        )
    )
    with pytest.raises(md.BackendError) as caught:
        await studio.run(plan_of("a", "b"))
    assert caught.value.code == "GPU_OOM"
    assert [failure["code"] for failure in caught.value.details["failures"]] == [
        "GPU_OOM",
        "CONTENT_REFUSED",
    ]
    json.dumps(caught.value.to_dict())
    events: list[StudioEvent] = []
    with pytest.raises(md.BackendError):
        async with studio.stream(plan_of("a", "b")) as stream:
            async for event in stream:
                events.append(event)
    assert [type(event) for event in events] == [PlanReady, ImageFailed, ImageFailed]


async def test_run_continues_from_an_image_whose_recipe_failed() -> None:
    broken = md.ImagePart(IMAGE.data[:60])
    studio = Studio(model_by_prompt({"b": broken}), recipe="resize=32", derivatives=[THUMB])
    events = await events_of(studio, plan_of("a", "b"))
    [failed] = [event for event in events if isinstance(event, ImageFailed)]
    assert (failed.name, failed.error.code, failed.error.details["stage"]) == (
        "b",
        "BAD_IMAGE",
        "finish",
    )
    assert failed.item is not None
    result = await Studio(recipe="sanitize", derivatives=[]).run(
        StudioImage("b", IMAGE, failed.item.prompt)
    )
    assert [(image.name, image.finished) for image in result.items] == [("b", True)]


async def test_image_is_delivered_without_derivatives_that_failed() -> None:
    broken = md.ImagePart(IMAGE.data[:60])
    result = await Studio(model_by_prompt({"b": broken}), derivatives=[THUMB]).run(
        plan_of("a", "b")
    )
    assert [(image.name, len(image.derivatives)) for image in result.items] == [("a", 1), ("b", 0)]
    assert [
        (error.code, error.details["stage"], error.details["derivative"]) for error in result.errors
    ] == [("BAD_IMAGE", "derive", "thumb")]


async def test_failed_chat_model_costs_no_image_and_adds_a_warning() -> None:
    result = await Studio(
        model_by_prompt({}), ScriptedChatModel([md.DeadlineExceededError("slow", phase="total")])
    ).run(BRIEF)
    assert len(result.items) == 1
    assert result.plan is not None
    assert result.plan.failure is not None
    assert (result.plan.failure.code, result.warnings[0].code) == ("LLM_TIMEOUT", "LLM_TIMEOUT")


async def test_run_continues_from_the_value_of_any_stage() -> None:
    chat, image_model = (
        ScriptedChatModel([json.dumps({"prompts": [{"name": "a", "prompt": "x"}]})] * 2),
        model_by_prompt({}),
    )
    studio = Studio(image_model, chat, derivatives=[THUMB])
    all_events = await events_of(studio, BRIEF)
    classification, plan = all_events[0].classification, all_events[1].plan  # type: ignore[union-attr]
    assert [type(event) for event in await events_of(studio, classification)][:2] == [
        PlanReady,
        ImageFinished,
    ]
    assert len(chat.requests) == 2
    assert [type(event) for event in await events_of(studio, plan)][:2] == [
        PlanReady,
        ImageFinished,
    ]
    assert (len(chat.requests), len(image_model.requests)) == (2, 3)
    result: StudioResult = all_events[-1].result  # type: ignore[union-attr]
    for studio_input in (result, result.items, result.items[0], IMAGE, [IMAGE]):
        events = await events_of(studio, studio_input)
        assert [type(event) for event in events] == [ImageFinished, DerivativeReady, StudioDone]
    assert len(image_model.requests) == 3, "nothing was generated again"


async def test_finished_image_is_not_finished_again() -> None:
    studio = Studio(model_by_prompt({}), watermark="me")
    first = await studio.run(plan_of("a"))
    again = await studio.run(first)
    assert again.images == first.images
    assert first.images[0] != IMAGE


async def test_each_stage_can_be_overridden() -> None:
    stages: list[str] = []

    def classify_brief(brief: str) -> Classification:
        stages.append("classify")
        return Classification(brief)

    async def make_plan(read: Classification) -> Plan:
        stages.append("plan")
        return plan_of("mine")

    async def generate_image(request: imagegen.Request) -> imagegen.Result:
        stages.append("generate")
        return imagegen.Result((IMAGE,))

    def finish_image(image: StudioImage) -> md.ImagePart:
        stages.append("finish")
        return plain_image(8, 8)

    def derive_files(image: StudioImage) -> list[Any]:
        stages.append("derive")
        return []

    result = await Studio(
        stage_overrides=StageOverrides(
            classify_brief, make_plan, generate_image, finish_image, derive_files
        )
    ).run("anything")
    assert stages == ["classify", "plan", "generate", "finish", "derive"]
    assert result.images == (plain_image(8, 8),)


@pytest.mark.parametrize("stage", ["classify", "plan", "generate", "finish", "derive"])
async def test_failing_stage_override_raises_an_error_with_its_stage(
    stage: str,
) -> None:
    def failing(_: object) -> Any:
        raise ValueError("mine")

    for function in (failing, lambda _: None):
        studio = Studio(model_by_prompt({}), stage_overrides=StageOverrides(**{stage: function}))  # type: ignore[arg-type]
        if stage == "derive":
            error = (await studio.run(BRIEF)).errors[0]
        else:
            with pytest.raises(md.MajordomoError) as caught:
                await studio.run(BRIEF)
            error = caught.value
        assert error.details["stage"] == stage
        assert "help" in error.details


async def test_max_concurrency_limits_generation_and_other_images_are_queued() -> None:
    running, max_running = 0, 0

    async def generate(request: imagegen.Request) -> Any:
        nonlocal running, max_running
        running += 1
        max_running = max(max_running, running)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        running -= 1
        return IMAGE

    events = await events_of(
        Studio(ScriptedImageModel(generate), max_concurrency=2), plan_of(*"abcdef")
    )
    assert max_running == 2
    assert [
        event.name
        for event in events
        if event == ImageProgress(getattr(event, "name", ""), imagegen.Queued())
    ]
    assert len(events[-1].result.items) == 6  # type: ignore[union-attr]


async def test_images_are_in_the_order_of_the_plan() -> None:
    pause = Pause()
    studio = Studio(model_by_prompt({"a": [pause, IMAGE]}))
    async with studio.stream(plan_of("a", "b")) as stream:
        async for event in stream:
            if isinstance(event, ImageFinished) and event.item.name == "b":
                pause.release()
    assert [image.name for image in stream.result.items] == ["a", "b"]


async def test_leaving_the_stream_cancels_all_images() -> None:
    pause, started, cancelled = Pause(), [], []

    async def generate(request: imagegen.Request) -> Any:
        started.append(request.prompt)
        try:
            await pause.pass_through()
        except anyio.get_cancelled_exc_class():
            cancelled.append(request.prompt)
            raise
        return IMAGE

    studio = Studio(ScriptedImageModel(generate), max_concurrency=2)
    with pytest.raises(KeyError, match="mine"):
        async with studio.stream(plan_of("a", "b", "c")) as stream:
            async for event in stream:
                if isinstance(event, ImageProgress):
                    await pause.reached()
                    raise KeyError("mine")
    assert 1 <= len(started) <= 2
    assert sorted(cancelled) == sorted(started)


async def test_cancelling_a_run_cancels_all_images() -> None:
    pause = Pause()
    image_model = ScriptedImageModel(lambda _: [pause, IMAGE])
    async with anyio.create_task_group() as group:
        group.start_soon(Studio(image_model).run, plan_of("a", "b", "c"))
        await pause.reached()
        group.cancel_scope.cancel()
    pause.release()
    assert len(image_model.requests) == 2


async def test_overrides_take_precedence_over_the_plan() -> None:
    image_model = model_by_prompt({})
    await Studio(image_model).run(
        plan_of("a", aspect="1:1", steps=9),
        size="64x64",
        steps=3,
        cfg_scale=2.5,
        negative_prompt="text",
        seed=0,
        user_id="ann",
        n=2,
    )
    first, second = sorted(image_model.requests, key=lambda request: request.seed or 0)
    assert first == imagegen.Request(
        "an image of a",
        n=1,
        size="64x64",
        steps=3,
        cfg_scale=2.5,
        negative_prompt="text",
        seed=0,
        user_id="ann",
    )
    assert second == first.override(seed=1)


async def test_images_of_one_prompt_get_different_seeds() -> None:
    image_model = model_by_prompt({})
    await Studio(image_model).run("a cat", n=3)
    assert len({request.seed for request in image_model.requests}) == 3
    single = model_by_prompt({})
    await Studio(single).run("a cat")
    assert single.requests[0].seed is None, "left to the backend"


async def test_max_images_limits_the_images_of_a_run() -> None:
    result = await Studio(model_by_prompt({}), max_images=2).run("five variants of a cat")
    assert (len(result.items), result.warnings[-1].code) == (2, "COUNT_CLAMPED")


@pytest.mark.parametrize(
    "studio_input",
    [None, 7, [], [1], "", "x" * 1_000_000, b"bytes", [IMAGE] * 17],
    ids=lambda studio_input: repr(studio_input)[:20],
)
async def test_invalid_input_raises_invalid_request_error(studio_input: Any) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await Studio(model_by_prompt({})).run(studio_input)
    assert caught.value.field == "brief"
    assert caught.value.details["stage"] == "classify"


@pytest.mark.parametrize(
    "overrides",
    [
        {"n": 17},
        {"steps": 0},
        {"size": "big"},
        {"seed": -1},
        {"strength": 2.0},
        {"user_id": "a\nb"},
        {"mask": IMAGE},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
async def test_invalid_override_raises_before_the_model_is_called(
    overrides: dict[str, Any],
) -> None:
    image_model = model_by_prompt({})
    with pytest.raises(md.InvalidRequestError) as caught:
        await Studio(image_model).run(BRIEF, **overrides)
    assert caught.value.field in overrides
    assert image_model.requests == []


@pytest.mark.parametrize(
    "settings",
    [
        {"max_concurrency": 0},
        {"max_images": True},
        {"previews": -1},
        {"recipe": 7},
        {"recipe": "bake=1"},
        {"derivatives": ["x"]},
        {"derivatives": [THUMB, THUMB]},
        {"overlay": "x"},
        {"watermark": 7},
        {"moderator": "x"},
        {"target": "sdxxl"},
        {"timeout": 0},
    ],
    ids=repr,
)
def test_invalid_setting_raises_a_typed_error(settings: dict[str, Any]) -> None:
    with pytest.raises((md.ConfigurationError, md.InvalidRequestError)):
        Studio(model_by_prompt({}), **settings)


async def test_run_without_an_image_model_raises_configuration_error() -> None:
    with pytest.raises(md.ConfigurationError, match="image_model"):
        await Studio().run(BRIEF)
