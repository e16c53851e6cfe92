"""ImagePart, the one image type of the library, and what an image's header tells without decoding it.

Kind and size come from the bytes: PNG (W3C PNG, IHDR), JPEG (ITU T.81, SOFn), WebP (RFC 9649, VP8/VP8L/VP8X), GIF
(GIF89a logical screen) and AVIF (ISO 23008-12, ispe). Whatever a caller or a backend claims about the kind is not believed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import struct
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from majordomo.errors import InvalidRequestError
from majordomo.media.exif import read_exif, write_exif
from majordomo.media.generation_metadata import read_parameters, write_parameters
from majordomo.media.image_containers import (
    avif_size,
    exif_block,
    png_chunks,
    png_text,
    with_exif,
    with_text,
    without_text,
)
from majordomo.settings import Limits

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/avif": ".avif",
}
SENDABLE = ("image/png", "image/jpeg", "image/webp")
PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes of an image say."""

    mime: str
    width: int
    height: int


def read_header(data: bytes) -> ImageHeader | None:
    """Kind and size in pixels of the image in `data`, or None when it is none of the five kinds."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            header = _png(data)
        elif data.startswith(b"\xff\xd8\xff"):
            header = _jpeg(data)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            header = ImageHeader("image/gif", *struct.unpack_from("<HH", data, 6))
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            header = _webp(data)
        elif data[4:8] == b"ftyp":
            size = avif_size(data)
            header = ImageHeader("image/avif", *size) if size is not None else None
        else:
            return None
    except (struct.error, IndexError):
        return None
    return header if header is not None and header.width > 0 and header.height > 0 else None


def _png(data: bytes) -> ImageHeader | None:
    if data[12:16] != b"IHDR":
        return None
    return ImageHeader("image/png", *struct.unpack_from(">II", data, 16))


def _jpeg(data: bytes) -> ImageHeader | None:
    at = 2
    while at < len(data):
        if data[at] != 0xFF:
            return None
        while (
            data[at] == 0xFF
        ):  # any number of fill bytes may stand before a marker (T.81, B.1.1.2)
            at += 1
        marker = data[at]
        at += 1
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        length = int(struct.unpack_from(">H", data, at)[0])
        # SOF0..SOF15, of which C4 (tables), C8 (reserved) and CC (arithmetic conditioning) are not frames
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 3)
            return ImageHeader("image/jpeg", width, height)
        if marker in (0xD9, 0xDA) or length < 2:
            return None
        at += length
    return None


def _webp(data: bytes) -> ImageHeader | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        return ImageHeader("image/webp", width, height) if len(data) >= 30 else None
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int(struct.unpack_from("<I", data, 21)[0])
        return ImageHeader("image/webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("image/webp", width & 0x3FFF, height & 0x3FFF)
    return None


def read_texts(data: bytes) -> dict[str, str]:
    """The texts in an image under the names that PNG gives them: its text chunks, or of a JPEG or WebP the EXIF UserComment, where A1111
    and others write the same "parameters"."""
    if data.startswith(b"\x89PNG"):
        return png_text(data)
    comment = read_exif(exif_block(data)).comment
    return {"parameters": comment} if comment else {}


def read_orientation(data: bytes) -> int:
    """How EXIF says that the image is turned: 1 (upright, or nothing said) to 8 as in TIFF 6.0."""
    if data.startswith(b"\x89PNG"):
        block = next((bytes(body) for kind, body in png_chunks(data) if kind == b"eXIf"), b"")
    else:
        block = exif_block(data)
    return read_exif(block).orientation


def with_metadata(data: bytes, text: str) -> bytes:
    """The PNG, JPEG or WebP with the text "parameters" in it, instead of what stood there; its pixels stay as they are.

    Raises InvalidRequestError (field `metadata`) for another kind, for text longer than a JPEG holds (code TEXT_TOO_LONG), and for a WebP
    that is cut off so early that there is no place for it (code BAD_IMAGE).
    """
    header = read_header(data)
    if header is None or header.mime not in SENDABLE:
        kind = header.mime if header is not None else "file of another kind"
        raise InvalidRequestError(
            f"metadata is written into PNG, JPEG and WebP files; this is a {kind}", field="metadata"
        )
    if header.mime == "image/png":
        return with_text(without_text(data, "parameters"), "parameters", text)
    try:
        return with_exif(data, write_exif(read_exif(exif_block(data)).orientation, text))
    except ValueError:
        raise InvalidRequestError(
            "the text is longer than a JPEG holds", field="metadata", code="TEXT_TOO_LONG"
        ) from None
    except EOFError:
        raise InvalidRequestError(
            "the WebP is cut off or broken", field="metadata", code="BAD_IMAGE"
        ) from None


@dataclass(frozen=True, slots=True, repr=False, init=False)
class ImagePart:
    """An image held as its encoded bytes: PNG, JPEG, WebP, GIF or AVIF.

    `mime` may be a claim; what the bytes say wins. `width` and `height` are pixels, read from the header, not by decoding.
    Equal when the bytes are equal. Size limits act when an image is sent, received or decoded, not here.

    Raises InvalidRequestError (field `data`) for bytes that are no image.
    """

    data: bytes
    mime: str = field(compare=False)
    width: int = field(compare=False)
    height: int = field(compare=False)
    _note: str = field(
        compare=False
    )  # what it was made with, as the text that `save(metadata=True)` writes

    def __init__(self, data: bytes, mime: str | None = None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidRequestError(
                f"an ImagePart holds bytes, not {type(data).__name__}", field="data"
            )
        whole = bytes(data)
        header = read_header(whole)
        if header is None:
            raise InvalidRequestError(
                f"these {len(whole)} bytes are no PNG, JPEG, WebP, GIF or AVIF image",
                field="data",
                code="NOT_AN_IMAGE",
            )
        object.__setattr__(self, "data", whole)
        object.__setattr__(self, "mime", header.mime)
        object.__setattr__(self, "width", header.width)
        object.__setattr__(self, "height", header.height)
        object.__setattr__(self, "_note", "")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ImagePart:
        """Read an image file. Raises OSError as `open` does."""
        return cls(Path(path).read_bytes())

    @classmethod
    def from_base64(cls, text: str | bytes) -> ImagePart:
        """From standard base64; line breaks are allowed."""
        raw = text.encode("ascii", "replace") if isinstance(text, str) else text
        try:
            return cls(binascii.a2b_base64(b"".join(raw.split()), strict_mode=True))
        except binascii.Error:
            raise InvalidRequestError(
                "this is no base64 text", field="data", code="NOT_AN_IMAGE"
            ) from None

    @classmethod
    def from_data_url(cls, url: str) -> ImagePart:
        """From `data:image/...;base64,...`. Any other kind of URL is refused: nothing is ever fetched."""
        head, comma, body = url.partition(",")
        if (
            not comma
            or not head.lower().startswith("data:")
            or not head.lower().endswith(";base64")
        ):
            raise InvalidRequestError(
                "not a base64 data URL; remote images are never fetched",
                field="url",
                code="NOT_AN_IMAGE",
            )
        return cls.from_base64(body)

    @classmethod
    def from_pil(cls, image: PillowImage, format: str = "PNG") -> ImagePart:
        """Encode a Pillow image as PNG, JPEG, WEBP, GIF, or AVIF where Pillow has it.

        Raises InvalidRequestError (field `format`) for another format, and one that cannot hold this image: transparency in a JPEG.
        """
        if format.upper() not in PILLOW_FORMATS:
            raise InvalidRequestError(
                f"format must be one of {', '.join(PILLOW_FORMATS)}", field="format"
            )
        held = io.BytesIO()
        try:
            image.save(held, format.upper())
        except (
            OSError,
            ValueError,
            KeyError,
        ) as error:  # a format that this Pillow was built without is a KeyError
            raise InvalidRequestError(
                f"{format.upper()} cannot hold this image of mode {image.mode}: {error}",
                field="format",
            ) from None
        return cls(held.getvalue())

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def to_base64(self) -> str:
        return base64.b64encode(self.data).decode("ascii")

    def to_data_url(self) -> str:
        return f"data:{self.mime};base64,{self.to_base64()}"

    def to_pil(self, *, max_pixels: int = 40_000_000, max_side: int = 16_384) -> PillowImage:
        """Decode to a Pillow image. Raises InvalidRequestError when the file claims more than the limits or the pixels are broken."""
        from PIL import Image

        check_size(self, max_pixels=max_pixels, max_side=max_side)
        try:
            image = Image.open(io.BytesIO(self.data), formats=PILLOW_FORMATS)
            check_area(
                image.size, max_pixels=max_pixels, max_side=max_side
            )  # what decoders go by may stand further behind
            image.load()
        # the last three: what slips out of the libraries below, and what Pillow says of odd files where a program makes errors of warnings
        except (
            *(
                OSError,
                ValueError,
                SyntaxError,
                RuntimeError,
                EOFError,
                struct.error,
                zlib.error,
                Image.DecompressionBombError,
            ),
            *(LookupError, TypeError, Warning),
        ) as error:
            raise InvalidRequestError(
                f"the {self.mime} image cannot be decoded: {type(error).__name__}",
                field="data",
                code="NOT_AN_IMAGE",
            ) from None
        return image

    @property
    def parameters(self) -> dict[str, Any]:
        """What the image was made with, read from its own text (A1111's, stable-diffusion.cpp's, ComfyUI's; in a JPEG
        or WebP from its EXIF), else as we asked for it;
        {} when nothing is known. Keys are the canonical fields: prompt, negative_prompt, steps, sampler, scheduler, cfg_scale,
        seed, size, strength, model. Text within an image is a claim of whoever saved it.
        """
        return read_parameters(read_texts(self.data)) or (
            read_parameters({"parameters": self._note}) if self._note else {}
        )

    def with_parameters(self, values: Mapping[str, Any]) -> ImagePart:
        """The same image, knowing what it was made with."""
        noted = object.__new__(ImagePart)
        for name in ("data", "mime", "width", "height"):
            object.__setattr__(noted, name, getattr(self, name))
        object.__setattr__(noted, "_note", write_parameters(values))
        return noted

    def save(
        self, path: str | os.PathLike[str], overwrite: bool = False, *, metadata: bool = False
    ) -> Path:
        """Write the bytes to `path`, with the suffix of the kind when `path` has none; returns the path written.

        `metadata`: with the text "parameters" that A1111 and others read (a text chunk, or the EXIF UserComment of a JPEG or WebP), unless
        the image has one from its backend. The pixels stay as they are. Raises FileExistsError unless `overwrite`, and
        InvalidRequestError for metadata in a GIF or AVIF.
        """
        if metadata:
            if self.mime not in SENDABLE:
                raise InvalidRequestError(
                    f"metadata is written into PNG, JPEG and WebP files; this is a {self.mime}",
                    field="metadata",
                )
            if self._note and not read_parameters(read_texts(self.data)):
                return ImagePart(with_metadata(self.data, self._note)).save(path, overwrite)
        target = Path(path)
        if not target.suffix:
            target = target.with_name(target.name + SUFFIXES[self.mime])
        if overwrite:
            target.write_bytes(self.data)
            return target
        with target.open("xb") as file:
            file.write(self.data)
        return target

    def save_in(self, folder: str | os.PathLike[str], name: str) -> Path:
        """Write into `folder` under a name a stranger may have chosen: it never leaves the folder and never overwrites.

        The name keeps its letters, digits, `-`, `_` and inner dots, loses any folder, gets the suffix of the kind, and a number
        when it is taken. Returns the path written.
        """
        suffix = SUFFIXES[self.mime]
        stem = safe_stem(name, suffix)
        for number in range(1, 100_000):
            target = Path(folder) / (
                f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}"
            )
            try:
                with target.open("xb") as file:
                    file.write(self.data)
            except FileExistsError:
                continue
            return target
        raise FileExistsError(f"no free name for {stem}{suffix}")

    def __repr__(self) -> str:
        return f"<ImagePart {self.mime} {self.width}x{self.height}, {len(self.data):,} bytes>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, bytes]:
        """Jupyter shows the image itself."""
        return {self.mime: self.data}


def safe_stem(name: str, suffix: str = "") -> str:
    """A name that a stranger may have chosen as that of a file without folder and suffix: letters, digits, `-`, `_` and inner dots, at most
    80 characters, "image" when nothing is left."""
    stem = re.sub(r"[^\w.-]+", "_", re.split(r"[/\\]", name)[-1])
    stem = stem.removesuffix(suffix).strip("._-")[:80] or "image"
    return f"image_{stem}" if stem.split(".")[0].upper() in _RESERVED else stem


# Names that Windows reserves in every folder, whatever the suffix
_RESERVED = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"COM{n}" for n in range(1, 10)),
    *(f"LPT{n}" for n in range(1, 10)),
}


def check_size(
    image: ImagePart,
    *,
    max_pixels: int,
    max_side: int,
    max_bytes: int | None = None,
    field: str = "data",
) -> None:
    """Raise InvalidRequestError when an image is larger than the limits, judged from its header alone."""
    if max_bytes is not None and len(image.data) > max_bytes:
        raise InvalidRequestError(
            f"the image has {len(image.data):,} bytes, more than the limit of {max_bytes:,}",
            field=field,
            code="IMAGE_TOO_LARGE",
        )
    check_area((image.width, image.height), max_pixels=max_pixels, max_side=max_side, field=field)


def check_area(
    size: tuple[int, int], *, max_pixels: int, max_side: int, field: str = "data"
) -> None:
    """The same for a size in pixels."""
    if max(size) > max_side or size[0] * size[1] > max_pixels:
        raise InvalidRequestError(
            f"the image is {size[0]}x{size[1]}, more than the limit of {max_pixels:,} pixels and {max_side:,} a side",
            field=field,
            code="IMAGE_TOO_LARGE",
        )


@dataclass(frozen=True, slots=True)
class ImageSupport:
    """The images a chat backend can read: their kinds, and the most bytes and the longest side of one, where it says so."""

    mimes: Collection[str] = SENDABLE
    max_bytes: int | None = None
    max_side: int | None = None

    def accepts(self, image: ImagePart) -> bool:
        """Whether the image can be sent as it is."""
        if self.max_bytes is not None and len(image.data) > self.max_bytes:
            return False
        if self.max_side is not None and max(image.width, image.height) > self.max_side:
            return False
        return image.mime in self.mimes


PNG_AND_JPEG = ImageSupport(
    ("image/png", "image/jpeg")
)  # what every decoder has; llama.cpp's knows no WebP
COMMON_FORMATS = ImageSupport()


def check_sendable(image: ImagePart, limits: Limits, field: str) -> None:
    """Raise InvalidRequestError for an image that is not sent: larger than the limits, or a GIF."""
    check_size(
        image,
        max_pixels=limits.max_image_pixels,
        max_side=limits.max_image_side,
        max_bytes=limits.max_image_bytes,
        field=field,
    )
    if image.mime not in SENDABLE:
        raise InvalidRequestError(
            f"{field} holds a {image.mime}; PNG, JPEG and WebP are sent",
            field=field,
            code="NOT_SENDABLE",
        )
