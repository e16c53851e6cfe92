"""An image made to fit a limit of bytes: another encoding first, fewer pixels then. It decodes and encodes: work for a worker thread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from PIL import Image

from majordomo.errors import InvalidRequestError
from majordomo.imaging.pixels import WEBP_SIDE, EncodeOptions, Pixels, decode, encode, flatten_onto
from majordomo.media.generation_metadata import write_parameters
from majordomo.media.image_header import with_metadata
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.validation import as_tuple, check_number

FORMATS = ("png", "webp", "jpeg")
QUALITIES = (90, 80, 70, 60)  # below, artefacts are seen before missing pixels are
_LOSSY = ("webp", "jpeg", "avif")
_PNG_LEVEL = 6  # here bytes count more than time


@dataclass(frozen=True, slots=True)
class ByteBudget:
    """What to fit into."""

    max_bytes: int
    formats: tuple[str, ...]
    min_side: int


def fit(
    image: ImagePart,
    max_bytes: int,
    formats: Sequence[str] = FORMATS,
    min_side: int = 256,
    *,
    parameters: bool = False,
    limits: Limits | None = None,
) -> ImagePart:
    """The image in at most `max_bytes` bytes and one of `formats` ("png", "webp", "jpeg", the one liked best first).

    Itself, untouched, when it fits already. Else it is encoded anew, upright and without anything but its pixels and their color
    profile: each format as it is, the lossy ones at falling quality, then all of them with fewer pixels, the shorter side never below
    `min_side` pixels (an image that small already is never scaled). Where a format has no transparency there is white; an
    animation becomes its first image. `parameters`: what it was made with (`image.parameters`) stays known and is written into
    the new file.

    Raises InvalidRequestError naming the field: `max_bytes` with code IMAGE_TOO_LARGE when it cannot be made to fit, `image` when it
    cannot be decoded or is larger than `limits`.
    """
    wanted = check_fit(image, max_bytes, formats, min_side)
    if fits(image, max_bytes, wanted):
        return image
    pixels = decode(image, limits or Limits(), lambda code, message: None, "image")
    known = image.parameters if parameters else {}
    data = fitted(
        pixels,
        ByteBudget(max_bytes, wanted, min_side),
        len(image.data),
        write_parameters(known) if known else "",
    )
    made = ImagePart(data)
    return made.with_parameters(known) if known else made


def fitted(pixels: Pixels, target: ByteBudget, size: int, text: str = "") -> bytes:
    """The pixels, which took `size` bytes, as a file that fits, with this text in it. Raises InvalidRequestError (field `max_bytes`)."""
    formats = target.formats
    lossy = tuple(kind for kind in formats if kind in _LOSSY)
    # a lossless copy of twice the limit will not fit, and of 40 Mpx costs ten seconds to find out
    tried = formats if not lossy or size < 2 * target.max_bytes else lossy
    data = _BudgetSearch(pixels, target.max_bytes, tried, lossy or formats, text).smaller(
        target.min_side
    )
    if data is None:
        raise InvalidRequestError(
            f"the {pixels.image.width}x{pixels.image.height} image does not fit into {target.max_bytes:,} bytes as "
            f"{' or '.join(formats)} with {target.min_side} pixels a side or more",
            field="max_bytes",
            code="IMAGE_TOO_LARGE",
        )
    return data


def fits(image: ImagePart, max_bytes: int, formats: Sequence[str]) -> bool:
    """Whether it may go as it is; told from the header."""
    return len(image.data) <= max_bytes and image.mime.removeprefix("image/") in formats


def check_fit(
    image: object, max_bytes: object, formats: object, min_side: object
) -> tuple[str, ...]:
    """The formats as a tuple. Raises InvalidRequestError, naming the field, for settings that mean nothing."""
    if not isinstance(image, ImagePart):
        raise InvalidRequestError(
            f"an image is an ImagePart, not {type(image).__name__}", field="image"
        )
    check_number("max_bytes", max_bytes, 1, 2**40, whole=True)
    check_number("min_side", min_side, 1, 16_384, whole=True)
    wanted = as_tuple(formats, "formats")
    if (
        not wanted
        or any(kind not in (*FORMATS, "avif", "gif") for kind in wanted)
        or set(wanted) == {"gif"}
    ):
        raise InvalidRequestError(
            'formats are some of "png", "webp", "jpeg" and "avif", and "gif" for one that fits already',
            field="formats",
        )
    return wanted


@dataclass(slots=True)
class _BudgetSearch:
    """One image on its way into `most` bytes."""

    pixels: Pixels
    most: int
    first: tuple[str, ...]  # the formats to try in full size
    formats: tuple[
        str, ...
    ]  # and those once pixels are given up: whoever gives up pixels gives up exactness first
    note: str

    def smaller(self, min_side: int) -> bytes | None:
        """The first encoding that fits, with ever fewer pixels; None when the shorter side would fall below `min_side`."""
        whole = self.pixels.image
        shorter = min(whole.size)
        least = min(1.0, min_side / shorter)
        scale = 1.0
        while True:
            size = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
            image = whole if scale == 1 else whole.resize(size, Image.Resampling.LANCZOS)
            found, smallest = self._encoded(image, self.first if scale == 1 else self.formats)
            if found is not None or scale <= least:
                return found
            # bytes go with the area; a step of at least a tenth, and no blind leap below half
            scale = max(least, scale * min(0.9, max(0.5, 0.95 * math.sqrt(self.most / smallest))))

    def _encoded(self, image: Image.Image, formats: Sequence[str]) -> tuple[bytes | None, int]:
        """What fits, and how many bytes the smallest attempt had."""
        smallest = 1 << 62
        for kind in formats:
            if kind == "gif" or (kind == "webp" and max(image.size) > WEBP_SIDE):
                continue
            least = self._bytes(image, kind, QUALITIES[-1])
            smallest = min(smallest, len(least))
            if len(least) > self.most:
                continue
            better = (
                (self._bytes(image, kind, quality) for quality in QUALITIES[:-1])
                if kind != "png"
                else ()
            )
            return next((data for data in better if len(data) <= self.most), least), smallest
        return None, smallest

    def _bytes(self, image: Image.Image, kind: str, quality: int) -> bytes:
        how = EncodeOptions(kind, None if kind == "png" else quality, level=_PNG_LEVEL)
        data = encode(
            Pixels(
                flatten_onto(image) if kind == "jpeg" and image.mode == "RGBA" else image,
                self.pixels.profile,
            ),
            how,
        )
        if self.note:
            with suppress(
                InvalidRequestError
            ):  # too long for a JPEG: it stays known, and is not in the file
                return with_metadata(data, self.note)
        return data
