from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import majordomo as md
from majordomo.studio import Classification, classify
from tests.support.hypothesis_effort import tries

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
def test_it_reads_what_a_brief_says(brief: str) -> None:
    read = classify(brief)
    assert {name: getattr(read, name) for name in BRIEFS[brief]} == BRIEFS[brief]


def test_it_shows_what_it_went_by() -> None:
    read = classify("A quiet lighthouse, in oil on canvas")
    assert [(found.kind, found.value, found.words) for found in read.found] == [
        ("mood", "calm", "quiet"),
        ("subject", "landscape", "lighthouse"),
        ("medium", "oil painting", "oil on canvas"),
    ]
    assert all(read.brief[found.start : found.end] == found.words for found in read.found)


def test_words_that_are_to_be_written_are_no_words_about_the_image() -> None:
    read = classify('a poster with the title "Dark Cat"')
    assert (read.text, read.subject, read.mood) == ("Dark Cat", "", "")
    assert classify('a poster with the title "NUDE"').safety == ("sexual",), (
        "but they are looked at twice"
    )


def test_safety_is_a_hint_and_never_a_refusal() -> None:
    read = classify("a bloody battle with a gun, and a child watching")
    assert read.safety == ("violence", "minors")
    assert {found.words for found in read.found if found.kind == "safety"} == {
        "bloody",
        "gun",
        "child",
    }


def test_of_several_categories_the_one_named_most_often_counts_and_all_can_be_seen() -> None:
    read = classify("a car before a forest by a lake")
    assert (read.subject, read.all("subject")) == ("landscape", ("vehicle", "landscape"))


def test_a_user_id_can_add_words_by_a_mapping_or_a_file(tmp_path: Path) -> None:
    own = {"style": {"house style": ["our look"]}, "subject": {"animal": ["quokka"]}}
    read = classify("quokkas in our look", own)
    assert (read.subject, read.style) == ("animal", "house style")
    file = tmp_path / "words.toml"
    file.write_text('[medium]\nfresco = ["fresco"]\n')
    assert classify("a fresco", file).medium == "fresco"
    assert classify("a fresco").medium == ""


@pytest.mark.parametrize(
    "table",
    [
        {"colour": {}},
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
def test_a_vocabulary_of_another_shape_is_refused(table: object) -> None:
    with pytest.raises(md.ConfigurationError, match="vocabulary") as caught:
        classify("a cat", table)  # type: ignore[arg-type]
    assert caught.value.details["field"] == "vocabulary"


@pytest.mark.parametrize(
    "brief",
    ["", " \n\t", "a\0cat", "\ud800", "x" * 1_000_000, 7, None],
    ids=["empty", "blank", "nul", "surrogate", "1 MB", "number", "none"],
)
def test_what_is_no_brief_is_a_typed_error(brief: object) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        classify(brief)  # type: ignore[arg-type]
    assert caught.value.field == "brief"


def test_control_characters_become_spaces_and_it_says_so() -> None:
    read = classify("a \x1b[31mred\x07 cat\u202egnp.\u202c\r\nin ink")
    assert read.brief == "a  [31mred  cat gnp. \nin ink"
    assert [warning.code for warning in read.warnings] == ["BRIEF_CLEANED"]
    assert classify("a cat\nin ink 👩‍🚀").warnings == ()


def test_at_most_sixteen_images_are_wanted_at_a_time() -> None:
    read = classify("100 variants of a cat")
    assert (read.count, read.warnings[0].code) == (16, "COUNT_CLAMPED")


@given(st.text(max_size=300))
@settings(max_examples=tries(200), deadline=None)
def test_any_text_is_read_or_refused_with_a_typed_error_and_survives_json(text: str) -> None:
    try:
        read = classify(text)
    except md.InvalidRequestError as error:
        assert error.field == "brief"
        return
    assert Classification.from_dict(json.loads(json.dumps(read.to_dict()))) == read
    assert classify(read.brief).brief == read.brief
    assert all(read.brief[found.start : found.end] == found.words for found in read.found)


@pytest.mark.parametrize(
    "piece",
    ['"', "“", '"a" cat ', "cat ", "with the title ", "a single ", "'a ", "16:9 ", "9" * 50],
)
def test_a_hostile_brief_costs_time_in_proportion_to_its_length(piece: str) -> None:
    """Counted in function calls, which do not depend on the machine."""
    import cProfile
    import pstats

    def calls(length: int) -> int:
        profile = cProfile.Profile()
        profile.runcall(classify, (piece * length)[:length])
        return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]

    classify("warm")
    assert calls(16_000) < 6 * calls(4_000) + 1000


def test_a_saved_classification_of_another_shape_is_refused() -> None:
    for wrong in ({}, {"brief": "x"}, {**classify("a cat").to_dict(), "found": [{"kind": 1}]}):
        with pytest.raises(md.InvalidRequestError):
            Classification.from_dict(wrong)
