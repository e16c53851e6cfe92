"""Steps that change the file and not what is seen: metadata, kind, bytes; and transparency, which not every kind has."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

from PIL import JpegImagePlugin

from majordomo.imaging.byte_budget import Target, fits, fitted
from majordomo.imaging.operations import Convert, Fit, Flatten, Optimise, Sanitise
from majordomo.imaging.pipeline import Work
from majordomo.imaging.pixels import (
    KINDS,
    Encoding,
    Pixels,
    as_srgb,
    check_avif,
    colour_of,
    encoded,
    is_lossless,
    on_colour,
    opened,
)
from majordomo.imaging.sanitizer import sanitised
from majordomo.media.exif import write_exif
from majordomo.media.image_containers import with_exif
from majordomo.media.image_part import ImagePart, orientation_of


def sanitise(work: Work, step: Sanitise) -> None:
    if not step.parameters:
        work.forget()
    work.icc = work.icc and step.icc
    part = work.part
    if part is None or part.mime == "image/avif":
        if part is not None:
            work.note("ENCODED_ANEW", "an AVIF is rid of its metadata by encoding it anew")
        work.change(work.pixels())
        return
    orientation = 1 if part.mime == "image/gif" else orientation_of(part.data)
    if orientation != 1 and step.orientation == "apply":
        if not is_lossless(part):
            work.note("ENCODED_ANEW", f"a {part.mime} that is turned is encoded anew")
        work.change(work.pixels())
        return
    work.replace(ImagePart(work.inscribed(sanitised(part.data, icc=step.icc, orientation=orientation))))


def convert(work: Work, step: Convert) -> None:
    if step.kind == "avif":
        check_avif("kind")
    colour_of(step.background, "background")
    work.chosen = True
    if step.colours == "srgb":
        pixels = work.pixels()
        if pixels.profile is not None or work.told("COLOURS_CONVERTED"):
            work.change(as_srgb(pixels, work.note))
    part = work.part
    if part is not None:
        same = KINDS[part.mime] == step.kind and step.quality is None
        if same and (not step.lossless or is_lossless(part)):
            return
        work.change(work.pixels())
    work.how = replace(work.how, kind=step.kind, quality=step.quality, lossless=step.lossless)
    pixels = work.pixels()
    if step.kind == "jpeg" and pixels.image.mode == "RGBA":
        work.change(Pixels(work.opaque(pixels.image, step.background), pixels.profile))


def flatten(work: Work, step: Flatten) -> None:
    colour = colour_of(step.colour, "colour")
    if work.part is not None and work.part.mime == "image/jpeg":
        return
    pixels = work.pixels()
    if pixels.image.mode == "RGBA":
        work.change(Pixels(on_colour(pixels.image, colour), pixels.profile))


def optimise(work: Work, step: Optimise) -> None:
    part = work.part
    if part is None:
        work.how = replace(work.how, effort=True, colours=step.colours)
        return
    data = None
    if part.mime == "image/jpeg":
        data = _repacked(part, work)
    elif part.mime in ("image/png", "image/webp") and is_lossless(part) and not _is_more(part, work):
        how = Encoding(KINDS[part.mime], lossless=part.mime == "image/webp", effort=True, colours=step.colours)
        data = encoded(work.pixels(), how)
    if data is None:
        work.note("NOT_OPTIMISED", f"this {part.mime} cannot be packed better without loss, and stays as it is")
        return
    data = work.inscribed(data)
    if len(data) < len(part.data):
        work.restart(ImagePart(data)) if step.colours else work.replace(ImagePart(data))


def _is_more(part: ImagePart, work: Work) -> bool:
    """Whether it has more than eight bits or more than one frame, which would get lost."""
    if part.mime == "image/png" and part.data[24] == 16:
        return True
    return b"acTL" in part.data[:4096] if part.mime == "image/png" else b"ANIM" in part.data[:4096]


def _repacked(part: ImagePart, work: Work) -> bytes | None:
    """A JPEG with its own tables, and without what is no part of the picture. None where colours have fewer pixels than brightness: they
    would be spread and averaged anew, which is not the same again."""
    image = opened(ImagePart(sanitised(part.data)), work.limits)
    if image.mode not in ("L", "RGB") or (image.mode == "RGB" and JpegImagePlugin.get_sampling(image) != 0):
        return None
    held = BytesIO()
    image.save(held, "JPEG", quality="keep", optimize=True, progressive=True, icc_profile=image.info.get("icc_profile"))
    block = write_exif(orientation_of(part.data))
    return with_exif(held.getvalue(), block) if block else held.getvalue()


def fit(work: Work, step: Fit) -> None:
    if work.part is None:
        work.part = work.encode()
    own = KINDS[work.part.mime]
    formats = step.formats or ((own,) if work.chosen else (own, *(kind for kind in ("webp", "jpeg", "png") if kind != own)))
    if fits(work.part, step.max_bytes, formats):
        return
    target = Target(step.max_bytes, formats, step.min_side)
    work.restart(ImagePart(fitted(work.pixels(), target, len(work.part.data), work.written)))
