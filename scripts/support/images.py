"""Tables of what each image backend does with each field, according to its dialect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image
from support.page import legend, of_one_page, optional_examples, table

import majordomo as md
from majordomo import imagegen
from majordomo.dialects.ollama.images import OllamaImagesCodec, OllamaServer
from majordomo.models.image_model import HTTPImageModel
from majordomo.offline import image_model as offline

IMAGE = md.ImagePart.from_pil(Image.new("RGB", (1024, 1024)))
EDIT: dict[str, Any] = {"images": (IMAGE,)}


@dataclass(frozen=True)
class Backend:
    """A column of the tables.

    What `adapt` cannot show, such as progress, is written as text and tested with the provider.
    """

    name: str
    page: str
    model: Callable[[], imagegen.Model]
    progress: str
    cancel: str
    reported_seed: str
    previews: str = ""
    usage: str = "–"
    readme: bool = True
    # Replaces the result for `size` where only the returned image shows a difference.
    size: str = ""
    # "sent" where only the server knows whether the field has an effect.
    arrives: str = "yes"


def _ollama(*version: int) -> imagegen.Model:
    """Return a model for a version of the server, which a provider would query."""
    model = md.Ollama().image_model("x/flux2-klein")
    model._image_codec = OllamaImagesCodec(
        lambda _: OllamaServer((version[0], version[1], version[2]), frozenset({"image", "vision"}))
    )
    return model


PAID = "closes the connection; the image is charged anyway"
LEAVES = (
    "closes the connection: removed from the queue or from loading;"
    " an image in progress is finished"
)
BETWEEN = "stops between two steps"
SDCPP_SEED = "image metadata"
BACKENDS = [
    Backend(
        "`StableDiffusion`",
        "sd-server",
        lambda: md.StableDiffusion().image_model("sdxl"),
        "position in the server's queue",
        "withdraws a queued job; one in progress is finished",
        SDCPP_SEED,
    ),
    Backend(
        '`StableDiffusion(api="sdapi")`',
        "sd-server",
        lambda: md.StableDiffusion(api="sdapi").image_model("sdxl"),
        "–",
        "closes the connection; the server finishes the image",
        "reply",
        readme=False,
    ),
    Backend(
        '`StableDiffusion(api="openai")`',
        "sd-server",
        lambda: md.StableDiffusion(api="openai").image_model("sdxl"),
        "–",
        "closes the connection; the server finishes the image",
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
        "reply",
        readme=False,
    ),
    Backend(
        "`Automatic1111`",
        "automatic1111",
        lambda: md.Automatic1111().image_model("sdxl"),
        "steps",
        "interrupts, if the server reports that the job is ours",
        "reply",
    ),
    Backend(
        "`ComfyUI`",
        "comfyui",
        lambda: md.ComfyUI().image_model("sdxl"),
        "position in the queue; steps with `[comfyui]`",
        "deletes a queued job, interrupts a running one of ours",
        "image metadata",
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
        "`Fal`",
        "fal",
        lambda: md.Fal("k").image_model("fal-ai/flux/dev"),
        "position in the queue",
        "withdraws a queued request; one in progress stops if its model supports that",
        "reply",
        usage="seconds",
        arrives="sent",
    ),
    Backend(
        "`OpenAICompatible`",
        "compatible",
        lambda: md.OpenAICompatible().image_model("some-model"),
        "–",
        "closes the connection",
        "image metadata",
        usage="tokens",
        arrives="sent",
    ),
    Backend(
        "`Offline`",
        "offline",
        lambda: md.Offline().image_model("renderer"),
        "steps",
        "stops",
        "reply",
    ),
]

Probe = tuple[dict[str, Any], str]
# By field: rows that the example of the field alone does not show. A row has fields of the request,
# and the field that a warning or an error names.
SPECIAL_FIELDS: dict[str, dict[str, Probe]] = {
    "n": {"`n`": ({"n": 2}, "n")},
    "size": {
        "`size`": ({"size": "1040x800"}, "size"),
        "`aspect`, `megapixels`": ({"aspect": "3:2"}, "size"),
    },
    "images": {
        "`images`, one": (EDIT, "images"),
        "`images`, several": ({"images": (IMAGE, IMAGE)}, "images"),
    },
    "mask": {"`mask`": ({**EDIT, "mask": IMAGE}, "mask")},
    "strength": {"`strength`": ({**EDIT, "strength": 0.5}, "strength")},
}
PROBES: dict[str, Probe] = {
    row: probe
    for name, example in optional_examples(imagegen.Request, SPECIAL_FIELDS)
    for row, probe in SPECIAL_FIELDS.get(name, {f"`{name}`": ({name: example}, name)}).items()
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
CELL_VALUES = {
    "yes": "the field is sent",
    "sent": "the field is sent; only the server knows whether it has an effect",
    "warning": "the backend does not support the field or only some values; the result has a"
    " warning, with `strict=True` an `UnsupportedError` is raised",
    "no": "an `UnsupportedError` is raised before anything is sent",
    "calls": "several calls, one image each",
    "shape": "the nearest aspect (and area, where the model has several) is requested; the result"
    " has a warning when the returned size differs",
}


def cells(backend: Backend, fields: list[str]) -> list[str]:
    """Return the cells of a backend."""
    model = backend.model()
    return [
        backend.size if field == "`size`" and backend.size else cell(backend, model, *PROBES[field])
        for field in fields
    ]


def cell(backend: Backend, model: imagegen.Model, fields: dict[str, Any], name: str) -> str:
    request = imagegen.Request("a lighthouse", **fields)
    try:
        if isinstance(model, HTTPImageModel):
            codec = model._image_codec
            fitted, warnings = codec.adapt(model.id, request, None)
            if name == "n" and codec.max_per_call(model.id, fitted) < 2:
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
        values = dict(zip(PROBES, cells(backend, list(PROBES)), strict=True))
        values["events before `Done`"], values["cancelling"] = backend.progress, backend.cancel
        values["seed reported in"], values["`usage`"] = backend.reported_seed, backend.usage
        found.append((backend, values))
    return found


def full_table() -> str:
    """Return the table of all backends, each with a link to its page."""
    found = columns()
    rows = [[row, *(values[row] for _, values in found)] for row in found[0][1]]
    return f"{legend(CELL_VALUES)}\n\n" + table(
        ["", *(f"[{backend.name}](backends/{backend.page}.md)" for backend, _ in found)], rows
    )


def page_tables() -> dict[str, str]:
    """Return the table of each backend's own page."""
    tables = {}
    for page in dict.fromkeys(backend.page for backend in BACKENDS):
        found = [(backend.name, values) for backend, values in columns() if backend.page == page]
        tables[page] = of_one_page(CELL_VALUES, list(found[0][1]), found)
    return tables


def readme_table() -> str:
    rows = [
        [backend.name, *cells(backend, IN_README), backend.progress]
        for backend in BACKENDS
        if backend.readme
    ]
    return table(["image backend", *IN_README, "events"], rows)
