"""Splitting texts: where they are cut, code fences, characters, and growing texts."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import majordomo as md
from majordomo.bots.graphemes import may_cut
from majordomo.bots.message_splitter import Splitter, pieces, split
from tests.support.hypothesis_effort import max_examples

WORDS = "The tide comes in twice a day. Boats lie on the sand until then! Do they mind? "


def code(lines: int, mark: str = "```", language: str = "python") -> str:
    return (
        f"{mark}{language}\n"
        + "".join(f"line_{number} = {number}\n" for number in range(lines))
        + f"{mark}\n"
    )


def test_a_text_that_fits_is_one_message() -> None:
    assert split("Good evening.\n\n```py\n1\n```") == ["Good evening.\n\n```py\n1\n```"]
    assert split("x" * 2000) == ["x" * 2000]
    assert split("") == split(" \n ") == []


CUTS = {
    "paragraph before line": (
        "aaaaaaaaaaaa\n\nbbbb\ncccccc dddd",
        24,
        ["aaaaaaaaaaaa\n\n", "bbbb\ncccccc dddd"],
    ),
    "line before sentence": (
        "aaaaaaaaaa\nbbb. ccccc dddd",
        20,
        ["aaaaaaaaaa\n", "bbb. ccccc dddd"],
    ),
    "sentence before word": (
        "aaaa aaaaaa. bbb ccccc dddd",
        20,
        ["aaaa aaaaaa. ", "bbb ccccc dddd"],
    ),
    "word before letter": ("aaaa aaaaaaa bbbbbbbbbbbbb", 20, ["aaaa aaaaaaa ", "bbbbbbbbbbbbb"]),
    "a word at the end before a paragraph at the beginning": (
        "a\n\nbbbbbb bbbb cccccccccc",
        16,
        ["a\n\nbbbbbb bbbb ", "cccccccccc"],
    ),
    "quoted ends of sentences": (
        'She said "go now." Then they left',
        24,
        ['She said "go now." ', "Then they left"],
    ),
    "sentences without spaces": (
        "潮は一日に二度満ちる。舟は砂の上で待つ。気にするだろうか",
        16,
        ["潮は一日に二度満ちる。", "舟は砂の上で待つ。", "気にするだろうか"],
    ),
    "a word longer than a message": ("hi " + "x" * 40, 16, ["hi ", "x" * 16, "x" * 16, "x" * 8]),
    "white space alone is no message": ("x" * 16 + "\n" * 40 + "y", 16, ["x" * 16, "\n" * 8 + "y"]),
}


@pytest.mark.parametrize(("text", "limit", "expected"), CUTS.values(), ids=CUTS.keys())
def test_the_best_cut_is_chosen(text: str, limit: int, expected: list[str]) -> None:
    assert split(text, limit) == expected


def test_code_that_fits_is_not_cut() -> None:
    text = "Look at this:\n\n" + code(10) + "And so on."
    first, second = split(text, len(code(10)) + 12)
    assert first == "Look at this:\n\n"
    assert second == code(10) + "And so on."


def test_longer_code_is_closed_and_opened_again_with_its_language() -> None:
    messages = split("Before.\n" + code(40) + "After.", 200)
    assert messages[0] == "Before.\n"
    for message in messages[1:]:
        assert message.startswith("```python\nline_")
    for message in messages[1:-1]:
        assert message.endswith("\n```")
    assert messages[-1].endswith("```\nAfter.")
    assert [
        line for message in messages for line in message.splitlines() if line.startswith("line_")
    ] == code(40).splitlines()[1:-1]


@pytest.mark.parametrize(
    ("opening", "inner", "closing"),
    [
        ("````markdown", "```python\nx = 1\n```", "````"),
        ("~~~~", "~~~\n```", "~~~~~~"),
        ("~~~text with `ticks`", "```", "~~~"),
        ("```python title=x", "~~~", "```"),
    ],
)
def test_fences_of_any_length_and_kind(opening: str, inner: str, closing: str) -> None:
    text = f"{opening}\n" + f"{inner}\n" * 60 + f"{closing}\nafter the code"
    messages = split(text, 120)
    assert len(messages) > 2
    assert all(
        message.startswith(tuple(f"{opening}\n{line}\n" for line in inner.splitlines()))
        for message in messages[:-1]
    )
    assert "".join(messages).endswith(f"{closing}\nafter the code")


def test_code_in_a_list_or_a_quote_is_opened_again_with_its_prefix() -> None:
    text = "1. Do this:\n\n   ```sh\n" + "   make all\n" * 30 + "   ```\n2. Then that\n"
    messages = split(text, 120)
    assert messages[1].startswith("   ```sh\n   make")
    assert messages[1].endswith("make all\n   ```")
    assert messages[-1].endswith("   ```\n2. Then that\n")
    text = "> ```\n" + "> quoted code\n" * 20 + "out of the quote, and so out of the code " * 5
    messages = split(text, 120)
    assert messages[1].startswith("> ```\n> quoted")
    assert not messages[-1].startswith(">")
    assert "```" not in messages[-1]
    assert split("- ~~~py\n" + "  x = 1\n" * 20, 80)[1].startswith("  ~~~py\n  x = 1")


def test_inline_code_and_a_lone_mark_open_no_fence() -> None:
    text = "Use ``` x ``` or\n```not a ` fence\n" + WORDS * 4
    assert "".join(split(text, 100)) == text


def test_code_that_is_still_open_is_closed() -> None:
    assert split("```py\nx = 1") == ["```py\nx = 1\n```"]
    assert split("```py") == ["```py"]


def test_grapheme_clusters_are_not_cut() -> None:
    family, flag, accent, hangul = "👨‍👩‍👧‍👦", "🇫🇷", "e\u0301", "\u1112\u1161\u11ab"
    for unit in (family, flag, accent, hangul, "👍🏽", "❤\ufe0f", "\r\n", "\ud83d\ude00"):
        for count in ("characters", "utf16"):
            for message in split("a" + unit * 60, 16, count=count):
                assert message.lstrip("a").replace(unit, "") == "", unit


def test_a_cluster_longer_than_a_message_is_cut() -> None:
    assert [len(message) for message in split("e" + "\u0301" * 39, 16)] == [16, 16, 8]


def test_utf16_counts_code_units() -> None:
    assert [len(message) for message in split("😀" * 16, 16)] == [16]
    assert [len(message) for message in split("😀" * 16, 16, count="utf16")] == [8, 8]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"limit": 15}, "limit"),
        ({"limit": "2000"}, "limit"),
        ({"count": "bytes"}, "count"),
        ({"text": b"x"}, "text"),
    ],
)
def test_an_invalid_argument_is_named_by_its_field(settings: dict[str, object], field: str) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        split(**{"text": "x", **settings})  # type: ignore[arg-type]
    assert caught.value.field == field


PARTS = st.sampled_from(
    [
        "\n",
        "\n\n",
        "```",
        "```py\n",
        "````\n",
        "~~~\n",
        "> ",
        "- ",
        "   ",
        " ",
        ". ",
        "word ",
        "x",
        "😀",
        "👨‍👩‍👧",
        "e\u0301",
        "🇫🇷",
        "\r\n",
        "。",
        "\ud83d",
    ]
)
TEXTS = st.one_of(st.lists(PARTS, max_size=120).map("".join), st.text(max_size=300))


def length(text: str, count: str) -> int:
    return (
        len(text) if count == "characters" else len(text.encode("utf-16-le", "surrogatepass")) // 2
    )


@settings(max_examples=max_examples(400), deadline=None)
@given(TEXTS, st.integers(16, 80), st.sampled_from(["characters", "utf16"]))
@example("```" + "p" * 60 + "\n" + "x\n" * 60, 16, "utf16")
@example("`" * 40 + "\n" + "x\n" * 60, 16, "characters")
@example(" " * 30 + "```\n" + "x" * 60, 16, "characters")
def test_pieces_fit_and_give_the_text_again(text: str, limit: int, count: str) -> None:
    result = pieces(text, limit, count=count)  # type: ignore[arg-type]
    assert "".join(text[piece.start : piece.end] for piece in result) == text
    before = None
    for piece in result:
        assert 0 < length(piece.text, count) <= limit
        assert piece.end > piece.start
        source = text[piece.start : piece.end]
        closing = piece.fence.closing if piece.fence else ""
        closed = source + ("\n" if closing and not source.endswith("\n") else "") + closing
        assert piece.text in (closed, before.opening + closed if before else closed)
        before = piece.fence
    assert split(text, limit, count=count) == [piece.text for piece in result if piece.text.strip()]  # type: ignore[arg-type]


@settings(max_examples=max_examples(200), deadline=None)
@given(st.lists(PARTS, max_size=80), st.integers(16, 60))
def test_a_growing_text_changes_only_the_last_message(parts: list[str], limit: int) -> None:
    splitter = Splitter(limit)
    messages: list[str] = []
    text = ""
    for part in parts:
        text += part
        last = len(messages) - 1
        for change in splitter.update(text):
            assert change.index >= last
            assert change.new == (change.index == len(messages))
            assert change.text.strip()
            assert len(change.text) <= limit
            messages[change.index : change.index + 1] = [change.text]
        assert tuple(messages) == splitter.messages
    if "`" not in text and "~" not in text:
        assert "".join("".join(messages).split()) == "".join(text.split())


def test_a_growing_text_gives_the_same_messages_as_split() -> None:
    text = (WORDS * 3 + "\n\n" + code(30) + "\n" + WORDS * 2) * 2
    splitter = Splitter(300)
    changes = [
        change for end in range(1, len(text) + 1, 7) for change in splitter.update(text[:end])
    ] + splitter.update(text)
    assert list(splitter.messages) == split(text, 300)
    assert sum(change.new for change in changes) == len(splitter.messages)
    assert splitter.update(text) == []


def test_another_text_replaces_all_messages() -> None:
    splitter = Splitter(16)
    assert [
        (change.index, change.new) for change in splitter.update("waiting, you are number 3")
    ] == [(0, True), (1, True)]
    changes = splitter.update("hello")
    assert [(change.index, change.text, change.new) for change in changes] == [
        (0, "hello", False),
        (1, "", False),
    ]
    assert splitter.messages == ("hello",)


@given(st.text(max_size=40), st.integers(-2, 50))
def test_may_cut_keeps_combining_marks_with_their_letters(text: str, at: int) -> None:
    if may_cut(text, at) and 0 < at < len(text) and text[at - 1] not in "\r\n":
        assert unicodedata.category(text[at]) not in ("Mn", "Me")
