from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo import imagegen
from majordomo.imaging import Derivative
from majordomo.studio import (
    Done,
    GenerationConfig,
    NamedPrompt,
    PictureFailed,
    PictureReady,
    Plan,
    Progress,
    Studio,
    Verdict,
    VisionModerator,
    WordList,
    classify,
)
from majordomo.testing import Pause, ScriptedChat, ScriptedPainter, plain_picture

GOOD, BAD = plain_picture(16, 16, (0, 200, 0)), plain_picture(16, 16, (200, 0, 0))


def plan_of(*names: str) -> Plan:
    return Plan(classify("pictures"), GenerationConfig(n=len(names)), tuple(NamedPrompt(name, f"a {name}") for name in names))


class Eyes:
    """Refuses red pictures."""

    looks = True

    async def text(self, text: str) -> Verdict:
        return Verdict(True)

    async def picture(self, image: md.ImagePart, prompt: str) -> Verdict:
        return Verdict(image == GOOD, ("red",), "it is red")


@pytest.mark.parametrize(
    "text", ["some GORE here", "a gore, please", "Gōre", "g\u200bore", "ＧＯＲＥ", "two gores", "with blood and\n guts"]
)
async def test_a_word_list_finds_its_words_however_they_are_written(text: str) -> None:
    verdict = await WordList({"violence": ["Gore", "blood and guts"]}).text(text)
    assert (verdict.allowed, verdict.categories) == (False, ("violence",))


async def test_a_word_list_takes_whole_words_only() -> None:
    moderator = WordList(["gore", "ass"])
    assert (await moderator.text("Gorecki by the grass, class of '99")).allowed
    assert (await moderator.picture(BAD, "gore")).allowed


@pytest.mark.parametrize("words", ["gore", [7], [""], {"x": [None]}])
def test_a_word_list_of_something_else_is_refused(words: Any) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        WordList(words)
    assert caught.value.details["field"] == "words"


async def test_a_refused_brief_is_sent_to_nobody() -> None:
    chat, painter = ScriptedChat([]), ScriptedPainter([])
    with pytest.raises(md.ContentRefusedError) as caught:
        await Studio(painter, chat, moderator=WordList(["gore"])).run("a cat in gore")
    assert caught.value.details.keys() >= {"stage", "asked", "help", "categories"}
    assert caught.value.details["stage"] == "moderate"
    assert chat.requests == []
    assert painter.requests == []


async def test_a_prompt_that_the_model_made_worse_is_not_drawn() -> None:
    answer = json.dumps({"prompts": [{"name": "a", "prompt": "gore"}, {"name": "b", "prompt": "a meadow"}]})
    painter = ScriptedPainter(lambda _: GOOD)
    outcome = await Studio(painter, ScriptedChat([answer]), moderator=WordList(["gore"])).run("a field")
    assert [picture.name for picture in outcome.pictures] == ["b"]
    assert [(error.code, error.details["picture"]) for error in outcome.errors] == [("CONTENT_REFUSED", "a")]
    assert [request.prompt for request in painter.requests] == ["a meadow"]


async def test_what_a_negative_prompt_keeps_out_is_no_reason_to_refuse() -> None:
    painter = ScriptedPainter(lambda _: GOOD)
    await Studio(painter, moderator=WordList(["gore"])).run("a field", negative_prompt="gore")
    assert painter.requests[0].negative_prompt == "gore"


async def test_a_refused_picture_is_delivered_nowhere(tmp_path: Path) -> None:
    painter = ScriptedPainter(lambda request: [imagegen.Preview(BAD), BAD] if "bad" in request.prompt else [imagegen.Step(1, 2), GOOD])
    studio = Studio(painter, moderator=Eyes(), derivatives=[Derivative("same")], previews=3)
    async with studio.stream(plan_of("bad", "good")) as stream:
        events = [event async for event in stream]
    assert BAD.data not in _bytes_of(events)
    assert GOOD.data in _bytes_of(events)
    outcome = events[-1].outcome  # type: ignore[union-attr]
    assert [picture.name for picture in outcome.pictures] == ["good"]
    [failed] = [event for event in events if isinstance(event, PictureFailed)]
    assert (failed.error.code, failed.painted, failed.error.details["categories"]) == ("CONTENT_REFUSED", None, ["red"])
    assert "it is red" in failed.error.message
    assert BAD.data not in [path.read_bytes() for path in outcome.save(tmp_path)]
    assert painter.requests[0].previews == 0, "unfinished pictures are not even asked for"


def _bytes_of(events: list[Any]) -> list[bytes]:
    found: list[bytes] = []
    for event in events:
        match event:
            case Progress(event=imagegen.Preview(image)):
                found.append(image.data)
            case PictureReady(picture):
                found.append(picture.image.data)
            case PictureFailed(painted=painted) if painted is not None:
                found.append(painted.image.data)
            case Done(outcome):
                found += [image.data for image in outcome.files.values()]
    return found


async def test_pictures_to_begin_with_are_judged_too() -> None:
    with pytest.raises(md.ContentRefusedError):
        await Studio(moderator=Eyes()).run(BAD)


class Broken:
    looks = True

    async def text(self, text: str) -> Verdict:
        return Verdict(True)

    async def picture(self, image: md.ImagePart, prompt: str) -> Any:
        raise RuntimeError("down")


class Vague(Broken):
    async def picture(self, image: md.ImagePart, prompt: str) -> Any:
        return None


class Unsure(Broken):
    async def picture(self, image: md.ImagePart, prompt: str) -> Any:
        return Verdict(None)  # type: ignore[arg-type]


async def test_a_verdict_that_is_not_yes_is_no() -> None:
    with pytest.raises(md.ContentRefusedError):
        await Studio(ScriptedPainter(lambda _: GOOD), moderator=Unsure()).run("a cat")


@pytest.mark.parametrize("moderator", [Broken(), Vague(), [WordList(["x"]), Broken()]], ids=["broken", "vague", "second"])
async def test_what_a_moderator_cannot_judge_is_not_delivered(moderator: Any) -> None:
    with pytest.raises(md.BackendError) as caught:
        await Studio(ScriptedPainter(lambda _: GOOD), moderator=moderator).run("a cat")
    assert (caught.value.code, caught.value.details["stage"]) == ("MODERATION_FAILED", "moderate")


async def test_a_chat_model_that_sees_gives_a_verdict_on_each_picture() -> None:
    chat = ScriptedChat(
        lambda request: json.dumps({"allowed": request.messages[-1].images[0] == GOOD, "categories": ["red"], "reason": "too red"})
    )
    painter = ScriptedPainter(lambda request: BAD if "bad" in request.prompt else GOOD)
    outcome = await Studio(painter, moderator=VisionModerator(chat, "nothing red")).run(plan_of("bad", "good"))
    assert [picture.name for picture in outcome.pictures] == ["good"]
    assert "too red" in outcome.errors[0].message
    assert "nothing red" in chat.requests[0].messages[0].text


@pytest.mark.parametrize(
    "answers",
    [["yes", "of course"], [md.ContentRefusedError("I cannot look at this")], [[Pause()]], ['{"allowed": "perhaps"}'] * 2],
    ids=["nonsense", "refusal", "silence", "vague"],
)
async def test_no_verdict_is_no_permission(answers: list[Any]) -> None:
    moderator = VisionModerator(ScriptedChat(answers), timeout=0.05)
    with pytest.raises(md.BackendError) as caught:
        await Studio(ScriptedPainter(lambda _: GOOD), moderator=moderator).run("a cat")
    assert caught.value.code == "MODERATION_FAILED"


async def test_the_offline_clerk_allows_nothing() -> None:
    moderator = VisionModerator(md.Offline().model("clerk"))
    assert not (await moderator.picture(GOOD, "")).allowed
