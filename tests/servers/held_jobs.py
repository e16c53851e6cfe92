"""What the image servers share: jobs that a test can hold at a step, and images of one color.

The color of an image is a hash of the settings that it was generated with.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageOps

# A job whose release() was forgotten continues after this time.
MAX_HOLD_SECONDS = 60.0

Color = tuple[int, int, int]
# The preview before the first step: noise, on average.
GRAY: Color = (128, 128, 128)


class Paced:
    """A server whose jobs a test can hold at a step, so that no test relies on sleeping.

    Set `hold_at` before the request: the next job that has finished that step waits there and
    sets `reached`. `release()` or the engine's own interrupt continues it. One value holds one
    job once. `step_seconds` is the duration of every step.
    """

    def __init__(self, step_seconds: float = 0) -> None:
        self.step_seconds = step_seconds
        self.reached = threading.Event()
        self.changed = threading.Condition(threading.RLock())
        self._hold_at: int | None = None
        self._holding = False

    @property
    def hold_at(self) -> int | None:
        """The step after which the next job is held; None holds no job."""
        return self._hold_at

    @hold_at.setter
    def hold_at(self, step: int | None) -> None:
        with self.changed:
            self._hold_at = step
            self.reached.clear()

    def release(self) -> None:
        """Continue the held job, if there is one."""
        with self.changed:
            self._holding = False
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 5) -> bool:
        """Wait until `condition` is true, checked at each change of the server's state."""
        with self.changed:
            return self.changed.wait_for(condition, seconds)

    def pace(self, step: int, stopped: Callable[[], bool]) -> None:
        """End this step after `step_seconds`, or earlier when the job is stopped."""
        with self.changed:
            self.changed.notify_all()
            if self.step_seconds:
                self.changed.wait_for(stopped, self.step_seconds)
            if self._hold_at == step and not stopped():
                self._hold_at, self._holding = None, True
                self.reached.set()
                self.changed.wait_for(lambda: not self._holding or stopped(), MAX_HOLD_SECONDS)
                self._holding = False


def digest(*settings: Any) -> bytes:
    """Return a hash of settings that JSON can represent."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()


def pixels(image: Image.Image) -> str:
    """Return a hash of the pixels, which is independent of how the image is encoded."""
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()[:16]


def color_of(*settings: Any) -> Color:
    """Return the color of these settings."""
    first = digest(*settings)
    return first[0], first[1], first[2]


def towards(color: Color, share: float) -> Color:
    """Return how much of a color is visible once this share of the steps is done."""
    red, green, blue = (
        round(gray + (target - gray) * share) for gray, target in zip(GRAY, color, strict=True)
    )
    return red, green, blue


def flatten(image: Image.Image) -> Image.Image:
    """Return the image as RGB over white, as an engine reads a transparent image."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def resize(mode: int, image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize as the web UI's resize modes do.

    0 stretches, 1 crops, 2 fills the borders with the stretched edges of the image, and 3 equals
    0 but works on latents.
    """
    if image.size == (width, height):
        return image
    if mode == 1:
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if mode != 2:
        return image.resize((width, height), Image.Resampling.LANCZOS)
    inner = ImageOps.contain(image, (width, height), Image.Resampling.LANCZOS)
    left, top = (width - inner.width) // 2, (height - inner.height) // 2
    result = inner.resize((width, height), Image.Resampling.NEAREST)
    if left:
        result.paste(inner.resize((left, height), box=(0, 0, 1, inner.height)), (0, 0))
        result.paste(
            inner.resize(
                (width - left, height), box=(inner.width - 1, 0, inner.width, inner.height)
            ),
            (left, 0),
        )
    if top:
        result.paste(inner.resize((width, top), box=(0, 0, inner.width, 1)), (0, 0))
        result.paste(
            inner.resize(
                (width, height - top), box=(0, inner.height - 1, inner.width, inner.height)
            ),
            (0, top),
        )
    result.paste(inner, (left, top))
    return result
