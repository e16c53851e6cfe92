"""Token counts and durations in the responses of each backend."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from majordomo import imagegen, llm
from majordomo.dialects.gemini.images import GeminiImagesCodec
from majordomo.dialects.ollama.embeddings import OllamaEmbeddingsCodec
from majordomo.dialects.openai.chat import OpenAIChatCodec
from majordomo.dialects.openai.images import usage_of
from majordomo.settings import Limits
from tests.support.hypothesis_effort import max_examples

REQUEST = llm.Request((llm.user("hi"),))
CHAT_USAGES: dict[str, tuple[dict[str, Any], llm.Usage]] = {
    "nothing": ({}, llm.Usage()),
    "null": ({"usage": None}, llm.Usage()),
    "no details": ({"usage": {"prompt_tokens": 3, "completion_tokens": 0}}, llm.Usage(3, 0)),
    "every modality": (
        {
            "usage": {
                "prompt_tokens": 30,
                "completion_tokens": 20,
                "prompt_tokens_details": {
                    "cached_tokens": 4,
                    "cache_write_tokens": 5,
                    "text_tokens": 10,
                    "image_tokens": 12,
                    "audio_tokens": 8,
                },
                "completion_tokens_details": {
                    "reasoning_tokens": 2,
                    "text_tokens": 3,
                    "image_tokens": 11,
                    "audio_tokens": 6,
                },
            }
        },
        llm.Usage(30, 20, 4, 2, 5, None, 10, 12, 8, 3, 11, 6),
    ),
    "llama.cpp": (
        {
            "usage": {
                "prompt_tokens": 30,
                "completion_tokens": 20,
                "prompt_tokens_details": {"cached_tokens": 10},
            },
            "timings": {
                "cache_n": 10,
                "prompt_n": 20,
                "prompt_ms": 500.0,
                "predicted_n": 20,
                "predicted_ms": 250.5,
            },
        },
        llm.Usage(30, 20, 10, prompt_seconds=0.5, output_seconds=0.2505),
    ),
    "groq": (
        {
            "usage": {
                "prompt_tokens": 3,
                "completion_tokens": 2,
                "queue_time": 0.1,
                "prompt_time": 0.25,
                "completion_time": 0.5,
            }
        },
        llm.Usage(3, 2, prompt_seconds=0.25, output_seconds=0.5),
    ),
    "invalid numbers": (
        {
            "usage": {
                "prompt_tokens": "3",
                "completion_tokens": -1,
                "prompt_tokens_details": [1],
                "prompt_time": True,
            },
            "timings": {"prompt_ms": "5", "predicted_ms": -1},
        },
        llm.Usage(),
    ),
    "an impossible duration": ({"usage": {"prompt_time": 10**400}}, llm.Usage()),
}


@pytest.mark.parametrize(("fields", "usage"), CHAT_USAGES.values(), ids=CHAT_USAGES.keys())
def test_chat_usage_is_decoded(fields: dict[str, Any], usage: llm.Usage) -> None:
    message = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
    assert (
        OpenAIChatCodec()
        .decode_reply(json.dumps(message | fields).encode(), REQUEST, Limits())
        .usage
        == usage
    )


def test_a_stream_reports_timings_with_its_usage() -> None:
    fields, usage = CHAT_USAGES["llama.cpp"]
    decoder = OpenAIChatCodec().stream_decoder(REQUEST, Limits())
    decoder.feed(
        b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n'
    )
    decoder.feed(
        b"data: " + json.dumps({"choices": [], **fields}).encode() + b"\n\ndata: [DONE]\n\n"
    )
    assert decoder.reply.usage == usage


def test_tokens_per_second_exclude_cached_tokens() -> None:
    usage = CHAT_USAGES["llama.cpp"][1]
    assert (usage.input_tokens_per_second, round(usage.output_tokens_per_second or 0, 3)) == (
        40.0,
        79.84,
    )
    assert (
        llm.Usage(3, 2).input_tokens_per_second,
        llm.Usage(output_seconds=2.0).output_tokens_per_second,
    ) == (None, None)
    assert llm.Usage(3, 2, output_seconds=0.0).output_tokens_per_second is None


def test_openai_image_usage_is_split_by_modality() -> None:
    usage = {
        "input_tokens": 50,
        "output_tokens": 60,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
        "output_tokens_details": {"image_tokens": 55, "text_tokens": 5},
    }
    assert usage_of(usage) == imagegen.Usage(50, 60, None, 10, 40, None, 5, 55)
    assert usage_of({"input_tokens": 50, "output_tokens_details": "x"}) == imagegen.Usage(50)


def test_gemini_image_usage_is_split_by_modality(image: Any) -> None:
    usage_metadata = {
        "promptTokenCount": 9,
        "candidatesTokenCount": 1290,
        "thoughtsTokenCount": 10,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 4},
            {"modality": "IMAGE", "tokenCount": 5},
        ],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
    }
    part = {"inlineData": {"mimeType": "image/png", "data": image().to_base64()}}
    document = {
        "candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}],
        "usageMetadata": usage_metadata,
    }
    codec = GeminiImagesCodec()
    decoder = codec.reply_decoder(Limits())
    decoder.feed(json.dumps(document).encode())
    usage = codec.decode_reply(decoder, imagegen.Request("a"), Limits()).usage
    assert usage == imagegen.Usage(9, 1300, None, 4, 5, None, 0, 1290)


def test_ollama_embeddings_report_durations() -> None:
    document = {"embeddings": [[0.5]], "prompt_eval_count": 4, "load_duration": 1_500_000_000}
    assert OllamaEmbeddingsCodec().decode_reply(
        json.dumps(document).encode(), 1, Limits()
    ).usage == llm.Usage(4, load_seconds=1.5)


token_counts = st.none() | st.integers(0, 10**9)
usages = st.builds(llm.Usage, *[token_counts] * 12)


@settings(deadline=None, max_examples=max_examples(50))
@given(st.lists(usages, min_size=1, max_size=6))
def test_a_sum_is_known_if_every_part_is(parts: list[llm.Usage]) -> None:
    total = llm.Usage.sum(parts)
    for name in ("input_tokens", "cached_tokens", "image_output_tokens"):
        values = [getattr(part, name) for part in parts]
        assert getattr(total, name) == (None if None in values else sum(values))


def test_an_empty_sum_is_unknown() -> None:
    assert (llm.Usage.sum([]), imagegen.Usage.sum([])) == (llm.Usage(), imagegen.Usage())
