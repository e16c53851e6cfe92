"""What JSON weighs before it is read: honest answers pass, small ones that would be large do not."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_json
from majordomo.json_budget import LIGHT

MIB = 1 << 20


def logprobs(tokens: int, alternatives: int = 20) -> bytes:
    """As OpenAI has them, for so many tokens; 3 MiB for two thousand."""
    dice = random.Random(1)

    def one() -> dict[str, Any]:
        token = " " + "".join(dice.choice("abcdefghijkl漢😀") for _ in range(dice.randint(1, 8)))
        return {"token": token, "logprob": -dice.random() * 20, "bytes": list(token.encode())}

    content = [
        {**one(), "top_logprobs": [one() for _ in range(alternatives)]} for _ in range(tokens)
    ]
    return json.dumps({"choices": [{"logprobs": {"content": content}}]}).encode()


def test_twenty_alternatives_for_each_of_two_thousand_tokens_are_not_too_many() -> None:
    assert len(decode_json(logprobs(2000))["choices"][0]["logprobs"]["content"]) == 2000


@pytest.mark.parametrize("beside", ["a", "[],[]", "\U0001f600", '\\"', "\\\\"])
def test_an_image_weighs_nothing_whatever_stands_beside_it(beside: str) -> None:
    text = base64.b64encode(bytes(36 * MIB)).decode()
    document = decode_json(
        b'{"a":'
        + json.dumps(beside, ensure_ascii=False).encode()
        + b',"data":"'
        + text.encode()
        + b'"}'
    )
    assert (document["a"], len(document["data"])) == (beside, len(text))


@pytest.mark.parametrize(
    "raw",
    [
        b"[" + b"[]," * MIB + b"1]",
        b"[" + b"{}," * MIB + b"1]",
        b"[" + b"[[[[[[[]]]]]]]," * (MIB // 8) + b"1]",
        b"[" + b'{"a":1},' * MIB + b"1]",
        b"[" + b"1.5," * 2 * MIB + b"1]",
        b"[" + b'"",' * MIB + b"1]",
        b'["\\"",' + b"[]," * MIB + b"1]",
        ('["' + "a" * 11 * MIB + '\U0001f600"]').encode(),
        b'["' + b"a" * 11 * MIB + b'\\ud83d\\ude00"]',
        ('["' + "a" * 14 * MIB + '漢"]').encode(),
    ],
    ids=[
        "lists",
        "objects",
        "nested",
        "members",
        "numbers",
        "texts",
        "behind a quote",
        "letter",
        "escape",
        "wide letter",
    ],
)
def test_what_would_be_large_is_not_read(raw: bytes) -> None:
    with pytest.raises(BadResponseError) as caught:
        decode_json(raw)
    assert caught.value.code == "TOO_MANY_VALUES"


def test_brackets_within_texts_weigh_nothing() -> None:
    text = "[],{}" * MIB
    assert decode_json(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize("value", [b"{},", b"[],", b'{"":{}},', b'"",', b"0,"])
def test_what_is_light_by_its_length_is_never_heavy(value: bytes) -> None:
    raw = b"[" + value * ((LIGHT - 3) // len(value)) + b"1]"
    assert len(decode_json(raw)) == (LIGHT - 3) // len(value) + 1
