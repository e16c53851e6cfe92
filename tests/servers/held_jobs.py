"""What the image servers share: a job that a test can hold at a step, and images that tell which settings made them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageOps

MAX_HOLD_SECONDS = 60.0  # no job outlives a forgotten release() by more than this

Color = tuple[int, int, int]
GRAY: Color = (128, 128, 128)  # what is seen before the first step: noise, on average


class Paced:
    """Counts a job's steps aloud, so that a test meets a job in the middle without sleeping for luck.

    Set `hold_at` before the request: the next job that has done that step waits there and sets `reached`; `release()`, or the
    engine's own interrupt, lets it go on. One value holds one job once. `step_seconds` makes every step last that long.
    """

    def __init__(self, step_seconds: float = 0) -> None:
        self.step_seconds = step_seconds
        self.reached = threading.Event()
        self.changed = threading.Condition(threading.RLock())
        self._hold_at: int | None = None
        self._held = False

    @property
    def hold_at(self) -> int | None:
        return self._hold_at

    @hold_at.setter
    def hold_at(self, step: int | None) -> None:
        with self.changed:
            self._hold_at = step
            self.reached.clear()

    def release(self) -> None:
        """Lets the held job go on; nothing happens when none is held."""
        with self.changed:
            self._held = False
            self.changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], seconds: float = 5) -> bool:
        """Waits until `condition` holds, asked again at each change of the server's state."""
        with self.changed:
            return self.changed.wait_for(condition, seconds)

    def pace(self, step: int, stopped: Callable[[], bool]) -> None:
        """Ends this step: lasts as long as the test says, less when the job is stopped meanwhile."""
        with self.changed:
            self.changed.notify_all()
            if self.step_seconds:
                self.changed.wait_for(stopped, self.step_seconds)
            if self._hold_at == step and not stopped():
                self._hold_at, self._held = None, True
                self.reached.set()
                self.changed.wait_for(lambda: not self._held or stopped(), MAX_HOLD_SECONDS)
                self._held = False


def digest(*settings: Any) -> bytes:
    """A fingerprint of any settings that JSON can write."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).digest()


def pixels(image: Image.Image) -> str:
    """A fingerprint of what is seen, so that another encoding of the same image is the same image."""
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()[:16]


def color_of(*settings: Any) -> Color:
    """The one color of these settings."""
    first = digest(*settings)
    return first[0], first[1], first[2]


def towards(color: Color, share: float) -> Color:
    """What is seen of a color when this share of the steps is done."""
    red, green, blue = (
        round(gray + (target - gray) * share) for gray, target in zip(GRAY, color, strict=True)
    )
    return red, green, blue


def flatten(image: Image.Image) -> Image.Image:
    """RGB rgba white: what an engine makes of a transparent image."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def resize(mode: int, image: Image.Image, width: int, height: int) -> Image.Image:
    """The web UI's resize modes: 0 stretches, 1 crops, 2 fills the rest with the stretched borders, 3 is 0 on latents."""
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
