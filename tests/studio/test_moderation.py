from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo import imagegen
from majordomo.imaging import Derivative
from majordomo.studio import (
    GenerationConfig,
    ImageFailed,
    ImageFinished,
    ImageProgress,
    NamedPrompt,
    Plan,
    Studio,
    StudioDone,
    Verdict,
    VisionModerator,
    WordList,
    classify,
)
from majordomo.testing import Pause, ScriptedChatModel, ScriptedImageModel, plain_image

GOOD, BAD = plain_image(16, 16, (0, 200, 0)), plain_image(16, 16, (200, 0, 0))


def plan_of(*names: str) -> Plan:
    return Plan(
        classify("images"),
        GenerationConfig(n=len(names)),
        tuple(NamedPrompt(name, f"a {name}") for name in names),
    )


class Eyes:
    """Refuses red images."""

    checks_images = True

    async def check_text(self, text: str) -> Verdict:
        return Verdict(True)

    async def check_image(self, image: md.ImagePart, prompt: str) -> Verdict:
        return Verdict(image == GOOD, ("red",), "it is red")


@pytest.mark.parametrize(
    "text",
    [
        "some GORE here",
        "a gore, please",
        "Gōre",
        "g\u200bore",
        "ＧＯＲＥ",
        "two gores",
        "with blood and\n guts",
    ],
)
async def test_a_word_list_finds_its_words_however_they_are_written(text: str) -> None:
    verdict = await WordList({"violence": ["Gore", "blood and guts"]}).check_text(text)
    assert (verdict.allowed, verdict.categories) == (False, ("violence",))


async def test_a_word_list_takes_whole_words_only() -> None:
    moderator = WordList(["gore", "ass"])
    assert (await moderator.check_text("Gorecki by the grass, class of '99")).allowed
    assert (await moderator.check_image(BAD, "gore")).allowed


@pytest.mark.parametrize("words", ["gore", [7], [""], {"x": [None]}])
def test_a_word_list_of_something_else_is_refused(words: Any) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        WordList(words)
    assert caught.value.details["field"] == "words"


async def test_a_refused_brief_is_sent_to_nobody() -> None:
    chat, image_model = ScriptedChatModel([]), ScriptedImageModel([])
    with pytest.raises(md.ContentRefusedError) as caught:
        await Studio(image_model, chat, moderator=WordList(["gore"])).run("a cat in gore")
    assert caught.value.details.keys() >= {"stage", "asked", "help", "categories"}
    assert caught.value.details["stage"] == "moderate"
    assert chat.requests == []
    assert image_model.requests == []


async def test_a_prompt_that_the_model_made_worse_is_not_drawn() -> None:
    answer = json.dumps(
        {"prompts": [{"name": "a", "prompt": "gore"}, {"name": "b", "prompt": "a meadow"}]}
    )
    image_model = ScriptedImageModel(lambda _: GOOD)
    outcome = await Studio(
        image_model, ScriptedChatModel([answer]), moderator=WordList(["gore"])
    ).run("a field")
    assert [image.name for image in outcome.items] == ["b"]
    assert [(error.code, error.details["image"]) for error in outcome.errors] == [
        ("CONTENT_REFUSED", "a")
    ]
    assert [request.prompt for request in image_model.requests] == ["a meadow"]


async def test_what_a_negative_prompt_keeps_out_is_no_reason_to_refuse() -> None:
    image_model = ScriptedImageModel(lambda _: GOOD)
    await Studio(image_model, moderator=WordList(["gore"])).run("a field", negative_prompt="gore")
    assert image_model.requests[0].negative_prompt == "gore"


async def test_a_refused_image_is_delivered_nowhere(tmp_path: Path) -> None:
    image_model = ScriptedImageModel(
        lambda request: (
            [imagegen.Preview(BAD), BAD] if "bad" in request.prompt else [imagegen.Step(1, 2), GOOD]
        )
    )
    studio = Studio(image_model, moderator=Eyes(), derivatives=[Derivative("same")], previews=3)
    async with studio.stream(plan_of("bad", "good")) as stream:
        events = [event async for event in stream]
    assert BAD.data not in _bytes_of(events)
    assert GOOD.data in _bytes_of(events)
    outcome = events[-1].result  # type: ignore[union-attr]
    assert [image.name for image in outcome.items] == ["good"]
    [failed] = [event for event in events if isinstance(event, ImageFailed)]
    assert (failed.error.code, failed.painted, failed.error.details["categories"]) == (
        "CONTENT_REFUSED",
        None,
        ["red"],
    )
    assert "it is red" in failed.error.message
    assert BAD.data not in [path.read_bytes() for path in outcome.save(tmp_path)]
    assert image_model.requests[0].previews == 0, "unfinished images are not even asked for"


def _bytes_of(events: list[Any]) -> list[bytes]:
    found: list[bytes] = []
    for event in events:
        match event:
            case ImageProgress(event=imagegen.Preview(image)):
                found.append(image.data)
            case ImageFinished(picture):
                found.append(picture.image.data)
            case ImageFailed(painted=painted) if painted is not None:
                found.append(painted.image.data)
            case StudioDone(outcome):
                found += [image.data for image in outcome.files.values()]
    return found


async def test_images_to_begin_with_are_judged_too() -> None:
    with pytest.raises(md.ContentRefusedError):
        await Studio(moderator=Eyes()).run(BAD)


class Broken:
    checks_images = True

    async def check_text(self, text: str) -> Verdict:
        return Verdict(True)

    async def check_image(self, image: md.ImagePart, prompt: str) -> Any:
        raise RuntimeError("down")


class Vague(Broken):
    async def check_image(self, image: md.ImagePart, prompt: str) -> Any:
        return None


class Unsure(Broken):
    async def check_image(self, image: md.ImagePart, prompt: str) -> Any:
        return Verdict(None)  # type: ignore[arg-type]


async def test_a_verdict_that_is_not_yes_is_no() -> None:
    with pytest.raises(md.ContentRefusedError):
        await Studio(ScriptedImageModel(lambda _: GOOD), moderator=Unsure()).run("a cat")


@pytest.mark.parametrize(
    "moderator", [Broken(), Vague(), [WordList(["x"]), Broken()]], ids=["broken", "vague", "second"]
)
async def test_what_a_moderator_cannot_judge_is_not_delivered(moderator: Any) -> None:
    with pytest.raises(md.BackendError) as caught:
        await Studio(ScriptedImageModel(lambda _: GOOD), moderator=moderator).run("a cat")
    assert (caught.value.code, caught.value.details["stage"]) == ("MODERATION_FAILED", "moderate")


async def test_a_chat_model_that_sees_gives_a_verdict_on_each_image() -> None:
    chat = ScriptedChatModel(
        lambda request: json.dumps(
            {
                "allowed": request.messages[-1].images[0] == GOOD,
                "categories": ["red"],
                "reason": "too red",
            }
        )
    )
    image_model = ScriptedImageModel(lambda request: BAD if "bad" in request.prompt else GOOD)
    outcome = await Studio(image_model, moderator=VisionModerator(chat, "nothing red")).run(
        plan_of("bad", "good")
    )
    assert [image.name for image in outcome.items] == ["good"]
    assert "too red" in outcome.errors[0].message
    assert "nothing red" in chat.requests[0].messages[0].text


@pytest.mark.parametrize(
    "answers",
    [
        ["yes", "of course"],
        [md.ContentRefusedError("I cannot look at this")],
        [[Pause()]],
        ['{"allowed": "perhaps"}'] * 2,
    ],
    ids=["nonsense", "refusal", "silence", "vague"],
)
async def test_no_verdict_is_no_permission(answers: list[Any]) -> None:
    moderator = VisionModerator(ScriptedChatModel(answers), timeout=0.05)
    with pytest.raises(md.BackendError) as caught:
        await Studio(ScriptedImageModel(lambda _: GOOD), moderator=moderator).run("a cat")
    assert caught.value.code == "MODERATION_FAILED"


async def test_the_offline_clerk_allows_nothing() -> None:
    moderator = VisionModerator(md.Offline().model("rules"))
    assert not (await moderator.check_image(GOOD, "")).allowed
