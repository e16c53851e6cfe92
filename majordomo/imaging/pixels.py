"""Between bytes and pixels: decoding within limits, upright, in eight bits, with the colors that were meant; and encoding.

Pixels are L, RGB or RGBA. What could not stay as it was is told as a note.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

from PIL import Image, ImageCms, ImageColor, ImageMath, features

from majordomo.errors import InvalidRequestError, UnsupportedError
from majordomo.media.image_containers import webp_chunks
from majordomo.media.image_header import read_orientation
from majordomo.media.image_limits import check_area, check_size
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits

Note = Callable[[str, str], None]  # code, message
Size = tuple[int, int]
_FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/avif": "AVIF",
}
KINDS = {mime: name.lower() for mime, name in _FORMATS.items()}
WEBP_SIDE = 16_383  # RFC 9649: 14 bits
QUALITIES = {"jpeg": 90, "webp": 85, "avif": 70}
# what Pillow's readers raise for broken files, what slips out of the libraries below them, and what they say of odd files where a program
# makes errors of warnings
DECODING_ERRORS = (
    *(
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ),
    *(RuntimeError, LookupError, TypeError, Warning),
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SPACES = {"L": "GRAY", "RGB": "RGB", "RGBA": "RGB", "CMYK": "CMYK"}


@dataclass(frozen=True, slots=True)
class Pixels:
    """A decoded image. Without a `profile` its colors are sRGB."""

    image: Image.Image
    profile: bytes | None = None


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How pixels become a file. `effort` costs time and saves bytes; `colors` is a palette of so many for a PNG."""

    kind: str
    quality: int | None = None
    lossless: bool = False
    effort: bool = False
    colors: int | None = None
    level: int = (
        3  # of a PNG's packing: a third of the time of zlib's default, and an eighth more bytes
    )


def ignore_notes(code: str, message: str) -> None:
    """A Note for those that have no place for notes: masks, stamps, sheets, comparisons, what goes to a model."""


def open_image(
    picture: ImagePart, limits: Limits, field: str = "image", near: Size | None = None
) -> Image.Image:
    """Decoded as it is stored. `near`: a JPEG may come at half, a quarter or an eighth of its size, as long as that is no smaller.

    Raises InvalidRequestError naming `field`: IMAGE_TOO_LARGE by the header, BAD_IMAGE for what cannot be decoded; UnsupportedError for
    an AVIF where Pillow has none.
    """
    if not isinstance(picture, ImagePart):
        raise InvalidRequestError(
            f"an image is an ImagePart, not {type(picture).__name__}", field=field
        )
    check_size(
        picture, max_pixels=limits.max_image_pixels, max_side=limits.max_image_side, field=field
    )
    if picture.mime == "image/avif":
        check_avif(field)
    try:
        image: Image.Image = Image.open(BytesIO(picture.data), formats=(_FORMATS[picture.mime],))
        # what decoders go by may stand further behind: a second header, a frame larger than its canvas
        check_area(
            image.size,
            max_pixels=limits.max_image_pixels,
            max_side=limits.max_image_side,
            field=field,
        )
        if near is not None:
            image.draft(None, near)  # None keeps the mode
        image.load()
    except DECODING_ERRORS as error:
        message = f"the {picture.mime} image cannot be decoded: {type(error).__name__}"
        raise InvalidRequestError(message, field=field, code="BAD_IMAGE") from None
    return image


def check_avif(field: str) -> None:
    if not features.check("avif"):
        raise UnsupportedError("this Pillow was built without AVIF", field=field)


def decode(
    picture: ImagePart, limits: Limits, note: Note, field: str = "image", near: Size | None = None
) -> Pixels:
    """Upright pixels; of an animation the first. Raises as `opened` does."""
    image = open_image(picture, limits, field, near)
    if picture.mime != "image/jpeg" and getattr(
        image, "is_animated", False
    ):  # some cameras' JPEGs have a second image
        note(
            "FIRST_FRAME",
            f"an animation of {getattr(image, 'n_frames', 2)} images became its first one",
        )
    if picture.mime == "image/png" and picture.data[24] == 16:
        note("EIGHT_BITS", "sixteen bits a channel became eight")
    profile = _profile(image, note)
    plain = _plain(image, picture)
    if plain.mode == "CMYK":
        plain, profile = _from_inks(plain, profile, note), None
    turned = upright(plain, _orientation(picture, image))
    turned.info = {}
    return Pixels(turned, profile if profile and _fits(profile, turned.mode) else None)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _orientation(picture: ImagePart, image: Image.Image) -> int:
    if (
        picture.mime == "image/avif"
    ):  # a property of the file (irot, imir), which Pillow tells as EXIF
        return int(image.getexif().get(0x0112, 1))
    return read_orientation(picture.data)


def upright_size(image: ImagePart) -> Size:
    """Width and height as they are seen, without decoding a PNG, JPEG, WebP or GIF."""
    if image.mime != "image/avif" and read_orientation(image.data) >= 5:
        return image.height, image.width
    return image.width, image.height


def _plain(image: Image.Image, picture: ImagePart) -> Image.Image:
    """L, RGB, RGBA or CMYK."""
    if image.mode.startswith("I"):
        return _from_sixteen(image)
    if (
        image.mode in ("RGB", "L")
        and "transparency" in image.info
        and picture.mime == "image/png"
        and picture.data[24] == 16
    ):
        told = image.info["transparency"]
        image.info["transparency"] = (
            tuple(level >> 8 for level in told) if isinstance(told, tuple) else told >> 8
        )
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _from_sixteen(image: Image.Image) -> Image.Image:
    gray = eight_bit(image)
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return gray
    alpha = ImageMath.lambda_eval(
        lambda of: of["convert"](of["notequal"](of["gray"], clear) * 255, "L"),
        gray=image.convert("I"),
    )
    return Image.merge("RGBA", (gray, gray, gray, cast("Image.Image", alpha)))


def eight_bit(image: Image.Image) -> Image.Image:
    """16 bits a pixel scaled down; Pillow's own conversion cuts everything above 255 to white."""
    return image.convert("I").point(lambda level: level / 257).convert("L")


def _profile(image: Image.Image, note: Note) -> bytes | None:
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return None
    if _space(profile) is None:
        note("PROFILE_DROPPED", "the color profile is broken and was left out")
        return None
    return profile


def _space(profile: bytes) -> str | None:
    try:
        return str(ImageCms.ImageCmsProfile(BytesIO(profile)).profile.xcolor_space).strip()
    except (OSError, ImageCms.PyCMSError):
        return None


def _fits(profile: bytes, mode: str) -> bool:
    return _space(profile) == _SPACES[mode]


def _from_inks(image: Image.Image, profile: bytes | None, note: Note) -> Image.Image:
    if profile is not None and _fits(profile, "CMYK"):
        note("COLORS_CONVERTED", "CMYK became sRGB by its color profile")
        return _through(image, profile)
    note("COLORS_CONVERTED", "CMYK without a color profile became RGB by rule of thumb")
    return image.convert("RGB")


def _through(image: Image.Image, profile: bytes) -> Image.Image:
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    made = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        outputMode=mode,
    )
    assert made is not None  # only `inPlace` gives none
    made.info = {}
    return made


def as_srgb(pixels: Pixels, note: Note) -> Pixels:
    """With colors that need no profile."""
    if pixels.profile is None:
        return pixels
    try:
        image = _through(pixels.image, pixels.profile)
    except ImageCms.PyCMSError:
        note("PROFILE_DROPPED", "the color profile does not suit the image and was left out")
        return Pixels(pixels.image)
    note("COLORS_CONVERTED", "colors became sRGB by the color profile")
    return Pixels(image)


def apply_profile(pixels: Pixels, note: Note) -> Pixels:
    """RGB or RGBA; greys with a profile of their own go through it."""
    if pixels.image.mode != "L":
        return pixels
    if pixels.profile is not None:
        pixels = as_srgb(pixels, note)
    return Pixels(
        pixels.image if pixels.image.mode != "L" else pixels.image.convert("RGB"), pixels.profile
    )


def parse_color(text: str, field: str) -> tuple[int, int, int]:
    """Red, green and blue of a name or `#rrggbb`. Raises InvalidRequestError naming the field."""
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise InvalidRequestError(
            f"{field} is a color's name or #rrggbb, not {text[:40]!r}", field=field
        ) from None


def flatten_onto(image: Image.Image, color: str | tuple[int, int, int] = "white") -> Image.Image:
    """RGB, with `color` behind what is transparent."""
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    clear = image if image.mode == "RGBA" else image.convert("RGBA")
    flat = Image.new("RGB", clear.size, color)
    flat.paste(clear, mask=clear.getchannel("A"))
    return flat


def is_lossless(image: ImagePart) -> bool:
    """A lossless WebP has a chunk VP8L (container format of WebP)."""
    if image.mime == "image/webp":
        return any(kind == b"VP8L" for kind, _, _ in webp_chunks(image.data))
    return image.mime in ("image/png", "image/gif")


def encode(pixels: Pixels, how: EncodeOptions) -> bytes:
    """A file without any metadata but the color profile. A JPEG's transparency has been taken out before.

    Raises InvalidRequestError (field `kind`) when the image has more pixels a side than the kind of file holds.
    """
    image, settings = pixels.image, _settings(how)
    if how.kind == "webp" and max(image.size) > WEBP_SIDE:
        message = f"a WebP has at most {WEBP_SIDE:,} pixels a side; this image is {image.width}x{image.height}"
        raise InvalidRequestError(message, field="format", code="IMAGE_TOO_LARGE")
    if how.kind == "avif":
        check_avif("format")
    if how.kind == "png" and (how.effort or how.colors):
        image = _packed(image, how.colors)
    if pixels.profile is not None and _fits(
        pixels.profile, "RGB" if image.mode == "P" else image.mode
    ):
        settings["icc_profile"] = pixels.profile
    held = BytesIO()
    image.save(held, how.kind.upper(), **settings)
    return held.getvalue()


def _settings(how: EncodeOptions) -> dict[str, Any]:
    if how.kind == "png":
        return {"optimize": True} if how.effort else {"compress_level": how.level}
    quality = how.quality or QUALITIES[how.kind]
    if how.kind == "jpeg":
        packed = {"optimize": True, "progressive": True} if how.effort else {}
        return {"quality": quality, "subsampling": 0 if quality > 90 else 2, **packed}
    if how.kind == "webp":
        if how.lossless:  # `exact` keeps the colors below transparency
            return {
                "lossless": True,
                "exact": True,
                "quality": 100 if how.effort else 60,
                "method": 6 if how.effort else 3,
            }
        return {"quality": quality, "method": 6 if how.effort else 2}
    return {"quality": quality, "speed": 3 if how.effort else 7}


def _packed(image: Image.Image, colors: int | None) -> Image.Image:
    """The mode that takes fewest bytes; with a palette of `colors`, or of what there is when it is exact."""
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
    few = image.quantize(256, method, dither=Image.Dither.NONE)
    return few if few.convert(image.mode).tobytes() == image.tobytes() else image
