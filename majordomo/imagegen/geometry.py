"""Which sizes a model likes, and the one that comes nearest to what was asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes in pixels a model draws: any multiple of `multiple` from `smallest` to `largest` a side and up to `most` pixels in all,
    or only those in `sizes`. `pixels` is the area it draws best, `widest` the longest shape (long side by short side)."""

    pixels: int = 1024 * 1024
    multiple: int = 16
    smallest: int = 64
    largest: int = 4096
    most: int = 4096 * 4096
    widest: float = 16.0
    sizes: tuple[Size, ...] = ()

    def resolve(self, ratio: float | None, megapixels: float | None) -> Size:
        """The size for a shape (width by height, None: square) and an area (None: the model's own)."""
        shape = min(max(ratio or 1.0, 1 / self.widest), self.widest)
        area = min(megapixels * 1e6 if megapixels else self.pixels, self.most)
        wanted = math.sqrt(area * shape), math.sqrt(area / shape)
        if self.sizes:
            return self.nearest((max(1, round(wanted[0])), max(1, round(wanted[1]))))
        width = self._side(wanted[0])
        return self._no_wider(width, self._side(width / shape))

    def nearest(self, size: Size) -> Size:
        """`size` when the model takes it as it is, else the closest it takes: the shape counts more than the area."""
        if self.sizes:
            return min(self.sizes, key=lambda taken: _distance(taken, size))
        width, height = size
        rounded: Callable[[float], int] = round
        if width * height > self.most:
            scale = math.sqrt(self.most / (width * height))
            width, height, rounded = (
                math.floor(width * scale),
                math.floor(height * scale),
                math.floor,
            )
        return self._no_wider(self._side(width, rounded), self._side(height, rounded))

    def _no_wider(self, width: int, height: int) -> Size:
        """The long side cut to the longest shape."""
        return min(width, self._side(height * self.widest, math.floor)), min(
            height, self._side(width * self.widest, math.floor)
        )

    def _side(self, length: float, rounded: Callable[[float], int] = round) -> int:
        low = -(-self.smallest // self.multiple) * self.multiple
        return min(
            max(rounded(length / self.multiple) * self.multiple, low),
            self.largest // self.multiple * self.multiple,
        )


def _distance(taken: Size, asked: Size) -> tuple[float, float]:
    shape = abs(math.log(taken[0] / taken[1]) - math.log(asked[0] / asked[1]))
    return round(shape, 6), abs(math.log(taken[0] * taken[1]) - math.log(asked[0] * asked[1]))


# What open models were trained at; an id that says nothing is taken for one of today's, which draw a megapixel
_SMALL = re.compile(
    r"(?i)(?:^|[^a-z0-9])(?:sd[-_ ]?1|sd[-_ ]?v?1[._-]?[345]|v1[-._][345]|1[._][45]|stable-diffusion-v1|tiny-?sd)"
)
_MIDDLE = re.compile(r"(?i)(?:^|[^a-z0-9])(?:sd[-_ ]?2|v2[-._][01]|stable-diffusion-2)")


def local_geometry(model: str) -> Geometry:
    """Sizes for a model of a local engine, guessed from its id: 512x512 for Stable Diffusion 1, 768x768 for 2, else a megapixel.

    Every such engine takes multiples of 64, which is also safe for the latent grids of newer models."""
    if _SMALL.search(model):
        return Geometry(pixels=512 * 512, multiple=64)
    if _MIDDLE.search(model):
        return Geometry(pixels=768 * 768, multiple=64)
    return Geometry(multiple=64)
