"""Images a test can foretell: one color, taken from a hash of what the image was asked with."""

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


def hashed(facts: Mapping[str, Any]) -> Color:
    """The color of these facts, whatever their order. A change of any one of them changes it."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()
    return digest[0], digest[1], digest[2]


def fingerprint(image: bytes | Image.Image) -> str:
    """Names the pixels and the size of an opened, whatever file holds them and whatever its alpha is."""
    opened = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
    flat = opened.convert("RGB")
    return hashlib.sha256(repr(flat.size).encode() + flat.tobytes()).hexdigest()[:16]


def decoded(data: bytes) -> Image.Image | None:
    """The image in these bytes; None when there is none, or not a whole one."""
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF", "BMP"))
        image.load()
    except (OSError, ValueError, SyntaxError):
        return None
    return image


def plain(color: Color, size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, color)


def repainted(original: Image.Image, new: Image.Image, mask: Image.Image) -> Image.Image:
    """`new` where `mask` is white, `kept` where it is black. All are cut from the middle and scaled to the size of `new`."""
    fitted = ImageOps.fit(original.convert("RGB"), new.size, Image.Resampling.NEAREST)
    return Image.composite(
        new, fitted, ImageOps.fit(mask.convert("L"), new.size, Image.Resampling.NEAREST)
    )


def encoded(
    image: Image.Image, kind: str = "png", parameters: str | None = None, quality: int = 100
) -> bytes:
    """The file of an image. `parameters` becomes the text chunk of that name of a PNG."""
    buffer = io.BytesIO()
    if kind == "png":
        info = PngInfo()
        if parameters is not None:
            info.add_text(
                "parameters", parameters.encode()
            )  # raw UTF-8 in a tEXt chunk, as sd-server writes it
        image.save(buffer, "PNG", pnginfo=info, compress_level=1)
    else:
        image.save(buffer, kind.upper(), quality=max(1, quality))
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def leading_base64(text: str) -> bytes:
    """Base64 as a lenient C++ decoder reads it: a prefix up to the first comma is dropped, and the first foreign character ends it."""
    body = text.partition(",")[2] if "," in text else text
    match = re.match(r"[A-Za-z0-9+/]*", body)
    digits = match[0] if match else ""
    complete = digits[:-1] if len(digits) % 4 == 1 else digits
    return base64.b64decode(complete + "=" * (-len(complete) % 4))
