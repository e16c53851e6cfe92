"""Invalid values in requests: every provider refuses them and names the field, before sending."""

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
from tests.support.chat_backends import BACKENDS as CHAT_BACKENDS
from tests.support.image_backends import BACKENDS as IMAGE_BACKENDS
from tests.support.loopback import Handler, Loopback, http_response, reply_with
from tests.support.sample_images import gradient, part

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
NEVER = reply_with(http_response(b"never"))
image_backends = pytest.mark.parametrize(
    "backend", IMAGE_BACKENDS, ids=lambda backend: backend.name
)
chat_backends = pytest.mark.parametrize("backend", CHAT_BACKENDS, ids=lambda backend: backend.name)


class Refusals:
    """Collects wrong outcomes, to show all of them at the end instead of the first."""

    def __init__(self, server: Loopback) -> None:
        self.server = server
        self.wrong: list[str] = []

    async def check(
        self, name: str, field: str, origin: tuple[str, str] | None, call: Callable[[], Any]
    ) -> None:
        try:
            await call()
        except md.InvalidRequestError as error:
            named = (error.field, error.details.get("field"), error.status)
            if named != (field, field, None):
                self.wrong.append(f"{name}: names {named}")
            if origin is not None and (error.provider, error.model) != origin:
                self.wrong.append(f"{name}: is from {error.provider}/{error.model}")
            json.dumps(error.to_dict())
        except Exception as error:
            self.wrong.append(f"{name}: {type(error).__name__}: {error!s:.80}")
        else:
            self.wrong.append(f"{name}: was accepted")
        if self.server.connections:
            self.wrong.append(f"{name}: a connection was opened")


async def open_image_stream(model: imagegen.Model, *args: Any, **fields: Any) -> None:
    async with model.stream(*args, **fields):
        pass


async def open_chat_stream(model: llm.Model, *args: Any, **fields: Any) -> None:
    async with model.stream(*args, **fields):
        pass


@image_backends
async def test_invalid_image_request_is_refused(backend: Any, serve: Serve) -> None:
    refusals = Refusals(serve(NEVER))
    edit = {"images": [part(gradient())]}
    async with backend.connect(refusals.server.url) as provider:
        origin = (provider.name, backend.model)
        model = provider.image_model(backend.model)
        for name, (prompt, fields, field) in IMAGES.items():
            for call in (
                model.generate,
                lambda *args, **rest: open_image_stream(model, *args, **rest),
            ):
                await refusals.check(
                    name,
                    field,
                    origin,
                    lambda call=call, prompt=prompt, fields=fields: call(prompt, **fields),
                )
        for name, extra in {**EXTRAS, "not for this provider": lambda: {provider.name: 5}}.items():
            for fields in ({}, edit):
                await refusals.check(
                    name,
                    "extra",
                    origin
                    if name not in ("not a mapping", "a list", "a number for a key")
                    else None,
                    lambda extra=extra, fields=fields: model.generate("a", extra=extra(), **fields),
                )
        for name in NAMES:
            await refusals.check(
                ascii(name),
                "model",
                None,
                lambda name=name: provider.image_model(name).generate("a"),
            )
    assert refusals.wrong == []


@chat_backends
async def test_invalid_chat_request_is_refused(backend: Any, serve: Serve) -> None:
    refusals = Refusals(serve(NEVER))
    async with backend.connect(refusals.server.url) as provider:
        model = provider.model(backend.model)
        for name, (messages, fields, field) in CHATS.items():
            for call in (
                model.generate,
                lambda *args, **rest: open_chat_stream(model, *args, **rest),
            ):
                await refusals.check(
                    name,
                    field,
                    None,
                    lambda call=call, messages=messages, fields=fields: call(messages, **fields),
                )
        for name, extra in {**EXTRAS, "not for this provider": lambda: {provider.name: 5}}.items():
            await refusals.check(
                name, "extra", None, lambda extra=extra: model.generate("a", extra=extra())
            )
        for name in NAMES:
            await refusals.check(
                ascii(name), "model", None, lambda name=name: provider.model(name).generate("a")
            )
    assert refusals.wrong == []


@chat_backends
async def test_invalid_embedding_request_is_refused(backend: Any, serve: Serve) -> None:
    refusals = Refusals(serve(NEVER))
    async with backend.connect(refusals.server.url) as provider:
        try:
            model = provider.embedding_model("m")
        except md.UnsupportedError:
            return
        for name, (texts, fields, field) in EMBEDDINGS.items():
            await refusals.check(
                name, field, None, lambda texts=texts, fields=fields: model.embed(texts, **fields)
            )
        for name, extra in EXTRAS.items():
            await refusals.check(
                name, "extra", None, lambda extra=extra: model.embed("a", extra=extra())
            )
        for name in NAMES:
            await refusals.check(
                ascii(name),
                "model",
                None,
                lambda name=name: provider.embedding_model(name).embed("a"),
            )
    assert refusals.wrong == []


CLASSES: list[Any] = [
    md.Anthropic,
    md.Fal,
    md.OpenAI,
    md.OpenAICompatible,
    md.Gemini,
    md.Ollama,
    md.LlamaSwap,
    md.StableDiffusion,
    md.Automatic1111,
    md.ComfyUI,
]
SETTINGS: dict[str, tuple[list[Any], str]] = {
    "api_key": (KEYS, "api_key"),
    "headers": (HEADERS, "headers"),
    "base_url": (ADDRESSES[1:], "base_url"),
    "proxy": (ADDRESSES[1:], "proxy"),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("make", CLASSES, ids=lambda make: make.name)
def test_invalid_provider_setting_is_refused_and_not_shown(
    make: Any, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error does not show the value, which may be a key or a URL with a password."""
    values, field = SETTINGS[setting]
    good = {"base_url": "http://127.0.0.1:9/v1", "api_key": "k"}
    wrong = []
    for value in values:
        try:
            provider = make(**{**good, setting: value})
        except md.ConfigurationError as error:
            if error.details.get("field") != field:
                wrong.append(f"{value!a}: names {error.details}")
            if "secret" in f"{error!r} {error.to_dict()}":
                wrong.append(f"{value!a}: is shown: {error}")
        except Exception as error:
            wrong.append(f"{value!a}: {type(error).__name__}: {error}")
        else:
            wrong.append(f"{value!a}: was accepted by {provider!r}")
    assert wrong == []
