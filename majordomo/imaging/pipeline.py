"""The state of one image while the steps of a recipe are applied.

The image stays encoded until a step needs pixels. From then on it is a `Pixels` value, and it is
encoded once, at the end. `Pipeline.part` is the encoded image as long as its bytes match the
current pixels, and None afterwards.
"""

from __future__ import annotations

from typing import Any

from majordomo.errors import CallWarning, InvalidRequestError
from majordomo.imaging.pixels import (
    FORMATS,
    EncodeOptions,
    Note,
    Pixels,
    Size,
    decode,
    encode,
    flatten_onto,
    is_lossless,
    upright_size,
)
from majordomo.media.generation_metadata import read_parameters, write_parameters
from majordomo.media.image_header import read_texts, with_metadata
from majordomo.media.image_limits import check_size
from majordomo.media.image_part import ImagePart, as_image_part
from majordomo.settings import Limits


class DecodedImage:
    """The source image of one or more recipes, decoded at most once.

    `min_size` is the smallest size at which a JPEG may be decoded; None means its full size.
    """

    def __init__(
        self, part: ImagePart, limits: Limits, field: str = "image", min_size: Size | None = None
    ) -> None:
        as_image_part(part, field)
        check_size(
            part,
            max_pixels=limits.max_image_pixels,
            max_side=limits.max_image_side,
            max_bytes=limits.max_image_bytes,
            field=field,
        )
        self.part = part
        self.limits = limits
        self.field = field
        self._min_size = min_size
        self._pixels: Pixels | None = None
        self._notes: list[tuple[str, str]] = []

    def pixels(self, note: Note) -> Pixels:
        """Return the pixels, and report the notes of decoding to each caller.

        Callers must not modify the pixels.
        """
        if self._pixels is None:
            self._pixels = decode(
                self.part,
                self.limits,
                lambda code, message: self._notes.append((code, message)),
                self.field,
                self._min_size,
            )
        for code, message in self._notes:
            note(code, message)
        return self._pixels


class Pipeline:
    """The current state of the image, which the steps change."""

    def __init__(self, source: DecodedImage) -> None:
        part = source.part
        self.limits: Limits = source.limits
        self.part: ImagePart | None = part
        self.size: Size = upright_size(part)
        self.options: EncodeOptions = _default_options(part)
        # Whether a step has chosen the format.
        self.has_format = False
        texts = read_texts(part.data)
        # The generation parameters in the file, as the text to write into the new file.
        self.parameters_text: str = texts.get("parameters") or _canonical_text(texts)
        self.parameters: dict[str, Any] = part.parameters
        self.keep_profile = True
        self.notes: dict[tuple[str, str], CallWarning] = {}
        # The name of the current step.
        self.step = ""
        self._source: DecodedImage | None = source
        self._pixels: Pixels | None = None

    def note(self, code: str, message: str) -> None:
        """Add a note about the current step, unless it exists already."""
        self.notes.setdefault((code, message), CallWarning(code, message, self.step or None))

    def has_note(self, code: str) -> bool:
        """Return whether there is a note with this code."""
        return any(existing == code for existing, _ in self.notes)

    def pixels(self) -> Pixels:
        """Return the current pixels, decoding the image if necessary."""
        if self._pixels is None:
            assert self._source is not None
            self._pixels = self._source.pixels(self.note)
        return (
            self._pixels
            if self.keep_profile or self._pixels.profile is None
            else Pixels(self._pixels.image)
        )

    def set_pixels(self, pixels: Pixels) -> None:
        """Replace the pixels; the encoded bytes become stale."""
        if self.part is not None and self.part.mime == "image/gif" and not self.has_format:
            self.note("FORMAT_CHANGED", "the GIF became a PNG, because GIFs cannot be written")
        self.part, self._source = None, None
        self._pixels = pixels
        self.size = pixels.image.size

    def set_file(self, part: ImagePart) -> None:
        """Replace the encoded bytes; the pixels must be the same."""
        self.part = part

    def reload(self, part: ImagePart) -> None:
        """Replace the image by an encoded one with other pixels; later steps decode it."""
        self.part, self._source, self._pixels = part, DecodedImage(part, self.limits), None
        self.size = upright_size(part)
        self.options = _default_options(part)

    def drop_parameters(self) -> None:
        """Remove the generation parameters."""
        self.parameters_text, self.parameters = "", {}

    def encode(self) -> ImagePart:
        """Encode the pixels, with the generation parameters that the source file contained."""
        pixels = self.pixels()
        if self.options.format == "jpeg" and pixels.image.mode == "RGBA":
            pixels = Pixels(self.flatten(pixels.image, "white"), pixels.profile)
        return ImagePart(self.with_metadata(encode(pixels, self.options)))

    def flatten(self, image: Any, color: Any) -> Any:
        """Replace transparency with a color, and add a note if there is any."""
        if image.mode == "RGBA" and image.getchannel("A").getextrema()[0] < 255:
            self.note("ALPHA_FLATTENED", "transparency was replaced with a color: a JPEG has none")
        return flatten_onto(image, color)

    def with_metadata(self, data: bytes) -> bytes:
        """Return the file with the generation parameters, or add a note if it cannot hold them."""
        if not self.parameters_text:
            return data
        try:
            return with_metadata(data, self.parameters_text)
        except InvalidRequestError as error:
            self.note(
                "PARAMETERS_NOT_WRITTEN",
                f"the generation parameters are not in the file: {error.message}",
            )
            return data

    def finish(self) -> ImagePart:
        """Return the final image."""
        if self.part is None:
            self.part = self.encode()
        return (
            self.part.with_parameters(self.parameters)
            if self.parameters and self.part.parameters != self.parameters
            else self.part
        )


def _default_options(part: ImagePart) -> EncodeOptions:
    """Return the options that keep the format of an image; a GIF becomes a PNG."""
    format = FORMATS[part.mime]
    return EncodeOptions(
        "png" if format == "gif" else format, lossless=format == "webp" and is_lossless(part)
    )


def _canonical_text(texts: dict[str, str]) -> str:
    values = read_parameters(texts)
    return write_parameters(values) if values else ""
