"""Image analysis without a neural network: size, brightness, colors and the text in the file."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

from PIL import Image, ImageStat

from majordomo.media.generation_metadata import read_text
from majordomo.media.image_header import read_texts
from majordomo.media.image_part import ImagePart
from majordomo.offline.renderer.palette import NAMED_COLORS, RGB

# Images are reduced to this many pixels per side. That is enough for shares of colors, and a large
# image costs no more than a small one.
SAMPLE_SIDE = 64


@dataclass(frozen=True, slots=True)
class ImageAnalysis:
    """The measured properties of an image, and what the text in its file claims."""

    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""
    mime: str
    """MIME type, such as "image/png"."""
    brightness: float
    """Mean lightness of the visible pixels, 0 to 1."""
    contrast: float
    """Spread of the lightness, 0 to 1."""
    palette: tuple[tuple[str, float], ...]
    """Up to five color names with their share of the visible pixels, largest share first.

    Empty for a fully transparent image.
    """
    warmth: float
    """From -1 (blue) to 1 (orange)."""
    mood: str
    """A short description, such as "calm and dark, mostly navy"."""
    transparent: bool
    """Whether any pixel is transparent, partly or fully."""
    texts: dict[str, str] = field(default_factory=dict)
    """All text stored in the file, by key."""
    prompt: str | None = None
    """The prompt that the file claims."""
    negative_prompt: str | None = None
    """The negative prompt that the file claims."""
    seed: int | None = None
    """The seed that the file claims."""
    parameters: dict[str, str] = field(default_factory=dict)
    """The generation settings that the file claims, by name."""


def analyze(part: ImagePart) -> ImageAnalysis:
    """Decode an image and measure it.

    Raises:
        InvalidRequestError: The image cannot be decoded, or is larger than the limits.
    """
    image = part.to_pil()
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    # Pillow multiplies alpha in while it shrinks, so that colors hidden by transparency do not
    # leak into the sample.
    sample = image.convert("RGBA" if has_alpha else "RGB").resize(
        _sample_size(image.size), Image.Resampling.BOX
    )
    visible = (
        sample.getchannel("A").point(lambda level: 255 if level > 127 else 0) if has_alpha else None
    )
    transparent = has_alpha and image.convert("RGBA").getchannel("A").getextrema()[0] != 255
    colors = sample.convert("RGB")
    has_visible_pixels = visible is None or visible.getbbox() is not None
    levels = ImageStat.Stat(colors.convert("L"), visible if has_visible_pixels else None)
    brightness = levels.mean[0] / 255 if has_visible_pixels else 0.0
    contrast = min(1.0, levels.stddev[0] / 127.5) if has_visible_pixels else 0.0
    mean = ImageStat.Stat(colors, visible if has_visible_pixels else None).mean
    warmth = max(-1.0, min(1.0, (mean[0] - mean[2]) / 128)) if has_visible_pixels else 0.0
    palette = _palette(colors, visible) if has_visible_pixels else ()
    texts = read_texts(part.data)
    metadata = read_text(texts.get("parameters"))
    return ImageAnalysis(
        width=part.width,
        height=part.height,
        mime=part.mime,
        brightness=round(brightness, 3),
        contrast=round(contrast, 3),
        palette=palette,
        warmth=round(warmth, 3),
        mood=_mood(brightness, contrast, warmth, palette),
        transparent=transparent,
        texts=texts,
        prompt=metadata.prompt,
        negative_prompt=metadata.negative_prompt,
        seed=metadata.seed,
        parameters=metadata.pairs,
    )


def _sample_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, SAMPLE_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _palette(colors: Image.Image, visible: Image.Image | None) -> tuple[tuple[str, float], ...]:
    counts: dict[str, int] = {}
    samples = zip(
        _pixels(colors),
        visible.tobytes() if visible is not None else b"\xff" * (colors.width * colors.height),
        strict=True,
    )
    nearest: dict[RGB, str] = {}
    for pixel, alpha in samples:
        if alpha:
            quantized = (pixel[0] & 0xF8, pixel[1] & 0xF8, pixel[2] & 0xF8)
            name = nearest.get(quantized) or nearest.setdefault(quantized, _name_of(pixel))
            counts[name] = counts.get(name, 0) + 1
    total = sum(counts.values())
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple((name, round(count / total, 3)) for name, count in order[:5])


def _pixels(image: Image.Image) -> list[RGB]:
    data = image.tobytes()
    return [(data[at], data[at + 1], data[at + 2]) for at in range(0, len(data), 3)]


def _name_of(color: RGB) -> str:
    """Return the nearest named color.

    The distance covers lightness and, the more colorful both are, hue.
    """

    def distance(name: str) -> float:
        other = NAMED_COLORS[name]
        plain = sum((a - b) ** 2 for a, b in zip(color, other, strict=True)) / 3
        hue, light, _ = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
        other_hue, other_light, _ = colorsys.rgb_to_hls(*(channel / 255 for channel in other))
        hue_difference = abs(hue - other_hue)
        chroma, other_chroma = max(color) - min(color), max(other) - min(other)
        hue_error = min(hue_difference, 1 - hue_difference) * 4 * min(chroma, other_chroma)
        return (
            plain
            + hue_error**2
            + (0.6 * (chroma - other_chroma)) ** 2
            + (60 * (light - other_light)) ** 2
        )

    return min(NAMED_COLORS, key=distance)


def _mood(
    brightness: float, contrast: float, warmth: float, palette: tuple[tuple[str, float], ...]
) -> str:
    if not palette:
        return "nothing to see, wholly transparent"
    motion = "calm" if contrast < 0.28 else "lively" if contrast < 0.5 else "dramatic"
    light = "dark" if brightness < 0.33 else "softly lit" if brightness < 0.62 else "bright"
    tone = ", warm" if warmth > 0.18 else ", cool" if warmth < -0.18 else ""
    name, share = palette[0]
    amount = "all" if share > 0.95 else "mostly" if share > 0.4 else "much"
    if amount == "much" and len(palette) > 1:
        return f"{motion} and {light}{tone}, {name} and {palette[1][0]}"
    return f"{motion} and {light}{tone}, {amount} {name}"
