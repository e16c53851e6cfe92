"""The offline renderer: draws a scene of plain shapes from the words of a prompt.

No neural network is involved. Equal request, seed, size and steps give equal bytes with the same
version of Pillow. Every decision uses its own random generator, seeded from the prompt, the seed
and a fixed name, so that changing one field of the request changes only what the field controls
and leaves the composition as it is.
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
from majordomo.offline.renderer.brushes import add_grain, apply_brush, apply_step_blocks
from majordomo.offline.renderer.canvas import Canvas
from majordomo.offline.renderer.composition import build_layers
from majordomo.offline.renderer.palette import rng_for
from majordomo.offline.renderer.reference import (
    apply_mask,
    blend_with_init,
    fit_image,
    load_mask,
    match_palette,
)
from majordomo.offline.renderer.scene import read_scene
from majordomo.offline.renderer.stage import Stage

DEFAULT_SIZE = (512, 512)
DEFAULT_STEPS = 20
DEFAULT_CFG_SCALE = 7.0
# With a mask the default is 1: the white part was marked to be repainted.
DEFAULT_STRENGTH = 0.75
MODEL = "majordomo offline sketch"
SOFTWARE = "majordomo offline sketch (no neural network)"

# Above this size the canvas is smaller than the image, which bounds time and memory.
MAX_CANVAS_PIXELS = 4_400_000
MAX_FINE_CANVAS_PIXELS = 9_600_000
MAX_PREVIEW_SIDE = 256
# Longer prompts are cut before they are stored in the image.
MAX_STORED_PROMPT_CHARS = 20_000
# Quality name to (supersampling factor, JPEG and WebP quality, share of the detail).
QUALITIES = {"low": (1.0, 60, 0.7), "medium": (2.0, 88, 1.0), "high": (3.0, 95, 1.0)}
QUALITY_NAMES = {"draft": "low", "hd": "high", "best": "high"}
# Scheduler to (how quickly light fades around its source, how dark the corners are).
SCHEDULERS = {
    "": (1.0, 0.34),
    "karras": (1.8, 0.6),
    "exponential": (2.4, 0.75),
    "simple": (0.6, 0.08),
    "normal": (0.8, 0.2),
}


class Renderer:
    """One image that is drawn step by step.

    Args:
        request: What to draw. `n`, `seed`, `size` and `steps` are taken from the arguments below.
        seed: Seed of this image.
        size: Width and height in pixels.
        steps: Number of steps, from 1. The work is spread evenly over them.

    Raises:
        InvalidRequestError: The size or number of steps is below 1, the size is too large for
            WebP, or an input image cannot be decoded.
    """

    def __init__(
        self, request: imagegen.Request, *, seed: int, size: tuple[int, int], steps: int
    ) -> None:
        if min(size) < 1 or steps < 1:
            raise InvalidRequestError(
                f"width, height and steps must be at least 1; got {size[0]}x{size[1]} pixels "
                f"and {steps} steps",
                field="size",
            )
        if request.output_format == "webp" and max(size) > 16_383:
            raise InvalidRequestError(
                f"a WebP image has at most 16,383 pixels per side; got {size[0]}x{size[1]}. "
                'Use output_format="png"',
                field="output_format",
            )
        self.total = steps
        self._request, self._seed, self._size = request, seed, size
        self._done = 0
        self._finished: ImagePart | None = None
        cfg_scale = DEFAULT_CFG_SCALE if request.cfg_scale is None else request.cfg_scale
        self._guidance = min(2.2, max(0.0, cfg_scale / DEFAULT_CFG_SCALE))
        quality = request.quality.lower()
        sampling, self._encoder_quality, share = QUALITIES[
            QUALITY_NAMES.get(quality, quality if quality in QUALITIES else "medium")
        ]
        # A prompt may have a million characters and seeds many generators, so hash it once.
        prompt_hash = hashlib.sha256(request.prompt.encode("utf-8", "replace")).hexdigest()
        self._seed_parts = (prompt_hash, seed)
        self._init = fit_image(request.images[0], size) if request.images else None
        self._mask = (
            load_mask(request.mask, size)
            if request.mask is not None and self._init is not None
            else None
        )
        self._strength = (
            request.strength
            if request.strength is not None
            else (1.0 if self._mask else DEFAULT_STRENGTH)
        )
        self._stage = self._build_stage(sampling, share)
        self._tasks: list[Callable[[], None]] = [
            self._drawing_task(layer) for layer in build_layers(self._stage)
        ]
        self._tasks += [self._light, self._texture, self._develop, self._combine]
        self._image = self._stage.canvas.image
        self._alpha: Image.Image | None = None

    def step(self) -> int:
        """Do the next step and return its number, from 1. Has no effect after the last step."""
        if self._done < self.total:
            start, end = (
                math.ceil(len(self._tasks) * done / self.total)
                for done in (self._done, self._done + 1)
            )
            for task in self._tasks[start:end]:
                task()
            self._done += 1
        return self._done

    def preview(self) -> ImagePart:
        """Return the unfinished image under fading noise, at most 256 pixels per side."""
        image = self._image
        scale = min(1.0, MAX_PREVIEW_SIDE / max(self._size))
        size = (max(1, round(self._size[0] * scale)), max(1, round(self._size[1] * scale)))
        small = image.resize(size, Image.Resampling.BOX).convert("RGB")
        remaining = 1 - self._done / self.total
        if remaining > 0:
            if self._init is not None:
                small = Image.blend(
                    small,
                    self._init.resize(size, Image.Resampling.BOX).convert("RGB"),
                    max(remaining, 1 - self._strength),
                )
            rng = rng_for(*self._seed_parts, "preview", self._done)
            static = Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3))
            small = Image.blend(small, static, 0.75 * remaining**1.5)
        return ImagePart.from_pil(small)

    def finish(self) -> ImagePart:
        """Do the remaining steps and return the image in the requested format (default: PNG)."""
        while self._done < self.total:
            self.step()
        if self._finished is None:
            self._finished = self._encode()
        return self._finished

    def _build_stage(self, sampling: float, share: float) -> Stage:
        request, (width, height) = self._request, self._size
        budget = MAX_FINE_CANVAS_PIXELS if sampling > 2 else MAX_CANVAS_PIXELS
        scale = min(sampling, math.sqrt(budget / (width * height)))
        transparent = request.background.lower() == "transparent"
        canvas = Canvas(
            max(1, round(width * scale)),
            max(1, round(height * scale)),
            keep_opaque_mask=transparent,
        )
        scene = read_scene(
            request.prompt, request.negative_prompt, self._seed, request.background, self._guidance
        )
        name = "_".join(request.scheduler.lower().split())
        rng = rng_for("scheduler", name)
        self._falloff, self._corners = SCHEDULERS.get(name) or (
            rng.uniform(0.5, 2.4),
            rng.uniform(0.1, 0.8),
        )
        detail = (1 - math.exp(-self.total / 7)) * share
        return Stage(canvas, scene, self._seed_parts, detail, self._guidance, falloff=self._falloff)

    def _drawing_task(self, layer: Callable[[Stage], None]) -> Callable[[], None]:
        def draw() -> None:
            layer(self._stage)
            self._image = self._stage.canvas.image

        return draw

    def _light(self) -> None:
        sky.bloom(self._stage)
        sky.vignette(self._stage, self._corners)
        self._image = self._stage.canvas.image

    def _texture(self) -> None:
        self._image = apply_brush(
            apply_step_blocks(self._image, self.total), self._request.sampler, self._seed_parts
        )

    def _develop(self) -> None:
        """Resize the canvas to the image, adjust the colors by cfg_scale, and add grain.

        The grain depends on all other fields of the request.
        """
        image, is_supersampled = self._image, self._image.width > self._size[0]
        if is_supersampled:
            image = image.resize(self._size, Image.Resampling.BOX)
        image = ImageEnhance.Color(image).enhance(0.35 + 0.65 * self._guidance)
        image = ImageEnhance.Contrast(image).enhance(0.8 + 0.2 * self._guidance)
        if not is_supersampled:
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
        self._image = add_grain(image, rng_for(*self._seed_parts, "grain", *fields))
        if self._stage.canvas.opaque_mask is not None:
            self._alpha = self._stage.canvas.opaque_mask.resize(
                self._size, Image.Resampling.BILINEAR
            )

    def _combine(self) -> None:
        """Apply the input images: the colors of all, the pixels of the first one, and the mask."""
        others = self._request.images[1:]
        if others:
            self._image = match_palette(self._image, others, 0.7)
        if self._init is None:
            if self._alpha is not None:
                self._image.putalpha(self._alpha)
            return
        drawing = self._image
        if self._alpha is not None:
            drawing.putalpha(self._alpha)
        result = blend_with_init(
            self._init, drawing, self._strength, self._request.sampler, self._seed_parts
        )
        if self._mask is not None:
            result = apply_mask(self._init, result, self._mask)
        self._image = result

    def _encode(self) -> ImagePart:
        kind = self._request.output_format or "png"
        image, buffer = self._image, io.BytesIO()
        if kind == "png":
            notes = PngInfo()
            notes.add_text("parameters", self._parameters())
            notes.add_text("Software", SOFTWARE)
            # Grain hardly compresses. For a large image a higher level would take seconds to save
            # a few percent.
            image.save(
                buffer,
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
            # 0x0131 is the TIFF tag "Software".
            exif[0x0131] = SOFTWARE
            image.save(buffer, kind.upper(), quality=self._encoder_quality, exif=exif)
        return ImagePart(buffer.getvalue())

    def _parameters(self) -> str:
        """Return the settings in the format in which Stable Diffusion programs store them."""
        request = self._request
        lines = [_storable(request.prompt)]
        if request.negative_prompt:
            lines.append(f"Negative prompt: {_storable(request.negative_prompt)}")
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


def _storable(text: str) -> str:
    """Return the text as it is stored in an image: shortened, without NUL or lone surrogates."""
    if len(text) > MAX_STORED_PROMPT_CHARS:
        text = text[: MAX_STORED_PROMPT_CHARS - 1] + "…"
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _quoted(value: str) -> str:
    """Quote a value as JSON if it could be mistaken for several pairs."""
    value = value.replace("\0", "").encode("utf-8", "replace").decode()
    return (
        json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value
    )
