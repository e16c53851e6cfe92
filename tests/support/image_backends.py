"""Every image backend of the library, each with a faithful server.

A new provider needs an entry here, or a test fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import majordomo as md
from tests.servers.automatic1111 import Automatic1111
from tests.servers.comfyui import ComfyUI
from tests.servers.fal import Fal
from tests.servers.gemini import Gemini
from tests.servers.llamaswap import LlamaSwap
from tests.servers.ollama import Ollama
from tests.servers.openai_images import OpenAIImages
from tests.servers.stable_diffusion import StableDiffusion
from tests.support.loopback import Handler


@dataclass(frozen=True)
class Backend:
    """An image backend and its server.

    `server()` makes a healthy server, `connect(url)` the provider for it; `model` is an id that the
    server has.
    """

    name: str
    server: Callable[[], Handler]
    connect: Callable[..., Any]
    model: str = "tiny"
    fields: dict[str, Any] = field(default_factory=lambda: {"size": "64x64"})


def _swap() -> Handler:
    return LlamaSwap({"tiny": StableDiffusion(size=(64, 64))})


def _engine() -> Handler:
    return StableDiffusion(size=(64, 64))


BACKENDS = [
    Backend("llamaswap", _swap, md.LlamaSwap),
    Backend(
        "llamaswap sdapi", _swap, lambda url, **common: md.LlamaSwap(url, images="sdapi", **common)
    ),
    Backend("stablediffusion", _engine, md.StableDiffusion),
    Backend(
        "stablediffusion sdapi",
        _engine,
        lambda url, **common: md.StableDiffusion(url, api="sdapi", **common),
    ),
    Backend(
        "stablediffusion openai",
        _engine,
        lambda url, **common: md.StableDiffusion(url, api="openai", **common),
    ),
    Backend("automatic1111", Automatic1111, md.Automatic1111, "current"),
    Backend("comfyui", ComfyUI, md.ComfyUI, "current"),
    Backend("ollama", Ollama, md.Ollama, "x/z-image-turbo", {"size": "64x64", "steps": 3}),
    Backend(
        "openai",
        OpenAIImages,
        lambda url, **common: md.OpenAI("k", base_url=url + "/v1", **common),
        "gpt-image-1",
        {},
    ),
    Backend(
        "gemini",
        Gemini,
        lambda url, **common: md.Gemini("k", base_url=url + "/v1beta", **common),
        "gemini-2.5-flash-image",
        {},
    ),
    Backend(
        "fal",
        Fal,
        lambda url, **common: md.Fal("fal-key", base_url=url, **common),
        "fal-ai/flux/dev",
    ),
    Backend(
        "openaicompatible",
        OpenAIImages,
        lambda url, **common: md.OpenAICompatible(url + "/v1", api_key="k", **common),
        "gpt-image-1",
        {},
    ),
]
