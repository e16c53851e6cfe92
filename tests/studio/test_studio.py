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


def by_prompt(answers: dict[str, Any]) -> ScriptedImageModel:
    """Answers by the name at the end of the prompt, whatever the order of asking."""
    return ScriptedImageModel(lambda request: answers.get(request.prompt.split()[-1], IMAGE))


async def listened(studio: Studio, start: Any, **wishes: Any) -> list[StudioEvent]:
    async with studio.stream(start, **wishes) as stream:
        return [event async for event in stream]


async def test_a_brief_becomes_finished_files_offline(tmp_path: Path) -> None:
    offline = md.Offline()
    studio = Studio(
        offline.image_model("renderer"),
        offline.model("rules"),
        recipe="sanitize,convert=webp",
        derivatives=[THUMB],
        overlay=True,
        previews=1,
    )
    events = await listened(studio, BRIEF, n=2, size="64x96", steps=2, seed=7)
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Classified, PlanReady]
    assert kinds[-1] is StudioDone
    assert kinds.count(ImageFinished) == kinds.count(DerivativeReady) == 2
    assert {
        (event.name, type(event.event)) for event in events if isinstance(event, ImageProgress)
    } == {(name, kind) for name in ("main", "main-2") for kind in (imagegen.Step, imagegen.Preview)}
    outcome = events[-1].result  # type: ignore[union-attr]
    assert [(image.name, image.image.mime, image.seed) for image in outcome.items] == [
        ("main", "image/webp", 7),
        ("main-2", "image/webp", 8),
    ]
    assert list(outcome.files) == [
        "main.webp",
        "main-thumb.webp",
        "main-2.webp",
        "main-2-thumb.webp",
    ]
    assert all(picture.image.parameters == {} for picture in outcome.items), "sanitized"
    assert outcome.errors == ()
    written = outcome.save(tmp_path / "out")
    assert sorted(path.name for path in written) == sorted([*outcome.files, "manifest.json"])
    assert StudioResult.load(tmp_path / "out").to_dict() == outcome.to_dict()


def test_both_blocking_forms_do_the_same() -> None:
    offline = md.Offline()
    studio = Studio(offline.image_model("renderer"), derivatives=[THUMB])
    outcome = studio.run_sync("a cat", size="64x64", steps=1)
    with studio.stream_sync("a cat", size="64x64", steps=1) as stream:
        events = list(stream)
    assert stream.result is not None
    assert isinstance(events[-1], StudioDone)
    assert stream.result.images == outcome.images


async def test_words_and_mark_are_written_before_the_steps_that_care_for_the_file() -> None:
    steps: list[list[str]] = []
    studio = Studio(
        by_prompt({}),
        recipe="resize=48,convert=jpeg,fit=20000",
        overlay=Text("x", anchor="top"),
        watermark="me",
        assistant=PromptAssistant(overlay=True),
    )
    finisher = studio._equipment.finisher
    for text in ("BLUE ROOM", ""):
        steps.append([type(step).__name__ for step in finisher.steps(text)])
    assert steps == [
        ["Resize", "Text", "Watermark", "Convert", "Fit"],
        ["Resize", "Watermark", "Convert", "Fit"],
    ]
    assert finisher.steps("BLUE ROOM").steps[1] == Text("BLUE ROOM", anchor="top")
    plain = (await Studio(by_prompt({})).run(plan_of("a"))).images[0]
    assert plain == IMAGE, "nothing to do, nothing done"
    assert (await Studio(by_prompt({}), overlay=True).run(plan_of("a"))).images[0] != IMAGE
    assert (await Studio(by_prompt({}), watermark=Watermark("me")).run(plan_of("a"))).images[
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


@pytest.mark.parametrize(("error", "code", "helps"), FAILURES.values(), ids=FAILURES.keys())
async def test_three_of_four_images_survive_the_fourths_failure(
    error: Exception, code: str, helps: str
) -> None:
    studio = Studio(by_prompt({"c": error}), derivatives=[THUMB], max_concurrency=4)
    outcome = await studio.run(plan_of("a", "b", "c", "d"))
    assert [image.name for image in outcome.items] == ["a", "b", "d"]
    assert all(len(picture.derivatives) == 1 for picture in outcome.items)
    [failure] = outcome.errors
    assert failure.code == code
    assert failure.details["stage"] == "paint"
    assert failure.details["asked"] == "an image of c"
    assert failure.details["image"] == "c"
    assert helps in failure.details["help"]
    told = json.loads(outcome.to_json())["errors"][0]
    assert (told["code"], told["details"]["stage"]) == (code, "paint")


async def test_no_image_at_all_is_the_first_ones_error_with_all_of_them() -> None:
    studio = Studio(
        by_prompt({"a": md.BackendError("oom", code="GPU_OOM"), "b": md.ContentRefusedError("no")})
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


async def test_an_image_whose_recipe_fails_can_be_gone_on_with() -> None:
    broken = md.ImagePart(IMAGE.data[:60])
    studio = Studio(by_prompt({"b": broken}), recipe="resize=32", derivatives=[THUMB])
    events = await listened(studio, plan_of("a", "b"))
    [failed] = [event for event in events if isinstance(event, ImageFailed)]
    assert (failed.name, failed.error.code, failed.error.details["stage"]) == (
        "b",
        "BAD_IMAGE",
        "finish",
    )
    assert failed.painted is not None
    outcome = await Studio(recipe="sanitize", derivatives=[]).run(
        StudioImage("b", IMAGE, failed.painted.prompt)
    )
    assert [(image.name, image.finished) for image in outcome.items] == [("b", True)]


async def test_an_image_is_delivered_without_what_cannot_be_derived_from_it() -> None:
    broken = md.ImagePart(IMAGE.data[:60])
    outcome = await Studio(by_prompt({"b": broken}), derivatives=[THUMB]).run(plan_of("a", "b"))
    assert [(image.name, len(image.derivatives)) for image in outcome.items] == [("a", 1), ("b", 0)]
    assert [
        (error.code, error.details["stage"], error.details["derivative"])
        for error in outcome.errors
    ] == [("BAD_IMAGE", "derive", "thumb")]


async def test_a_chat_model_that_fails_costs_no_image_and_it_says_so() -> None:
    outcome = await Studio(
        by_prompt({}), ScriptedChatModel([md.DeadlineExceededError("slow", phase="total")])
    ).run(BRIEF)
    assert len(outcome.items) == 1
    assert outcome.plan is not None
    assert outcome.plan.failure is not None
    assert (outcome.plan.failure.code, outcome.warnings[0].code) == ("LLM_TIMEOUT", "LLM_TIMEOUT")


async def test_it_goes_on_from_any_stage() -> None:
    chat, image_model = (
        ScriptedChatModel([json.dumps({"prompts": [{"name": "a", "prompt": "x"}]})] * 2),
        by_prompt({}),
    )
    studio = Studio(image_model, chat, derivatives=[THUMB])
    whole = await listened(studio, BRIEF)
    classification, plan = whole[0].classification, whole[1].plan  # type: ignore[union-attr]
    assert [type(event) for event in await listened(studio, classification)][:2] == [
        PlanReady,
        ImageFinished,
    ]
    assert len(chat.requests) == 2
    assert [type(event) for event in await listened(studio, plan)][:2] == [PlanReady, ImageFinished]
    assert (len(chat.requests), len(image_model.requests)) == (2, 3)
    outcome: StudioResult = whole[-1].result  # type: ignore[union-attr]
    for start in (outcome, outcome.items, outcome.items[0], IMAGE, [IMAGE]):
        events = await listened(studio, start)
        assert [type(event) for event in events] == [ImageFinished, DerivativeReady, StudioDone]
    assert len(image_model.requests) == 3, "nothing was painted again"


async def test_a_finished_image_is_not_finished_again() -> None:
    studio = Studio(by_prompt({}), watermark="me")
    first = await studio.run(plan_of("a"))
    again = await studio.run(first)
    assert again.images == first.images
    assert first.images[0] != IMAGE


async def test_each_stage_can_be_a_function() -> None:
    asked: list[str] = []

    def classifying(brief: str) -> Classification:
        asked.append("classify")
        return Classification(brief)

    async def planning(read: Classification) -> Plan:
        asked.append("plan")
        return plan_of("mine")

    async def painting(request: imagegen.Request) -> imagegen.Result:
        asked.append("paint")
        return imagegen.Result((IMAGE,))

    def finishing(image: StudioImage) -> md.ImagePart:
        asked.append("finish")
        return plain_image(8, 8)

    def deriving(image: StudioImage) -> list[Any]:
        asked.append("derive")
        return []

    outcome = await Studio(
        stage_overrides=StageOverrides(classifying, planning, painting, finishing, deriving)
    ).run("anything")
    assert asked == ["classify", "plan", "paint", "finish", "derive"]
    assert outcome.images == (plain_image(8, 8),)


@pytest.mark.parametrize("stage", ["classify", "plan", "paint", "finish", "derive"])
async def test_a_stage_of_somebodys_that_fails_or_gives_nonsense_is_a_typed_error_that_names_it(
    stage: str,
) -> None:
    def failing(_: object) -> Any:
        raise ValueError("mine")

    for function in (failing, lambda _: None):
        studio = Studio(by_prompt({}), stage_overrides=StageOverrides(**{stage: function}))  # type: ignore[arg-type]
        if stage == "derive":
            error = (await studio.run(BRIEF)).errors[0]
        else:
            with pytest.raises(md.MajordomoError) as caught:
                await studio.run(BRIEF)
            error = caught.value
        assert error.details["stage"] == stage
        assert "help" in error.details


async def test_as_many_are_painted_at_once_as_allowed_and_those_behind_are_queued() -> None:
    running, most = 0, 0

    async def paint(request: imagegen.Request) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        running -= 1
        return IMAGE

    events = await listened(
        Studio(ScriptedImageModel(paint), max_concurrency=2), plan_of(*"abcdef")
    )
    assert most == 2
    assert [
        event.name
        for event in events
        if event == ImageProgress(getattr(event, "name", ""), imagegen.Queued())
    ]
    assert len(events[-1].result.items) == 6  # type: ignore[union-attr]


async def test_images_keep_the_order_of_the_plan_whichever_is_ready_first() -> None:
    pause = Pause()
    studio = Studio(by_prompt({"a": [pause, IMAGE]}))
    async with studio.stream(plan_of("a", "b")) as stream:
        async for event in stream:
            if isinstance(event, ImageFinished) and event.item.name == "b":
                pause.release()
    assert stream.result is not None
    assert [image.name for image in stream.result.items] == ["a", "b"]


async def test_leaving_the_stream_stops_everything() -> None:
    pause, begun, cancelled = Pause(), [], []

    async def paint(request: imagegen.Request) -> Any:
        begun.append(request.prompt)
        try:
            await pause.pass_through()
        except anyio.get_cancelled_exc_class():
            cancelled.append(request.prompt)
            raise
        return IMAGE

    studio = Studio(ScriptedImageModel(paint), max_concurrency=2)
    with pytest.raises(KeyError, match="mine"):
        async with studio.stream(plan_of("a", "b", "c")) as stream:
            async for event in stream:
                if isinstance(event, ImageProgress):
                    await pause.reached()
                    raise KeyError("mine")
    assert 1 <= len(begun) <= 2
    assert sorted(cancelled) == sorted(begun)


async def test_cancelling_a_run_stops_everything() -> None:
    pause = Pause()
    image_model = ScriptedImageModel(lambda _: [pause, IMAGE])
    async with anyio.create_task_group() as group:
        group.start_soon(Studio(image_model).run, plan_of("a", "b", "c"))
        await pause.reached()
        group.cancel_scope.cancel()
    pause.release()
    assert len(image_model.requests) == 2


async def test_what_is_wished_goes_over_the_plan() -> None:
    image_model = by_prompt({})
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


async def test_images_of_one_prompt_are_drawn_from_different_seeds() -> None:
    image_model = by_prompt({})
    await Studio(image_model).run("a cat", n=3)
    assert len({request.seed for request in image_model.requests}) == 3
    single = by_prompt({})
    await Studio(single).run("a cat")
    assert single.requests[0].seed is None, "left to the backend"


async def test_a_studio_draws_no_more_than_its_most() -> None:
    outcome = await Studio(by_prompt({}), max_images=2).run("five variants of a cat")
    assert (len(outcome.items), outcome.warnings[-1].code) == (2, "COUNT_CLAMPED")


@pytest.mark.parametrize(
    "start",
    [None, 7, [], [1], "", "x" * 1_000_000, b"bytes", [IMAGE] * 17],
    ids=lambda start: repr(start)[:20],
)
async def test_what_no_run_can_begin_with_is_a_typed_error(start: Any) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await Studio(by_prompt({})).run(start)
    assert caught.value.field == "brief"
    assert caught.value.details["stage"] == "classify"


@pytest.mark.parametrize(
    "wishes",
    [
        {"n": 17},
        {"steps": 0},
        {"size": "big"},
        {"seed": -1},
        {"strength": 2.0},
        {"user_id": "a\nb"},
        {"mask": IMAGE},
    ],
    ids=lambda wishes: next(iter(wishes)),
)
async def test_a_wish_that_cannot_be_is_refused_before_anything_is_asked(
    wishes: dict[str, Any],
) -> None:
    image_model = by_prompt({})
    with pytest.raises(md.InvalidRequestError) as caught:
        await Studio(image_model).run(BRIEF, **wishes)
    assert caught.value.field in wishes
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
        {"moderator": "nobody"},
        {"target": "sdxxl"},
        {"timeout": 0},
    ],
    ids=repr,
)
def test_settings_that_make_no_sense_are_typed_errors(settings: dict[str, Any]) -> None:
    with pytest.raises((md.ConfigurationError, md.InvalidRequestError)):
        Studio(by_prompt({}), **settings)


async def test_without_an_image_model_it_says_what_is_missing() -> None:
    with pytest.raises(md.ConfigurationError, match="painter"):
        await Studio().run(BRIEF)
