"""What the image models behind OpenAI's routes accept, so that no invalid field is sent.

Sources: openai-openapi at f85dbe2 (the per-model notes of CreateImageRequest and
CreateImageEditRequest), openai-python at e43b422.
"""

from __future__ import annotations

from dataclasses import dataclass

from majordomo.imagegen.geometry import Geometry, local_geometry

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ImageModelFamily:
    """What the models of one family accept.

    Compatible servers accept any value: they ignore what they do not know.
    """

    backend: str
    """Name of the backend in messages."""
    geometry: Geometry | None = None
    """Supported sizes. None: any size; if one has to be computed, it follows from the model id."""
    max_prompt_characters: int = 1_000_000
    """Maximum length of the prompt."""
    max_images: int = 10
    """Maximum number of images per request."""
    max_edit_images: int = 16
    """Maximum number of input images of an edit; 0 if the family supports no edits."""
    max_edit_image_bytes: int = 50 * MIB
    """Maximum size of each input image of an edit, in bytes."""
    qualities: tuple[str, ...] | None = None
    """Accepted values of `quality`; None accepts any value."""
    output_formats: bool = True
    """Whether `output_format` is accepted."""
    backgrounds: bool = True
    """Whether `background` is accepted."""
    response_format: bool = False
    """Whether `response_format` is sent: the gpt-image family, always base64, rejects it."""
    streams: bool = False
    """Whether responses can be streamed."""
    settings: bool = False
    """Whether steps, seed and similar fields are accepted at the top level."""
    square_png: bool = False
    """Whether the input image of an edit has to be a square PNG."""


_GPT_IMAGE_SIZES = ((1024, 1024), (1536, 1024), (1024, 1536))
_GPT_IMAGE_QUALITIES = ("auto", "low", "medium", "high")
DALL_E_2 = ImageModelFamily(
    "dall-e-2",
    Geometry(sizes=((256, 256), (512, 512), (1024, 1024))),
    max_prompt_characters=1000,
    max_edit_images=1,
    max_edit_image_bytes=4 * MIB,
    qualities=("standard",),
    output_formats=False,
    backgrounds=False,
    response_format=True,
    square_png=True,
)
DALL_E_3 = ImageModelFamily(
    "dall-e-3",
    Geometry(sizes=((1024, 1024), (1792, 1024), (1024, 1792))),
    max_prompt_characters=4000,
    max_images=1,
    max_edit_images=0,
    qualities=("standard", "hd"),
    output_formats=False,
    backgrounds=False,
    response_format=True,
)
GPT_IMAGE = ImageModelFamily(
    "gpt-image",
    Geometry(sizes=_GPT_IMAGE_SIZES),
    max_prompt_characters=32_000,
    qualities=_GPT_IMAGE_QUALITIES,
    streams=True,
)
# "any WxH with both divisible by 16, ratio 1:3..3:1, max 3840x2160"
GPT_IMAGE_2 = ImageModelFamily(
    "gpt-image-2",
    Geometry(
        multiple=16, min_side=256, max_side=3840, max_pixels=3840 * 2160, max_aspect_ratio=3.0
    ),
    max_prompt_characters=32_000,
    qualities=_GPT_IMAGE_QUALITIES,
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
    """Return the family of a model hosted by OpenAI; an unknown id counts as the newest family."""
    return _known_family(model) or GPT_IMAGE_2


def compatible_family(model: str) -> ImageModelFamily:
    """Return the family of a model behind a compatible server.

    OpenAI's model ids keep their rules, because the server may be a proxy; other ids have none.
    """
    return _known_family(model) or COMPATIBLE


def sdcpp_family(model: str) -> ImageModelFamily:
    """Return the family of every model behind stable-diffusion.cpp."""
    return SDCPP


def _known_family(model: str) -> ImageModelFamily | None:
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
    """Return the family's sizes, or for any size those that suit the model id."""
    return family.geometry or local_geometry(model)
