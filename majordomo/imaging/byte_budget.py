"""Make an image fit a byte limit: another encoding first, then fewer pixels.

The functions decode and encode images. Call them from a worker thread, not from an event loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from PIL import Image

from majordomo.errors import InvalidRequestError
from majordomo.imaging.operations import MAX_BYTE_BUDGET, MAX_MIN_SIDE
from majordomo.imaging.pixels import (
    MAX_WEBP_SIDE,
    EncodeOptions,
    Pixels,
    decode,
    encode,
    flatten_onto,
    ignore_notes,
)
from majordomo.media.generation_metadata import write_parameters
from majordomo.media.image_header import with_metadata
from majordomo.media.image_part import ImagePart, as_image_part
from majordomo.settings import Limits
from majordomo.validation import as_tuple, check_number

FORMATS = ("png", "webp", "jpeg")
# Below the last quality, artifacts are more visible than missing pixels.
QUALITIES = (90, 80, 70, 60)
_LOSSY = ("webp", "jpeg", "avif")
# The file size matters more than the time here.
_PNG_LEVEL = 6


@dataclass(frozen=True, slots=True)
class ByteBudget:
    """The requirements for a file."""

    max_bytes: int
    """Largest size in bytes."""
    formats: tuple[str, ...]
    """Accepted formats, preferred first."""
    min_side: int
    """Smallest length of the shorter side in pixels."""


def fit(
    image: ImagePart,
    max_bytes: int,
    formats: Sequence[str] = FORMATS,
    min_side: int = 256,
    *,
    parameters: bool = False,
    limits: Limits | None = None,
) -> ImagePart:
    """Return the image in at most `max_bytes` bytes.

    An image that fits is returned unchanged. Otherwise it is re-encoded, upright and without
    metadata other than the color profile: each format at full size, lossy formats at decreasing
    quality, then all formats with fewer pixels. Transparency becomes white in a format without it.
    Of an animation, the first frame is kept.

    Args:
        image: The image.
        max_bytes: Largest size in bytes, 1 to 2**40.
        formats: Accepted formats, preferred first: some of `"png"`, `"webp"`, `"jpeg"` and
            `"avif"`; `"gif"` applies only to an image that already fits.
        min_side: The shorter side never gets smaller than this many pixels, 1 to 16,384; a smaller
            image is not scaled.
        parameters: Keep the generation parameters (`image.parameters`) and write them into the new
            file.
        limits: Size limits for decoding. Default: `Limits()`.

    Returns:
        The image itself if it fits, otherwise the re-encoded image.

    Raises:
        InvalidRequestError: Field `max_bytes`: the image cannot be made to fit (code
            IMAGE_TOO_LARGE). Field `image`: it cannot be decoded or exceeds `limits`.
    """
    accepted = check_fit(image, max_bytes, formats, min_side)
    if fits(image, max_bytes, accepted):
        return image
    pixels = decode(image, limits or Limits(), ignore_notes)
    values = image.parameters if parameters else {}
    data = encode_to_fit(
        pixels,
        ByteBudget(max_bytes, accepted, min_side),
        len(image.data),
        write_parameters(values) if values else "",
    )
    fitted = ImagePart(data)
    return fitted.with_parameters(values) if values else fitted


def encode_to_fit(pixels: Pixels, budget: ByteBudget, size: int, text: str = "") -> bytes:
    """Encode pixels, whose file had `size` bytes, so that they fit, with this metadata text.

    Raises:
        InvalidRequestError: Field `max_bytes`: they cannot be made to fit (code IMAGE_TOO_LARGE).
    """
    formats = budget.formats
    lossy = tuple(name for name in formats if name in _LOSSY)
    # A lossless copy of a file twice as large as the limit will not fit, and finding that out takes
    # ten seconds for 40 megapixels.
    full_size_formats = formats if not lossy or size < 2 * budget.max_bytes else lossy
    search = _BudgetSearch(pixels, budget.max_bytes, full_size_formats, lossy or formats, text)
    data = search.run(budget.min_side)
    if data is None:
        raise InvalidRequestError(
            f"the {pixels.image.width}x{pixels.image.height} image does not fit into"
            f" {budget.max_bytes:,} bytes as {' or '.join(formats)} with at least"
            f" {budget.min_side} pixels a side",
            field="max_bytes",
            code="IMAGE_TOO_LARGE",
        )
    return data


def fits(image: ImagePart, max_bytes: int, formats: Sequence[str]) -> bool:
    """Return whether the image fits unchanged, judged by its header."""
    return len(image.data) <= max_bytes and image.mime.removeprefix("image/") in formats


def check_fit(
    image: object, max_bytes: object, formats: object, min_side: object
) -> tuple[str, ...]:
    """Return the formats as a tuple; raise InvalidRequestError, naming the field, if not valid."""
    as_image_part(image, "image")
    check_number("max_bytes", max_bytes, 1, MAX_BYTE_BUDGET, integer=True)
    check_number("min_side", min_side, 1, MAX_MIN_SIDE, integer=True)
    accepted = as_tuple(formats, "formats")
    if (
        not accepted
        or any(name not in (*FORMATS, "avif", "gif") for name in accepted)
        or set(accepted) == {"gif"}
    ):
        raise InvalidRequestError(
            'formats must be some of "png", "webp", "jpeg" and "avif", and "gif" for an image that'
            f" already fits; got {repr(accepted)[:80]}",
            field="formats",
        )
    return accepted


@dataclass(slots=True)
class _BudgetSearch:
    """The search for an encoding of one image with at most `max_bytes` bytes."""

    pixels: Pixels
    max_bytes: int
    # The formats to try at full size.
    full_size_formats: tuple[str, ...]
    # The formats to try with fewer pixels: then exact pixels no longer matter, so these are lossy
    # if possible.
    reduced_formats: tuple[str, ...]
    text: str

    def run(self, min_side: int) -> bytes | None:
        """Return the first encoding that fits, with fewer and fewer pixels.

        Returns None if the shorter side would become smaller than `min_side`.
        """
        full = self.pixels.image
        min_scale = min(1.0, min_side / min(full.size))
        scale = 1.0
        while True:
            size = (max(1, round(full.width * scale)), max(1, round(full.height * scale)))
            image = full if scale == 1 else full.resize(size, Image.Resampling.LANCZOS)
            formats = self.full_size_formats if scale == 1 else self.reduced_formats
            data, smallest = self._try_formats(image, formats)
            if data is not None or scale <= min_scale:
                return data
            # The file size is about proportional to the area. Reduce the sides by at least a tenth,
            # and at most by half, because the estimate can be far off.
            estimate = 0.95 * math.sqrt(self.max_bytes / smallest)
            scale = max(min_scale, scale * min(0.9, max(0.5, estimate)))

    def _try_formats(self, image: Image.Image, formats: Sequence[str]) -> tuple[bytes | None, int]:
        """Return an encoding that fits, or None, and the size of the smallest encoding."""
        smallest = 1 << 62
        for name in formats:
            if name == "gif" or (name == "webp" and max(image.size) > MAX_WEBP_SIDE):
                continue
            lowest = self._encode(image, name, QUALITIES[-1])
            smallest = min(smallest, len(lowest))
            if len(lowest) > self.max_bytes:
                continue
            better = (
                (self._encode(image, name, quality) for quality in QUALITIES[:-1])
                if name != "png"
                else ()
            )
            return next((data for data in better if len(data) <= self.max_bytes), lowest), smallest
        return None, smallest

    def _encode(self, image: Image.Image, name: str, quality: int) -> bytes:
        options = EncodeOptions(name, None if name == "png" else quality, level=_PNG_LEVEL)
        if name == "jpeg" and image.mode == "RGBA":
            image = flatten_onto(image)
        data = encode(Pixels(image, self.pixels.profile), options)
        if self.text:
            # A text too long for a JPEG is left out of the file.
            with suppress(InvalidRequestError):
                return with_metadata(data, self.text)
        return data
