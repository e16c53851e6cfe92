from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import majordomo as md
from majordomo.studio import Classification, classify
from tests.support.hypothesis_effort import max_examples

BRIEFS = {
    "a poster for a jazz night, portrait, with the title BLUE ROOM": {
        "subject": "event",
        "medium": "poster",
        "orientation": "portrait",
        "text": "BLUE ROOM",
        "language": "en",
    },
    "Four variants of a watercolour cat, 16:9, calm": {
        "subject": "animal",
        "medium": "watercolor",
        "mood": "calm",
        "aspect": "16:9",
        "orientation": "landscape",
        "count": 4,
        "language": "en",
    },
    "Ein Plakat für ein Konzert, Hochformat, mit dem Titel „Blaue Stunde“, drei Varianten": {
        "medium": "poster",
        "orientation": "portrait",
        "text": "Blaue Stunde",
        "count": 3,
        "language": "de",
    },
    "une affiche pour un concert de jazz avec le titre « Minuit »": {
        "medium": "poster",
        "text": "Minuit",
        "language": "fr",
    },
    "un cartel para la fiesta con el título VERANO y una luna": {
        "medium": "poster",
        "text": "VERANO",
        "language": "es",
    },
    "un gatto in stile anime con la luna, acquerello": {
        "subject": "animal",
        "style": "anime",
        "medium": "watercolor",
        "language": "it",
    },
    "een kat met een hoed in het bos, van de zijkant": {"language": "nl"},
    "кот на море, акварель, с надписью «Привет»": {
        "subject": "animal",
        "medium": "watercolor",
        "text": "Привет",
        "language": "ru",
    },
    "一张赛博朋克风格的城市海报，写着「霓虹」": {
        "style": "cyberpunk",
        "medium": "poster",
        "text": "霓虹",
        "language": "zh",
    },
    "猫のポスター、縦長": {
        "subject": "animal",
        "medium": "poster",
        "orientation": "portrait",
        "language": "ja",
    },
    "고양이 포스터, 세로": {
        "subject": "animal",
        "medium": "poster",
        "orientation": "portrait",
        "language": "ko",
    },
    "ملصق لحفلة موسيقية": {"language": "ar"},
    "a landscape of hills, 1024x1536": {
        "subject": "landscape",
        "size": "1024x1536",
        "orientation": "portrait",
    },
    "a photo of a red sailboat, square": {
        "subject": "vehicle",
        "style": "photographic",
        "orientation": "square",
    },
    "two posters, doors at 19:30": {"medium": "poster", "aspect": "", "count": 0},
    "a cat and 3 dogs": {"subject": "animal", "count": 0},
    "say 'hello there', it's my friend's birthday": {"subject": "event", "text": "hello there"},
}


@pytest.mark.parametrize("brief", BRIEFS, ids=range(len(BRIEFS)))
def test_classify_reads_what_the_brief_says(brief: str) -> None:
    classification = classify(brief)
    assert {name: getattr(classification, name) for name in BRIEFS[brief]} == BRIEFS[brief]


def test_found_lists_the_recognized_passages() -> None:
    classification = classify("A quiet lighthouse, in oil on canvas")
    assert [(found.kind, found.value, found.text) for found in classification.found] == [
        ("mood", "calm", "quiet"),
        ("subject", "landscape", "lighthouse"),
        ("medium", "oil painting", "oil on canvas"),
    ]
    assert all(
        classification.brief[found.start : found.end] == found.text
        for found in classification.found
    )


def test_words_of_the_text_to_write_do_not_describe_the_image() -> None:
    classification = classify('a poster with the title "Dark Cat"')
    assert (classification.text, classification.subject, classification.mood) == (
        "Dark Cat",
        "",
        "",
    )
    assert classify('a poster with the title "NUDE"').safety == ("sexual",), (
        "safety hints include the text to write"
    )


def test_safety_categories_do_not_refuse_the_brief() -> None:
    classification = classify("a bloody battle with a gun, and a child watching")
    assert classification.safety == ("violence", "minors")
    assert {found.text for found in classification.found if found.kind == "safety"} == {
        "bloody",
        "gun",
        "child",
    }


def test_frequent_category_is_used_and_all_lists_every_category() -> None:
    classification = classify("a car before a forest by a lake")
    assert (classification.subject, classification.all("subject")) == (
        "landscape",
        ("vehicle", "landscape"),
    )


def test_vocabulary_is_extended_by_a_mapping_or_a_file(tmp_path: Path) -> None:
    additions = {"style": {"house style": ["our look"]}, "subject": {"animal": ["quokka"]}}
    classification = classify("quokkas in our look", additions)
    assert (classification.subject, classification.style) == ("animal", "house style")
    file = tmp_path / "words.toml"
    file.write_text('[medium]\nfresco = ["fresco"]\n')
    assert classify("a fresco", file).medium == "fresco"
    assert classify("a fresco").medium == ""


@pytest.mark.parametrize(
    "table",
    [
        {"hue": {}},
        {"style": ["x"]},
        {"style": {"x": "not a list"}},
        {"style": {"x": [""]}},
        {"orientation": {"diagonal": ["slanted"]}},
        {"aspect": {"wide": ["broad"]}},
        {"number": {"two": ["2"]}},
        "no such file.toml",
    ],
    ids=repr,
)
def test_invalid_vocabulary_raises_configuration_error(table: object) -> None:
    with pytest.raises(md.ConfigurationError, match="vocabulary") as caught:
        classify("a cat", table)  # type: ignore[arg-type]
    assert caught.value.details["field"] == "vocabulary"


@pytest.mark.parametrize(
    "brief",
    ["", " \n\t", "a\0cat", "\ud800", "x" * 1_000_000, 7, None],
    ids=["empty", "blank", "nul", "surrogate", "1 MB", "number", "none"],
)
def test_invalid_brief_raises_invalid_request_error(brief: object) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        classify(brief)  # type: ignore[arg-type]
    assert caught.value.field == "brief"


def test_control_characters_become_spaces_with_a_warning() -> None:
    classification = classify("a \x1b[31mred\x07 cat\u202egnp.\u202c\r\nin ink")
    assert classification.brief == "a  [31mred  cat gnp. \nin ink"
    assert [warning.code for warning in classification.warnings] == ["BRIEF_CLEANED"]
    assert classify("a cat\nin ink 👩‍🚀").warnings == ()


def test_count_is_clamped_to_sixteen_with_a_warning() -> None:
    classification = classify("100 variants of a cat")
    assert (classification.count, classification.warnings[0].code) == (16, "COUNT_CLAMPED")


@given(st.text(max_size=300))
@settings(max_examples=max_examples(200), deadline=None)
def test_any_text_is_classified_and_survives_json_or_raises_invalid_request_error(
    text: str,
) -> None:
    try:
        classification = classify(text)
    except md.InvalidRequestError as error:
        assert error.field == "brief"
        return
    assert (
        Classification.from_dict(json.loads(json.dumps(classification.to_dict()))) == classification
    )
    assert classify(classification.brief).brief == classification.brief
    assert all(
        classification.brief[found.start : found.end] == found.text
        for found in classification.found
    )


@pytest.mark.parametrize(
    "fragment",
    ['"', "“", '"a" cat ', "cat ", "with the title ", "a single ", "'a ", "16:9 ", "9" * 50],
)
def test_classify_takes_linear_time_for_hostile_briefs(fragment: str) -> None:
    """Function calls are counted because, unlike time, they do not depend on the machine."""
    import cProfile
    import pstats

    def calls(length: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(classify, (fragment * length)[:length])
        return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]

    classify("warm")
    assert calls(16_000) < 6 * calls(4_000) + 1000


def test_from_dict_of_other_values_raises_invalid_request_error() -> None:
    for values in ({}, {"brief": "x"}, {**classify("a cat").to_dict(), "found": [{"kind": 1}]}):
        with pytest.raises(md.InvalidRequestError):
            Classification.from_dict(values)
