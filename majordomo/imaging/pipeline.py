"""One image on its way through a recipe: bytes until a step needs pixels, then pixels, encoded once, at the end."""

from __future__ import annotations

from typing import Any

from majordomo.errors import CallWarning, InvalidRequestError
from majordomo.imaging.pixels import (
    KINDS,
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
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits


class DecodedImage:
    """An image that several recipes start from: decoded at most once."""

    def __init__(
        self, part: ImagePart, limits: Limits, field: str = "image", near: Size | None = None
    ) -> None:
        if not isinstance(part, ImagePart):
            raise InvalidRequestError(
                f"an image is an ImagePart, not {type(part).__name__}", field=field
            )
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
        self._near = near
        self._pixels: Pixels | None = None
        self._told: list[tuple[str, str]] = []

    def pixels(self, note: Note) -> Pixels:
        """Nobody changes them: every step makes new ones. What decoding had to tell is told to each who asks."""
        if self._pixels is None:
            self._pixels = decode(
                self.part,
                self.limits,
                lambda *told: self._told.append(told),
                self.field,
                self._near,
            )
        for code, message in self._told:
            note(code, message)
        return self._pixels


class Pipeline:
    """What the steps change. `part` holds the bytes as long as they show the image as it is now."""

    def __init__(self, source: DecodedImage) -> None:
        part = source.part
        self.limits: Limits = source.limits
        self.part: ImagePart | None = part
        self.size: Size = upright_size(part)
        self.how: EncodeOptions = _as_it_is(part)
        self.chosen = False  # whether a step has said which kind it should be
        texts = read_texts(part.data)
        self.written: str = texts.get("parameters") or _canonical(
            texts
        )  # the text that stands in the file
        self.known: dict[str, Any] = part.parameters
        self.icc = True  # whether a color profile is still wanted
        self.notes: dict[tuple[str, str], CallWarning] = {}
        self.step = ""
        self._source: DecodedImage | None = source
        self._pixels: Pixels | None = None

    def note(self, code: str, message: str) -> None:
        self.notes.setdefault((code, message), CallWarning(code, message, self.step or None))

    def has_note(self, code: str) -> bool:
        return any(known == code for known, _ in self.notes)

    def pixels(self) -> Pixels:
        if self._pixels is None:
            assert self._source is not None
            self._pixels = self._source.pixels(self.note)
        return (
            self._pixels if self.icc or self._pixels.profile is None else Pixels(self._pixels.image)
        )

    def change(self, pixels: Pixels) -> None:
        """The image is these pixels from now on, and its bytes are of yesterday."""
        if self.part is not None and self.part.mime == "image/gif" and not self.chosen:
            self.note("FORMAT_CHANGED", "a GIF became a PNG: GIFs are read, not written")
        self.part, self._source = None, None
        self._pixels = pixels
        self.size = pixels.image.size

    def replace(self, part: ImagePart) -> None:
        """The same image in other bytes."""
        self.part = part

    def restart(self, part: ImagePart) -> None:
        """Bytes that show something else: later steps decode them."""
        self.part, self._source, self._pixels = part, DecodedImage(part, self.limits), None
        self.size = upright_size(part)
        self.how = _as_it_is(part)

    def forget(self) -> None:
        """What it was made with is not told on."""
        self.written, self.known = "", {}

    def encode(self) -> ImagePart:
        """The pixels as a file, with the text that stood in the old one."""
        pixels = self.pixels()
        if self.how.kind == "jpeg" and pixels.image.mode == "RGBA":
            pixels = Pixels(self.opaque(pixels.image, "white"), pixels.profile)
        return ImagePart(self.with_metadata(encode(pixels, self.how)))

    def opaque(self, image: Any, color: Any) -> Any:
        if image.mode == "RGBA" and image.getchannel("A").getextrema()[0] < 255:
            self.note("ALPHA_FLATTENED", "transparency became a plain background: a JPEG has none")
        return flatten_onto(image, color)

    def with_metadata(self, data: bytes) -> bytes:
        if not self.written:
            return data
        try:
            return with_metadata(data, self.written)
        except InvalidRequestError as error:
            self.note(
                "PARAMETERS_NOT_WRITTEN",
                f"what the image was made with is not in the file: {error.message}",
            )
            return data

    def finish(self) -> ImagePart:
        if self.part is None:
            self.part = self.encode()
        return (
            self.part.with_parameters(self.known)
            if self.known and self.part.parameters != self.known
            else self.part
        )


def _as_it_is(part: ImagePart) -> EncodeOptions:
    """What it is encoded as when no step says otherwise; GIFs are read, not written."""
    kind = KINDS[part.mime]
    return EncodeOptions(
        "png" if kind == "gif" else kind, lossless=kind == "webp" and is_lossless(part)
    )


def _canonical(texts: dict[str, str]) -> str:
    values = read_parameters(texts)
    return write_parameters(values) if values else ""
