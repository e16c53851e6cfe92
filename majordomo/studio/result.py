"""The result of a run: images, derivatives, errors, and the manifest that describes them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from majordomo.errors import CallWarning, InvalidRequestError, MajordomoError
from majordomo.media.filenames import SUFFIXES, comparison_key, name_problem, safe_stem
from majordomo.media.image_part import ImagePart
from majordomo.studio.classifier import Classification
from majordomo.studio.errors import error_from_dict
from majordomo.studio.files import write_new
from majordomo.studio.plan import Plan
from majordomo.validation import check_text

if TYPE_CHECKING:
    from majordomo.imaging.derivation import Derived

VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class StudioImage:
    """One image of a run."""

    name: str
    """Name of the image, for people and for file names."""
    image: ImagePart
    """The image itself."""
    prompt: str = ""
    """The prompt that it was generated from; "" when unknown."""
    negative_prompt: str = ""
    """The negative prompt."""
    seed: int | None = None
    """The seed, when the backend reported one."""
    model: str = ""
    """Id of the image model."""
    provider: str = ""
    """Name of the image model's provider."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the request, by field name, as plain JSON values."""
    warnings: tuple[CallWarning, ...] = ()
    """Warnings of the image model and of the recipe."""
    text: str = ""
    """The text that the brief asks for; an overlay writes it over the image."""
    finished: bool = False
    """Whether recipe, text and watermark are applied. False: as the image model returned it."""
    derivatives: tuple[Derived, ...] = ()
    """Files derived from the image."""


@dataclass(frozen=True, slots=True)
class StudioResult:
    """The result of a run, with at least one image."""

    items: tuple[StudioImage, ...]
    """The images with their prompts, settings and derivatives, in the order of the plan."""
    plan: Plan | None = None
    """The plan; None when the run started from images."""
    errors: tuple[MajordomoError, ...] = ()
    """Why images or derivatives are missing; `details` have stage, input and help."""

    @property
    def classification(self) -> Classification | None:
        """The classification of the brief; None when the run started from images."""
        return None if self.plan is None else self.plan.classification

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The image parts of all items."""
        return tuple(item.image for item in self.items)

    @property
    def warnings(self) -> tuple[CallWarning, ...]:
        """The warnings of all stages, in order."""
        plan = self.plan
        plan_warnings = () if plan is None else (*plan.classification.warnings, *plan.warnings)
        return (*plan_warnings, *(warning for item in self.items for warning in item.warnings))

    @property
    def files(self) -> dict[str, ImagePart]:
        """All images and derivatives by unique file names that are safe on every file system."""
        return {name: entry.image for name, entry in self._named_files()}

    def _named_files(self) -> Iterator[tuple[str, StudioImage | Derived]]:
        used_names: set[str] = {MANIFEST}
        for item in self.items:
            stem = safe_stem(item.name).replace(".", "_")
            yield _unused_name(stem + SUFFIXES[item.image.mime], used_names), item
            for derived in item.derivatives:
                yield _unused_name(derived.filename, used_names), derived

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest: plain JSON values, with the name, size and sha256 of each file."""
        names = iter([name for name, _ in self._named_files()])
        return {
            "majordomo": "result",
            "version": VERSION,
            "brief": "" if self.plan is None else self.plan.brief,
            "plan": None if self.plan is None else self.plan.to_dict(),
            "images": [_item_to_dict(item, names) for item in self.items],
            "errors": [error.to_dict() for error in self.errors],
            "warnings": [asdict(warning) for warning in self.warnings],
        }

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write all files and `manifest.json`, all or nothing; nothing is overwritten.

        Args:
            folder: The folder to write to; created when it is missing.

        Returns:
            The paths of the written files.

        Raises:
            FileExistsError: A file exists already, or one whose name differs only in case. Raised
                before anything is written.
            StorageError: A file cannot be written (STORAGE_FULL, STORAGE_READ_ONLY, ...).
        """
        contents = {name: image.data for name, image in self.files.items()}
        return write_new(folder, {**contents, MANIFEST: self.to_json().encode()})

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], read: Callable[[str, str], bytes]
    ) -> StudioResult:
        """Create a result from a manifest.

        Args:
            values: The manifest.
            read: Returns the bytes of a file by its name and sha256. Its errors are not caught.

        Raises:
            InvalidRequestError: The values are not a manifest, or a file has other content.
        """
        try:
            if values["majordomo"] != "result" or values["version"] != VERSION:
                raise KeyError("version")
            return cls(
                tuple(_item_from_dict(item, read) for item in values["images"]),
                None if values["plan"] is None else Plan.from_dict(values["plan"]),
                tuple(error_from_dict(error) for error in values["errors"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequestError(
                f"the values are not a studio manifest: {type(error).__name__}", field="manifest"
            ) from None

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> StudioResult:
        """Load a result that `save` wrote.

        Args:
            folder: The folder that was passed to `save`.

        Raises:
            OSError: A file cannot be read.
            InvalidRequestError: The manifest is invalid, or a file is not the one it describes.
        """
        directory = Path(folder)
        try:
            values = json.loads((directory / MANIFEST).read_bytes())
        except (ValueError, RecursionError):
            raise InvalidRequestError(
                f"{MANIFEST} is not a studio manifest", field="manifest"
            ) from None

        def read(name: str, _: str) -> bytes:
            # On Windows, a reserved name would read a device, such as the keyboard.
            if name_problem(name):
                raise InvalidRequestError(
                    "a manifest must name files in its own folder", field="file"
                )
            return (directory / name).read_bytes()

        return cls.from_dict(values, read)


def _unused_name(name: str, used_names: set[str]) -> str:
    """Return `name`, with a number when it is used already, and record it as used.

    Names that some file system does not distinguish count as the same.
    """
    stem, dot, suffix = name.rpartition(".")
    unused, number = name, 2
    while comparison_key(unused) in used_names:
        unused, number = f"{stem}-{number}{dot}{suffix}", number + 1
    used_names.add(comparison_key(unused))
    return unused


def _file_to_dict(name: str, image: ImagePart) -> dict[str, Any]:
    return {
        "file": name,
        "mime": image.mime,
        "width": image.width,
        "height": image.height,
        "bytes": len(image.data),
        "sha256": image.sha256,
    }


def _item_to_dict(item: StudioImage, names: Iterator[str]) -> dict[str, Any]:
    return {
        "name": item.name,
        **_file_to_dict(next(names), item.image),
        "prompt": item.prompt,
        "negative_prompt": item.negative_prompt,
        "seed": item.seed,
        "model": item.model,
        "provider": item.provider,
        "settings": dict(item.settings),
        "warnings": [asdict(warning) for warning in item.warnings],
        "text": item.text,
        "finished": item.finished,
        "derivatives": [
            {
                "name": derived.name,
                **_file_to_dict(next(names), derived.image),
                "notes": [asdict(note) for note in derived.notes],
            }
            for derived in item.derivatives
        ],
    }


# Fields of a StudioImage that a manifest has unchanged.
_PLAIN_FIELDS = (
    "name",
    "prompt",
    "negative_prompt",
    "seed",
    "model",
    "provider",
    "settings",
    "text",
    "finished",
)


def _item_from_dict(values: Mapping[str, Any], read: Callable[[str, str], bytes]) -> StudioImage:
    # Imported here because it loads Pillow.
    from majordomo.imaging.derivation import Derived

    fields = {name: values[name] for name in _PLAIN_FIELDS}
    check_text(fields["name"], "name", 1000)
    item = StudioImage(
        **fields,
        image=_read_image(values, read),
        warnings=tuple(CallWarning(**warning) for warning in values["warnings"]),
    )
    derivatives = (
        Derived(
            derived["name"],
            _read_image(derived, read),
            derived["file"],
            derived["sha256"],
            tuple(CallWarning(**note) for note in derived["notes"]),
        )
        for derived in values["derivatives"]
    )
    return replace(item, derivatives=tuple(derivatives))


def _read_image(values: Mapping[str, Any], read: Callable[[str, str], bytes]) -> ImagePart:
    image = ImagePart(read(values["file"], values["sha256"]))
    if image.sha256 != values["sha256"]:
        raise InvalidRequestError(
            f"{values['file']} is not the image that the manifest describes", field="sha256"
        )
    return image
