"""The embedded renderer: an image drawn with plain shapes from what the words of a prompt say. No neural network is involved.

The same request, seed, size and steps give the same bytes with the same Pillow. Every decision has dice of its own, thrown
from a hash of the prompt and the seed, so that changing one field changes what that field is for and leaves the composition.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable

from PIL import Image, ImageEnhance
from PIL.PngImagePlugin import PngInfo

from majordomo import imagegen
from majordomo.errors import InvalidRequestError
from majordomo.media.image_part import ImagePart
from majordomo.offline.renderer import sky
from majordomo.offline.renderer.brushes import brushed, grained, tiled
from majordomo.offline.renderer.canvas import Canvas
from majordomo.offline.renderer.composition import layers_of
from majordomo.offline.renderer.palette import dice
from majordomo.offline.renderer.reference import image_in, mask_of, masked, palette_moved, reworked
from majordomo.offline.renderer.scene import read_scene
from majordomo.offline.renderer.stage import Stage

DEFAULT_SIZE = (512, 512)
DEFAULT_STEPS = 20
DEFAULT_CFG_SCALE = 7.0
DEFAULT_STRENGTH = 0.75  # with a mask 1: what is masked was marked to be repainted
MODEL = "majordomo offline sketch"
SOFTWARE = "majordomo offline sketch (no neural network)"

CANVAS_PIXELS = (
    4_400_000  # beyond this the canvas is smaller than the image: time and memory stay bounded
)
FINE_CANVAS_PIXELS = 9_600_000
PREVIEW_SIDE = 256
TOLD = 20_000  # characters of a prompt that are stored in the image
# quality -> supersampling, JPEG and WebP quality, share of the detail
QUALITIES = {"low": (1.0, 60, 0.7), "medium": (2.0, 88, 1.0), "high": (3.0, 95, 1.0)}
QUALITY_NAMES = {"draft": "low", "hd": "high", "best": "high"}
# scheduler -> how quickly light fades around its source, how dark the corners are
SCHEDULERS = {
    "": (1.0, 0.34),
    "karras": (1.8, 0.6),
    "exponential": (2.4, 0.75),
    "simple": (0.6, 0.08),
    "normal": (0.8, 0.2),
}


class Renderer:
    """One image being drawn, step by step. `total` is how many steps there are; their work is of similar size."""

    def __init__(
        self, request: imagegen.Request, *, seed: int, size: tuple[int, int], steps: int
    ) -> None:
        if min(size) < 1 or steps < 1:
            raise InvalidRequestError(
                "an image is at least one pixel wide and high and takes at least one step",
                field="size",
            )
        if request.output_format == "webp" and max(size) > 16_383:
            raise InvalidRequestError(
                "a WebP image has at most 16,383 pixels a side", field="output_format"
            )
        self.total = steps
        self._request, self._seed, self._size = request, seed, size
        self._done = 0
        self._finished: ImagePart | None = None
        cfg_scale = DEFAULT_CFG_SCALE if request.cfg_scale is None else request.cfg_scale
        self._literal = min(2.2, max(0.0, cfg_scale / DEFAULT_CFG_SCALE))
        quality = request.quality.lower()
        sampling, self._encoder_quality, share = QUALITIES[
            QUALITY_NAMES.get(quality, quality if quality in QUALITIES else "medium")
        ]
        # a thing of its own, since a prompt may have a million characters and dice are thrown often
        words = hashlib.sha256(request.prompt.encode("utf-8", "replace")).hexdigest()
        self._root = (words, seed)
        self._init = image_in(request.images[0], size) if request.images else None
        self._mask = (
            mask_of(request.mask, size)
            if request.mask is not None and self._init is not None
            else None
        )
        self._strength = (
            request.strength
            if request.strength is not None
            else (1.0 if self._mask else DEFAULT_STRENGTH)
        )
        self._stage = self._staged(sampling, share)
        self._work: list[Callable[[], None]] = [
            self._painting(layer) for layer in layers_of(self._stage)
        ]
        self._work += [self._light, self._texture, self._develop, self._combine]
        self._image = self._stage.canvas.image
        self._alpha: Image.Image | None = None

    def step(self) -> int:
        """Do the next step and return its number, from 1. After the last one there is nothing left to do."""
        if self._done < self.total:
            start, end = (
                math.ceil(len(self._work) * done / self.total)
                for done in (self._done, self._done + 1)
            )
            for work in self._work[start:end]:
                work()
            self._done += 1
        return self._done

    def preview(self) -> ImagePart:
        """The unfinished image, at most 256 pixels a side: what is there so far, emerging from noise."""
        image = self._image
        scale = min(1.0, PREVIEW_SIDE / max(self._size))
        size = (max(1, round(self._size[0] * scale)), max(1, round(self._size[1] * scale)))
        small = image.resize(size, Image.Resampling.BOX).convert("RGB")
        left = 1 - self._done / self.total
        if left > 0:
            if self._init is not None:
                small = Image.blend(
                    small,
                    self._init.resize(size, Image.Resampling.BOX).convert("RGB"),
                    max(left, 1 - self._strength),
                )
            chance = dice(*self._root, "preview", self._done)
            cloud = Image.frombytes("RGB", size, chance.randbytes(size[0] * size[1] * 3))
            small = Image.blend(small, cloud, 0.75 * left**1.5)
        return ImagePart.from_pil(small)

    def finish(self) -> ImagePart:
        """The image, encoded as the request asks (PNG when it does not). Steps not yet done are done first."""
        while self._done < self.total:
            self.step()
        if self._finished is None:
            self._finished = self._encode()
        return self._finished

    def _staged(self, sampling: float, share: float) -> Stage:
        request, (width, height) = self._request, self._size
        budget = FINE_CANVAS_PIXELS if sampling > 2 else CANVAS_PIXELS
        scale = min(sampling, math.sqrt(budget / (width * height)))
        transparent = request.background.lower() == "transparent"
        canvas = Canvas(
            max(1, round(width * scale)), max(1, round(height * scale)), keep_solid=transparent
        )
        scene = read_scene(
            request.prompt, request.negative_prompt, self._seed, request.background, self._literal
        )
        name = "_".join(request.scheduler.lower().split())
        chance = dice("scheduler", name)
        self._falloff, self._corners = SCHEDULERS.get(name) or (
            chance.uniform(0.5, 2.4),
            chance.uniform(0.1, 0.8),
        )
        detail = (1 - math.exp(-self.total / 7)) * share
        return Stage(canvas, scene, self._root, detail, self._literal, falloff=self._falloff)

    def _painting(self, layer: Callable[[Stage], None]) -> Callable[[], None]:
        def paint() -> None:
            layer(self._stage)
            self._image = self._stage.canvas.image

        return paint

    def _light(self) -> None:
        sky.blossom(self._stage)
        sky.vignette(self._stage, self._corners)
        self._image = self._stage.canvas.image

    def _texture(self) -> None:
        self._image = brushed(tiled(self._image, self.total), self._request.sampler, self._root)

    def _develop(self) -> None:
        """From the canvas to the size of the image: colors by cfg_scale, then grain, which every other field has a part in."""
        image, fine = self._image, self._image.width > self._size[0]
        if fine:
            image = image.resize(self._size, Image.Resampling.BOX)
        image = ImageEnhance.Color(image).enhance(0.35 + 0.65 * self._literal)
        image = ImageEnhance.Contrast(image).enhance(0.8 + 0.2 * self._literal)
        if not fine:
            image = image.resize(self._size, Image.Resampling.BICUBIC)
        request = self._request
        fields = (
            self.total,
            request.negative_prompt,
            request.quality,
            request.scheduler,
            request.background,
            request.cfg_scale,
        )
        self._image = grained(image, dice(*self._root, "grain", *fields))
        if self._stage.canvas.solid is not None:
            self._alpha = self._stage.canvas.solid.resize(self._size, Image.Resampling.BILINEAR)

    def _combine(self) -> None:
        """Bring in the images of the request: their colors, the first one's pixels, and the mask."""
        others = self._request.images[1:]
        if others:
            self._image = palette_moved(self._image, others, 0.7)
        if self._init is None:
            if self._alpha is not None:
                self._image.putalpha(self._alpha)
            return
        drawing = self._image
        if self._alpha is not None:
            drawing.putalpha(self._alpha)
        result = reworked(self._init, drawing, self._strength, self._request.sampler, self._root)
        if self._mask is not None:
            result = masked(self._init, result, self._mask)
        self._image = result

    def _encode(self) -> ImagePart:
        kind = self._request.output_format or "png"
        image, held = self._image, io.BytesIO()
        if kind == "png":
            notes = PngInfo()
            notes.add_text("parameters", self._parameters())
            notes.add_text("Software", SOFTWARE)
            # grain hardly compresses: for a large image more effort would buy a few per cent with seconds
            image.save(
                held,
                "PNG",
                pnginfo=notes,
                compress_level=6 if image.width * image.height < 2_000_000 else 3,
            )
        else:
            if kind == "jpeg" and image.mode == "RGBA":
                image = Image.alpha_composite(
                    Image.new("RGBA", image.size, "white"), image
                ).convert("RGB")
            exif = Image.Exif()
            exif[0x0131] = SOFTWARE  # the TIFF tag "Software"
            image.save(held, kind.upper(), quality=self._encoder_quality, exif=exif)
        return ImagePart(held.getvalue())

    def _parameters(self) -> str:
        """The settings, in the form in which Stable Diffusion programs store them in their images."""
        request = self._request
        lines = [_told(request.prompt)]
        if request.negative_prompt:
            lines.append(f"Negative prompt: {_told(request.negative_prompt)}")
        pairs: list[tuple[str, object]] = [("Steps", self.total)]
        if request.sampler:
            pairs.append(("Sampler", request.sampler))
        if request.scheduler:
            pairs.append(("Schedule type", request.scheduler))
        pairs.append(
            (
                "CFG scale",
                f"{DEFAULT_CFG_SCALE if request.cfg_scale is None else request.cfg_scale:g}",
            )
        )
        pairs += [("Seed", self._seed), ("Size", f"{self._size[0]}x{self._size[1]}")]
        if self._init is not None:
            pairs.append(("Denoising strength", f"{self._strength:g}"))
        pairs.append(("Model", MODEL))
        lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in pairs))
        return "\n".join(lines)


def _told(text: str) -> str:
    short = text if len(text) <= TOLD else text[: TOLD - 1] + "…"
    return short.replace("\0", "").encode("utf-8", "replace").decode()


def _quoted(value: str) -> str:
    """A value that could be mistaken for several pairs stands in JSON quotes."""
    value = value.replace("\0", "").encode("utf-8", "replace").decode()
    return (
        json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value
    )
