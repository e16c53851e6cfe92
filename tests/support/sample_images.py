"""Sample images with known pixels and known metadata."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

from PIL import Image, ImageCms, PngImagePlugin

from majordomo import ImagePart

SECRET = b"s3cret-street 12"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def part(image: Image.Image, kind: str = "PNG", **settings: object) -> ImagePart:
    """Encode a Pillow image; `settings` are passed to `Image.save`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return ImagePart(buffer.getvalue())


def gradient(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    """Return a gradient.

    Red and alpha increase to the right, green downward; blue is checkered.
    """
    image = Image.new("RGB", (width, height))
    image.putdata(
        [
            (
                255 * x // max(1, width - 1),
                255 * y // max(1, height - 1),
                255 * ((x // 8 + y // 8) % 2),
            )
            for y in range(height)
            for x in range(width)
        ]
    )
    if mode == "RGBA":
        image.putalpha(image.getchannel("R"))
    return image.convert(mode)


def noise(width: int = 64, height: int = 48, seed: int = 1, mode: str = "RGB") -> Image.Image:
    return Image.frombytes(
        mode, (width, height), random.Random(seed).randbytes(width * height * len(mode))
    )


def four_colors(width: int = 40, height: int = 20) -> Image.Image:
    """Return an image with red, lime, blue and white quarters, row by row."""
    image = Image.new("RGB", (width, height), "white")
    half = (width // 2, height // 2)
    for color, at in (("red", (0, 0)), ("lime", (half[0], 0)), ("blue", (0, half[1]))):
        image.paste(color, (*at, at[0] + half[0], at[1] + half[1]))
    return image


def make_exif(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "a fox\nSteps: 9, Seed: 5".encode("utf-16-be")
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def image_with_metadata(image: Image.Image, kind: str, orientation: int = 1) -> ImagePart:
    """Return an image with all metadata of its format, a color profile, and bytes after its end."""
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + SECRET + b"</x:xmpmeta>"
    settings: dict[str, object] = {"exif": make_exif(orientation)}
    if image.mode != "L":
        settings["icc_profile"] = SRGB
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", "a fox\nSteps: 9, Seed: 5")
        info.add_text("Comment", SECRET.decode(), zip=False)
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        settings |= {"pnginfo": info, "dpi": (300, 300)}
    elif kind == "JPEG":
        settings |= {"comment": SECRET, "xmp": xmp, "dpi": (300, 300), "quality": 95}
    elif kind == "WEBP":
        settings |= {"xmp": xmp, "lossless": True, "exact": True}
    encoded = part(image, kind, **settings)
    data = encoded.data
    if kind == "PNG":  # add an unknown chunk and a time
        end = data.index(b"IEND") - 4
        data = data[:end] + png_chunk(b"prVt", SECRET) + png_chunk(b"tIME", bytes(7)) + data[end:]
    return ImagePart(data + b"PK\3\4" + SECRET)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def animation(kind: str, frames: int = 3) -> ImagePart:
    images = [
        Image.new("RGB", (20, 10), color) for color in ("red", "lime", "blue", "white")[:frames]
    ]
    settings: dict[str, object] = {"lossless": True} if kind == "WEBP" else {}
    return part(
        images[0], kind, save_all=True, append_images=images[1:], duration=50, loop=0, **settings
    )


def rgba_bytes(image_part: ImagePart) -> bytes:
    """Return the pixels as RGBA bytes, as stored."""
    image = image_part.to_pil()
    return image.convert("RGBA").tobytes()


def pixel_at(image: ImagePart, x: int, y: int) -> object:
    """Return the color of one pixel."""
    return image.to_pil().getpixel((x, y))


def rgb_pixel(image: ImagePart, at: tuple[int, int] = (0, 0)) -> Any:
    """Return the color of one pixel as RGB, whatever the mode of the image is."""
    return image.to_pil().convert("RGB").getpixel(at)
