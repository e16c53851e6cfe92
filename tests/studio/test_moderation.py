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


class RedImageModerator:
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
async def test_word_list_finds_words_regardless_of_spelling(text: str) -> None:
    verdict = await WordList({"violence": ["Gore", "blood and guts"]}).check_text(text)
    assert (verdict.allowed, verdict.categories) == (False, ("violence",))


async def test_word_list_matches_whole_words_only() -> None:
    moderator = WordList(["gore", "ass"])
    assert (await moderator.check_text("Gorecki by the grass, class of '99")).allowed
    assert (await moderator.check_image(BAD, "gore")).allowed


@pytest.mark.parametrize("words", ["gore", [7], [""], {"x": [None]}])
def test_word_list_of_other_values_raises_configuration_error(words: Any) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        WordList(words)
    assert caught.value.details["field"] == "words"


async def test_refused_brief_is_not_sent_to_any_model() -> None:
    chat, image_model = ScriptedChatModel([]), ScriptedImageModel([])
    with pytest.raises(md.ContentRefusedError) as caught:
        await Studio(image_model, chat, moderator=WordList(["gore"])).run("a cat in gore")
    assert caught.value.details.keys() >= {"stage", "input", "help", "categories"}
    assert caught.value.details["stage"] == "moderate"
    assert chat.requests == []
    assert image_model.requests == []


async def test_refused_prompt_of_the_chat_model_is_not_generated() -> None:
    answer = json.dumps(
        {"prompts": [{"name": "a", "prompt": "gore"}, {"name": "b", "prompt": "a meadow"}]}
    )
    image_model = ScriptedImageModel(lambda _: GOOD)
    result = await Studio(
        image_model, ScriptedChatModel([answer]), moderator=WordList(["gore"])
    ).run("a field")
    assert [image.name for image in result.items] == ["b"]
    assert [(error.code, error.details["image"]) for error in result.errors] == [
        ("CONTENT_REFUSED", "a")
    ]
    assert [request.prompt for request in image_model.requests] == ["a meadow"]


async def test_negative_prompt_is_not_moderated() -> None:
    image_model = ScriptedImageModel(lambda _: GOOD)
    await Studio(image_model, moderator=WordList(["gore"])).run("a field", negative_prompt="gore")
    assert image_model.requests[0].negative_prompt == "gore"


async def test_refused_image_is_in_no_event_result_or_file(tmp_path: Path) -> None:
    image_model = ScriptedImageModel(
        lambda request: (
            [imagegen.Preview(BAD), BAD] if "bad" in request.prompt else [imagegen.Step(1, 2), GOOD]
        )
    )
    studio = Studio(
        image_model, moderator=RedImageModerator(), derivatives=[Derivative("same")], previews=3
    )
    async with studio.stream(plan_of("bad", "good")) as stream:
        events = [event async for event in stream]
    assert BAD.data not in _bytes_of(events)
    assert GOOD.data in _bytes_of(events)
    result = events[-1].result  # type: ignore[union-attr]
    assert [image.name for image in result.items] == ["good"]
    [failed] = [event for event in events if isinstance(event, ImageFailed)]
    assert (failed.error.code, failed.item, failed.error.details["categories"]) == (
        "CONTENT_REFUSED",
        None,
        ["red"],
    )
    assert "it is red" in failed.error.message
    assert BAD.data not in [path.read_bytes() for path in result.save(tmp_path)]
    assert image_model.requests[0].previews == 0, "no previews are requested"


def _bytes_of(events: list[Any]) -> list[bytes]:
    image_bytes: list[bytes] = []
    for event in events:
        match event:
            case ImageProgress(event=imagegen.Preview(image)):
                image_bytes.append(image.data)
            case ImageFinished(item):
                image_bytes.append(item.image.data)
            case ImageFailed(item=item) if item is not None:
                image_bytes.append(item.image.data)
            case StudioDone(result):
                image_bytes += [image.data for image in result.files.values()]
    return image_bytes


async def test_input_images_are_moderated() -> None:
    with pytest.raises(md.ContentRefusedError):
        await Studio(moderator=RedImageModerator()).run(BAD)


class FailingModerator:
    checks_images = True

    async def check_text(self, text: str) -> Verdict:
        return Verdict(True)

    async def check_image(self, image: md.ImagePart, prompt: str) -> Any:
        raise RuntimeError("down")


class ModeratorWithoutVerdict(FailingModerator):
    async def check_image(self, image: md.ImagePart, prompt: str) -> Any:
        return None


class UndecidedModerator(FailingModerator):
    async def check_image(self, image: md.ImagePart, prompt: str) -> Any:
        return Verdict(None)  # type: ignore[arg-type]


async def test_verdict_other_than_true_refuses_the_image() -> None:
    with pytest.raises(md.ContentRefusedError):
        await Studio(ScriptedImageModel(lambda _: GOOD), moderator=UndecidedModerator()).run(
            "a cat"
        )


@pytest.mark.parametrize(
    "moderator",
    [FailingModerator(), ModeratorWithoutVerdict(), [WordList(["x"]), FailingModerator()]],
    ids=["broken", "vague", "second"],
)
async def test_image_without_a_verdict_is_not_delivered(moderator: Any) -> None:
    with pytest.raises(md.BackendError) as caught:
        await Studio(ScriptedImageModel(lambda _: GOOD), moderator=moderator).run("a cat")
    assert (caught.value.code, caught.value.details["stage"]) == ("MODERATION_FAILED", "moderate")


async def test_vision_moderator_gives_a_verdict_on_each_image() -> None:
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
    result = await Studio(image_model, moderator=VisionModerator(chat, "nothing red")).run(
        plan_of("bad", "good")
    )
    assert [image.name for image in result.items] == ["good"]
    assert "too red" in result.errors[0].message
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
async def test_vision_moderator_without_a_verdict_refuses_the_image(answers: list[Any]) -> None:
    moderator = VisionModerator(ScriptedChatModel(answers), timeout=0.05)
    with pytest.raises(md.BackendError) as caught:
        await Studio(ScriptedImageModel(lambda _: GOOD), moderator=moderator).run("a cat")
    assert caught.value.code == "MODERATION_FAILED"


async def test_vision_moderator_with_the_offline_model_refuses_the_image() -> None:
    moderator = VisionModerator(md.Offline().model("rules"))
    assert not (await moderator.check_image(GOOD, "")).allowed
