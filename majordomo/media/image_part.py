"""ImagePart, the image type of the library."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from majordomo.errors import InvalidRequestError
from majordomo.media.atomic_files import write_file, write_free_name
from majordomo.media.filenames import SUFFIXES, name_problem, safe_stem
from majordomo.media.generation_metadata import read_parameters, write_parameters
from majordomo.media.image_header import SENDABLE, read_header, read_texts, with_metadata
from majordomo.media.image_limits import check_area, check_size

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")
# What decoding a broken file raises, besides Pillow's DecompressionBombError. The second row comes
# from the libraries below Pillow, and from Pillow's warnings about unusual files in a program that
# turns warnings into errors.
DECODING_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error),
    *(RuntimeError, LookupError, TypeError, Warning),
)


@dataclass(frozen=True, slots=True, repr=False, init=False)
class ImagePart:
    """An encoded image: PNG, JPEG, WebP, GIF or AVIF.

    Two images are equal when their bytes are equal. Size limits apply when an image is sent,
    received or decoded, not when it is constructed.

    Args:
        data: The encoded bytes.
        mime: Ignored; the type is read from the bytes.

    Raises:
        InvalidRequestError: Field `data`: not bytes, or not an image of one of the five types
            (code NOT_AN_IMAGE).

    Example:
        ```python
        image = ImagePart.from_file("photo.jpg")
        print(image.mime, image.width, image.height)
        ```
    """

    data: bytes
    """The encoded bytes."""
    mime: str = field(compare=False)
    """Media type, for example `"image/png"`, read from the bytes."""
    width: int = field(compare=False)
    """Width in pixels, read from the header without decoding."""
    height: int = field(compare=False)
    """Height in pixels, read from the header without decoding."""
    # The generation parameters as the text that `save(metadata=True)` writes.
    _parameters_text: str = field(compare=False)

    def __init__(self, data: bytes, mime: str | None = None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidRequestError(
                f"data must be bytes; got {type(data).__name__}", field="data"
            )
        encoded = bytes(data)
        header = read_header(encoded)
        if header is None:
            raise InvalidRequestError(
                f"data must be a PNG, JPEG, WebP, GIF or AVIF image;"
                f" these {len(encoded)} bytes are not one",
                field="data",
                code="NOT_AN_IMAGE",
            )
        object.__setattr__(self, "data", encoded)
        object.__setattr__(self, "mime", header.mime)
        object.__setattr__(self, "width", header.width)
        object.__setattr__(self, "height", header.height)
        object.__setattr__(self, "_parameters_text", "")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ImagePart:
        """Read an image file.

        Raises:
            OSError: The file cannot be read.
            InvalidRequestError: Field `data`: the file is not an image.
        """
        return cls(Path(path).read_bytes())

    @classmethod
    def from_base64(cls, text: str | bytes) -> ImagePart:
        """Decode standard base64; line breaks are allowed.

        Raises:
            InvalidRequestError: Field `data`, code NOT_AN_IMAGE: not base64, or not an image.
        """
        raw = text.encode("ascii", "replace") if isinstance(text, str) else text
        try:
            return cls(binascii.a2b_base64(b"".join(raw.split()), strict_mode=True))
        except binascii.Error:
            raise InvalidRequestError(
                "data must be base64 text", field="data", code="NOT_AN_IMAGE"
            ) from None

    @classmethod
    def from_data_url(cls, url: str) -> ImagePart:
        """Decode a URL of the form `data:image/...;base64,...`.

        Any other URL is refused: nothing is ever fetched.

        Raises:
            InvalidRequestError: Field `url`: not a base64 data URL. Field `data`: the content is
                not an image. Both with code NOT_AN_IMAGE.
        """
        head, comma, body = url.partition(",")
        if (
            not comma
            or not head.lower().startswith("data:")
            or not head.lower().endswith(";base64")
        ):
            raise InvalidRequestError(
                "url must be a base64 data URL; remote images are never fetched",
                field="url",
                code="NOT_AN_IMAGE",
            )
        return cls.from_base64(body)

    @classmethod
    def from_pil(cls, image: PillowImage, format: str = "PNG") -> ImagePart:
        """Encode a Pillow image.

        Args:
            image: The image.
            format: `"PNG"`, `"JPEG"`, `"WEBP"`, `"GIF"`, or `"AVIF"` if Pillow supports it.

        Raises:
            InvalidRequestError: Field `format`: another format, or one that cannot hold this image,
                for example transparency in a JPEG.
        """
        if format.upper() not in PILLOW_FORMATS:
            raise InvalidRequestError(
                f"format must be one of {', '.join(PILLOW_FORMATS)}; got {format!r}",
                field="format",
            )
        buffer = io.BytesIO()
        try:
            image.save(buffer, format.upper())
        # Pillow raises KeyError for a format that it was built without.
        except (OSError, ValueError, KeyError) as error:
            raise InvalidRequestError(
                f"{format.upper()} cannot hold this image of mode {image.mode}: {error}",
                field="format",
            ) from None
        return cls(buffer.getvalue())

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 digest of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def to_base64(self) -> str:
        """Return the bytes as standard base64."""
        return base64.b64encode(self.data).decode("ascii")

    def to_data_url(self) -> str:
        """Return the image as a `data:image/...;base64,...` URL."""
        return f"data:{self.mime};base64,{self.to_base64()}"

    def to_pil(self, *, max_pixels: int = 40_000_000, max_side: int = 16_384) -> PillowImage:
        """Decode to a Pillow image.

        Args:
            max_pixels: Largest accepted area in pixels.
            max_side: Longest accepted side in pixels.

        Raises:
            InvalidRequestError: Field `data`: the image exceeds the limits (code IMAGE_TOO_LARGE),
                or cannot be decoded (code NOT_AN_IMAGE).
        """
        from PIL import Image

        check_size(self, max_pixels=max_pixels, max_side=max_side)
        try:
            image = Image.open(io.BytesIO(self.data), formats=PILLOW_FORMATS)
            # A later header in the file can state another size, and that one counts for decoders.
            check_area(image.size, max_pixels=max_pixels, max_side=max_side)
            image.load()
        except (*DECODING_ERRORS, Image.DecompressionBombError) as error:
            raise InvalidRequestError(
                f"the {self.mime} image cannot be decoded: {type(error).__name__}",
                field="data",
                code="NOT_AN_IMAGE",
            ) from None
        return image

    @property
    def parameters(self) -> dict[str, Any]:
        """The generation parameters; empty if none are known.

        They are read from the file (text of A1111, stable-diffusion.cpp or ComfyUI; the EXIF of a
        JPEG or WebP). Otherwise they are those of the request that produced the image. Keys are the
        canonical fields: prompt, negative_prompt, steps, sampler, scheduler, cfg_scale, seed, size,
        strength, model. Text in a file is unverified: any program that saved the image may have
        written it.
        """
        return read_parameters(read_texts(self.data)) or (
            read_parameters({"parameters": self._parameters_text}) if self._parameters_text else {}
        )

    def with_parameters(self, values: Mapping[str, Any]) -> ImagePart:
        """Return a copy that carries these generation parameters; the bytes do not change."""
        copy = object.__new__(ImagePart)
        for name in ("data", "mime", "width", "height"):
            object.__setattr__(copy, name, getattr(self, name))
        object.__setattr__(copy, "_parameters_text", write_parameters(values))
        return copy

    def save(
        self, path: str | os.PathLike[str], overwrite: bool = False, *, metadata: bool = False
    ) -> Path:
        """Write the bytes to a file, which is complete or absent.

        Args:
            path: The file; if it has no suffix, the suffix of the image's type is added. Its name
                must be valid on Windows too, on every system. `save_in` makes a valid one.
            overwrite: Replace an existing file.
            metadata: Add the text "parameters", which A1111 and other programs read, unless the
                file already has generation parameters. It is a text chunk in a PNG and the EXIF
                UserComment in a JPEG or WebP. The pixels do not change.

        Returns:
            The path of the file.

        Raises:
            FileExistsError: The file exists and `overwrite` is False.
            InvalidRequestError: Field `metadata`: the image is a GIF or AVIF. Field `path`: the
                name of the file is not valid on every system.
            OSError: The file cannot be written.
        """
        if metadata:
            if self.mime not in SENDABLE:
                raise InvalidRequestError(
                    f"metadata can be written to PNG, JPEG and WebP files only; got {self.mime}",
                    field="metadata",
                )
            if self._parameters_text and not read_parameters(read_texts(self.data)):
                return ImagePart(with_metadata(self.data, self._parameters_text)).save(
                    path, overwrite
                )
        target = Path(path)
        if not target.suffix:
            target = target.with_name(target.name + SUFFIXES[self.mime])
        if problem := name_problem(target.name):
            raise InvalidRequestError(
                f"path must have a file name that is valid on every system; got {target.name!r}:"
                f" {problem}. Use another name, or save_in(), which makes a valid one",
                field="path",
            )
        write_file(target, self.data, overwrite=overwrite)
        return target

    def save_in(self, folder: str | os.PathLike[str], name: str) -> Path:
        """Write the bytes into a folder under an untrusted name.

        The file is always inside the folder, complete or absent, and never replaces another one.
        The same name is made on every system, and is valid on all of them.

        Args:
            folder: An existing folder.
            name: The wanted name. Its letters with their marks, digits, `-`, `_` and inner dots are
                kept, up to 80 characters and 160 bytes; folders are removed, the suffix of the
                image's type is added, and a number if the name is taken or differs from another
                one only in case.

        Returns:
            The path of the file.

        Raises:
            FileExistsError: No free name was found.
            OSError: The file cannot be written.
        """
        suffix = SUFFIXES[self.mime]
        return write_free_name(Path(folder), safe_stem(name, suffix), suffix, self.data)

    def __repr__(self) -> str:
        return f"<ImagePart {self.mime} {self.width}x{self.height}, {len(self.data):,} bytes>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, bytes]:
        """Return the image for display in Jupyter."""
        return {self.mime: self.data}


def as_image_part(value: object, field: str) -> ImagePart:
    """Return `value`; raise InvalidRequestError, naming the field, if it is not an ImagePart."""
    if not isinstance(value, ImagePart):
        raise InvalidRequestError(
            f"{field} must be an ImagePart; got {type(value).__name__}", field=field
        )
    return value
