"""The memory estimate for JSON: ordinary responses pass, small ones that would be large do not."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import pytest

from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_json
from majordomo.json_budget import MAX_UNCHECKED_BYTES

MIB = 1 << 20


def logprobs(tokens: int, alternatives: int = 20) -> bytes:
    """Return logprobs in OpenAI's format for `tokens` tokens; 3 MiB for two thousand."""
    rng = random.Random(1)

    def make_token() -> dict[str, Any]:
        token = " " + "".join(rng.choice("abcdefghijkl漢😀") for _ in range(rng.randint(1, 8)))
        return {"token": token, "logprob": -rng.random() * 20, "bytes": list(token.encode())}

    content = [
        {**make_token(), "top_logprobs": [make_token() for _ in range(alternatives)]}
        for _ in range(tokens)
    ]
    return json.dumps({"choices": [{"logprobs": {"content": content}}]}).encode()


def test_twenty_alternatives_for_each_of_two_thousand_tokens_are_accepted() -> None:
    assert len(decode_json(logprobs(2000))["choices"][0]["logprobs"]["content"]) == 2000


@pytest.mark.parametrize("neighbor", ["a", "[],[]", "\U0001f600", '\\"', "\\\\"])
def test_a_large_image_is_accepted_whatever_is_next_to_it(neighbor: str) -> None:
    text = base64.b64encode(bytes(36 * MIB)).decode()
    document = decode_json(
        b'{"a":'
        + json.dumps(neighbor, ensure_ascii=False).encode()
        + b',"data":"'
        + text.encode()
        + b'"}'
    )
    assert (document["a"], len(document["data"])) == (neighbor, len(text))


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
        "strings",
        "after a quote",
        "wide character",
        "escape",
        "two-byte character",
    ],
)
def test_small_text_with_large_values_is_refused(raw: bytes) -> None:
    with pytest.raises(BadResponseError) as caught:
        decode_json(raw)
    assert caught.value.code == "TOO_MANY_VALUES"


def test_brackets_within_strings_do_not_count() -> None:
    text = "[],{}" * MIB
    assert decode_json(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize("value", [b"{},", b"[],", b'{"":{}},', b'"",', b"0,"])
def test_text_below_the_length_threshold_is_always_accepted(value: bytes) -> None:
    raw = b"[" + value * ((MAX_UNCHECKED_BYTES - 3) // len(value)) + b"1]"
    assert len(decode_json(raw)) == (MAX_UNCHECKED_BYTES - 3) // len(value) + 1
