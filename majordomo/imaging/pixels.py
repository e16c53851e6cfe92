"""Decode images to pixels and encode pixels to files.

Decoding is bounded by limits and gives upright pixels with eight bits a channel, in mode L, RGB or
RGBA, with their color profile. Changes that this makes to an image are reported as notes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

from PIL import Image, ImageCms, ImageColor, ImageMath, features

from majordomo.errors import InvalidRequestError, UnsupportedError
from majordomo.media.image_containers import webp_chunks
from majordomo.media.image_header import read_orientation
from majordomo.media.image_limits import check_area, check_size
from majordomo.media.image_part import DECODING_ERRORS, ImagePart, as_image_part
from majordomo.settings import Limits

# Called with the code and the message of a note.
Note = Callable[[str, str], None]
Size = tuple[int, int]
_PILLOW_FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/avif": "AVIF",
}
FORMATS = {mime: name.lower() for mime, name in _PILLOW_FORMATS.items()}
# RFC 9649: width and height have 14 bits.
MAX_WEBP_SIDE = 16_383
DEFAULT_QUALITIES = {"jpeg": 90, "webp": 85, "avif": 70}
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The color space of a profile that fits a mode.
_COLOR_SPACES = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded image. The image is never modified: every step creates a new one."""

    image: Image.Image
    """The pixels, in mode L, RGB or RGBA."""
    profile: bytes | None = None
    """The ICC color profile; None means sRGB."""


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How pixels are encoded."""

    format: str
    """`"png"`, `"jpeg"`, `"webp"` or `"avif"`."""
    quality: int | None = None
    """Quality of a lossy format, 1 to 100. Default: `DEFAULT_QUALITIES`."""
    lossless: bool = False
    """Compress a WebP without loss. Default: False."""
    effort: bool = False
    """Take more time for a smaller file. Default: False."""
    colors: int | None = None
    """Reduce a PNG to a palette of this many colors. Default: no reduction."""
    # Level 3 takes a third of the time of zlib's default, for an eighth more bytes.
    level: int = 3
    """zlib compression level of a PNG, unless `effort` is set. Default: 3."""


def ignore_notes(code: str, message: str) -> None:
    """Discard a note, for results that cannot carry notes."""


def open_image(
    part: ImagePart, limits: Limits, field: str = "image", min_size: Size | None = None
) -> Image.Image:
    """Decode an image as it is stored.

    With `min_size`, a JPEG may be decoded at half, a quarter or an eighth of its size, as long as
    the result is not smaller than that.

    Raises:
        InvalidRequestError: Names `field`. The image exceeds the limits (code IMAGE_TOO_LARGE) or
            cannot be decoded (code BAD_IMAGE).
        UnsupportedError: An AVIF, and Pillow does not support it.
    """
    as_image_part(part, field)
    check_size(
        part, max_pixels=limits.max_image_pixels, max_side=limits.max_image_side, field=field
    )
    if part.mime == "image/avif":
        check_avif(field)
    try:
        image: Image.Image = Image.open(BytesIO(part.data), formats=(_PILLOW_FORMATS[part.mime],))
        # The size that decoders use can come later in the file: a second header, or a frame larger
        # than its canvas.
        check_area(
            image.size,
            max_pixels=limits.max_image_pixels,
            max_side=limits.max_image_side,
            field=field,
        )
        if min_size is not None:
            # None keeps the mode.
            image.draft(None, min_size)
        image.load()
    except (*DECODING_ERRORS, Image.DecompressionBombError) as error:
        message = f"the {part.mime} image cannot be decoded: {type(error).__name__}"
        raise InvalidRequestError(message, field=field, code="BAD_IMAGE") from None
    return image


def check_avif(field: str) -> None:
    """Raise UnsupportedError if Pillow does not support AVIF."""
    if not features.check("avif"):
        raise UnsupportedError("Pillow was built without AVIF support", field=field)


def decode(
    part: ImagePart,
    limits: Limits,
    note: Note,
    field: str = "image",
    min_size: Size | None = None,
) -> Pixels:
    """Decode an image to upright pixels; of an animation, the first frame.

    Raises:
        InvalidRequestError: See `open_image`.
        UnsupportedError: See `open_image`.
    """
    image = open_image(part, limits, field, min_size)
    # The JPEGs of some cameras contain a second image, which is not an animation.
    if part.mime != "image/jpeg" and getattr(image, "is_animated", False):
        frames = getattr(image, "n_frames", 2)
        note("FIRST_FRAME", f"only the first frame of an animation of {frames} was kept")
    if _has_sixteen_bits(part):
        note("EIGHT_BITS", "sixteen bits a channel were reduced to eight")
    profile = _read_profile(image, note)
    plain = _to_plain_mode(image, part)
    if plain.mode == "CMYK":
        plain, profile = _cmyk_to_rgb(plain, profile, note), None
    upright = apply_orientation(plain, _read_orientation(part, image))
    upright.info = {}
    return Pixels(upright, profile if profile and _fits_mode(profile, upright.mode) else None)


def decode_srgb(part: ImagePart, limits: Limits, field: str) -> Image.Image:
    """Decode an image as it is displayed: upright and in sRGB, without notes.

    Raises:
        InvalidRequestError: See `open_image`.
        UnsupportedError: See `open_image`.
    """
    return as_srgb(decode(part, limits, ignore_notes, field), ignore_notes).image


def apply_orientation(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image rotated and mirrored as an EXIF orientation (1 to 8) requires."""
    return image.transpose(_ORIENTATIONS[orientation]) if orientation in _ORIENTATIONS else image


def _read_orientation(part: ImagePart, image: Image.Image) -> int:
    # In an AVIF it is a property of the file (irot, imir), which Pillow reports as EXIF.
    if part.mime == "image/avif":
        return int(image.getexif().get(0x0112, 1))
    return read_orientation(part.data)


def upright_size(part: ImagePart) -> Size:
    """Return width and height as displayed, without decoding."""
    if part.mime != "image/avif" and read_orientation(part.data) >= 5:
        return part.height, part.width
    return part.width, part.height


def _has_sixteen_bits(part: ImagePart) -> bool:
    """Return whether a PNG has sixteen bits a channel (IHDR)."""
    return part.mime == "image/png" and part.data[24] == 16


def _to_plain_mode(image: Image.Image, part: ImagePart) -> Image.Image:
    """Convert the image to mode L, RGB, RGBA or CMYK."""
    if image.mode.startswith("I"):
        return _from_sixteen_bits(image)
    if image.mode in ("RGB", "L") and "transparency" in image.info and _has_sixteen_bits(part):
        transparent = image.info["transparency"]
        image.info["transparency"] = (
            tuple(level >> 8 for level in transparent)
            if isinstance(transparent, tuple)
            else transparent >> 8
        )
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    gray = to_eight_bits(image)
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return gray
    alpha = ImageMath.lambda_eval(
        lambda names: names["convert"](names["notequal"](names["gray"], transparent) * 255, "L"),
        gray=image.convert("I"),
    )
    return Image.merge("RGBA", (gray, gray, gray, cast("Image.Image", alpha)))


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit pixels to 8 bits; Pillow's own conversion turns everything above 255 white."""
    return image.convert("I").point(lambda level: level / 257).convert("L")


def _read_profile(image: Image.Image, note: Note) -> bytes | None:
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return None
    if _color_space(profile) is None:
        note("PROFILE_DROPPED", "the color profile is broken and was removed")
        return None
    return profile


def _color_space(profile: bytes) -> str | None:
    """Return the color space of a profile, or None if the profile is broken."""
    try:
        return str(ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space).strip()
    except (OSError, ImageCms.PyCMSError):
        return None


def _fits_mode(profile: bytes, mode: str) -> bool:
    return _color_space(profile) == _COLOR_SPACES[mode]


def _cmyk_to_rgb(image: Image.Image, profile: bytes | None, note: Note) -> Image.Image:
    if profile is not None and _fits_mode(profile, "CMYK"):
        note("COLORS_CONVERTED", "CMYK was converted to sRGB with its color profile")
        return _convert_with_profile(image, profile)
    note("COLORS_CONVERTED", "CMYK without a color profile was converted to RGB by a formula")
    return image.convert("RGB")


def _convert_with_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert the image from the color space of a profile to sRGB."""
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        outputMode=mode,
    )
    # `profileToProfile` returns None with `inPlace` only.
    assert converted is not None
    converted.info = {}
    return converted


def as_srgb(pixels: Pixels, note: Note) -> Pixels:
    """Convert the pixels to sRGB, so that they need no profile."""
    if pixels.profile is None:
        return pixels
    try:
        image = _convert_with_profile(pixels.image, pixels.profile)
    except ImageCms.PyCMSError:
        note("PROFILE_DROPPED", "the color profile does not fit the image and was removed")
        return Pixels(pixels.image)
    note("COLORS_CONVERTED", "colors were converted to sRGB with the color profile")
    return Pixels(image)


def ensure_color(pixels: Pixels, note: Note) -> Pixels:
    """Convert the pixels to RGB or RGBA; the profile of a gray image is applied."""
    if pixels.image.mode != "L":
        return pixels
    if pixels.profile is not None:
        pixels = as_srgb(pixels, note)
    return Pixels(
        pixels.image if pixels.image.mode != "L" else pixels.image.convert("RGB"), pixels.profile
    )


def parse_color(text: str, field: str) -> tuple[int, int, int]:
    """Return red, green and blue of a color name or `#rrggbb`.

    Raises:
        InvalidRequestError: Names `field`. The text is not a color.
    """
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise InvalidRequestError(
            f"{field} must be the name of a color or #rrggbb; got {text[:40]!r}", field=field
        ) from None


def flatten_onto(image: Image.Image, color: str | tuple[int, int, int] = "white") -> Image.Image:
    """Return the image as RGB, with transparency replaced by `color`."""
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    transparent = image if image.mode == "RGBA" else image.convert("RGBA")
    flat = Image.new("RGB", transparent.size, color)
    flat.paste(transparent, mask=transparent.getchannel("A"))
    return flat


def is_lossless(part: ImagePart) -> bool:
    """Return whether the file is a PNG, a GIF, or a lossless WebP (one with a VP8L chunk)."""
    if part.mime == "image/webp":
        return any(kind == b"VP8L" for kind, _, _ in webp_chunks(part.data))
    return part.mime in ("image/png", "image/gif")


def encode(pixels: Pixels, options: EncodeOptions) -> bytes:
    """Encode pixels to a file without metadata other than the color profile.

    For a JPEG, the caller removes transparency first.

    Raises:
        InvalidRequestError: Field `format`: the image is larger than the format allows (code
            IMAGE_TOO_LARGE).
        UnsupportedError: AVIF, and Pillow does not support it.
    """
    image, settings = pixels.image, _pillow_settings(options)
    if options.format == "webp" and max(image.size) > MAX_WEBP_SIDE:
        raise InvalidRequestError(
            f"a WebP can have at most {MAX_WEBP_SIDE:,} pixels a side;"
            f" got {image.width}x{image.height}",
            field="format",
            code="IMAGE_TOO_LARGE",
        )
    if options.format == "avif":
        check_avif("format")
    if options.format == "png" and (options.effort or options.colors):
        image = _to_smallest_mode(image, options.colors)
    if pixels.profile is not None and _fits_mode(
        pixels.profile, "RGB" if image.mode == "P" else image.mode
    ):
        settings["icc_profile"] = pixels.profile
    buffer = BytesIO()
    image.save(buffer, options.format.upper(), **settings)
    return buffer.getvalue()


def _pillow_settings(options: EncodeOptions) -> dict[str, Any]:
    """Return the keyword arguments for `Image.save`."""
    effort = options.effort
    if options.format == "png":
        return {"optimize": True} if effort else {"compress_level": options.level}
    quality = options.quality or DEFAULT_QUALITIES[options.format]
    if options.format == "jpeg":
        compression = {"optimize": True, "progressive": True} if effort else {}
        return {"quality": quality, "subsampling": 0 if quality > 90 else 2, **compression}
    if options.format == "webp":
        if options.lossless:
            return {
                "lossless": True,
                # Keep the colors of transparent pixels.
                "exact": True,
                "quality": 100 if effort else 60,
                "method": 6 if effort else 3,
            }
        return {"quality": quality, "method": 6 if effort else 2}
    return {"quality": quality, "speed": 3 if effort else 7}


def _to_smallest_mode(image: Image.Image, colors: int | None) -> Image.Image:
    """Convert the image to the mode that needs the fewest bytes.

    With `colors`, a palette of that many colors is used; without, a palette only if it is exact.
    """
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    if image.mode == "RGB":
        red, green, blue = (channel.tobytes() for channel in image.split())
        if red == green == blue:
            image = image.getchannel("R")
    if image.mode == "L":
        return image if colors is None else image.quantize(colors)
    method = Image.Quantize.FASTOCTREE if image.mode == "RGBA" else Image.Quantize.MEDIANCUT
    if colors is not None:
        return image.quantize(colors, method)
    if image.getcolors(256) is None:
        return image
    palette = image.quantize(256, method, dither=Image.Dither.NONE)
    return palette if palette.convert(image.mode).tobytes() == image.tobytes() else image
