"""Steps that change which pixels there are: turning, resizing, cropping."""

from __future__ import annotations

from PIL import Image, ImageFilter

from majordomo.errors import InvalidRequestError
from majordomo.imaging.operations import Crop, Orient, Resize
from majordomo.imaging.pipeline import Pipeline
from majordomo.imaging.pixels import Pixels, Size
from majordomo.media.image_header import read_orientation
from majordomo.settings import Limits

Box = tuple[float, float, float, float]
_LOOKED_AT = 160  # pixels of the longer side that a smart crop looks at
_CLOCKWISE = {
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


def orient(work: Pipeline, step: Orient) -> None:
    turned = work.part is not None and (
        work.part.mime == "image/avif" or read_orientation(work.part.data) != 1
    )
    if not turned and not step.turn and not step.mirror:
        return
    pixels = work.pixels()
    image = pixels.image
    if step.turn:
        image = image.transpose(_CLOCKWISE[step.turn])
    if step.mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    work.change(Pixels(image, pixels.profile))


def resize(work: Pipeline, step: Resize) -> None:
    box, size, short = plan(step, work.size)
    if short:
        work.note(
            "NOT_ENLARGED", f"the image is {work.size[0]}x{work.size[1]} and was not enlarged"
        )
    if size == work.size:
        return
    check_target(size, work.limits, "width")
    full, pixels = work.size, work.pixels()
    image = pixels.image  # a JPEG may have been decoded at a part of its size
    across, down = image.width / full[0], image.height / full[1]
    part = (
        box[0] * across,
        box[1] * down,
        min(image.width, box[2] * across),
        min(image.height, box[3] * down),
    )
    work.change(Pixels(_resized(image, size, part, step.fast), pixels.profile))


def _resized(image: Image.Image, size: Size, box: Box, fast: bool) -> Image.Image:
    if (box[2] - box[0], box[3] - box[1]) == size and all(edge == int(edge) for edge in box):
        return image.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3])))
    if not fast:
        return image.resize(size, Image.Resampling.LANCZOS, box)
    # Pillow does not reduce first where there is alpha, unless it has been multiplied in
    source = image.convert("RGBa") if image.mode == "RGBA" else image
    return source.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=1.0).convert(image.mode)


def plan(step: Resize, size: Size) -> tuple[Box, Size, bool]:
    """What of an image of this size becomes which size, and whether that is less than was asked for."""
    width, height = size
    whole = (0.0, 0.0, float(width), float(height))
    if step.how == "exact":
        assert step.width is not None
        assert step.height is not None
        wanted = (step.width, step.height)
        target = wanted if step.enlarge else (min(step.width, width), min(step.height, height))
        return whole, target, target != wanted
    if step.how == "fill":
        return _fill(step, size)
    if step.how == "long_side":
        assert step.width is not None
        scale = step.width / max(size)
    else:
        scale = min(
            *(
                wanted / own
                for wanted, own in ((step.width, width), (step.height, height))
                if wanted
            ),
            1e9,
        )
    short = scale > 1 and not step.enlarge
    scale = 1.0 if short else scale
    return whole, (max(1, round(width * scale)), max(1, round(height * scale))), short


def _fill(step: Resize, size: Size) -> tuple[Box, Size, bool]:
    assert step.width is not None
    assert step.height is not None
    scale = max(step.width / size[0], step.height / size[1])
    part = (
        min(size[0], step.width / scale),
        min(size[1], step.height / scale),
    )  # a rounding may make it more than there is
    if scale > 1 and not step.enlarge:
        target = (max(1, round(part[0])), max(1, round(part[1])))
        left, top = placed(step.anchor, size, target)
        return (left, top, left + target[0], top + target[1]), target, True
    across, down = _shares(step.anchor)
    left_, top_ = (size[0] - part[0]) * across, (size[1] - part[1]) * down
    return (
        (left_, top_, min(size[0], left_ + part[0]), min(size[1], top_ + part[1])),
        (step.width, step.height),
        False,
    )


def check_target(size: Size, limits: Limits, field: str) -> None:
    """Raise InvalidRequestError (IMAGE_TOO_LARGE) for an image to be made that is larger than the limits."""
    if max(size) > limits.max_image_side or size[0] * size[1] > limits.max_image_pixels:
        message = f"{size[0]}x{size[1]} is more than the limit of {limits.max_image_pixels:,} pixels and {limits.max_image_side:,} a side"
        raise InvalidRequestError(message, field=field, code="IMAGE_TOO_LARGE")


def _shares(anchor: str) -> tuple[float, float]:
    """How far across and down an anchor is."""
    across = 0.0 if "left" in anchor else 1.0 if "right" in anchor else 0.5
    down = 0.0 if "top" in anchor else 1.0 if "bottom" in anchor else 0.5
    return across, down


def placed(anchor: str, outer: Size, inner: Size, margin: int = 0) -> tuple[int, int]:
    """Left and top of something of size `inner` at one of nine anchors within `outer`, `margin` pixels from its edges."""
    across, down = _shares(anchor)
    left = margin + (outer[0] - 2 * margin - inner[0]) * across
    top = margin + (outer[1] - 2 * margin - inner[1]) * down
    return int(left), int(top)


def crop(work: Pipeline, step: Crop) -> None:
    if step.box is not None:
        box = step.box
        if box[2] > work.size[0] or box[3] > work.size[1]:
            raise InvalidRequestError(
                f"box {box} is not within the {work.size[0]}x{work.size[1]} image", field="box"
            )
    else:
        wanted = _wanted(step, work.size)
        size = (min(wanted[0], work.size[0]), min(wanted[1], work.size[1]))
        if size != wanted:
            work.note(
                "NOT_ENLARGED",
                f"{wanted[0]}x{wanted[1]} was to be cut out of {work.size[0]}x{work.size[1]}",
            )
        if size == work.size:
            return
        left, top = (
            most_detailed(work.pixels().image, size)
            if step.how == "smart"
            else placed(step.anchor, work.size, size)
        )
        box = (left, top, left + size[0], top + size[1])
    if box == (0, 0, *work.size):
        return
    pixels = work.pixels()
    work.change(Pixels(pixels.image.crop(box), pixels.profile))


def _wanted(step: Crop, size: Size) -> Size:
    if not step.aspect:
        assert step.width is not None
        assert step.height is not None
        return step.width, step.height
    wide, high = step.shape
    scale = min(size[0] / wide, size[1] / high)
    return max(1, round(wide * scale)), max(1, round(high * scale))


def most_detailed(image: Image.Image, size: Size) -> tuple[int, int]:
    """Left and top of the window of this size with the most edges in it, the one nearest the middle of those that have as many."""
    scale = min(1.0, _LOOKED_AT / max(image.size))
    small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # a frame of zeros: the filter leaves the outermost pixels as they are, and brightness there is no detail
    edges = image.convert("L").resize(small, Image.Resampling.BOX).filter(ImageFilter.FIND_EDGES)
    detail = Image.new("L", small)
    detail.paste(edges.crop((1, 1, max(1, small[0] - 1), max(1, small[1] - 1))), (1, 1))
    columns = detail.resize((small[0], 1), Image.Resampling.BOX).tobytes()
    left = _richest(columns, image.width, size[0])
    seen = detail.crop(
        (
            int(left * scale),
            0,
            max(int(left * scale) + 1, round((left + size[0]) * scale)),
            small[1],
        )
    )
    lines = seen.resize((1, small[1]), Image.Resampling.BOX).tobytes()
    return left, _richest(lines, image.height, size[1])


def _richest(levels: bytes, whole: int, wanted: int) -> int:
    """Where a window of `wanted` of `whole` pixels begins that holds the most, when `levels` are spread over all of them."""
    window = max(1, round(wanted * len(levels) / whole))
    last = len(levels) - window
    best = max(range(last + 1), key=lambda at: (sum(levels[at : at + window]), -abs(2 * at - last)))
    return (
        (whole - wanted) // 2
        if last == 0 or 2 * best == last
        else round(best * (whole - wanted) / last)
    )
