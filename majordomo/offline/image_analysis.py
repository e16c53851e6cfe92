"""What can honestly be said about an image without a neural network: its size, light, colors, and the text stored in it."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field

from PIL import Image, ImageStat

from majordomo.media.generation_metadata import read_text
from majordomo.media.image_header import read_texts
from majordomo.media.image_part import ImagePart
from majordomo.offline.renderer.palette import NAMED, RGB

SAMPLE = 64  # pixels a side: enough for shares of colors, and a large image costs no more than a small one


@dataclass(frozen=True, slots=True)
class ImageAnalysis:
    """One look at an image. Shares and levels run from 0 to 1, `warmth` from -1 (blue) to 1 (orange).

    `palette` has plain color names with their share of the visible pixels, largest first; a wholly transparent image has
    none. `prompt`, `negative_prompt`, `seed` and `parameters` are what the image's own text claims; None and empty without it.
    """

    width: int
    height: int
    mime: str
    brightness: float
    contrast: float
    palette: tuple[tuple[str, float], ...]
    warmth: float
    mood: str
    transparent: bool
    texts: dict[str, str] = field(default_factory=dict)
    prompt: str | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    parameters: dict[str, str] = field(default_factory=dict)


def analyze(picture: ImagePart) -> ImageAnalysis:
    """Decode an image and describe it. Raises InvalidRequestError when it cannot be decoded or is larger than the limits."""
    image = picture.to_pil()
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    # alpha is multiplied in while shrinking, so that colors hidden by transparency do not leak into the sample
    sample = image.convert("RGBA" if has_alpha else "RGB").resize(
        _sample_size(image.size), Image.Resampling.BOX
    )
    visible = (
        sample.getchannel("A").point(lambda level: 255 if level > 127 else 0) if has_alpha else None
    )
    transparent = has_alpha and image.convert("RGBA").getchannel("A").getextrema()[0] != 255
    colors = sample.convert("RGB")
    shown = visible is None or visible.getbbox() is not None
    levels = ImageStat.Stat(colors.convert("L"), visible if shown else None)
    brightness = levels.mean[0] / 255 if shown else 0.0
    contrast = min(1.0, levels.stddev[0] / 127.5) if shown else 0.0
    mean = ImageStat.Stat(colors, visible if shown else None).mean
    warmth = max(-1.0, min(1.0, (mean[0] - mean[2]) / 128)) if shown else 0.0
    palette = _palette(colors, visible) if shown else ()
    texts = read_texts(picture.data)
    told = read_text(texts.get("parameters"))
    return ImageAnalysis(
        width=picture.width,
        height=picture.height,
        mime=picture.mime,
        brightness=round(brightness, 3),
        contrast=round(contrast, 3),
        palette=palette,
        warmth=round(warmth, 3),
        mood=_mood(brightness, contrast, warmth, palette),
        transparent=transparent,
        texts=texts,
        prompt=told.prompt,
        negative_prompt=told.negative_prompt,
        seed=told.seed,
        parameters=told.pairs,
    )


def _sample_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, SAMPLE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _palette(colors: Image.Image, visible: Image.Image | None) -> tuple[tuple[str, float], ...]:
    counts: dict[str, int] = {}
    seen = zip(
        _pixels(colors),
        visible.tobytes() if visible is not None else b"\xff" * (colors.width * colors.height),
        strict=True,
    )
    nearest: dict[RGB, str] = {}
    for pixel, alpha in seen:
        if alpha:
            rough = (pixel[0] & 0xF8, pixel[1] & 0xF8, pixel[2] & 0xF8)
            name = nearest.get(rough) or nearest.setdefault(rough, _name_of(pixel))
            counts[name] = counts.get(name, 0) + 1
    total = sum(counts.values())
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple((name, round(count / total, 3)) for name, count in order[:5])


def _pixels(image: Image.Image) -> list[RGB]:
    data = image.tobytes()
    return [(data[at], data[at + 1], data[at + 2]) for at in range(0, len(data), 3)]


def _name_of(color: RGB) -> str:
    """The nearest plain name: near in lightness, and, the more colorful it is, near in hue."""

    def distance(name: str) -> float:
        other = NAMED[name]
        plain = sum((a - b) ** 2 for a, b in zip(color, other, strict=True)) / 3
        hue, light, _ = colorsys.rgb_to_hls(*(channel / 255 for channel in color))
        its_hue, its_light, _ = colorsys.rgb_to_hls(*(channel / 255 for channel in other))
        apart = abs(hue - its_hue)
        chroma, its_chroma = max(color) - min(color), max(other) - min(other)
        wrong_hue = min(apart, 1 - apart) * 4 * min(chroma, its_chroma)
        return (
            plain
            + wrong_hue**2
            + (0.6 * (chroma - its_chroma)) ** 2
            + (60 * (light - its_light)) ** 2
        )

    return min(NAMED, key=distance)


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
