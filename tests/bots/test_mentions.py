from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from majordomo.bots import safe_text, split

RINGS = [
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


@pytest.mark.parametrize("text", RINGS)
def test_what_would_ring_is_joined(text: str) -> None:
    made = safe_text(text)
    assert made != text
    assert made.replace("\u200d", "") == text
    assert text.lstrip("(").split()[-1] not in made
    assert safe_text(made) == made


_PIECES = [
    *RINGS,
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


@given(st.lists(st.sampled_from(_PIECES) | st.text(max_size=3)).map("".join))
def test_doing_it_twice_changes_nothing_and_nothing_rings(text: str) -> None:
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
def test_the_rest_stays_as_it_is(text: str) -> None:
    assert safe_text(text) == text


def test_a_cut_does_not_take_the_joiner_away() -> None:
    assert any(
        message.startswith("@\u200deve") for message in split("x" * 14 + safe_text("@everyone"), 16)
    )
