"""Whatever a stranger puts into a request: refused with the field named, by every provider, before a byte is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from majordomo import imagegen, llm
from tests.chaos.invalid_requests import (
    ADDRESSES,
    CHATS,
    EMBEDDINGS,
    EXTRAS,
    HEADERS,
    IMAGES,
    KEYS,
    NAMES,
)
from tests.support.chat_backends import BACKENDS as CHATTING
from tests.support.image_backends import BACKENDS as DRAWING
from tests.support.loopback import Handler, Loopback, always, whole
from tests.support.sample_images import gradient, part

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
NEVER = always(whole(b"never"))
drawing = pytest.mark.parametrize("backend", DRAWING, ids=lambda backend: backend.name)
chatting = pytest.mark.parametrize("backend", CHATTING, ids=lambda backend: backend.name)


class Refusals:
    """Collects what was not refused as it should be: one list at the end instead of the first of many."""

    def __init__(self, server: Loopback) -> None:
        self.server = server
        self.wrong: list[str] = []

    async def judge(
        self, name: str, field: str, about: tuple[str, str] | None, ask: Callable[[], Any]
    ) -> None:
        try:
            await ask()
        except md.InvalidRequestError as error:
            found = (error.field, error.details.get("field"), error.status)
            if found != (field, field, None):
                self.wrong.append(f"{name}: names {found}")
            if about is not None and (error.provider, error.model) != about:
                self.wrong.append(f"{name}: is about {error.provider}/{error.model}")
            json.dumps(error.to_dict())
        except Exception as error:  # whatever it is, the list should have it
            self.wrong.append(f"{name}: {type(error).__name__}: {error!s:.80}")
        else:
            self.wrong.append(f"{name}: was taken")
        if self.server.connections:
            self.wrong.append(f"{name}: something was sent")


async def drawn(model: imagegen.Model, *given: Any, **fields: Any) -> None:
    async with model.stream(*given, **fields):
        pass


async def heard(model: llm.Model, *given: Any, **fields: Any) -> None:
    async with model.stream(*given, **fields):
        pass


@drawing
async def test_an_image_request(backend: Any, serve: Serve) -> None:
    refusals = Refusals(serve(NEVER))
    edit = {"images": [part(gradient())]}
    async with backend.connect(refusals.server.url) as provider:
        about = (provider.name, backend.model)
        model = provider.image_model(backend.model)
        for name, (prompt, fields, field) in IMAGES.items():
            for ask in (model.generate, lambda *given, **rest: drawn(model, *given, **rest)):
                await refusals.judge(
                    name,
                    field,
                    about,
                    lambda ask=ask, prompt=prompt, fields=fields: ask(prompt, **fields),
                )
        for name, extra in {**EXTRAS, "not for this provider": lambda: {provider.name: 5}}.items():
            for fields in ({}, edit):
                await refusals.judge(
                    name, "extra", about if name not in ("no mapping", "a list", "a number for a key") else None,
                    lambda extra=extra, fields=fields: model.generate("a", extra=extra(), **fields),
                )  # fmt: skip
        for name in NAMES:
            await refusals.judge(
                ascii(name),
                "model",
                None,
                lambda name=name: provider.image_model(name).generate("a"),
            )
    assert refusals.wrong == []


@chatting
async def test_a_chat_request(backend: Any, serve: Serve) -> None:
    refusals = Refusals(serve(NEVER))
    async with backend.connect(refusals.server.url) as provider:
        model = provider.model(backend.model)
        for name, (messages, fields, field) in CHATS.items():
            for ask in (model.generate, lambda *given, **rest: heard(model, *given, **rest)):
                await refusals.judge(
                    name,
                    field,
                    None,
                    lambda ask=ask, messages=messages, fields=fields: ask(messages, **fields),
                )
        for name, extra in {**EXTRAS, "not for this provider": lambda: {provider.name: 5}}.items():
            await refusals.judge(
                name, "extra", None, lambda extra=extra: model.generate("a", extra=extra())
            )
        for name in NAMES:
            await refusals.judge(
                ascii(name), "model", None, lambda name=name: provider.model(name).generate("a")
            )
    assert refusals.wrong == []


@chatting
async def test_texts_to_embed(backend: Any, serve: Serve) -> None:
    refusals = Refusals(serve(NEVER))
    async with backend.connect(refusals.server.url) as provider:
        try:
            model = provider.embedding_model("m")
        except md.UnsupportedError:
            return
        for name, (texts, fields, field) in EMBEDDINGS.items():
            await refusals.judge(
                name, field, None, lambda texts=texts, fields=fields: model.embed(texts, **fields)
            )
        for name, extra in EXTRAS.items():
            await refusals.judge(
                name, "extra", None, lambda extra=extra: model.embed("a", extra=extra())
            )
        for name in NAMES:
            await refusals.judge(
                ascii(name),
                "model",
                None,
                lambda name=name: provider.embedding_model(name).embed("a"),
            )
    assert refusals.wrong == []


CLASSES: list[Any] = [
    md.Anthropic, md.OpenAI, md.OpenAICompatible, md.Gemini, md.Ollama, md.LlamaSwap, md.StableDiffusion, md.Automatic1111, md.ComfyUI,
]  # fmt: skip
SETTINGS: dict[str, tuple[list[Any], str]] = {
    "api_key": (KEYS, "api_key"),
    "headers": (HEADERS, "headers"),
    "base_url": (ADDRESSES[1:], "base_url"),
    "proxy": (ADDRESSES[1:], "proxy"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("make", CLASSES, ids=lambda make: make.name)
def test_a_setting_of_a_provider(make: Any, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a refusal say what it refused: it may be a key, or an address with a password in it."""
    values, field = SETTINGS[setting]
    good = {"base_url": "http://127.0.0.1:9/v1", "api_key": "k"}
    wrong = []
    for value in values:
        try:
            made = make(**{**good, setting: value})
        except md.ConfigurationError as error:
            if error.details.get("field") != field:
                wrong.append(f"{value!a}: names {error.details}")
            if "secret" in f"{error!r} {error.to_dict()}":
                wrong.append(f"{value!a}: is shown: {error}")
        except Exception as error:
            wrong.append(f"{value!a}: {type(error).__name__}: {error}")
        else:
            wrong.append(f"{value!a}: was taken by {made!r}")
    assert wrong == []
