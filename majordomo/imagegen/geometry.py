"""Image sizes that a model supports, and the supported size nearest to a requested one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Geometry:
    """The image sizes that a model can generate, in pixels."""

    pixels: int = 1024 * 1024
    """Area that gives the best results; used when no area is requested. Default: 1024 * 1024."""
    multiple: int = 16
    """Width and height are multiples of this number. Default: 16."""
    min_side: int = 64
    """Smallest width and height. Default: 64."""
    max_side: int = 4096
    """Largest width and height. Default: 4096."""
    max_pixels: int = 4096 * 4096
    """Largest area. Default: 4096 * 4096."""
    max_aspect_ratio: float = 16.0
    """Largest ratio of the long side to the short side. Default: 16."""
    sizes: tuple[Size, ...] = ()
    """The only supported sizes as (width, height). Default: any size within the other limits."""

    def resolve(self, ratio: float | None, megapixels: float | None) -> Size:
        """Return the size for an aspect ratio and an area.

        Args:
            ratio: Width divided by height; None means a square.
            megapixels: Area in millions of pixels; None means the preferred area of the model.
        """
        shape = min(max(ratio or 1.0, 1 / self.max_aspect_ratio), self.max_aspect_ratio)
        area = min(megapixels * 1e6 if megapixels else self.pixels, self.max_pixels)
        exact = math.sqrt(area * shape), math.sqrt(area / shape)
        if self.sizes:
            return self.nearest((max(1, round(exact[0])), max(1, round(exact[1]))))
        width = self._round_side(exact[0])
        return self._limit_aspect_ratio(width, self._round_side(width / shape))

    def nearest(self, size: Size) -> Size:
        """Return `size` if the model supports it, else the nearest supported size.

        The aspect ratio has priority over the area.
        """
        if self.sizes:
            return min(self.sizes, key=lambda supported: _distance(supported, size))
        width, height = size
        rounding: Callable[[float], int] = round
        if width * height > self.max_pixels:
            scale = math.sqrt(self.max_pixels / (width * height))
            width, height = math.floor(width * scale), math.floor(height * scale)
            rounding = math.floor
        return self._limit_aspect_ratio(
            self._round_side(width, rounding), self._round_side(height, rounding)
        )

    def _limit_aspect_ratio(self, width: int, height: int) -> Size:
        """Shorten the long side to the largest aspect ratio."""
        return min(width, self._round_side(height * self.max_aspect_ratio, math.floor)), min(
            height, self._round_side(width * self.max_aspect_ratio, math.floor)
        )

    def _round_side(self, length: float, rounding: Callable[[float], int] = round) -> int:
        """Return the nearest supported length of a side."""
        shortest = -(-self.min_side // self.multiple) * self.multiple
        return min(
            max(rounding(length / self.multiple) * self.multiple, shortest),
            self.max_side // self.multiple * self.multiple,
        )


def _distance(a: Size, b: Size) -> tuple[float, float]:
    """Return how much two sizes differ in aspect ratio, then in area."""
    shape = abs(math.log(a[0] / a[1]) - math.log(b[0] / b[1]))
    return round(shape, 6), abs(math.log(a[0] * a[1]) - math.log(b[0] * b[1]))


# Open models work best at the size that they were trained at. An id that names no known family is
# treated as a current model, which generates one megapixel.
_SD1 = re.compile(
    r"(?i)(?:^|[^a-z0-9])(?:sd[-_ ]?1|sd[-_ ]?v?1[._-]?[345]|v1[-._][345]|1[._][45]"
    r"|stable-diffusion-v1|tiny-?sd)"
)
_SD2 = re.compile(r"(?i)(?:^|[^a-z0-9])(?:sd[-_ ]?2|v2[-._][01]|stable-diffusion-2)")


def local_geometry(model: str) -> Geometry:
    """Return the sizes for a model of a local engine, guessed from its id.

    The preferred size is 512x512 for Stable Diffusion 1, 768x768 for Stable Diffusion 2, and one
    megapixel for other models. All these engines accept multiples of 64, which also fit the latent
    grids of newer models.
    """
    if _SD1.search(model):
        return Geometry(pixels=512 * 512, multiple=64)
    if _SD2.search(model):
        return Geometry(pixels=768 * 768, multiple=64)
    return Geometry(multiple=64)
