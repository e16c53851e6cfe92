"""What each image backend does with each field, asked of the dialects themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image
from support.page import legend, of_one_page, table

import majordomo as md
from majordomo import imagegen
from majordomo.dialects.ollama.images import OllamaImagesCodec, OllamaServer
from majordomo.models.image_model import HTTPImageModel
from majordomo.offline import image_model as offline

PICTURE = md.ImagePart.from_pil(Image.new("RGB", (1024, 1024)))
EDIT: dict[str, Any] = {"images": (PICTURE,)}


@dataclass(frozen=True)
class Backend:
    """A column. What no `fit` tells (what happens while it draws) is said in words, and shown by the tests of the provider."""

    name: str
    page: str
    model: Callable[[], imagegen.Model]
    progress: str
    cancel: str
    seed_told: str
    previews: str = ""
    usage: str = "–"
    readme: bool = True
    size: str = ""  # instead of what `fit` tells: it warns of no size when only what comes can show the difference
    arrives: str = "yes"  # "sent" where nobody can know what becomes of it


def _ollama(*version: int) -> imagegen.Model:
    """What it takes is a matter of the server's version, which is asked before the first image."""
    model = md.Ollama().image_model("x/flux2-klein")
    model._any_codec = OllamaImagesCodec(
        lambda _: OllamaServer((version[0], version[1], version[2]), frozenset({"image", "vision"}))
    )
    return model


PAID = "closes the connection; it is paid for all the same"
LEAVES = "closes the connection: gone from the line and from a load; an image that is drawn runs to its end"
BETWEEN = "stops between two steps"
SDCPP_SEED = "image's text"
BACKENDS = [
    Backend(
        "`StableDiffusion`",
        "sd-server",
        lambda: md.StableDiffusion().image_model("sdxl"),
        "place in the server's line",
        "withdraws a job that waits; one that is drawn runs to its end",
        SDCPP_SEED,
    ),
    Backend(
        '`StableDiffusion(api="sdapi")`',
        "sd-server",
        lambda: md.StableDiffusion(api="sdapi").image_model("sdxl"),
        "–",
        "closes the connection; the server draws to its end",
        "answer",
        readme=False,
    ),
    Backend(
        '`StableDiffusion(api="openai")`',
        "sd-server",
        lambda: md.StableDiffusion(api="openai").image_model("sdxl"),
        "–",
        "closes the connection; the server draws to its end",
        SDCPP_SEED,
        readme=False,
    ),
    Backend(
        "`LlamaSwap`",
        "llama-swap",
        lambda: md.LlamaSwap().image_model("sdxl"),
        "loading",
        LEAVES,
        SDCPP_SEED,
    ),
    Backend(
        '`LlamaSwap(images="sdapi")`',
        "llama-swap",
        lambda: md.LlamaSwap(images="sdapi").image_model("sdxl"),
        "loading",
        LEAVES,
        "answer",
        readme=False,
    ),
    Backend(
        "`Automatic1111`",
        "automatic1111",
        lambda: md.Automatic1111().image_model("sdxl"),
        "steps",
        "interrupts, when the server says that the job is ours",
        "answer",
    ),
    Backend(
        "`ComfyUI`",
        "comfyui",
        lambda: md.ComfyUI().image_model("sdxl"),
        "place in the queue; steps with `[comfyui]`",
        "deletes a job that waits, interrupts one that is ours and runs",
        "image's text",
    ),
    Backend(
        "`Ollama` 0.14.3 to 0.32.5",
        "ollama",
        lambda: _ollama(0, 32, 5),
        "steps",
        BETWEEN,
        "what was sent",
        usage="seconds",
    ),
    Backend(
        "`Ollama` 0.15.0 to 0.15.4",
        "ollama",
        lambda: _ollama(0, 15, 4),
        "steps",
        BETWEEN,
        "what was sent",
        usage="seconds",
        readme=False,
    ),
    Backend(
        "`OpenAI` gpt-image-2",
        "openai",
        lambda: md.OpenAI("k").image_model("gpt-image-2"),
        "–",
        PAID,
        "–",
        usage="tokens",
    ),
    Backend(
        "`OpenAI` gpt-image-1",
        "openai",
        lambda: md.OpenAI("k").image_model("gpt-image-1.5"),
        "–",
        PAID,
        "–",
        usage="tokens",
        readme=False,
    ),
    Backend(
        "`OpenAI` dall-e-3",
        "openai",
        lambda: md.OpenAI("k").image_model("dall-e-3"),
        "–",
        PAID,
        "–",
        readme=False,
    ),
    Backend(
        "`OpenAI` dall-e-2",
        "openai",
        lambda: md.OpenAI("k").image_model("dall-e-2"),
        "–",
        PAID,
        "–",
        readme=False,
    ),
    Backend(
        "`Gemini` 2.5",
        "gemini",
        lambda: md.Gemini("k").image_model("gemini-2.5-flash-image"),
        "–",
        PAID,
        "–",
        usage="tokens",
        readme=False,
        size="shape",
    ),
    Backend(
        "`Gemini` 3",
        "gemini",
        lambda: md.Gemini("k").image_model("gemini-3-pro-image-preview"),
        "–",
        PAID,
        "–",
        usage="tokens",
        size="shape",
    ),
    Backend(
        "`OpenAICompatible`",
        "compatible",
        lambda: md.OpenAICompatible().image_model("some-model"),
        "–",
        "closes the connection",
        "image's text",
        usage="tokens",
        arrives="sent",
    ),
    Backend(
        "`Offline`",
        "offline",
        lambda: md.Offline().image_model("renderer"),
        "steps",
        "stops",
        "answer",
    ),
]

# field: (fields asked for, the field that a warning or an error would name)
PROBES: dict[str, tuple[dict[str, Any], str]] = {
    "`n`": ({"n": 2}, "n"),
    "`size`": ({"size": "1040x800"}, "size"),
    "`aspect`, `megapixels`": ({"aspect": "3:2"}, "size"),
    "`steps`": ({"steps": 20}, "steps"),
    "`cfg_scale`": ({"cfg_scale": 4.5}, "cfg_scale"),
    "`negative_prompt`": ({"negative_prompt": "rain"}, "negative_prompt"),
    "`sampler`": ({"sampler": "euler_a"}, "sampler"),
    "`scheduler`": ({"scheduler": "karras"}, "scheduler"),
    "`seed`": ({"seed": 7}, "seed"),
    "`images`, one": (EDIT, "images"),
    "`images`, several": ({"images": (PICTURE, PICTURE)}, "images"),
    "`mask`": ({**EDIT, "mask": PICTURE}, "mask"),
    "`strength`": ({**EDIT, "strength": 0.5}, "strength"),
    "`output_format`": ({"output_format": "webp"}, "output_format"),
    "`quality`": ({"quality": "high"}, "quality"),
    "`background`": ({"background": "transparent"}, "background"),
    "`previews`": ({"previews": 2}, "previews"),
}
IN_README = [
    "`size`",
    "`steps`",
    "`sampler`",
    "`seed`",
    "`images`, one",
    "`images`, several",
    "`mask`",
    "`strength`",
    "`previews`",
]
WORDS = {
    "yes": "it arrives",
    "sent": "what becomes of it only the server knows",
    "warning": "the backend has no such thing or only some values; the result warns, `strict=True` makes it an `UnsupportedError`",
    "no": "`UnsupportedError` before anything is sent",
    "calls": "several calls, one image each",
    "shape": "the nearest shape (and area, where the model has several) is asked for; the result warns when what came has other pixels",
}


def cells(backend: Backend, fields: list[str]) -> list[str]:
    """A backend's column."""
    model = backend.model()
    return [
        backend.size if field == "`size`" and backend.size else cell(backend, model, *PROBES[field])
        for field in fields
    ]


def cell(backend: Backend, model: imagegen.Model, fields: dict[str, Any], name: str) -> str:
    request = imagegen.Request("a lighthouse", **fields)
    try:
        if isinstance(model, HTTPImageModel):
            door = model._any_codec
            fitted, warnings = door.adapt(model.id, request, None)
            if name == "n" and door.max_per_call(model.id, fitted) < 2:
                return "calls"
        else:
            fitted, warnings = offline._adapt_request(request, model.id, model.provider)
    except md.UnsupportedError:
        return "no"
    return "warning" if any(warning.field == name for warning in warnings) else backend.arrives


@cache
def columns() -> list[tuple[Backend, dict[str, str]]]:
    found = []
    for backend in BACKENDS:
        told = dict(zip(PROBES, cells(backend, list(PROBES)), strict=True))
        told["events before `Done`"], told["cancelling"] = backend.progress, backend.cancel
        told["seed told by"], told["`usage`"] = backend.seed_told, backend.usage
        found.append((backend, told))
    return found


def whole_table() -> str:
    """All backends, each with a link to its page."""
    found = columns()
    rows = [[row, *(told[row] for _, told in found)] for row in found[0][1]]
    return f"{legend(WORDS)}\n\n" + table(
        ["", *(f"[{backend.name}](backends/{backend.page}.md)" for backend, _ in found)], rows
    )


def page_tables() -> dict[str, str]:
    """The table of each backend's own page."""
    tables = {}
    for page in dict.fromkeys(backend.page for backend in BACKENDS):
        found = [(backend.name, told) for backend, told in columns() if backend.page == page]
        tables[page] = of_one_page(WORDS, list(found[0][1]), found)
    return tables


def readme_table() -> str:
    rows = [
        [backend.name, *cells(backend, IN_README), backend.progress]
        for backend in BACKENDS
        if backend.readme
    ]
    return table(["draws with", *IN_README, "tells"], rows)
