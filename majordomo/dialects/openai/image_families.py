"""How image models behind OpenAI's routes differ: what each takes, so that nothing illegal is ever sent.

Source: openai-openapi at f85dbe2 (the per-model notes of CreateImageRequest and CreateImageEditRequest), openai-python at e43b422.
"""

from __future__ import annotations

from dataclasses import dataclass

from majordomo.imagegen.geometry import Geometry, local_geometry

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageModelFamily:
    """What models of one kind take. A server that is not OpenAI's takes anything: it ignores what it does not know."""

    backend: str
    geometry: Geometry | None = (
        None  # None: any size, guessed from the id where one must be worked out
    )
    prompt: int = 1_000_000  # characters
    max_images: int = 10  # images a call
    edits: int = 16  # images an edit takes, 0: no edits
    edit_bytes: int = 50 * MIB
    qualities: tuple[str, ...] | None = None  # None: any
    formats: bool = True  # output_format
    backgrounds: bool = True
    response_format: bool = (
        False  # illegal for the gpt-image family, which always answers in base64
    )
    streams: bool = False
    settings: bool = False  # steps, seed and the like, at the top level
    square_png: bool = False  # an edit's image


_LANDSCAPES = ((1024, 1024), (1536, 1024), (1024, 1536))
_GPT = ("auto", "low", "medium", "high")
DALL_E_2 = ImageModelFamily(
    "dall-e-2",
    Geometry(sizes=((256, 256), (512, 512), (1024, 1024))),
    prompt=1000,
    edits=1,
    edit_bytes=4 * MIB,
    qualities=("standard",),
    formats=False,
    backgrounds=False,
    response_format=True,
    square_png=True,
)
DALL_E_3 = ImageModelFamily(
    "dall-e-3",
    Geometry(sizes=((1024, 1024), (1792, 1024), (1024, 1792))),
    prompt=4000,
    max_images=1,
    edits=0,
    qualities=("standard", "hd"),
    formats=False,
    backgrounds=False,
    response_format=True,
)
GPT_IMAGE = ImageModelFamily(
    "gpt-image", Geometry(sizes=_LANDSCAPES), prompt=32_000, qualities=_GPT, streams=True
)
# "any WxH with both divisible by 16, ratio 1:3..3:1, max 3840x2160"
GPT_IMAGE_2 = ImageModelFamily(
    "gpt-image-2",
    Geometry(
        multiple=16, min_side=256, max_side=3840, max_pixels=3840 * 2160, max_aspect_ratio=3.0
    ),
    prompt=32_000,
    qualities=_GPT,
    streams=True,
)
COMPATIBLE = ImageModelFamily("this server", response_format=True, settings=True)
SDCPP = ImageModelFamily(
    "stable-diffusion.cpp",
    max_images=8,
    qualities=(),
    backgrounds=False,
    response_format=True,
    settings=True,
)


def hosted_family(model: str) -> ImageModelFamily:
    """OpenAI's own models; an id it does not know yet is taken for the newest kind."""
    return _known(model) or GPT_IMAGE_2


def compatible_family(model: str) -> ImageModelFamily:
    """The same ids behind any OpenAI-shaped server keep their rules (it may be a proxy); others are free."""
    return _known(model) or COMPATIBLE


def sdcpp_family(model: str) -> ImageModelFamily:
    return SDCPP


def _known(model: str) -> ImageModelFamily | None:
    name = model.rpartition("/")[2].lower()
    if name.startswith("dall-e-2"):
        return DALL_E_2
    if name.startswith("dall-e-3"):
        return DALL_E_3
    if name.startswith("gpt-image-1"):
        return GPT_IMAGE
    if name.startswith("chatgpt-image-"):
        return GPT_IMAGE
    return GPT_IMAGE_2 if name.startswith("gpt-image-") else None


def geometry_of(family: ImageModelFamily, model: str) -> Geometry:
    return family.geometry or local_geometry(model)
