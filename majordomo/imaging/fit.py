"""A picture made to fit a limit of bytes: another encoding first, fewer pixels then. It decodes and encodes: work for a worker thread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from majordomo.errors import InvalidRequestError
from majordomo.imaging.prepare import eight_bit
from majordomo.media import ImagePart
from majordomo.parameters import write_parameters
from majordomo.settings import Limits
from majordomo.words import as_tuple, check_number

FORMATS = ("png", "webp", "jpeg")
QUALITIES = (90, 80, 70, 60)  # below, artefacts are seen before missing pixels are
_WEBP_SIDE = 16_383  # RFC 9649: 14 bits
_USER_COMMENT = 0x9286  # Exif 2.3; where A1111 writes its text into files that have no text chunks


def fit(
    picture: ImagePart,
    max_bytes: int,
    formats: Sequence[str] = FORMATS,
    min_side: int = 256,
    *,
    parameters: bool = False,
    limits: Limits | None = None,
) -> ImagePart:
    """The picture in at most `max_bytes` bytes and one of `formats` ("png", "webp", "jpeg", the one liked best first).

    Itself, untouched, when it fits already. Else it is encoded anew, upright and without anything but its pixels and their colour
    profile: each format as it is, the lossy ones at falling quality, then all of them with fewer pixels, the shorter side never below
    `min_side` pixels (a picture that small already is never scaled). Where a format has no transparency there is white; an
    animation becomes its first picture. `parameters`: what it was made with (`picture.parameters`) stays known and is written into
    the new file.

    Raises InvalidRequestError naming the field: `max_bytes` with code PICTURE_TOO_LARGE when it cannot be made to fit, `picture` when it
    cannot be decoded or is larger than `limits`.
    """
    wanted = check_fit(picture, max_bytes, formats, min_side)
    if fits(picture, max_bytes, wanted):
        return picture
    bounds = limits or Limits()
    try:
        image = picture.to_pil(max_pixels=bounds.pixels, max_side=bounds.side)
    except InvalidRequestError as error:
        raise InvalidRequestError(error.message, field="picture", code=error.code) from None
    known = picture.parameters if parameters else {}
    lossy = [kind for kind in wanted if kind in ("webp", "jpeg")]
    # a lossless copy of twice the limit will not fit, and of 40 Mpx costs ten seconds to find out
    tried = wanted if not lossy or len(picture.data) < 2 * max_bytes else lossy
    work = _Fitting(_upright(image), max_bytes, tuple(tried), tuple(lossy or wanted), write_parameters(known) if known else "")
    data = work.smaller(min_side)
    if data is None:
        raise InvalidRequestError(
            f"the {picture.width}x{picture.height} picture does not fit into {max_bytes:,} bytes as {' or '.join(wanted)} "
            f"with {min_side} pixels a side or more",
            field="max_bytes",
            code="PICTURE_TOO_LARGE",
        )
    made = ImagePart(data)
    return made.noted(known) if known else made


def fits(picture: ImagePart, max_bytes: int, formats: Sequence[str]) -> bool:
    """Whether it may go as it is; told from the header."""
    return len(picture.data) <= max_bytes and picture.mime.removeprefix("image/") in formats


def check_fit(picture: object, max_bytes: object, formats: object, min_side: object) -> tuple[str, ...]:
    """The formats as a tuple. Raises InvalidRequestError, naming the field, for settings that mean nothing."""
    if not isinstance(picture, ImagePart):
        raise InvalidRequestError(f"a picture is an ImagePart, not {type(picture).__name__}", field="picture")
    check_number("max_bytes", max_bytes, 1, 2**40, whole=True)
    check_number("min_side", min_side, 1, 16_384, whole=True)
    wanted = as_tuple(formats, "formats")
    if not wanted or not set(wanted) <= {*FORMATS, "gif"} or set(wanted) == {"gif"}:
        raise InvalidRequestError('formats are some of "png", "webp" and "jpeg", and "gif" for one that fits already', field="formats")
    return wanted


@dataclass(slots=True)
class _Fitting:
    """One picture on its way into `most` bytes."""

    image: Image.Image
    most: int
    first: tuple[str, ...]  # the formats to try in full size
    formats: tuple[str, ...]  # and those once pixels are given up: whoever gives up pixels gives up exactness first
    note: str

    def smaller(self, min_side: int) -> bytes | None:
        """The first encoding that fits, with ever fewer pixels; None when the shorter side would fall below `min_side`."""
        shorter = min(self.image.size)
        least = min(1.0, min_side / shorter)
        scale = 1.0
        while True:
            size = (max(1, round(self.image.width * scale)), max(1, round(self.image.height * scale)))
            image = self.image if scale == 1 else self.image.resize(size, Image.Resampling.LANCZOS)
            found, smallest = self._encoded(image, self.first if scale == 1 else self.formats)
            if found is not None or scale <= least:
                return found
            # bytes go with the area; a step of at least a tenth, and no blind leap below half
            scale = max(least, scale * min(0.9, max(0.5, 0.95 * math.sqrt(self.most / smallest))))

    def _encoded(self, image: Image.Image, formats: Sequence[str]) -> tuple[bytes | None, int]:
        """What fits, and how many bytes the smallest attempt had."""
        smallest = 1 << 62
        for kind in formats:
            if kind == "gif" or (kind == "webp" and max(image.size) > _WEBP_SIDE):
                continue
            least = self._bytes(image, kind, QUALITIES[-1])
            smallest = min(smallest, len(least))
            if len(least) > self.most:
                continue
            better = (self._bytes(image, kind, quality) for quality in QUALITIES[:-1]) if kind != "png" else ()
            return next((data for data in better if len(data) <= self.most), least), smallest
        return None, smallest

    def _bytes(self, image: Image.Image, kind: str, quality: int) -> bytes:
        settings: dict[str, Any] = {"icc_profile": profile} if (profile := self.image.info.get("icc_profile")) else {}
        if kind == "png":
            if self.note:
                settings["pnginfo"] = _text_chunk(self.note)
        else:
            settings["quality"] = quality
            if self.note:
                settings["exif"] = _comment(self.note)
        held = BytesIO()
        (_opaque(image) if kind == "jpeg" else image).save(held, kind, **settings)
        return held.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    """RGB, or RGBA where something is transparent, turned as its EXIF says, with no text of any kind but the colour profile."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I") or turned.mode == "F":
        turned = eight_bit(turned)
    plain = turned.convert("RGBA" if turned.has_transparency_data else "RGB")
    # a profile of grey or CMYK inks says nothing about RGB
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
    plain.info = {"icc_profile": profile} if profile else {}
    return plain


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    return flat


def _text_chunk(note: str) -> PngInfo:
    chunks = PngInfo()
    chunks.add_itxt("parameters", note)
    return chunks


def _comment(note: str) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[_USER_COMMENT] = b"UNICODE\0" + note.encode("utf-16-be", "replace")
    return exif
