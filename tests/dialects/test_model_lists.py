"""Capabilities of models, from the model list of each server."""

from __future__ import annotations

import json
from typing import Any

import pytest

import majordomo as md
from majordomo.dialects.gemini import models as gemini_models
from majordomo.dialects.openai.models import (
    decode_aliases,
    decode_models,
    openai_capabilities,
)

LIMITS = md.Limits()

DECLARED: dict[str, tuple[dict[str, Any], set[str]]] = {
    "OpenRouter, vision and tools": (
        {
            "architecture": {
                "input_modalities": ["text", "image", "file"],
                "output_modalities": ["text"],
                "modality": "text+image->text",
            },
            "supported_parameters": [
                "max_tokens",
                "tools",
                "tool_choice",
                "reasoning",
                "include_reasoning",
            ],
        },
        {"chat", "vision", "tools", "thinking"},
    ),
    "OpenRouter, image generation": (
        {
            "architecture": {
                "input_modalities": ["text", "image"],
                "output_modalities": ["image", "text"],
            },
            "supported_parameters": ["seed"],
        },
        {"chat", "vision", "image"},
    ),
    "OpenRouter, embeddings": (
        {"architecture": {"input_modalities": ["text"], "output_modalities": ["embeddings"]}},
        {"embed"},
    ),
    "Mistral": (
        {
            "capabilities": {
                "completion_chat": True,
                "function_calling": True,
                "vision": False,
                "completion_fim": True,
                "reasoning": True,
            }
        },
        {"chat", "tools", "thinking"},
    ),
    "Mistral, embeddings: nothing is declared": (
        {"capabilities": {"completion_chat": False, "function_calling": False}},
        set(),
    ),
    "Together, chat": ({"type": "chat"}, {"chat"}),
    "Together, images": ({"type": "image"}, {"image"}),
    "Together, embeddings": ({"type": "embedding"}, {"embed"}),
    "Together, text completion only": ({"type": "language"}, set()),
    "llama-swap": (
        {"capabilities": {"image_generation": True, "image_to_image": True}},
        {"image", "edit"},
    ),
    "llama.cpp, newer": (
        {
            "meta": {"n_ctx_train": 4096},
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        },
        {"chat"},
    ),
    "vLLM": ({"max_model_len": 4096, "permission": [{"allow_sampling": True}]}, set()),
    "LM Studio": ({"owned_by": "organization_owner"}, set()),
    "values of other types": (
        {
            "capabilities": ["chat"],
            "architecture": "x",
            "supported_parameters": {"tools": 1},
            "type": 5,
        },
        set(),
    ),
    "numbers and strings instead of booleans": (
        {"capabilities": {"completion_chat": "yes", "vision": 1}},
        set(),
    ),
}


@pytest.mark.parametrize(("item", "capabilities"), DECLARED.values(), ids=DECLARED.keys())
def test_a_list_gives_the_declared_capabilities(
    item: dict[str, Any], capabilities: set[str]
) -> None:
    body = json.dumps({"object": "list", "data": [{"id": "m", "object": "model", **item}]}).encode()
    (model,) = decode_models(body, LIMITS)
    assert (model.id, model.capabilities) == ("m", capabilities)


def test_a_list_without_an_object_around_it_is_decoded() -> None:
    (model,) = decode_models(b' [{"id": "a/b", "type": "chat"}, 5, {"id": 7}]', LIMITS)
    assert (model.id, model.capabilities) == ("a/b", {"chat"})


def test_llamacpp_declares_capabilities_in_a_second_list() -> None:
    body = {
        "models": [
            {"name": "gemma", "capabilities": ["completion", "multimodal"]},
            {"name": "other", "capabilities": None},
        ],
        "data": [{"id": "gemma", "meta": {"n_params": 1}}, {"id": "other"}],
    }
    assert [model.capabilities for model in decode_models(json.dumps(body).encode(), LIMITS)] == [
        {"chat"},
        set(),
    ]


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b'{"data": 5}', b"null", b'"x"', b"[" * 3000])
def test_an_invalid_list_raises_bad_response_error(body: bytes) -> None:
    with pytest.raises(md.BadResponseError):
        decode_models(body, LIMITS)


LLAMASWAP_ENTRIES: list[Any] = [
    {"id": "qwen", "meta": {"llamaswap": {"type": "model", "aliases": ["small", "qwen:high", 7]}}},
    {"id": "small", "meta": {"llamaswap": {"type": "alias", "modelID": "qwen"}}},
    {"id": "sdxl", "meta": {"llamaswap": {"type": "model"}}},
    {"id": "fast", "meta": {"llamaswap": {"type": "selector", "targets": ["qwen"]}}},
    {"id": "no-meta"},
    {"id": "other-meta", "meta": {"llamaswap": ["aliases"]}},
    {"id": "not-a-list", "meta": {"llamaswap": {"aliases": "small"}}},
    {"meta": {"llamaswap": {"aliases": ["of-nothing"]}}},
    "text",
]


def test_llamaswap_lists_the_aliases_of_its_models() -> None:
    body = json.dumps({"object": "list", "data": LLAMASWAP_ENTRIES}).encode()
    assert decode_aliases(body, LIMITS) == {"small": "qwen", "qwen:high": "qwen"}


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": {}}'])
def test_an_invalid_list_of_aliases_raises_bad_response_error(body: bytes) -> None:
    with pytest.raises(md.BadResponseError):
        decode_aliases(body, LIMITS)


def test_an_alias_in_the_list_has_the_state_of_its_model() -> None:
    body = json.dumps(
        {"data": [{**entry, "status": {"value": "loaded"}} for entry in LLAMASWAP_ENTRIES[:3]]}
    ).encode()
    models = decode_models(body, LIMITS, {"qwen": "ready"})
    assert {model.id: (model.loaded, model.state) for model in models} == {
        "qwen": (True, "ready"),
        "small": (True, "ready"),
        "sdxl": (False, "unloaded"),
    }


OPENAI = {
    "gpt-5-mini": {"chat"},
    "gpt-4o-2024-08-06": {"chat"},
    "gpt-3.5-turbo": {"chat"},
    "ft:gpt-4o-mini:us::1": {"chat"},
    "chatgpt-4o-latest": {"chat"},
    "o3": {"chat"},
    "o4-mini": {"chat"},
    "gpt-image-1.5": {"image", "edit"},
    "chatgpt-image-latest": {"image", "edit"},
    "dall-e-2": {"image", "edit"},
    "dall-e-3": {"image"},
    "text-embedding-3-small": {"embed"},
    "gpt-4o-transcribe": set(),
    "gpt-4o-mini-tts": set(),
    "gpt-realtime": set(),
    "gpt-3.5-turbo-instruct": set(),
    "omni-moderation-latest": set(),
    "whisper-1": set(),
    "sora-2": set(),
    "davinci-002": set(),
    "openhermes": set(),
}


@pytest.mark.parametrize(("name", "capabilities"), OPENAI.items())
def test_openai_capabilities_follow_from_the_name(name: str, capabilities: set[str]) -> None:
    (model,) = decode_models(
        json.dumps({"data": [{"id": name, "owned_by": "system"}]}).encode(),
        LIMITS,
        capabilities_by_name=openai_capabilities,
    )
    assert model.capabilities == capabilities


def test_declared_capabilities_override_the_name() -> None:
    body = b'{"data": [{"id": "gpt-4o", "capabilities": {"image_generation": true}}]}'
    assert decode_models(body, LIMITS, capabilities_by_name=openai_capabilities)[
        0
    ].capabilities == {"image"}


CHAT_METHODS = ["generateContent", "countTokens"]
GEMINI: dict[str, tuple[dict[str, Any], set[str]]] = {
    "gemini-3-pro-preview": (
        {"supportedGenerationMethods": CHAT_METHODS, "thinking": True},
        {"chat", "vision", "thinking"},
    ),
    "gemini-2.0-flash": ({"supportedGenerationMethods": CHAT_METHODS}, {"chat", "vision"}),
    "gemini-2.5-flash-image": (
        {"supportedGenerationMethods": CHAT_METHODS},
        {"chat", "vision", "image", "edit"},
    ),
    "gemma-3-1b-it": ({"supportedGenerationMethods": CHAT_METHODS}, {"chat"}),
    "gemini-2.5-flash-preview-tts": ({"supportedGenerationMethods": CHAT_METHODS}, set()),
    "gemini-embedding-001": (
        {"supportedGenerationMethods": ["embedContent", "batchEmbedContents"]},
        {"embed"},
    ),
    "veo-3.0": ({"supportedGenerationMethods": ["predictLongRunning"]}, set()),
    "imagen-4.0": ({"supportedGenerationMethods": ["predict"]}, set()),
    "aqa": ({"supportedGenerationMethods": ["generateAnswer"]}, set()),
    "gemini-unusual": ({"supportedGenerationMethods": 7, "thinking": "yes"}, set()),
}


@pytest.mark.parametrize(("name", "declared"), GEMINI.items(), ids=GEMINI.keys())
def test_gemini_capabilities_follow_from_the_methods(
    name: str, declared: tuple[dict[str, Any], set[str]]
) -> None:
    item, capabilities = declared
    (model,), token = gemini_models.decode_models(
        json.dumps({"models": [{"name": f"models/{name}", **item}]}).encode(), LIMITS
    )
    assert (model.id, model.capabilities, token) == (name, capabilities, "")
