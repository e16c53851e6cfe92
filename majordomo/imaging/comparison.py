"""How alike two images are: pixel by pixel, and as a glance sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageStat

from majordomo.imaging.pixels import as_srgb, decode, flatten_onto, ignore_notes
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

_HASHED = 32  # pixels a side that phash looks at
_KEPT = 8  # of its frequencies in each direction


@dataclass(frozen=True, slots=True)
class Comparison:
    """`mean_error` and `largest_error` of the channels, alpha included, run from 0 (equal) to 1 (white and black); an image of another
    size is scaled to the first one's before. The hashes' distances are bits of 64: 0 to about 10 is the same image, 32 is chance."""

    same_size: bool
    mean_error: float
    largest_error: float
    dhash_distance: int
    phash_distance: int

    @property
    def identical(self) -> bool:
        """Whether every pixel is the same."""
        return self.same_size and self.largest_error == 0


def compare(a: ImagePart, b: ImagePart, *, limits: Limits | None = None) -> Comparison:
    """Both upright and in sRGB. Raises InvalidRequestError naming `a` or `b` for one that cannot be decoded or is larger than `limits`."""
    bounds = limits or Limits()
    first, second = (_seen(part, bounds, name) for part, name in ((a, "a"), (b, "b")))
    same = first.size == second.size
    scaled = second if same else second.resize(first.size, Image.Resampling.LANCZOS)
    stat = ImageStat.Stat(ImageChops.difference(*_premultiplied(first, scaled)))
    return Comparison(
        same,
        sum(stat.mean) / len(stat.mean) / 255,
        max(high for _, high in stat.extrema) / 255,
        distance(_dhash(first), _dhash(second)),
        distance(_phash(first), _phash(second)),
    )


def dhash(image: ImagePart, *, limits: Limits | None = None) -> int:
    """64 bits that say of 8 by 8 places whether it gets brighter to the right. Near for images scaled, recompressed or tinted."""
    return _dhash(_seen(image, limits or Limits(), "image"))


def phash(image: ImagePart, *, limits: Limits | None = None) -> int:
    """64 bits of the lowest frequencies (a cosine transform of 32 by 32 greys), each above or below their median."""
    return _phash(_seen(image, limits or Limits(), "image"))


def distance(a: int, b: int) -> int:
    """How many bits of two hashes differ."""
    return (a ^ b).bit_count()


def _seen(part: ImagePart, limits: Limits, field: str) -> Image.Image:
    return as_srgb(decode(part, limits, ignore_notes, field), ignore_notes).image


def _premultiplied(a: Image.Image, b: Image.Image) -> tuple[Image.Image, Image.Image]:
    """In one mode; colors that transparency hides do not count."""
    if "RGBA" not in (a.mode, b.mode):
        return a.convert("RGB"), b.convert("RGB")
    return _visible(a.convert("RGBA")), _visible(b.convert("RGBA"))


def _visible(image: Image.Image) -> Image.Image:
    black = Image.new("RGB", image.size)
    black.paste(image, mask=image.getchannel("A"))
    return Image.merge("RGBA", (*black.split(), image.getchannel("A")))


def _gray(image: Image.Image, width: int, height: int) -> bytes:
    flat = flatten_onto(image) if image.mode == "RGBA" else image
    return flat.convert("L").resize((width, height), Image.Resampling.BOX).tobytes()


def _dhash(image: Image.Image) -> int:
    gray, bits = _gray(image, 9, 8), 0
    for row in range(8):
        for column in range(8):
            bits = bits << 1 | (gray[9 * row + column + 1] > gray[9 * row + column])
    return bits


def _phash(image: Image.Image) -> int:
    gray = _gray(image, _HASHED, _HASHED)
    waves = [
        [math.cos(math.pi * (2 * at + 1) * wave / (2 * _HASHED)) for at in range(_HASHED)]
        for wave in range(_KEPT)
    ]
    rows = [
        [sum(gray[_HASHED * row + at] * wave[at] for at in range(_HASHED)) for wave in waves]
        for row in range(_HASHED)
    ]
    values = [
        sum(rows[at][column] * wave[at] for at in range(_HASHED))
        for wave in waves
        for column in range(_KEPT)
    ]
    middle = sorted(values[1:])[len(values) // 2]  # the first one is how bright all of it is
    bits = 0
    for value in values:
        bits = bits << 1 | (value > middle + 1e-6)  # in a plain image all of them are rounding
    return bits
