"""safe_text: mentions are neutralized and other text is unchanged."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from majordomo.bots import safe_text, split

MENTIONS = [
    "@everyone",
    "@here",
    "@Channel",
    "mail@everyone",
    "<@123>",
    "<@!123>",
    "<@&123>",
    "<!channel>",
    "<!subteam^S1>",
    "<@U123>",
    "hi @alice",
    "(@bob)",
    "@bob:server",
]


@pytest.mark.parametrize("text", MENTIONS)
def test_a_mention_is_neutralized(text: str) -> None:
    neutralized = safe_text(text)
    assert neutralized != text
    assert neutralized.replace("\u200d", "") == text
    assert text.lstrip("(").split()[-1] not in neutralized
    assert safe_text(neutralized) == neutralized


FRAGMENTS = [
    *MENTIONS,
    "@",
    "<",
    "!",
    "&",
    "everyone",
    "here",
    "\u200d",
    "a",
    "_",
    ".",
    " ",
    "\n",
    "@EVERYONE",
    "\uff20everyone",
    "\u0130",
]


@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3)).map("".join))
def test_safe_text_is_idempotent_and_leaves_no_mention(text: str) -> None:
    once = safe_text(text)
    assert safe_text(once) == once
    assert once.replace("\u200d", "") == text.replace("\u200d", "")
    assert not re.search(r"@(everyone|here|channel)\b", once, re.IGNORECASE)
    assert not re.search(r"<@[\w&!]|<![A-Za-z]", once)


@pytest.mark.parametrize(
    "text",
    [
        "me@example.com",
        "first.last+tag@example.com",
        "a < b and b<c",
        "<https://example.com>",
        "meet @ noon",
        "",
        "@",
    ],
)
def test_other_text_is_unchanged(text: str) -> None:
    assert safe_text(text) == text


def test_splitting_keeps_the_joiner() -> None:
    assert any(
        message.startswith("@\u200deve") for message in split("x" * 14 + safe_text("@everyone"), 16)
    )
