"""Colors: their names, their arithmetic, and a palette for each time of day. Nothing here draws."""

from __future__ import annotations

import colorsys
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

RGB = tuple[int, int, int]

# Everyday color names, as users write them in prompts. The rule-based chat reports the colors of
# an image with these names too.
NAMED_COLORS: dict[str, RGB] = {
    "black": (12, 12, 14),
    "charcoal": (54, 57, 63),
    "grey": (128, 130, 133),
    "silver": (190, 193, 197),
    "white": (248, 248, 246),
    "cream": (250, 238, 208),
    "beige": (222, 200, 168),
    "brown": (112, 72, 44),
    "maroon": (104, 24, 36),
    "red": (208, 40, 44),
    "coral": (244, 120, 96),
    "orange": (240, 140, 40),
    "gold": (224, 176, 64),
    "yellow": (250, 220, 60),
    "olive": (118, 122, 52),
    "green": (52, 140, 68),
    "lime": (150, 210, 60),
    "mint": (166, 226, 194),
    "teal": (24, 128, 128),
    "turquoise": (72, 200, 196),
    "sky blue": (134, 196, 236),
    "blue": (40, 92, 200),
    "navy": (24, 34, 84),
    "indigo": (68, 52, 136),
    "purple": (128, 62, 160),
    "plum": (88, 58, 112),
    "mauve": (152, 108, 150),
    "slate": (84, 98, 124),
    "lavender": (190, 172, 224),
    "magenta": (210, 50, 150),
    "pink": (246, 166, 190),
    "rose": (204, 104, 132),
}
_COLOR_ALIASES = {
    "gray": "grey",
    "golden": "gold",
    "crimson": "red",
    "scarlet": "red",
    "azure": "sky blue",
    "cyan": "turquoise",
}
_COLOR_ALIASES |= {
    "violet": "purple",
    "emerald": "green",
    "amber": "gold",
    "ivory": "cream",
    "peach": "coral",
}


def rng_for(*parts: object) -> random.Random:
    """Return a random generator seeded by `parts`: equal parts give equal numbers in every process.

    The strings passed here are part of the output: changing one changes every image.
    """
    digest = hashlib.sha256(
        "\x1f".join(str(part) for part in parts).encode("utf-8", "replace")
    ).digest()
    return random.Random(int.from_bytes(digest, "big"))


def find_color(word: str) -> RGB | None:
    """Return the color with a plain name or "#rrggbb"; None when there is none."""
    word = _COLOR_ALIASES.get(word, word)
    if word in NAMED_COLORS:
        return NAMED_COLORS[word]
    if len(word) == 7 and word.startswith("#"):
        try:
            return parse_hex(word)
        except ValueError:
            return None
    return None


def parse_hex(text: str) -> RGB:
    """Parse "#rrggbb"."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """Mix two colors, from `a` at a `share` of 0 to `b` at 1."""
    share = min(1.0, max(0.0, share))
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


def lighter(color: RGB, share: float) -> RGB:
    """Mix a color with white, or with black for a negative `share`."""
    return mix(color, (255, 255, 255), share) if share >= 0 else mix(color, (0, 0, 0), -share)


def rotate_hue(color: RGB, degrees: float, saturation: float = 1.0) -> RGB:
    """Rotate the hue and multiply the saturation; the lightness stays."""
    hue, light, chroma = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
    red, green, blue = colorsys.hls_to_rgb(
        (hue + degrees / 360) % 1, light, min(1.0, chroma * saturation)
    )
    return round(red * 255), round(green * 255), round(blue * 255)


def tint(color: RGB, towards: RGB, share: float) -> RGB:
    """Mix towards a color but keep 85% of the lightness, so that shadows stay shadows."""
    hue, light, chroma = colorsys.rgb_to_hls(*(channel / 255 for channel in towards))
    own = colorsys.rgb_to_hls(*(channel / 255 for channel in color))[1]
    red, green, blue = colorsys.hls_to_rgb(hue, own * 0.85 + light * 0.15, chroma)
    return mix(color, (round(red * 255), round(green * 255), round(blue * 255)), share)


@dataclass(frozen=True, slots=True)
class Palette:
    """The colors of a scene at one time of day."""

    sky: tuple[RGB, RGB, RGB, RGB]
    """Sky colors from the top to the horizon."""
    sun: RGB
    """The sun, or the moon at night."""
    cloud: RGB
    """Clouds."""
    far: RGB
    """The color that distance fades into."""
    land: RGB
    """The ground."""
    near: RGB
    """The darkest foreground."""
    water: RGB
    """The sea or a lake."""
    lamp: RGB = (255, 214, 130)
    """Lit windows and lamps."""
    accent: RGB = (200, 60, 54)
    """Roofs, stripes and other details that stand out."""
    daylight: float = 1.0
    """From 0 (night: windows are lit and stars are out) to 1."""
    sun_height: float = 0.5
    """Height of the sun or moon above the horizon, as a share of the sky."""
    moon: bool = False
    """Whether the moon shines instead of the sun."""

    def map_colors(self, change: Callable[[RGB], RGB]) -> Palette:
        """Apply `change` to every color except `lamp`, because lamps give their own light."""
        new: dict[str, RGB] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in ("sky", "lamp") and isinstance(value, tuple):
                new[item.name] = change(value)
        a, b, c, d = self.sky
        return replace(self, sky=(change(a), change(b), change(c), change(d)), **new)  # type: ignore[arg-type]


def _hour(
    sky: str, rest: str, daylight: float, sun_height: float, *, moon: bool = False
) -> Palette:
    a, b, c, d = (parse_hex(word) for word in sky.split())
    sun, cloud, far, land, near, water = (parse_hex(word) for word in rest.split())
    return Palette(
        (a, b, c, d),
        sun,
        cloud,
        far,
        land,
        near,
        water,
        daylight=daylight,
        sun_height=sun_height,
        moon=moon,
    )


PALETTES: dict[str, Palette] = {
    # Each entry: sky (top, upper, lower, horizon); sun, cloud, far, land, near, water.
    "dawn": _hour(
        "#4f6fa8 #a3aed2 #f0c0bd #ffe2b5",
        "#fff0c8 #f6cfcb #b7a9c4 #5d7a63 #2c3a45 #7f9cba",
        0.6,
        0.12,
    ),
    "morning": _hour(
        "#4796d6 #86c0ea #c5e4f4 #faf0d8",
        "#fff6d6 #ffffff #a9c6d6 #6fa35a #2f5a3c #4f98bd",
        1.0,
        0.45,
    ),
    "day": _hour(
        "#2c7fd0 #64adea #a8d6f4 #e4f3f6",
        "#fffbe0 #ffffff #9dc0d6 #63a14c #29552f #2f86b5",
        1.0,
        0.72,
    ),
    "golden": _hour(
        "#5580b4 #b9b09f #f2c07a #ffe2a0",
        "#fff2c0 #ffe7bd #c9a886 #8d8a45 #43391f #b39a72",
        0.75,
        0.3,
    ),
    "sunset": _hour(
        "#2f2a63 #8f3c70 #ee6a4c #ffbd5c",
        "#fff0b0 #f58a6a #8a4a68 #4a3346 #1d1526 #a0506a",
        0.4,
        0.14,
    ),
    "dusk": _hour(
        "#141a44 #3f3a80 #b0567f #fbaf70",
        "#ffe3a6 #c66a8a #6d568c #2f2a4c #100f24 #4a4480",
        0.22,
        0.05,
    ),
    "night": _hour(
        "#040819 #0a1838 #1a3058 #3c567f",
        "#f3f0dc #33496f #25395f #14233f #050a16 #15294a",
        0.0,
        0.66,
        moon=True,
    ),
}
