"""What can be done to an image, as values, and `Recipe`, several of them in order. Nothing here touches a pixel or loads Pillow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from majordomo.errors import InvalidRequestError
from majordomo.media.image_part import ImagePart
from majordomo.validation import as_tuple, check_number, check_text

Anchor = Literal[
    "top-left",
    "top",
    "top-right",
    "left",
    "centre",
    "right",
    "bottom-left",
    "bottom",
    "bottom-right",
]
ImageFormat = Literal["png", "jpeg", "webp", "avif"]
MAX_SIDE = 65_535
MAX_TEXT_CHARACTERS = 2_000
T = TypeVar("T")


class Step:
    """One thing to do to an image: a frozen value. Steps are added up to a `Recipe`."""

    __slots__ = ()

    def __add__(self, other: Step | Recipe) -> Recipe:
        return Recipe(self) + other


@dataclass(frozen=True, slots=True)
class Sanitize(Step):
    """Take out everything but the image: EXIF, XMP, comments, text chunks, thumbnails, unknown chunks, bytes behind the end.

    PNG, JPEG, WebP and GIF keep their pixels bit for bit: chunks are left out, nothing is decoded. An AVIF is encoded anew, with a note.
    An image that its EXIF turns stays the right way up: `orientation="keep"` leaves an EXIF of this one number, "apply" turns
    the pixels and encodes them anew, with a note for a lossy kind. `icc`: keep the color profile, without which colors change.
    `parameters`: keep what it was made with (prompt and settings), and nothing else of its text.
    """

    orientation: Literal["keep", "apply"] = "keep"
    icc: bool = True
    parameters: bool = False

    def __post_init__(self) -> None:
        _check_choice("orientation", self.orientation, ("keep", "apply"))
        _check_flags(self, "icc", "parameters")


@dataclass(frozen=True, slots=True)
class Orient(Step):
    """Turn the pixels as EXIF says, then clockwise by `turn` (0, 90, 180 or 270) degrees, then swap left and right when `mirror`."""

    turn: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        _check_choice("turn", self.turn, (0, 90, 180, 270))
        _check_flags(self, "mirror")


@dataclass(frozen=True, slots=True)
class Resize(Step):
    """Other pixels, never more of them unless `enlarge`: an image too small for what is asked stays as it is, with a note.

    `width` and `height` in pixels; `how` is "fit" (within them, proportions kept; one of them is enough), "fill" (all of them, what hangs
    over is cut off, `anchor` says from where), "exact" (proportions given up), or "long_side" (the longer side gets `width`). `fast`
    averages whole blocks of pixels first: up to ten times as fast as Lanczos, and hardly worse where much is taken away.
    """

    width: int | None = None
    height: int | None = None
    how: Literal["fit", "fill", "exact", "long_side"] = "fit"
    enlarge: bool = False
    fast: bool = False
    anchor: Anchor = "centre"

    def __post_init__(self) -> None:
        _check_choice("how", self.how, ("fit", "fill", "exact", "long_side"))
        check_number("width", self.width, 1, MAX_SIDE, whole=True)
        check_number("height", self.height, 1, MAX_SIDE, whole=True)
        _check_choice("anchor", self.anchor, get_args(Anchor))
        _check_flags(self, "enlarge", "fast")
        if self.how == "long_side" and (self.width is None or self.height is not None):
            raise InvalidRequestError('"long_side" is one number, in width', field="width")
        if self.how in ("fill", "exact") and (self.width is None or self.height is None):
            raise InvalidRequestError(
                f'"{self.how}" needs width and height', field="height" if self.width else "width"
            )
        if self.width is None and self.height is None:
            raise InvalidRequestError("a resize needs a width, a height, or both", field="width")


@dataclass(frozen=True, slots=True)
class Crop(Step):
    """Cut something out: exactly `box` (left, top, right, bottom in pixels), or `width` by `height` pixels, or the largest part of the
    shape `aspect` ("16:9").

    `how`: "centre" cuts at `anchor` (the middle), "smart" where the most detail is. An image smaller than what is asked gives what it
    has, with a note; a box must lie within it.
    """

    box: tuple[int, int, int, int] | None = None
    width: int | None = None
    height: int | None = None
    aspect: str = ""
    how: Literal["centre", "smart"] = "centre"
    anchor: Anchor = "centre"

    def __post_init__(self) -> None:
        _check_choice("how", self.how, ("centre", "smart"))
        _check_choice("anchor", self.anchor, get_args(Anchor))
        check_number("width", self.width, 1, MAX_SIDE, whole=True)
        check_number("height", self.height, 1, MAX_SIDE, whole=True)
        if (self.box is not None) + (self.width is not None or self.height is not None) + bool(
            self.aspect
        ) != 1:
            raise InvalidRequestError(
                "a crop is one of box, width and height, or aspect", field="box"
            )
        if self.box is not None:
            object.__setattr__(self, "box", _box(self.box))
        elif self.aspect:
            self.shape  # noqa: B018
        elif self.width is None or self.height is None:
            raise InvalidRequestError(
                "a crop needs width and height", field="height" if self.width else "width"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """The two numbers of `aspect`."""
        wide, colon, high = str(self.aspect).partition(":")
        if (
            not colon
            or not wide.isdecimal()
            or not high.isdecimal()
            or not 0 < int(wide) <= 1000
            or not 0 < int(high) <= 1000
        ):
            raise InvalidRequestError(
                'aspect is two numbers from 1 to 1000, as in "16:9"', field="aspect"
            )
        return int(wide), int(high)


@dataclass(frozen=True, slots=True)
class Convert(Step):
    """Another kind of file: "png", "jpeg", "webp", or "avif" where Pillow has it.

    `quality` is 1 to 100 for the lossy kinds (default: jpeg 90, webp 85, avif 70); an image that has the kind already is encoded anew only
    when it is given. `lossless` is for webp. `background` is what comes behind transparency in a JPEG, which is noted. `colors`: "keep"
    keeps the color profile, "srgb" converts to the one that everything shows rightly.
    """

    format: ImageFormat
    quality: int | None = None
    lossless: bool = False
    background: str = "white"
    colors: Literal["keep", "srgb"] = "keep"

    def __post_init__(self) -> None:
        if isinstance(self.format, str):
            object.__setattr__(
                self, "format", {"jpg": "jpeg"}.get(self.format.lower(), self.format.lower())
            )
        _check_choice("format", self.format, get_args(ImageFormat))
        check_number("quality", self.quality, 1, 100, whole=True)
        _check_choice("colors", self.colors, ("keep", "srgb"))
        _check_flags(self, "lossless")
        check_text(self.background, "background", 100)
        if self.quality is not None and self.format == "png":
            raise InvalidRequestError("a PNG has no quality: it is exact", field="quality")
        if self.lossless and self.format != "webp":
            raise InvalidRequestError("lossless is a choice for webp", field="lossless")


@dataclass(frozen=True, slots=True)
class Optimize(Step):
    """The same image in fewer bytes, at the price of time, and never in more.

    A PNG or lossless WebP loses nothing: it is packed with most effort, as greys or as a palette where its colors allow that. A JPEG with
    colors in full resolution that no step has changed is packed anew with its own tables, off by a rounding at most; any other lossy
    file stays as it is, with a note. `colors` (2 to 256) reduces a PNG to so many, which does lose something.
    """

    colors: int | None = None

    def __post_init__(self) -> None:
        check_number("colors", self.colors, 2, 256, whole=True)


@dataclass(frozen=True, slots=True)
class Fit(Step):
    """At most `max_bytes` bytes: lower quality first, fewer pixels then, the shorter side never below `min_side`.

    `formats` ("png", "webp", "jpeg", "avif", the one liked best first); None: the one that `Convert` chose, else the image's own and
    then others.
    """

    max_bytes: int
    formats: tuple[str, ...] | None = None
    min_side: int = 256

    def __post_init__(self) -> None:
        check_number("max_bytes", self.max_bytes, 1, 2**40, whole=True)
        check_number("min_side", self.min_side, 1, 16_384, whole=True)
        if self.max_bytes is None or self.min_side is None:
            raise InvalidRequestError("max_bytes and min_side are numbers", field="max_bytes")
        if self.formats is not None:
            wanted = as_tuple(self.formats, "formats")
            if not wanted or any(kind not in ("png", "webp", "jpeg", "avif") for kind in wanted):
                raise InvalidRequestError(
                    'formats are some of "png", "webp", "jpeg" and "avif"', field="formats"
                )
            object.__setattr__(self, "formats", wanted)


@dataclass(frozen=True, slots=True)
class Flatten(Step):
    """No transparency: `color` behind it. A color is a name or `#rrggbb`."""

    color: str = "white"

    def __post_init__(self) -> None:
        check_text(self.color, "color", 100)


@dataclass(frozen=True, slots=True)
class Text(Step):
    """Words on the image, wrapped to `width` (share of the image's), as large as `size` (share of the shorter side) or smaller when
    they do not fit otherwise, with a note.

    `font` is the path of a TrueType or OpenType file; None: Pillow's own, which has the letters of ASCII, or for others a
    common font of this machine. `outline` is a share of the letters' size, `margin` of the shorter side, `opacity` 0 to 1. Right-to-left
    text and ligatures come out where Pillow has Raqm.
    """

    text: str
    anchor: Anchor = "bottom"
    size: float = 0.08
    font: str | None = None
    color: str = "white"
    outline: float = 0.06
    outline_color: str = "black"
    margin: float = 0.04
    width: float = 0.9
    opacity: float = 1.0

    def __post_init__(self) -> None:
        _check_words(self.text)
        _check_choice("anchor", self.anchor, get_args(Anchor))
        _check_shares(
            size=(self.size, 0.005, 1),
            outline=(self.outline, 0, 0.5),
            margin=(self.margin, 0, 0.45),
        )
        _check_shares(width=(self.width, 0.05, 1), opacity=(self.opacity, 0, 1))
        _check_lettering(self.font, colour=self.color, outline_colour=self.outline_color)


@dataclass(frozen=True, slots=True)
class Watermark(Step):
    """A small `text` or a `image` (its transparency counts) over the image: once at `anchor`, or `tile`d all over it.

    `scale` is its width as a share of the image's, `opacity` 0 to 1, `margin` a share of the shorter side (between tiles: of the mark),
    `angle` in degrees against the clock.
    """

    text: str = ""
    image: ImagePart | None = None
    opacity: float = 0.4
    scale: float = 0.2
    anchor: Anchor = "bottom-right"
    margin: float = 0.03
    tile: bool = False
    angle: float = 0.0
    font: str | None = None
    color: str = "white"

    def __post_init__(self) -> None:
        if bool(self.text) == (self.image is not None):
            raise InvalidRequestError("a watermark is a text or an image", field="text")
        if self.image is not None and not isinstance(self.image, ImagePart):
            raise InvalidRequestError(
                f"an image is an ImagePart, not {type(self.image).__name__}", field="image"
            )
        if self.image is None:
            _check_words(self.text)
        _check_choice("anchor", self.anchor, get_args(Anchor))
        _check_shares(
            opacity=(self.opacity, 0, 1),
            scale=(self.scale, 0.01, 1),
            margin=(self.margin, 0, 0.45),
            angle=(self.angle, -360, 360),
        )
        _check_lettering(self.font, colour=self.color)
        _check_flags(self, "tile")


STEPS: dict[str, type[Step]] = {
    kind.__name__.lower(): kind
    for kind in (Sanitize, Orient, Resize, Crop, Convert, Optimize, Fit, Flatten, Text, Watermark)
}


@dataclass(frozen=True, slots=True, init=False)
class Recipe:
    """Steps in order: `Recipe(Resize(1024), Convert("webp"))`, or `Resize(1024) + Convert("webp")`. Empty, it leaves an image as it is."""

    steps: tuple[Step, ...]

    def __init__(self, *steps: Step) -> None:
        for index, step in enumerate(steps):
            if not isinstance(step, Step):
                raise InvalidRequestError(
                    f"a recipe is made of steps, not of {type(step).__name__}",
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
        """Plain JSON values; what stands at its default is left out, an image is a data URL."""
        from majordomo.imaging.recipes import to_dict  # it reads what stands here

        return to_dict(self)

    @classmethod
    def from_dict(cls, values: object) -> Recipe:
        """What `to_dict` gave. Raises InvalidRequestError naming the field, as in `steps[2].width`."""
        from majordomo.imaging.recipes import from_dict

        return from_dict(values)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """From a line such as `resize=1024,convert=webp:quality=80,strip`; see the docs of recipes.

        Raises InvalidRequestError naming the step.
        """
        from majordomo.imaging.recipes import parse

        return parse(text)


def _check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    known = tuple(choices)
    if isinstance(value, bool) or value not in known:
        raise InvalidRequestError(
            f"{name} is one of {', '.join(str(choice) for choice in known)}", field=name
        )


def _check_flags(step: Step, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(step, name), bool):
            raise InvalidRequestError(f"{name} is True or False", field=name)


def _check_shares(**shares: tuple[object, float, float]) -> None:
    for name, (value, low, high) in shares.items():
        if value is None:
            raise InvalidRequestError(f"{name} is a number from {low} to {high}", field=name)
        check_number(name, value, low, high)


def _check_words(text: object) -> None:
    check_text(text, "text", MAX_TEXT_CHARACTERS)
    if not str(text).strip():
        raise InvalidRequestError("there is no text", field="text")


def _check_lettering(font: object, **colors: object) -> None:
    if font is not None:
        check_text(font, "font", 4096)
    for name, color in colors.items():
        check_text(color, name, 100)


def _box(value: object) -> tuple[int, int, int, int]:
    numbers = as_tuple(value, "box")
    whole = all(
        isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MAX_SIDE
        for number in numbers
    )
    if len(numbers) != 4 or not whole or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        raise InvalidRequestError(
            "box is left, top, right and bottom in whole pixels, left < right and top < bottom",
            field="box",
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]
