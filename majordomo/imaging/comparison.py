"""Compare images: pixel by pixel, and by perceptual hashes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageStat

from majordomo.imaging.pixels import decode_srgb, flatten_onto
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

# Side, in pixels, of the image that phash transforms.
_PHASH_SIDE = 32
# Number of the lowest frequencies that phash keeps in each direction.
_PHASH_FREQUENCIES = 8


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two images.

    If the sizes differ, the second image is scaled to the size of the first one.
    """

    same_size: bool
    """Whether both images have the same width and height."""
    mean_error: float
    """Mean difference of all channels, alpha included: 0 (equal) to 1 (white and black)."""
    largest_error: float
    """Largest difference of a channel, alpha included: 0 (equal) to 1 (white and black)."""
    dhash_distance: int
    """Number of different bits of `dhash`, 0 to 64. Up to about 10 means the same image; 32 is the
    average of unrelated images."""
    phash_distance: int
    """Number of different bits of `phash`, 0 to 64. Up to about 10 means the same image; 32 is the
    average of unrelated images."""

    @property
    def identical(self) -> bool:
        """Whether all pixels are equal."""
        return self.same_size and self.largest_error == 0


def compare(a: ImagePart, b: ImagePart, *, limits: Limits | None = None) -> Comparison:
    """Compare two images, both upright and in sRGB.

    Args:
        a: The first image.
        b: The second image; it is scaled to the size of the first one.
        limits: Size limits for decoding. Default: `Limits()`.

    Returns:
        The differences.

    Raises:
        InvalidRequestError: Field `a` or `b`: the image cannot be decoded or exceeds the limits.
    """
    limits = limits or Limits()
    first, second = decode_srgb(a, limits, "a"), decode_srgb(b, limits, "b")
    same_size = first.size == second.size
    scaled = second if same_size else second.resize(first.size, Image.Resampling.LANCZOS)
    stat = ImageStat.Stat(ImageChops.difference(*_to_same_mode(first, scaled)))
    return Comparison(
        same_size,
        sum(stat.mean) / len(stat.mean) / 255,
        max(high for _, high in stat.extrema) / 255,
        distance(_dhash(first), _dhash(second)),
        distance(_phash(first), _phash(second)),
    )


def dhash(image: ImagePart, *, limits: Limits | None = None) -> int:
    """Return the difference hash: 64 bits.

    Each bit states whether one of 8 by 8 areas gets brighter to the right. Scaled, recompressed or
    tinted images have similar hashes.

    Args:
        image: The image.
        limits: Size limits for decoding. Default: `Limits()`.

    Raises:
        InvalidRequestError: Field `image`: it cannot be decoded or exceeds the limits.
    """
    return _dhash(decode_srgb(image, limits or Limits(), "image"))


def phash(image: ImagePart, *, limits: Limits | None = None) -> int:
    """Return the perceptual hash: 64 bits.

    Each bit states whether one of the lowest frequencies of the cosine transform of 32 by 32 gray
    pixels is above the median.

    Args:
        image: The image.
        limits: Size limits for decoding. Default: `Limits()`.

    Raises:
        InvalidRequestError: Field `image`: it cannot be decoded or exceeds the limits.
    """
    return _phash(decode_srgb(image, limits or Limits(), "image"))


def distance(a: int, b: int) -> int:
    """Return the number of different bits of two hashes.

    Args:
        a: A hash.
        b: A hash of the same kind.
    """
    return (a ^ b).bit_count()


def _to_same_mode(a: Image.Image, b: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Return both images in one mode, without the colors that transparency hides."""
    if "RGBA" not in (a.mode, b.mode):
        return a.convert("RGB"), b.convert("RGB")
    return _hide_transparent_colors(a.convert("RGBA")), _hide_transparent_colors(b.convert("RGBA"))


def _hide_transparent_colors(image: Image.Image) -> Image.Image:
    black = Image.new("RGB", image.size)
    black.paste(image, mask=image.getchannel("A"))
    return Image.merge("RGBA", (*black.split(), image.getchannel("A")))


def _gray_levels(image: Image.Image, width: int, height: int) -> bytes:
    flat = flatten_onto(image) if image.mode == "RGBA" else image
    return flat.convert("L").resize((width, height), Image.Resampling.BOX).tobytes()


def _dhash(image: Image.Image) -> int:
    gray, bits = _gray_levels(image, 9, 8), 0
    for row in range(8):
        for column in range(8):
            bits = bits << 1 | (gray[9 * row + column + 1] > gray[9 * row + column])
    return bits


def _phash(image: Image.Image) -> int:
    side = _PHASH_SIDE
    gray = _gray_levels(image, side, side)
    waves = [
        [math.cos(math.pi * (2 * index + 1) * frequency / (2 * side)) for index in range(side)]
        for frequency in range(_PHASH_FREQUENCIES)
    ]
    rows = [
        [sum(gray[side * row + index] * wave[index] for index in range(side)) for wave in waves]
        for row in range(side)
    ]
    values = [
        sum(rows[index][column] * wave[index] for index in range(side))
        for wave in waves
        for column in range(_PHASH_FREQUENCIES)
    ]
    # The first value is the brightness of the whole image.
    median = sorted(values[1:])[len(values) // 2]
    bits = 0
    for value in values:
        # In an image of one color, all values are rounding errors.
        bits = bits << 1 | (value > median + 1e-6)
    return bits
