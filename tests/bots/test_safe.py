from __future__ import annotations

import pytest

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


@pytest.mark.parametrize(
    "text", ["me@example.com", "first.last+tag@example.com", "a < b and b<c", "<https://example.com>", "meet @ noon", "", "@"]
)
def test_the_rest_stays_as_it_is(text: str) -> None:
    assert safe_text(text) == text


def test_a_cut_does_not_take_the_joiner_away() -> None:
    assert any(message.startswith("@\u200deve") for message in split("x" * 14 + safe_text("@everyone"), 16))
