"""Steps that change the geometry: orientation, size and crop."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image, ImageFilter

from majordomo.errors import InvalidRequestError
from majordomo.imaging.operations import Crop, Orient, Resize
from majordomo.imaging.pipeline import Pipeline
from majordomo.imaging.pixels import Pixels, Size
from majordomo.media.image_header import read_orientation
from majordomo.settings import Limits

Box = tuple[float, float, float, float]
# Longer side, in pixels, of the copy in which a smart crop looks for detail.
_DETAIL_SIDE = 160
_CLOCKWISE = {
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


def orient(pipeline: Pipeline, step: Orient) -> None:
    """Apply an `Orient` step."""
    part = pipeline.part
    has_orientation = part is not None and (
        part.mime == "image/avif" or read_orientation(part.data) != 1
    )
    if not has_orientation and not step.turn and not step.mirror:
        return
    pixels = pipeline.pixels()
    image = pixels.image
    if step.turn:
        image = image.transpose(_CLOCKWISE[step.turn])
    if step.mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pipeline.set_pixels(Pixels(image, pixels.profile))


def resize(pipeline: Pipeline, step: Resize) -> None:
    """Apply a `Resize` step."""
    full = pipeline.size
    plan = plan_resize(step, full)
    if plan.is_too_small:
        pipeline.note("NOT_ENLARGED", f"the image is {full[0]}x{full[1]} and was not enlarged")
    if plan.size == full:
        return
    check_target(plan.size, pipeline.limits, "width")
    pixels = pipeline.pixels()
    image = pixels.image
    # A JPEG may have been decoded at a fraction of its size.
    scale_x, scale_y = image.width / full[0], image.height / full[1]
    box = (
        plan.box[0] * scale_x,
        plan.box[1] * scale_y,
        min(image.width, plan.box[2] * scale_x),
        min(image.height, plan.box[3] * scale_y),
    )
    pipeline.set_pixels(Pixels(_resample(image, plan.size, box, step.fast), pixels.profile))


def _resample(image: Image.Image, size: Size, box: Box, fast: bool) -> Image.Image:
    if (box[2] - box[0], box[3] - box[1]) == size and all(edge == int(edge) for edge in box):
        return image.crop((int(box[0]), int(box[1]), int(box[2]), int(box[3])))
    if not fast:
        return image.resize(size, Image.Resampling.LANCZOS, box)
    # Pillow averages blocks of an image with alpha only if the alpha is premultiplied.
    source = image.convert("RGBa") if image.mode == "RGBA" else image
    return source.resize(size, Image.Resampling.BICUBIC, box, reducing_gap=1.0).convert(image.mode)


class ResizePlan(NamedTuple):
    """The part of an image that a resize uses, and the size that it becomes."""

    box: Box
    """Left, top, right and bottom in pixels of the image."""
    size: Size
    """Width and height of the result in pixels."""
    is_too_small: bool
    """Whether the image is smaller than requested and must not be enlarged."""


def plan_resize(step: Resize, size: Size) -> ResizePlan:
    """Return how to resize an image of this size."""
    width, height = size
    full = (0.0, 0.0, float(width), float(height))
    if step.how == "exact":
        assert step.width is not None
        assert step.height is not None
        requested = (step.width, step.height)
        target = requested if step.enlarge else (min(step.width, width), min(step.height, height))
        return ResizePlan(full, target, target != requested)
    if step.how == "fill":
        return _plan_fill(step, size)
    if step.how == "long_side":
        assert step.width is not None
        scale = step.width / max(size)
    else:
        scale = min(
            *(
                requested_side / side
                for requested_side, side in ((step.width, width), (step.height, height))
                if requested_side
            ),
            1e9,
        )
    is_too_small = scale > 1 and not step.enlarge
    scale = 1.0 if is_too_small else scale
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    return ResizePlan(full, target, is_too_small)


def _plan_fill(step: Resize, size: Size) -> ResizePlan:
    assert step.width is not None
    assert step.height is not None
    scale = max(step.width / size[0], step.height / size[1])
    # Rounding can give more than the image has.
    part = (min(size[0], step.width / scale), min(size[1], step.height / scale))
    if scale > 1 and not step.enlarge:
        target = (max(1, round(part[0])), max(1, round(part[1])))
        left, top = anchor_position(step.anchor, size, target)
        return ResizePlan((left, top, left + target[0], top + target[1]), target, True)
    across, down = _anchor_fractions(step.anchor)
    left_edge, top_edge = (size[0] - part[0]) * across, (size[1] - part[1]) * down
    right_edge, bottom_edge = min(size[0], left_edge + part[0]), min(size[1], top_edge + part[1])
    return ResizePlan(
        (left_edge, top_edge, right_edge, bottom_edge), (step.width, step.height), False
    )


def check_target(size: Size, limits: Limits, field: str) -> None:
    """Raise InvalidRequestError (IMAGE_TOO_LARGE) if a result would exceed the limits."""
    if max(size) > limits.max_image_side or size[0] * size[1] > limits.max_image_pixels:
        raise InvalidRequestError(
            f"the result would be {size[0]}x{size[1]}, more than the limit of"
            f" {limits.max_image_pixels:,} pixels or {limits.max_image_side:,} pixels a side",
            field=field,
            code="IMAGE_TOO_LARGE",
        )


def _anchor_fractions(anchor: str) -> tuple[float, float]:
    """Return the position of an anchor: 0 is left or top, 1 is right or bottom."""
    across = 0.0 if "left" in anchor else 1.0 if "right" in anchor else 0.5
    down = 0.0 if "top" in anchor else 1.0 if "bottom" in anchor else 0.5
    return across, down


def anchor_position(anchor: str, outer: Size, inner: Size, margin: int = 0) -> tuple[int, int]:
    """Return left and top of a rectangle at one of nine anchors within another one.

    The rectangle of size `inner` is `margin` pixels from the edges of the one of size `outer`.
    """
    across, down = _anchor_fractions(anchor)
    left = margin + (outer[0] - 2 * margin - inner[0]) * across
    top = margin + (outer[1] - 2 * margin - inner[1]) * down
    return int(left), int(top)


def crop(pipeline: Pipeline, step: Crop) -> None:
    """Apply a `Crop` step."""
    width, height = pipeline.size
    if step.box is not None:
        box = step.box
        if box[2] > width or box[3] > height:
            raise InvalidRequestError(
                f"box must be within the {width}x{height} image; got {box}", field="box"
            )
    else:
        requested = _requested_size(step, pipeline.size)
        size = (min(requested[0], width), min(requested[1], height))
        if size != requested:
            pipeline.note(
                "NOT_ENLARGED",
                f"the image is {width}x{height} pixels, smaller than the requested"
                f" {requested[0]}x{requested[1]}",
            )
        if size == pipeline.size:
            return
        left, top = (
            find_detail_window(pipeline.pixels().image, size)
            if step.how == "smart"
            else anchor_position(step.anchor, pipeline.size, size)
        )
        box = (left, top, left + size[0], top + size[1])
    if box == (0, 0, width, height):
        return
    pixels = pipeline.pixels()
    pipeline.set_pixels(Pixels(pixels.image.crop(box), pixels.profile))


def _requested_size(step: Crop, size: Size) -> Size:
    if not step.aspect:
        assert step.width is not None
        assert step.height is not None
        return step.width, step.height
    wide, high = step.shape
    scale = min(size[0] / wide, size[1] / high)
    return max(1, round(wide * scale)), max(1, round(high * scale))


def find_detail_window(image: Image.Image, size: Size) -> tuple[int, int]:
    """Return left and top of the window of this size that contains the most edges.

    Of several such windows, the one nearest to the center is returned.
    """
    scale = min(1.0, _DETAIL_SIDE / max(image.size))
    small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    edges = image.convert("L").resize(small, Image.Resampling.BOX).filter(ImageFilter.FIND_EDGES)
    # The filter leaves the outermost pixels unchanged, and their brightness is not detail: replace
    # them with zeros.
    detail = Image.new("L", small)
    detail.paste(edges.crop((1, 1, max(1, small[0] - 1), max(1, small[1] - 1))), (1, 1))
    columns = detail.resize((small[0], 1), Image.Resampling.BOX).tobytes()
    left = _find_window(columns, image.width, size[0])
    window = detail.crop(
        (
            int(left * scale),
            0,
            max(int(left * scale) + 1, round((left + size[0]) * scale)),
            small[1],
        )
    )
    rows = window.resize((1, small[1]), Image.Resampling.BOX).tobytes()
    return left, _find_window(rows, image.height, size[1])


def _find_window(levels: bytes, total: int, length: int) -> int:
    """Return the start of the window of `length` pixels with the highest sum of levels.

    `levels` are spread evenly over `total` pixels.
    """
    window = max(1, round(length * len(levels) / total))
    last = len(levels) - window
    best = max(
        range(last + 1),
        key=lambda start: (sum(levels[start : start + window]), -abs(2 * start - last)),
    )
    return (
        (total - length) // 2
        if last == 0 or 2 * best == last
        else round(best * (total - length) / last)
    )
