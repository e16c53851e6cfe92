"""Every codec sends a field or warns: none is lost, and a new field is no exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

import majordomo as md
from majordomo import imagegen, llm
from majordomo.dialects.anthropic.messages import AnthropicMessagesCodec
from majordomo.dialects.automatic1111.sdapi import SDAPICodec
from majordomo.dialects.comfyui.prompts import ComfyUICodec
from majordomo.dialects.fal.queue import FalQueueCodec
from majordomo.dialects.gemini.chat import GeminiChatCodec
from majordomo.dialects.gemini.images import GeminiImagesCodec
from majordomo.dialects.ollama.chat import OllamaChatCodec
from majordomo.dialects.ollama.images import OllamaImagesCodec, OllamaServer
from majordomo.dialects.openai.chat import OpenAIChatCodec
from majordomo.dialects.openai.image_families import compatible_family, hosted_family
from majordomo.dialects.openai.images import OpenAIImagesCodec
from majordomo.dialects.openai.responses import OpenAIResponsesCodec
from majordomo.dialects.request_body import other_fields
from majordomo.dialects.stable_diffusion_cpp.jobs import SdcppJobsCodec
from majordomo.requests.base import BaseRequest, declaration
from majordomo.transport_types import HTTPRequest

CHAT_CODECS: dict[str, Any] = {
    "anthropic": AnthropicMessagesCodec(),
    "gemini": GeminiChatCodec("gemini-2.5-flash"),
    "ollama": OllamaChatCodec(),
    "openai": OpenAIChatCodec(extensions=False),
    "compatible": OpenAIChatCodec(),
    "responses": OpenAIResponsesCodec(),
}
IMAGE_CODECS: dict[str, tuple[str, Any]] = {
    "automatic1111": ("m", SDAPICodec()),
    "sd-server sdapi": ("m", SDAPICodec(sdcpp=True)),
    "sd-server jobs": ("m", SdcppJobsCodec()),
    "sd-server openai": ("m", OpenAIImagesCodec()),
    "comfyui": ("m", ComfyUICodec()),
    "fal": ("fal-ai/flux/dev", FalQueueCodec("fal-ai/flux/dev")),
    "gemini": ("gemini-2.5-flash-image", GeminiImagesCodec()),
    "ollama": (
        "m",
        OllamaImagesCodec(lambda _: OllamaServer((0, 15, 4), frozenset({"image", "vision"}))),
    ),
    "openai gpt-image": ("gpt-image-1", OpenAIImagesCodec(hosted_family, tag=False)),
    "openai dall-e-3": ("dall-e-3", OpenAIImagesCodec(hosted_family, tag=False)),
    "compatible": ("m", OpenAIImagesCodec(compatible_family, tag=False)),
}
IMAGE = md.ImagePart.from_pil(Image.new("RGB", (64, 64)))
CONTENT: dict[type[BaseRequest], dict[str, Any]] = {
    llm.Request: {"messages": (md.user("hi"),)},
    imagegen.Request: {"prompt": "a"},
}


def optional_fields(kind: type[BaseRequest]) -> dict[str, Any]:
    """Return the fields that a backend may lack, with their examples."""
    fields = declaration(kind).fields.items()
    return {name: field.example for name, field in fields if not field.universal}


def body_of(request: HTTPRequest) -> Any:
    body = request.body
    raw = body if isinstance(body, bytes) else b"".join(body.chunks())
    return json.loads(raw) if request.content_type == "application/json" else len(raw)


@pytest.mark.parametrize("name", optional_fields(llm.Request))
@pytest.mark.parametrize("codec", CHAT_CODECS.values(), ids=CHAT_CODECS.keys())
def test_a_chat_codec_sends_a_field_or_warns(codec: Any, name: str) -> None:
    blank = llm.Request(**CONTENT[llm.Request])
    request = blank.override(**{name: optional_fields(llm.Request)[name]})
    plain, _ = codec.encode_request("m", blank)
    encoded, warnings = codec.encode_request("m", request)
    changed = body_of(encoded) != body_of(plain)
    assert changed != (name in [warning.field for warning in warnings])


@pytest.mark.parametrize("with_image", [False, True])
@pytest.mark.parametrize("name", optional_fields(imagegen.Request))
@pytest.mark.parametrize(("model", "codec"), IMAGE_CODECS.values(), ids=IMAGE_CODECS.keys())
def test_an_image_codec_sends_a_field_or_warns(
    model: str, codec: Any, name: str, with_image: bool
) -> None:
    blank = imagegen.Request("a", images=(IMAGE,) if with_image else ())
    request = blank.override(**{name: optional_fields(imagegen.Request)[name]})
    try:
        adapted, warnings = codec.adapt(model, request)
        plain = codec.encode_request(model, codec.adapt(model, blank)[0])
    except md.UnsupportedError as error:
        assert error.field == "images"
        return
    # The field of a warning about the field itself; others suggest to set a seed.
    warned = name in [w.field for w in warnings if w.code == "UNSUPPORTED_FIELD"]
    # The number of previews decides about polling, a websocket or a stream, not about the body.
    sent = name == "previews" or body_of(codec.encode_request(model, adapted)) != body_of(plain)
    assert warned or sent


@pytest.mark.parametrize("kind", CONTENT)
def test_a_field_that_is_not_named_is_reported(kind: type[BaseRequest]) -> None:
    fields = optional_fields(kind)
    request = kind(**CONTENT[kind]).override(**fields)
    assert other_fields(request, ()) == list(fields)
    assert other_fields(request, fields.keys()) == []
