"""What came of a brief: images, what was derived from them, what failed; and the manifest that says so without the bytes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from majordomo.errors import CallWarning, InvalidRequestError, MajordomoError
from majordomo.media.filenames import SUFFIXES, safe_stem
from majordomo.media.image_part import ImagePart
from majordomo.studio.classifier import Classification
from majordomo.studio.errors import reported
from majordomo.studio.files import write_new
from majordomo.studio.plan import Plan
from majordomo.validation import check_text

if TYPE_CHECKING:
    from majordomo.imaging.derivation import Derived

VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class StudioImage:
    """One image. `finished`: recipe, text and mark are on it; else it is as the painter gave it. `settings` are those it was asked with,
    `text` is what the studio's overlay, if it has one, writes over it."""

    name: str
    image: ImagePart
    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    model: str = ""
    provider: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[CallWarning, ...] = ()
    text: str = ""
    finished: bool = False
    derivatives: tuple[Derived, ...] = ()


@dataclass(frozen=True, slots=True)
class StudioResult:
    """At least one image. `errors` are of what is missing: images that failed, derivatives that could not be made, each with the stage,
    what was asked and what may help in its `details`. `plan` is None when the run began with images.
    """

    items: tuple[StudioImage, ...]
    plan: Plan | None = None
    errors: tuple[MajordomoError, ...] = ()

    @property
    def classification(self) -> Classification | None:
        return None if self.plan is None else self.plan.classification

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images alone."""
        return tuple(image.image for image in self.items)

    @property
    def warnings(self) -> tuple[CallWarning, ...]:
        """Of all stages, in order."""
        plan = self.plan
        early = () if plan is None else (*plan.classification.warnings, *plan.warnings)
        return (*early, *(warning for image in self.items for warning in image.warnings))

    @property
    def files(self) -> dict[str, ImagePart]:
        """Every image and derivative under a name that is safe in any folder and not taken twice."""
        return {name: item.image for name, item in self._named()}

    def _named(self) -> Iterator[tuple[str, StudioImage | Derived]]:
        taken: set[str] = {MANIFEST}
        for image in self.items:
            stem = re.sub(r"[^\w-]", "_", safe_stem(image.name))
            yield _free(stem + SUFFIXES[image.image.mime], taken), image
            for derived in image.derivatives:
                yield _free(derived.filename, taken), derived

    def to_dict(self) -> dict[str, Any]:
        """The manifest: plain JSON values; images are their file names, sizes and sha256."""
        names = iter([name for name, _ in self._named()])
        return {
            "majordomo": "outcome",
            "version": VERSION,
            "brief": "" if self.plan is None else self.plan.brief,
            "plan": None if self.plan is None else self.plan.to_dict(),
            "images": [_told(image, names) for image in self.items],
            "errors": [error.to_dict() for error in self.errors],
            "warnings": [asdict(warning) for warning in self.warnings],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write all files and `manifest.json` into `folder`, which is made when it is missing. All or nothing.

        Raises FileExistsError when one of the names is taken, before anything is written; StorageError (STORAGE_FULL,
        STORAGE_READ_ONLY, ...).
        """
        contents = {name: image.data for name, image in self.files.items()}
        return write_new(folder, {**contents, MANIFEST: self.to_json().encode()})

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], read: Callable[[str, str], bytes]
    ) -> StudioResult:
        """From a manifest; `read(file, sha256)` gives the bytes. Raises InvalidRequestError for anything else, and what `read` raises."""
        try:
            if values["majordomo"] != "outcome" or values["version"] != VERSION:
                raise KeyError("version")
            return cls(
                tuple(_picture(told, read) for told in values["images"]),
                None if values["plan"] is None else Plan.from_dict(values["plan"]),
                tuple(reported(error) for error in values["errors"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InvalidRequestError(
                f"this is no manifest: {type(error).__name__}", field="manifest"
            ) from None

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> StudioResult:
        """What `save` wrote. Raises OSError as `open` does, InvalidRequestError for files that are not those of the manifest."""
        where = Path(folder)
        try:
            values = json.loads((where / MANIFEST).read_bytes())
        except (ValueError, RecursionError):
            raise InvalidRequestError("this is no manifest", field="manifest") from None

        def read(name: str, _: str) -> bytes:
            if name != os.path.basename(name) or name in ("", ".", ".."):
                raise InvalidRequestError("a manifest names files of its own folder", field="file")
            return (where / name).read_bytes()

        return cls.from_dict(values, read)


def _free(name: str, taken: set[str]) -> str:
    """`name`, with a number where it is taken; some file systems see no difference between cases."""
    stem, dot, suffix = name.rpartition(".")
    free, number = name, 2
    while free.casefold() in taken:
        free, number = f"{stem}-{number}{dot}{suffix}", number + 1
    taken.add(free.casefold())
    return free


def _file(name: str, image: ImagePart) -> dict[str, Any]:
    return {
        "file": name,
        "mime": image.mime,
        "width": image.width,
        "height": image.height,
        "bytes": len(image.data),
        "sha256": image.sha256,
    }


def _told(image: StudioImage, names: Iterator[str]) -> dict[str, Any]:
    return {
        "name": image.name,
        **_file(next(names), image.image),
        "prompt": image.prompt,
        "negative_prompt": image.negative_prompt,
        "seed": image.seed,
        "model": image.model,
        "provider": image.provider,
        "settings": dict(image.settings),
        "warnings": [asdict(warning) for warning in image.warnings],
        "text": image.text,
        "finished": image.finished,
        "derivatives": [
            {
                "name": derived.name,
                **_file(next(names), derived.image),
                "notes": [asdict(note) for note in derived.notes],
            }
            for derived in image.derivatives
        ],
    }


_PLAIN = (
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


def _picture(told: Mapping[str, Any], read: Callable[[str, str], bytes]) -> StudioImage:
    from majordomo.imaging.derivation import Derived  # it loads Pillow

    plain = {name: told[name] for name in _PLAIN}
    check_text(plain["name"], "name", 1000)
    image = StudioImage(
        **plain,
        image=_image(told, read),
        warnings=tuple(CallWarning(**warning) for warning in told["warnings"]),
    )
    derivatives = (
        Derived(
            one["name"],
            _image(one, read),
            one["file"],
            one["sha256"],
            tuple(CallWarning(**note) for note in one["notes"]),
        )
        for one in told["derivatives"]
    )
    return replace(image, derivatives=tuple(derivatives))


def _image(told: Mapping[str, Any], read: Callable[[str, str], bytes]) -> ImagePart:
    image = ImagePart(read(told["file"], told["sha256"]))
    if image.sha256 != told["sha256"]:
        raise InvalidRequestError(
            f"{told['file']} is not the image of the manifest", field="sha256"
        )
    return image
