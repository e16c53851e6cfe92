"""Steps that change the file: metadata, format, size in bytes and transparency."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

from PIL import JpegImagePlugin

from majordomo.imaging.byte_budget import ByteBudget, encode_to_fit, fits
from majordomo.imaging.operations import Convert, Fit, Flatten, Optimize, Sanitize
from majordomo.imaging.pipeline import Pipeline
from majordomo.imaging.pixels import (
    FORMATS,
    EncodeOptions,
    Pixels,
    as_srgb,
    check_avif,
    encode,
    flatten_onto,
    is_lossless,
    open_image,
    parse_color,
)
from majordomo.imaging.sanitizer import strip_metadata
from majordomo.media.exif import write_exif
from majordomo.media.image_containers import with_exif
from majordomo.media.image_header import read_orientation
from majordomo.media.image_part import ImagePart


def sanitize(pipeline: Pipeline, step: Sanitize) -> None:
    """Apply a `Sanitize` step."""
    if not step.parameters:
        pipeline.drop_parameters()
    pipeline.keep_profile = pipeline.keep_profile and step.icc
    part = pipeline.part
    if part is None or part.mime == "image/avif":
        if part is not None:
            pipeline.note(
                "RE_ENCODED", "the AVIF was re-encoded, which is how its metadata is removed"
            )
        pipeline.set_pixels(pipeline.pixels())
        return
    orientation = 1 if part.mime == "image/gif" else read_orientation(part.data)
    if orientation != 1 and step.orientation == "apply":
        if not is_lossless(part):
            pipeline.note("RE_ENCODED", f"the rotated {part.mime} was re-encoded")
        pipeline.set_pixels(pipeline.pixels())
        return
    stripped = strip_metadata(part.data, icc=step.icc, orientation=orientation)
    pipeline.set_file(ImagePart(pipeline.with_metadata(stripped)))


def convert(pipeline: Pipeline, step: Convert) -> None:
    """Apply a `Convert` step."""
    if step.format == "avif":
        check_avif("format")
    parse_color(step.background, "background")
    pipeline.has_format = True
    if step.colors == "srgb":
        pixels = pipeline.pixels()
        if pixels.profile is not None or pipeline.has_note("COLORS_CONVERTED"):
            pipeline.set_pixels(as_srgb(pixels, pipeline.note))
    part = pipeline.part
    if part is not None:
        unchanged = FORMATS[part.mime] == step.format and step.quality is None
        if unchanged and (not step.lossless or is_lossless(part)):
            return
        pipeline.set_pixels(pipeline.pixels())
    pipeline.options = replace(
        pipeline.options, format=step.format, quality=step.quality, lossless=step.lossless
    )
    pixels = pipeline.pixels()
    if step.format == "jpeg" and pixels.image.mode == "RGBA":
        opaque = pipeline.flatten(pixels.image, step.background)
        pipeline.set_pixels(Pixels(opaque, pixels.profile))


def flatten(pipeline: Pipeline, step: Flatten) -> None:
    """Apply a `Flatten` step."""
    color = parse_color(step.color, "color")
    if pipeline.part is not None and pipeline.part.mime == "image/jpeg":
        return
    pixels = pipeline.pixels()
    if pixels.image.mode == "RGBA":
        pipeline.set_pixels(Pixels(flatten_onto(pixels.image, color), pixels.profile))


def optimize(pipeline: Pipeline, step: Optimize) -> None:
    """Apply an `Optimize` step."""
    part = pipeline.part
    if part is None:
        pipeline.options = replace(pipeline.options, effort=True, colors=step.colors)
        return
    data = None
    if part.mime == "image/jpeg":
        data = _optimize_jpeg(part, pipeline)
    elif (
        part.mime in ("image/png", "image/webp")
        and is_lossless(part)
        and not _would_lose_data(part)
    ):
        options = EncodeOptions(
            FORMATS[part.mime],
            lossless=part.mime == "image/webp",
            effort=True,
            colors=step.colors,
        )
        data = encode(pipeline.pixels(), options)
    if data is None:
        pipeline.note(
            "NOT_OPTIMIZED",
            f"the {part.mime} cannot be compressed further without loss and was not changed",
        )
        return
    data = pipeline.with_metadata(data)
    if len(data) < len(part.data):
        if step.colors:
            pipeline.reload(ImagePart(data))
        else:
            pipeline.set_file(ImagePart(data))


def _would_lose_data(part: ImagePart) -> bool:
    """Return whether the image has more than eight bits a channel or more than one frame."""
    if part.mime == "image/png" and part.data[24] == 16:
        return True
    return b"acTL" in part.data[:4096] if part.mime == "image/png" else b"ANIM" in part.data[:4096]


def _optimize_jpeg(part: ImagePart, pipeline: Pipeline) -> bytes | None:
    """Re-encode a JPEG with its own quantization tables and without metadata.

    Returns None if its colors have a lower resolution than its brightness: they would be enlarged
    and averaged again, which changes them.
    """
    image = open_image(ImagePart(strip_metadata(part.data)), pipeline.limits)
    if image.mode not in ("L", "RGB") or (
        image.mode == "RGB" and JpegImagePlugin.get_sampling(image) != 0
    ):
        return None
    buffer = BytesIO()
    image.save(
        buffer,
        "JPEG",
        quality="keep",
        optimize=True,
        progressive=True,
        icc_profile=image.info.get("icc_profile"),
    )
    block = write_exif(read_orientation(part.data))
    return with_exif(buffer.getvalue(), block) if block else buffer.getvalue()


def fit(pipeline: Pipeline, step: Fit) -> None:
    """Apply a `Fit` step."""
    if pipeline.part is None:
        pipeline.part = pipeline.encode()
    own = FORMATS[pipeline.part.mime]
    formats = step.formats or (
        (own,)
        if pipeline.has_format
        else (own, *(name for name in ("webp", "jpeg", "png") if name != own))
    )
    if fits(pipeline.part, step.max_bytes, formats):
        return
    budget = ByteBudget(step.max_bytes, formats, step.min_side)
    data = encode_to_fit(
        pipeline.pixels(), budget, len(pipeline.part.data), pipeline.parameters_text
    )
    pipeline.reload(ImagePart(data))
