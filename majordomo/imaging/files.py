"""Steps that change the file and not what is seen: metadata, kind, bytes; and transparency, which not every kind has."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

from PIL import JpegImagePlugin

from majordomo.imaging.byte_budget import ByteBudget, fits, fitted
from majordomo.imaging.operations import Convert, Fit, Flatten, Optimize, Sanitize
from majordomo.imaging.pipeline import Pipeline
from majordomo.imaging.pixels import (
    KINDS,
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


def sanitize(work: Pipeline, step: Sanitize) -> None:
    if not step.parameters:
        work.forget()
    work.icc = work.icc and step.icc
    part = work.part
    if part is None or part.mime == "image/avif":
        if part is not None:
            work.note("ENCODED_ANEW", "an AVIF is rid of its metadata by encoding it anew")
        work.change(work.pixels())
        return
    orientation = 1 if part.mime == "image/gif" else read_orientation(part.data)
    if orientation != 1 and step.orientation == "apply":
        if not is_lossless(part):
            work.note("ENCODED_ANEW", f"a {part.mime} that is turned is encoded anew")
        work.change(work.pixels())
        return
    work.replace(
        ImagePart(
            work.with_metadata(strip_metadata(part.data, icc=step.icc, orientation=orientation))
        )
    )


def convert(work: Pipeline, step: Convert) -> None:
    if step.format == "avif":
        check_avif("format")
    parse_color(step.background, "background")
    work.chosen = True
    if step.colors == "srgb":
        pixels = work.pixels()
        if pixels.profile is not None or work.has_note("COLORS_CONVERTED"):
            work.change(as_srgb(pixels, work.note))
    part = work.part
    if part is not None:
        same = KINDS[part.mime] == step.format and step.quality is None
        if same and (not step.lossless or is_lossless(part)):
            return
        work.change(work.pixels())
    work.how = replace(work.how, kind=step.format, quality=step.quality, lossless=step.lossless)
    pixels = work.pixels()
    if step.format == "jpeg" and pixels.image.mode == "RGBA":
        work.change(Pixels(work.opaque(pixels.image, step.background), pixels.profile))


def flatten(work: Pipeline, step: Flatten) -> None:
    color = parse_color(step.color, "color")
    if work.part is not None and work.part.mime == "image/jpeg":
        return
    pixels = work.pixels()
    if pixels.image.mode == "RGBA":
        work.change(Pixels(flatten_onto(pixels.image, color), pixels.profile))


def optimize(work: Pipeline, step: Optimize) -> None:
    part = work.part
    if part is None:
        work.how = replace(work.how, effort=True, colors=step.colors)
        return
    data = None
    if part.mime == "image/jpeg":
        data = _repacked(part, work)
    elif (
        part.mime in ("image/png", "image/webp") and is_lossless(part) and not _is_more(part, work)
    ):
        how = EncodeOptions(
            KINDS[part.mime], lossless=part.mime == "image/webp", effort=True, colors=step.colors
        )
        data = encode(work.pixels(), how)
    if data is None:
        work.note(
            "NOT_OPTIMIZED",
            f"this {part.mime} cannot be packed better without loss, and stays as it is",
        )
        return
    data = work.with_metadata(data)
    if len(data) < len(part.data):
        work.restart(ImagePart(data)) if step.colors else work.replace(ImagePart(data))


def _is_more(part: ImagePart, work: Pipeline) -> bool:
    """Whether it has more than eight bits or more than one frame, which would get lost."""
    if part.mime == "image/png" and part.data[24] == 16:
        return True
    return b"acTL" in part.data[:4096] if part.mime == "image/png" else b"ANIM" in part.data[:4096]


def _repacked(part: ImagePart, work: Pipeline) -> bytes | None:
    """A JPEG with its own tables, and without what is no part of the image. None where colors have fewer pixels than brightness: they
    would be spread and averaged anew, which is not the same again."""
    image = open_image(ImagePart(strip_metadata(part.data)), work.limits)
    if image.mode not in ("L", "RGB") or (
        image.mode == "RGB" and JpegImagePlugin.get_sampling(image) != 0
    ):
        return None
    held = BytesIO()
    image.save(
        held,
        "JPEG",
        quality="keep",
        optimize=True,
        progressive=True,
        icc_profile=image.info.get("icc_profile"),
    )
    block = write_exif(read_orientation(part.data))
    return with_exif(held.getvalue(), block) if block else held.getvalue()


def fit(work: Pipeline, step: Fit) -> None:
    if work.part is None:
        work.part = work.encode()
    own = KINDS[work.part.mime]
    formats = step.formats or (
        (own,) if work.chosen else (own, *(kind for kind in ("webp", "jpeg", "png") if kind != own))
    )
    if fits(work.part, step.max_bytes, formats):
        return
    target = ByteBudget(step.max_bytes, formats, step.min_side)
    work.restart(ImagePart(fitted(work.pixels(), target, len(work.part.data), work.written)))
