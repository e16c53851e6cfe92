"""Whatever stands where an image should be: an image that holds, or a typed error, from every backend, and the next one is fine."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import majordomo as md
from tests.chaos.malformed_images import (
    FILES,
    HEAVY,
    PNG,
    REFUSED,
    TAKEN,
    TEXTS,
    Strange,
    Twisted,
    b64,
    heavy,
    jpeg,
    png,
    saved,
    webp,
)
from tests.support.image_backends import BACKENDS, Backend
from tests.support.loopback import Handler, Loopback, always, whole

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
ONCE = md.Retries(attempts=1)
ALL: dict[str, Strange] = {**TEXTS, **FILES}
every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


def fitting(backend: Backend, table: Mapping[str, Strange]) -> dict[str, Strange]:
    """ComfyUI sends files, and no text could stand for one."""
    return {
        name: strange
        for name, strange in table.items()
        if backend.name != "comfyui" or name not in TEXTS
    }


async def receive(backend: Backend, serve: Serve, table: Mapping[str, Strange]) -> list[str]:
    wrong = []
    twisted = Twisted(backend.server())
    server = serve(twisted)
    async with backend.connect(server.url, retries=ONCE) as provider:
        model = provider.image_model(backend.model)
        for name, (make, becomes) in table.items():
            twisted.value, twisted.twisted = make(), 0
            try:
                result = await model.generate("a red fox", **backend.fields)
            except (md.BadResponseError, md.StreamBrokenError) as error:
                if becomes == TAKEN:
                    wrong.append(f"{name}: refused: {error}")
                if (error.provider, error.model) != (provider.name, backend.model):
                    wrong.append(f"{name}: is about {error.provider}/{error.model}")
                if type(error) is md.StreamBrokenError:
                    wrong.append(f"{name}: a broken stream")
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}: {error!s:.80}")
            else:
                if becomes == REFUSED:
                    wrong.append(f"{name}: was taken as {result.image!r}")
                elif isinstance(twisted.value, bytes) and result.image.data != twisted.value:
                    wrong.append(f"{name}: came as {result.image!r}")
            if not twisted.twisted:
                wrong.append(f"{name}: was never sent")
        twisted.value = PNG
        assert (await model.generate("a red fox", **backend.fields)).image.data == PNG
    return wrong


@every_backend
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_strange_image(backend: Backend, serve: Serve) -> None:
    """The images take turns with the backends."""
    table = list(fitting(backend, ALL).items())
    assert await receive(backend, serve, dict(table[BACKENDS.index(backend) % 8 :: 8])) == []


@every_backend
@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_strange_image(backend: Backend, serve: Serve) -> None:
    assert await receive(backend, serve, fitting(backend, ALL)) == []


KINDS = [
    backend
    for backend in BACKENDS
    if backend.name
    in ("llamaswap", "stablediffusion", "automatic1111", "comfyui", "ollama", "gemini")
]


@pytest.mark.slow
@pytest.mark.parametrize("backend", KINDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_heavy_image(backend: Backend, serve: Serve) -> None:
    assert await receive(backend, serve, HEAVY) == []


# How many

SHAPES: dict[str, Callable[[list[Any]], dict[str, Any]]] = {
    "llamaswap": lambda values: {"created": 1, "data": [{"b64_json": value} for value in values]},
    "openai": lambda values: {"created": 1, "data": [{"b64_json": value} for value in values]},
    "llamaswap sdapi": lambda values: {"images": values, "parameters": {}, "info": ""},
    "gemini": lambda values: {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"inlineData": {"mimeType": "image/png", "data": value}} for value in values
                    ]
                }
            }
        ]
    },
}
GOOD = b64(PNG)
COUNTS: dict[
    str, tuple[int | None, list[Any], int | None]
] = {  # asked for, sent, taken; None: a typed error
    "fewer": (4, [GOOD], 1),
    "more": (1, [GOOD] * 5, 5),
    "one of none asked": (None, [GOOD], 1),
    "the same twice": (2, [GOOD, GOOD], 2),
    "none": (2, [], None),
    "seventeen": (1, [GOOD] * 17, 16),
    "a thousand": (1, [GOOD] * 1000, 16),
    "a bad one among good ones": (2, [GOOD, "%%%"], None),
    "only bad ones": (2, ["%%%", "%%%"], None),
    "a list for one": (1, [[GOOD]], None),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_another_number_of_images_than_was_asked_for_is_said(
    shape: str, serve: Serve
) -> None:
    backend = next(backend for backend in BACKENDS if backend.name == shape)
    wrong = []
    for name, (n, values, taken) in COUNTS.items():
        server = serve(always(whole(SHAPES[shape](values))))
        async with backend.connect(server.url, retries=ONCE) as provider:
            try:
                result = await provider.image_model(backend.model).generate(
                    "a", **({} if n is None else {"n": n})
                )
            except (md.BadResponseError, md.UnsupportedError) as error:
                if taken is not None:
                    wrong.append(f"{name}: {error}")
                continue
        calls = len(server.seen)
        if (
            taken is None
            or len(result.images) != taken * calls
            or len(result.details) != len(result.images)
        ):
            wrong.append(f"{name}: {len(result.images)} in {calls} calls")
        if len(values) > 16 and "IMAGES_NOT_FETCHED" not in [
            warning.code for warning in result.warnings
        ]:
            wrong.append(f"{name}: nothing is said of those left")
        differs = any(warning.code == "COUNT_DIFFERS" for warning in result.warnings)
        if differs != (len(result.images) != (n or 1)):
            wrong.append(
                f"{name}: {len(result.images)} in {calls} calls for {n}: {[warning.code for warning in result.warnings]}"
            )
    assert wrong == []


WRONG_FIELDS: list[dict[str, Any]] = [
    {"data": GOOD},
    {"data": {"b64_json": GOOD}},
    {"data": [GOOD]},
    {"data": [{"url": f"data:image/png;base64,{GOOD}"}]},
    {"data": [{"image": GOOD}]},
    {"data": [{"b64_json": {"data": GOOD}}]},
    {"data": [[{"b64_json": GOOD}]]},
    {"b64_json": GOOD},
    {"image": GOOD},
    {"images": {"0": GOOD}},
    {"images": [{"b64_json": GOOD}]},
    {"images": [None, GOOD]},
    {"output": [{"type": "image_generation_call", "result": GOOD}]},
    {"candidates": GOOD},
    {"candidates": [{"content": {"parts": [{"text": GOOD}]}}]},
    {
        "candidates": [
            {"content": {"parts": [{"inlineData": {"mimeType": "text/html", "data": GOOD}}]}}
        ]
    },
    {
        "candidates": [
            {
                "content": {
                    "parts": [
                        {"fileData": {"mimeType": "image/png", "fileUri": "file:///etc/passwd"}}
                    ]
                }
            }
        ]
    },
    {
        "candidates": [
            {"content": {"parts": {"inlineData": {"mimeType": "image/png", "data": GOOD}}}}
        ]
    },
]


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_image_in_a_wrong_field_is_no_image(shape: str, serve: Serve) -> None:
    backend = next(backend for backend in BACKENDS if backend.name == shape)
    for body in WRONG_FIELDS:
        async with backend.connect(serve(always(whole(body))).url, retries=ONCE) as provider:
            with pytest.raises(md.BadResponseError):
                await provider.image_model(backend.model).generate("a")


# The other way

UNSENDABLE: dict[str, Callable[[], bytes]] = {
    "40 Mpx and a row": lambda: png(8000, 5001),
    "16,385 a side": lambda: png(16_385, 1),
    "a JPEG of 16,385 a side": lambda: jpeg(1, 16_385),
    "a bomb": lambda: webp(1 << 24, 1 << 24),
    "32 MiB and a byte": lambda: heavy((32 << 20) + 1),
    "a GIF": lambda: saved("GIF"),
}


@every_backend
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_not_sent_is_refused_before_a_byte_is(backend: Backend, serve: Serve) -> None:
    server = serve(backend.server())
    good = md.ImagePart(png(64, 64, data=zlib.compress(bytes(64 * (1 + 64 * 3)))))
    wrong = []
    async with backend.connect(server.url) as provider:
        model = provider.image_model(backend.model)
        for name, make in UNSENDABLE.items():
            for fields, field in (
                ({"images": [md.ImagePart(make())]}, "images"),
                ({"images": [good], "mask": md.ImagePart(make())}, "mask"),
            ):
                try:
                    await model.generate("a", **fields, **backend.fields)
                except md.InvalidRequestError as error:
                    if error.field != field or server.seen:
                        wrong.append(
                            f"{name}: names {error.field}, not {field}, after {len(server.seen)} requests"
                        )
                except Exception as error:
                    wrong.append(f"{name}: {error!r}")
                else:
                    wrong.append(f"{name}: {field} was taken")
    assert wrong == []
