"""Predictable images: one color each, the hash of the request that the image was generated from."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

Color = tuple[int, int, int]


def hash_color(facts: Mapping[str, Any]) -> Color:
    """Return the color of these facts in any order; a change of any fact changes the color."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
    return digest[0], digest[1], digest[2]


def fingerprint(image: bytes | Image.Image) -> str:
    """Return a name for the pixels and the size of an image; format and alpha do not matter."""
    opened = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
    flat = opened.convert("RGB")
    return hashlib.sha256(repr(flat.size).encode() + flat.tobytes()).hexdigest()[:16]


def decode_image(data: bytes) -> Image.Image | None:
    """Return the image in these bytes; None when they are not a complete image."""
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF", "BMP"))
        image.load()
    except (OSError, ValueError, SyntaxError):
        return None
    return image


def solid_image(color: Color, size: tuple[int, int]) -> Image.Image:
    """Return an image of one color."""
    return Image.new("RGB", size, color)


def repaint_masked(original: Image.Image, new: Image.Image, mask: Image.Image) -> Image.Image:
    """Return `new` where `mask` is white and `original` where it is black.

    `original` and `mask` are cropped around the center and scaled to the size of `new`.
    """
    fitted = ImageOps.fit(original.convert("RGB"), new.size, Image.Resampling.NEAREST)
    return Image.composite(
        new, fitted, ImageOps.fit(mask.convert("L"), new.size, Image.Resampling.NEAREST)
    )


def encode_image(
    image: Image.Image, kind: str = "png", parameters: str | None = None, quality: int = 100
) -> bytes:
    """Return an image file. A PNG carries `parameters` in the text chunk of that name."""
    buffer = io.BytesIO()
    if kind == "png":
        info = PngInfo()
        if parameters is not None:
            # Raw UTF-8 in a tEXt chunk, as sd-server writes it.
            info.add_text("parameters", parameters.encode())
        image.save(buffer, "PNG", pnginfo=info, compress_level=1)
    else:
        image.save(buffer, kind.upper(), quality=max(1, quality))
    return buffer.getvalue()


def b64(data: bytes) -> str:
    """Return the data in base64, as text."""
    return base64.b64encode(data).decode()


def leading_base64(text: str) -> bytes:
    """Decode base64 as leniently as the C++ decoder of sd-server.

    A prefix up to the first comma is dropped, and the first character that is not base64 ends the
    data.
    """
    body = text.partition(",")[2] if "," in text else text
    match = re.match(r"[A-Za-z0-9+/]*", body)
    digits = match[0] if match else ""
    complete = digits[:-1] if len(digits) % 4 == 1 else digits
    return base64.b64decode(complete + "=" * (-len(complete) % 4))
