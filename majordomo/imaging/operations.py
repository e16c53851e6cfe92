"""Steps and recipes: what can be done to an image, as values.

This module processes no pixels and does not import Pillow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from majordomo.errors import InvalidRequestError
from majordomo.imaging.recipes import (
    parse_steps,
    recipe_to_dict,
    steps_from_dict,
)
from majordomo.media.image_part import ImagePart, as_image_part
from majordomo.validation import as_tuple, check_number, check_text

Anchor = Literal[
    "top-left",
    "top",
    "top-right",
    "left",
    "center",
    "right",
    "bottom-left",
    "bottom",
    "bottom-right",
]
ImageFormat = Literal["png", "jpeg", "webp", "avif"]
MAX_SIDE = 65_535
MAX_TEXT_CHARACTERS = 2_000
MAX_BYTE_BUDGET = 2**40
MAX_MIN_SIDE = 16_384


class Step:
    """An operation on an image: a frozen value. Steps can be added to form a `Recipe`."""

    __slots__ = ()

    def __add__(self, other: Step | Recipe) -> Recipe:
        return Recipe(self) + other


@dataclass(frozen=True, slots=True)
class Sanitize(Step):
    """Remove everything but the image itself.

    EXIF, XMP, comments, text chunks, thumbnails, unknown chunks and bytes after the end are
    removed. The pixels of PNG, JPEG, WebP and GIF do not change: chunks are left out and nothing is
    decoded. An AVIF is re-encoded, with a note. An image that its EXIF rotates stays upright.

    Raises:
        InvalidRequestError: A field has an invalid value.
    """

    orientation: Literal["keep", "apply"] = "keep"
    """`"keep"` leaves an EXIF block with the orientation only. `"apply"` rotates the pixels and
    re-encodes them, with a note for a lossy format. Default: `"keep"`."""
    icc: bool = True
    """Keep the color profile; without it, colors can change. Default: True."""
    parameters: bool = False
    """Keep the generation parameters (prompt and settings), and no other text. Default: False."""

    def __post_init__(self) -> None:
        _check_choice("orientation", self.orientation, ("keep", "apply"))
        _check_flags(self, "icc", "parameters")


@dataclass(frozen=True, slots=True)
class Orient(Step):
    """Rotate and mirror the pixels: EXIF orientation first, then `turn`, then `mirror`.

    Raises:
        InvalidRequestError: A field has an invalid value.
    """

    turn: int = 0
    """Clockwise rotation in degrees: 0, 90, 180 or 270. Default: 0."""
    mirror: bool = False
    """Swap left and right. Default: False."""

    def __post_init__(self) -> None:
        _check_choice("turn", self.turn, (0, 90, 180, 270))
        _check_flags(self, "mirror")


@dataclass(frozen=True, slots=True)
class Resize(Step):
    """Scale the image. It is not enlarged unless `enlarge` is set; a note reports that.

    Raises:
        InvalidRequestError: A field has an invalid value, or `how` needs another combination of
            `width` and `height`.

    Example:
        ```python
        Resize(1024, how="long_side")
        Resize(400, 300, how="fill", anchor="top")
        ```
    """

    width: int | None = None
    """Width in pixels, 1 to 65,535. Default: determined by `height`."""
    height: int | None = None
    """Height in pixels, 1 to 65,535. Default: determined by `width`."""
    how: Literal["fit", "fill", "exact", "long_side"] = "fit"
    """How to reach the size. Default: `"fit"`.

    * `"fit"`: within width and height, keeping the aspect ratio; one of them is enough.
    * `"fill"`: exactly width by height, keeping the aspect ratio; the rest is cropped at `anchor`.
    * `"exact"`: exactly width by height; the aspect ratio may change.
    * `"long_side"`: the longer side gets `width` pixels; `height` must be None.
    """
    enlarge: bool = False
    """Allow a result larger than the image. Default: False."""
    fast: bool = False
    """Average blocks of pixels first: up to ten times as fast as Lanczos, and hardly worse when the
    image becomes much smaller. Default: False."""
    anchor: Anchor = "center"
    """The part of the image that `"fill"` keeps. Default: `"center"`."""

    def __post_init__(self) -> None:
        _check_choice("how", self.how, ("fit", "fill", "exact", "long_side"))
        check_number("width", self.width, 1, MAX_SIDE, integer=True)
        check_number("height", self.height, 1, MAX_SIDE, integer=True)
        _check_choice("anchor", self.anchor, get_args(Anchor))
        _check_flags(self, "enlarge", "fast")
        if self.how == "long_side" and (self.width is None or self.height is not None):
            raise InvalidRequestError(
                '"long_side" needs width, and height must be None;'
                f" got width {self.width} and height {self.height}",
                field="width",
            )
        if self.how in ("fill", "exact") and (self.width is None or self.height is None):
            raise InvalidRequestError(
                f'"{self.how}" needs width and height;'
                f" got width {self.width} and height {self.height}",
                field="height" if self.width else "width",
            )
        if self.width is None and self.height is None:
            raise InvalidRequestError(
                "a resize needs width, height, or both; got neither", field="width"
            )


@dataclass(frozen=True, slots=True)
class Crop(Step):
    """Cut out a part of the image: one of `box`, `width` and `height`, or `aspect`.

    An image smaller than the requested width or height is cropped as far as possible, with a note.

    Raises:
        InvalidRequestError: A field has an invalid value, or several ways to crop are combined.

    Example:
        ```python
        Crop(aspect="16:9", how="smart")
        ```
    """

    box: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom in pixels, 0 to 65,535. The box must be within the image."""
    width: int | None = None
    """Width in pixels, 1 to 65,535; needs `height`."""
    height: int | None = None
    """Height in pixels, 1 to 65,535; needs `width`."""
    aspect: str = ""
    """Aspect ratio of the largest possible part: two numbers from 1 to 1000, for example
    `"16:9"`."""
    how: Literal["center", "smart"] = "center"
    """`"center"` crops at `anchor`; `"smart"` keeps the part with the most detail. Default:
    `"center"`."""
    anchor: Anchor = "center"
    """The part of the image to keep. Default: `"center"`."""

    def __post_init__(self) -> None:
        _check_choice("how", self.how, ("center", "smart"))
        _check_choice("anchor", self.anchor, get_args(Anchor))
        check_number("width", self.width, 1, MAX_SIDE, integer=True)
        check_number("height", self.height, 1, MAX_SIDE, integer=True)
        if (self.box is not None) + (self.width is not None or self.height is not None) + bool(
            self.aspect
        ) != 1:
            raise InvalidRequestError(
                "a crop needs exactly one of box, width and height, or aspect", field="box"
            )
        if self.box is not None:
            object.__setattr__(self, "box", _check_box(self.box))
        elif self.aspect:
            self.shape  # noqa: B018 - reading it validates `aspect`
        elif self.width is None or self.height is None:
            raise InvalidRequestError(
                f"a crop needs width and height; got width {self.width} and height {self.height}",
                field="height" if self.width else "width",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """The two numbers of `aspect`.

        Raises:
            InvalidRequestError: Field `aspect`: not two numbers, or out of range.
        """
        wide, colon, high = str(self.aspect).partition(":")
        if (
            not colon
            or not wide.isdecimal()
            or not high.isdecimal()
            or not 0 < int(wide) <= 1000
            or not 0 < int(high) <= 1000
        ):
            raise InvalidRequestError(
                'aspect must be two numbers from 1 to 1000, for example "16:9";'
                f" got {_shorten(self.aspect)}",
                field="aspect",
            )
        return int(wide), int(high)


@dataclass(frozen=True, slots=True)
class Convert(Step):
    """Convert the image to another file format.

    Raises:
        InvalidRequestError: A field has an invalid value, or does not apply to the format.

    Example:
        ```python
        Convert("webp", quality=80)
        ```
    """

    format: ImageFormat
    """`"png"`, `"jpeg"` (or `"jpg"`), `"webp"`, or `"avif"` if Pillow supports it."""
    quality: int | None = None
    """Quality of a lossy format, 1 to 100. Default: 90 for JPEG, 85 for WebP, 70 for AVIF. An image
    that already has the format is re-encoded only if this is set."""
    lossless: bool = False
    """Compress a WebP without loss. Default: False."""
    background: str = "white"
    """Color that replaces transparency in a JPEG, which a note reports: a name or `#rrggbb`.
    Default: `"white"`."""
    colors: Literal["keep", "srgb"] = "keep"
    """`"keep"` keeps the color profile; `"srgb"` converts to sRGB, which all programs display
    correctly. Default: `"keep"`."""

    def __post_init__(self) -> None:
        if isinstance(self.format, str):
            object.__setattr__(
                self, "format", {"jpg": "jpeg"}.get(self.format.lower(), self.format.lower())
            )
        _check_choice("format", self.format, get_args(ImageFormat))
        check_number("quality", self.quality, 1, 100, integer=True)
        _check_choice("colors", self.colors, ("keep", "srgb"))
        _check_flags(self, "lossless")
        check_text(self.background, "background", 100)
        if self.quality is not None and self.format == "png":
            raise InvalidRequestError(
                "quality does not apply to PNG, which is lossless", field="quality"
            )
        if self.lossless and self.format != "webp":
            raise InvalidRequestError(
                f"lossless applies to webp only; the format is {self.format}", field="lossless"
            )


@dataclass(frozen=True, slots=True)
class Optimize(Step):
    """Reduce the file size without visible change; takes more time, and never makes it larger.

    A PNG or a lossless WebP is compressed with the most effort, as grayscale or with a palette if
    its colors allow that, and loses nothing. A JPEG with full-resolution colors that no step has
    changed is re-encoded with its own tables; differences are at most rounding errors. Any other
    lossy file stays unchanged, with a note.

    Raises:
        InvalidRequestError: Field `colors`: out of range.
    """

    colors: int | None = None
    """Reduce a PNG to a palette of this many colors, 2 to 256, which loses information. Default: no
    reduction."""

    def __post_init__(self) -> None:
        check_number("colors", self.colors, 2, 256, integer=True)


@dataclass(frozen=True, slots=True)
class Fit(Step):
    """Make the file small enough: lower quality first, then fewer pixels.

    Raises:
        InvalidRequestError: A field has an invalid value.
    """

    max_bytes: int
    """Largest size of the file in bytes, 1 to 2**40."""
    formats: tuple[str, ...] | None = None
    """Accepted formats, preferred first: some of `"png"`, `"webp"`, `"jpeg"` and `"avif"`. Default:
    the format of `Convert`, else the image's own format, then WebP, JPEG and PNG."""
    min_side: int = 256
    """The shorter side never gets smaller than this many pixels, 1 to 16,384. Default: 256."""

    def __post_init__(self) -> None:
        check_number("max_bytes", self.max_bytes, 1, MAX_BYTE_BUDGET, integer=True)
        check_number("min_side", self.min_side, 1, MAX_MIN_SIDE, integer=True)
        if self.max_bytes is None or self.min_side is None:
            raise InvalidRequestError(
                "max_bytes and min_side must be integers; got None", field="max_bytes"
            )
        if self.formats is not None:
            formats = as_tuple(self.formats, "formats")
            if not formats or any(name not in get_args(ImageFormat) for name in formats):
                raise InvalidRequestError(
                    'formats must be some of "png", "webp", "jpeg" and "avif";'
                    f" got {_shorten(formats)}",
                    field="formats",
                )
            object.__setattr__(self, "formats", formats)


@dataclass(frozen=True, slots=True)
class Flatten(Step):
    """Replace transparency with a color.

    Raises:
        InvalidRequestError: Field `color`: not a text of at most 100 characters.
    """

    color: str = "white"
    """Name of a color or `#rrggbb`. Default: `"white"`."""

    def __post_init__(self) -> None:
        check_text(self.color, "color", 100)


@dataclass(frozen=True, slots=True)
class Text(Step):
    """Draw text on the image, wrapped to `width`.

    Text that does not fit is drawn smaller, with a note. Right-to-left text and ligatures need a
    Pillow with Raqm.

    Raises:
        InvalidRequestError: A field has an invalid value.

    Example:
        ```python
        Text("The end", anchor="center", size=0.2)
        ```
    """

    text: str
    """The text; not empty, up to 2,000 characters."""
    anchor: Anchor = "bottom"
    """Position of the text. Default: `"bottom"`."""
    size: float = 0.08
    """Font size as a fraction of the image's shorter side, 0.005 to 1. Default: 0.08."""
    font: str | None = None
    """Path of a TrueType or OpenType file, up to 4,096 characters. Default: Pillow's own font,
    which covers ASCII; for other characters a common font of the system."""
    color: str = "white"
    """Color of the text: a name or `#rrggbb`. Default: `"white"`."""
    outline: float = 0.06
    """Width of the outline as a fraction of the font size, 0 to 0.5. Default: 0.06."""
    outline_color: str = "black"
    """Color of the outline: a name or `#rrggbb`. Default: `"black"`."""
    margin: float = 0.04
    """Distance from the edges as a fraction of the shorter side, 0 to 0.45. Default: 0.04."""
    width: float = 0.9
    """Width of the text area as a fraction of the image's width, 0.05 to 1. Default: 0.9."""
    opacity: float = 1.0
    """0 (invisible) to 1 (opaque). Default: 1."""

    def __post_init__(self) -> None:
        _check_not_blank(self.text)
        _check_choice("anchor", self.anchor, get_args(Anchor))
        _check_fractions(
            size=(self.size, 0.005, 1),
            outline=(self.outline, 0, 0.5),
            margin=(self.margin, 0, 0.45),
        )
        _check_fractions(width=(self.width, 0.05, 1), opacity=(self.opacity, 0, 1))
        _check_font_and_colors(self.font, color=self.color, outline_color=self.outline_color)


@dataclass(frozen=True, slots=True)
class Watermark(Step):
    """Draw a small text or image over the image, once or tiled.

    Raises:
        InvalidRequestError: A field has an invalid value, or not exactly one of `text` and `image`
            is set.

    Example:
        ```python
        Watermark("© 2026", anchor="bottom-right")
        ```
    """

    text: str = ""
    """The text, up to 2,000 characters. Excludes `image`."""
    image: ImagePart | None = None
    """The image; its transparency is honored. Excludes `text`."""
    opacity: float = 0.4
    """0 (invisible) to 1 (opaque). Default: 0.4."""
    scale: float = 0.2
    """Width of the watermark as a fraction of the image's width, 0.01 to 1. Default: 0.2."""
    anchor: Anchor = "bottom-right"
    """Position of the watermark, unless it is tiled. Default: `"bottom-right"`."""
    margin: float = 0.03
    """Distance from the edges as a fraction of the shorter side, or between tiles as a fraction of
    the watermark, 0 to 0.45. Default: 0.03."""
    tile: bool = False
    """Repeat the watermark over the whole image. Default: False."""
    angle: float = 0.0
    """Counterclockwise rotation in degrees, -360 to 360. Default: 0."""
    font: str | None = None
    """Path of a TrueType or OpenType file. Default: as for `Text`."""
    color: str = "white"
    """Color of the text: a name or `#rrggbb`. Default: `"white"`."""

    def __post_init__(self) -> None:
        if bool(self.text) == (self.image is not None):
            raise InvalidRequestError(
                "a watermark needs exactly one of text and image;"
                f" got {'both' if self.text else 'neither'}",
                field="text",
            )
        if self.image is None:
            _check_not_blank(self.text)
        else:
            as_image_part(self.image, "image")
        _check_choice("anchor", self.anchor, get_args(Anchor))
        _check_fractions(
            opacity=(self.opacity, 0, 1),
            scale=(self.scale, 0.01, 1),
            margin=(self.margin, 0, 0.45),
            angle=(self.angle, -360, 360),
        )
        _check_font_and_colors(self.font, color=self.color)
        _check_flags(self, "tile")


STEPS: dict[str, type[Step]] = {
    step_type.__name__.lower(): step_type
    for step_type in (
        *(Sanitize, Orient, Resize, Crop, Convert, Optimize, Fit, Flatten, Text),
        Watermark,
    )
}


@dataclass(frozen=True, slots=True, init=False)
class Recipe:
    """A sequence of steps. An empty recipe leaves an image unchanged.

    Args:
        *steps: The steps in order.

    Raises:
        InvalidRequestError: Field `steps[...]`: not a step.

    Example:
        ```python
        recipe = Recipe(Resize(1024), Convert("webp"))
        assert recipe == Resize(1024) + Convert("webp")
        ```
    """

    steps: tuple[Step, ...]
    """The steps in order."""

    def __init__(self, *steps: Step) -> None:
        for index, step in enumerate(steps):
            if not isinstance(step, Step):
                raise InvalidRequestError(
                    f"steps[{index}] must be a step; got {type(step).__name__}",
                    field=f"steps[{index}]",
                )
        object.__setattr__(self, "steps", steps)

    def __add__(self, other: Step | Recipe) -> Recipe:
        return Recipe(*self.steps, *(other.steps if isinstance(other, Recipe) else (other,)))

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values.

        Fields at their default are left out; an image becomes a data URL.
        """
        return recipe_to_dict(self.steps)

    @classmethod
    def from_dict(cls, values: object) -> Recipe:
        """Create a recipe from the values that `to_dict` returned.

        Args:
            values: A mapping with a list "steps" of at most 100 steps.

        Raises:
            InvalidRequestError: The values are not valid. The field has the form `steps[2].width`.
        """
        return cls(*steps_from_dict(values, STEPS))

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Create a recipe from one line of text.

        Args:
            text: Steps separated by commas, at most 20,000 characters and 100 steps. The syntax is
                documented on the page about image processing.

        Raises:
            InvalidRequestError: The text is not valid. The field names the step.

        Example:
            ```python
            Recipe.parse("resize=1024,convert=webp:quality=80,strip")
            ```
        """
        return cls(*parse_steps(text, STEPS))


def _shorten(value: object) -> str:
    """Return the repr of a value, cut to a length that suits an error message."""
    return repr(value)[:80]


def _check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    allowed = tuple(choices)
    if isinstance(value, bool) or value not in allowed:
        raise InvalidRequestError(
            f"{name} must be one of {', '.join(str(choice) for choice in allowed)};"
            f" got {_shorten(value)}",
            field=name,
        )


def _check_flags(step: Step, *names: str) -> None:
    for name in names:
        value = getattr(step, name)
        if not isinstance(value, bool):
            raise InvalidRequestError(
                f"{name} must be True or False; got {_shorten(value)}", field=name
            )


def _check_fractions(**fractions: tuple[object, float, float]) -> None:
    for name, (value, low, high) in fractions.items():
        if value is None:
            raise InvalidRequestError(
                f"{name} must be a number from {low} to {high}; got None", field=name
            )
        check_number(name, value, low, high)


def _check_not_blank(text: object) -> None:
    check_text(text, "text", MAX_TEXT_CHARACTERS)
    if not str(text).strip():
        raise InvalidRequestError("text must not be empty", field="text")


def _check_font_and_colors(font: object, **colors: object) -> None:
    if font is not None:
        check_text(font, "font", 4096)
    for name, color in colors.items():
        check_text(color, name, 100)


def _check_box(value: object) -> tuple[int, int, int, int]:
    numbers = as_tuple(value, "box")
    in_range = all(
        isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MAX_SIDE
        for number in numbers
    )
    if len(numbers) != 4 or not in_range or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        raise InvalidRequestError(
            "box must be left, top, right and bottom as integers from 0 to 65535, with"
            f" left < right and top < bottom; got {_shorten(numbers)}",
            field="box",
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]
