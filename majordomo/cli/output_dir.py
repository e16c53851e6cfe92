"""The folder that a person receives for a brief: images, what is derived from them, a contact sheet, a manifest."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import typer

from majordomo import imaging
from majordomo.media.filenames import safe_stem
from majordomo.media.image_part import ImagePart
from majordomo.studio import StudioResult
from majordomo.studio.classifier import Classification
from majordomo.studio.files import write_new
from majordomo.studio.result import MANIFEST

SHEET = "contact-sheet.png"
_NAMELESS = re.compile(r"main(?:-\d+)?")  # what the rules call an image
_MOST_FOLDERS = 10_000
_LONGEST = 26  # characters: the contact sheet has room for so many below an image


def chosen(output: Path | None, brief: str) -> Path:
    """The folder to write to, checked before anything is drawn: new or empty, so that nothing of anybody's is touched.

    Without one: a free name after the brief. Raises typer.BadParameter, PermissionError.
    """
    if output is None:
        return _free(Path(stem_of(brief)))
    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output} is no folder", param_hint="--output")
    if output.is_dir() and any(output.iterdir()):
        raise typer.BadParameter(
            f"{output} is not empty, and nothing in it is touched: name a new folder",
            param_hint="--output",
        )
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise typer.BadParameter(f"{there} is no folder", param_hint="--output")
    if not os.access(there, os.W_OK):
        raise PermissionError(13, "cannot be written to", str(there))
    return output


def stem_of(words: str) -> str:
    """A short name for files, in small letters: "a poster for a jazz night, portrait" is `a-poster-for-a-jazz-night`."""
    stem = ""
    for word in re.findall(r"\w+", words.casefold()):
        longer = f"{stem}-{word}" if stem else word
        if len(longer) > _LONGEST:
            break
        stem = longer
    return safe_stem(stem or words.casefold()[:_LONGEST])


def titled(outcome: StudioResult, read: Classification) -> StudioResult:
    """Images that the rules only called "main" get the title of the brief, or its first words, for the names of their files."""
    stem = stem_of(read.text or read.brief)

    def named(name: str) -> str:
        return stem + name.removeprefix("main") if _NAMELESS.fullmatch(name) else name

    images = []
    for image in outcome.items:
        name, old = named(image.name), image.name
        derivatives = (
            replace(
                one,
                filename=f"{name}{one.filename.removeprefix(old)}"
                if one.filename.startswith(f"{old}-")
                else one.filename,
            )
            for one in image.derivatives
        )
        images.append(replace(image, name=name, derivatives=tuple(derivatives)))
    for error in outcome.errors:
        if "image" in error.details:
            error.details["image"] = named(str(error.details["image"]))
    return replace(outcome, items=tuple(images))


def save(outcome: StudioResult, folder: Path) -> list[Path]:
    """Write everything, all or nothing; into a folder beside it when somebody has put the like into `folder` meanwhile."""
    contents = {name: image.data for name, image in outcome.files.items()}
    sheet, name = _sheet(outcome), SHEET
    while name in contents:
        name = f"all-{name}"
    told = {
        **outcome.to_dict(),
        "contact_sheet": {
            "file": name,
            "width": sheet.width,
            "height": sheet.height,
            "sha256": sheet.sha256,
        },
    }
    contents |= {
        name: sheet.data,
        MANIFEST: json.dumps(told, ensure_ascii=False, indent=2).encode(),
    }
    try:
        return write_new(folder, contents)
    except FileExistsError:
        return write_new(_free(folder), contents)


def _sheet(outcome: StudioResult) -> ImagePart:
    return imaging.contact_sheet(
        outcome.images, [image.name for image in outcome.items], tile=384, margin=24
    )


def _free(folder: Path) -> Path:
    for number in range(1, _MOST_FOLDERS):
        name = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not name.exists():
            return name
    raise FileExistsError(f"no free name like {folder}")
