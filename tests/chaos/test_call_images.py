"""Malformed images from every backend.

Each gives an image or a typed error, and the next call works.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import majordomo as md
from tests.chaos.malformed_images import (
    ACCEPTED,
    FILES,
    HEAVY,
    PNG,
    REFUSED,
    TEXTS,
    ImageCase,
    ImageReplacingServer,
    b64,
    heavy,
    jpeg,
    png,
    saved,
    webp,
)
from tests.support.image_backends import BACKENDS, Backend
from tests.support.loopback import Handler, Loopback, http_response, reply_with

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
ONCE = md.Retries(attempts=1)
ALL: dict[str, ImageCase] = {**TEXTS, **FILES}
every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)


def cases_for(backend: Backend, table: Mapping[str, ImageCase]) -> dict[str, ImageCase]:
    """Return the cases for a backend: some send files, so that JSON values do not apply."""
    sends_files = backend.name in ("comfyui", "fal")
    return {name: case for name, case in table.items() if not (sends_files and name in TEXTS)}


async def wrong_results(
    backend: Backend, serve: Serve, table: Mapping[str, ImageCase]
) -> list[str]:
    wrong = []
    replacing = ImageReplacingServer(backend.server())
    server = serve(replacing)
    async with backend.connect(server.url, retries=ONCE) as provider:
        model = provider.image_model(backend.model)
        for name, (make, expected) in table.items():
            replacing.value, replacing.replaced = make(), 0
            try:
                result = await model.generate("a red fox", **backend.fields)
            except (md.BadResponseError, md.StreamBrokenError) as error:
                if expected == ACCEPTED:
                    wrong.append(f"{name}: refused: {error}")
                if (error.provider, error.model) != (provider.name, backend.model):
                    wrong.append(f"{name}: names {error.provider}/{error.model}")
                if type(error) is md.StreamBrokenError:
                    wrong.append(f"{name}: a broken stream")
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}: {error!s:.80}")
            else:
                if expected == REFUSED:
                    wrong.append(f"{name}: was accepted as {result.image!r}")
                elif isinstance(replacing.value, bytes) and result.image.data != replacing.value:
                    wrong.append(f"{name}: returned as {result.image!r}")
            if not replacing.replaced:
                wrong.append(f"{name}: was never sent")
        replacing.value = PNG
        assert (await model.generate("a red fox", **backend.fields)).image.data == PNG
    return wrong


@every_backend
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_malformed_image_gives_a_valid_result_or_a_typed_error(
    backend: Backend, serve: Serve
) -> None:
    """Each backend gets every eighth image."""
    table = list(cases_for(backend, ALL).items())
    assert await wrong_results(backend, serve, dict(table[BACKENDS.index(backend) % 8 :: 8])) == []


@every_backend
@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_every_malformed_image(backend: Backend, serve: Serve) -> None:
    assert await wrong_results(backend, serve, cases_for(backend, ALL)) == []


KINDS = [
    backend
    for backend in BACKENDS
    if backend.name
    in ("llamaswap", "stablediffusion", "automatic1111", "comfyui", "fal", "ollama", "gemini")
]


@pytest.mark.slow
@pytest.mark.parametrize("backend", KINDS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_image_at_the_size_limit(backend: Backend, serve: Serve) -> None:
    assert await wrong_results(backend, serve, HEAVY) == []


# Number of images

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
VALID = b64(PNG)
# Requested, sent and accepted images; None: a typed error.
COUNTS: dict[str, tuple[int | None, list[Any], int | None]] = {
    "fewer": (4, [VALID], 1),
    "more": (1, [VALID] * 5, 5),
    "one when n is unset": (None, [VALID], 1),
    "one image twice": (2, [VALID, VALID], 2),
    "none": (2, [], None),
    "seventeen": (1, [VALID] * 17, 16),
    "a thousand": (1, [VALID] * 1000, 16),
    "one invalid among valid ones": (2, [VALID, "%%%"], None),
    "only invalid ones": (2, ["%%%", "%%%"], None),
    "a list instead of a value": (1, [[VALID]], None),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_another_number_of_images_adds_a_warning(shape: str, serve: Serve) -> None:
    backend = next(backend for backend in BACKENDS if backend.name == shape)
    wrong = []
    for name, (n, values, accepted) in COUNTS.items():
        server = serve(reply_with(http_response(SHAPES[shape](values))))
        async with backend.connect(server.url, retries=ONCE) as provider:
            try:
                result = await provider.image_model(backend.model).generate(
                    "a", **({} if n is None else {"n": n})
                )
            except (md.BadResponseError, md.UnsupportedError) as error:
                if accepted is not None:
                    wrong.append(f"{name}: {error}")
                continue
        calls = len(server.requests)
        if (
            accepted is None
            or len(result.images) != accepted * calls
            or len(result.details) != len(result.images)
        ):
            wrong.append(f"{name}: {len(result.images)} in {calls} calls")
        if len(values) > 16 and "IMAGES_NOT_FETCHED" not in [
            warning.code for warning in result.warnings
        ]:
            wrong.append(f"{name}: there is no warning about the rest")
        differs = any(warning.code == "COUNT_DIFFERS" for warning in result.warnings)
        if differs != (len(result.images) != (n or 1)):
            wrong.append(
                f"{name}: {len(result.images)} in {calls} calls for {n}: {result.warnings}"
            )
    assert wrong == []


WRONG_FIELDS: list[dict[str, Any]] = [
    {"data": VALID},
    {"data": {"b64_json": VALID}},
    {"data": [VALID]},
    {"data": [{"url": f"data:image/png;base64,{VALID}"}]},
    {"data": [{"image": VALID}]},
    {"data": [{"b64_json": {"data": VALID}}]},
    {"data": [[{"b64_json": VALID}]]},
    {"b64_json": VALID},
    {"image": VALID},
    {"images": {"0": VALID}},
    {"images": [{"b64_json": VALID}]},
    {"images": [None, VALID]},
    {"output": [{"type": "image_generation_call", "result": VALID}]},
    {"candidates": VALID},
    {"candidates": [{"content": {"parts": [{"text": VALID}]}}]},
    {
        "candidates": [
            {"content": {"parts": [{"inlineData": {"mimeType": "text/html", "data": VALID}}]}}
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
            {"content": {"parts": {"inlineData": {"mimeType": "image/png", "data": VALID}}}}
        ]
    },
]


@pytest.mark.parametrize("shape", SHAPES)
async def test_image_in_a_wrong_field_is_refused(shape: str, serve: Serve) -> None:
    backend = next(backend for backend in BACKENDS if backend.name == shape)
    for body in WRONG_FIELDS:
        async with backend.connect(
            serve(reply_with(http_response(body))).url, retries=ONCE
        ) as provider:
            with pytest.raises(md.BadResponseError):
                await provider.image_model(backend.model).generate("a")


# Images in requests

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
async def test_invalid_image_in_a_request_is_refused_before_sending(
    backend: Backend, serve: Serve
) -> None:
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
                    if error.field != field or server.requests:
                        wrong.append(
                            f"{name}: names {error.field}, not {field};"
                            f" {len(server.requests)} requests"
                        )
                except Exception as error:
                    wrong.append(f"{name}: {error!r}")
                else:
                    wrong.append(f"{name}: {field} was accepted")
    assert wrong == []
