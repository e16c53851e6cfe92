"""The output folder of `majordomo imagine`: images, derivatives, contact sheet and manifest."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import typer

from majordomo import imaging
from majordomo.media.filenames import name_problem, replace_symbols, safe_stem
from majordomo.media.image_part import ImagePart
from majordomo.studio import StudioResult
from majordomo.studio.classifier import Classification
from majordomo.studio.files import write_new
from majordomo.studio.result import MANIFEST

CONTACT_SHEET = "contact-sheet.png"
MAX_FOLDER_NUMBER = 10_000
# The contact sheet has space for this many characters below an image.
MAX_STEM_CHARS = 26
# The rule-based planner calls images "main", "main-2" and so on.
_DEFAULT_NAME = re.compile(r"main(?:-\d+)?")


def choose_folder(output: Path | None, brief: str) -> Path:
    """Return the folder to write to, before anything is generated.

    Args:
        output: A new or empty folder; None for a free name made from the brief.
        brief: The brief.

    Raises:
        typer.BadParameter: `output` is a file, a folder with files in it, or not a valid name.
        PermissionError: The folder cannot be written to.
    """
    if output is None:
        return _free_folder(Path(stem_of(brief)))
    existing = nearest_folder(output)
    if existing == output and any(output.iterdir()):
        raise typer.BadParameter(
            f"{output} is not empty; choose a new or empty folder",
            param_hint="--output",
        )
    try:
        # Windows has permissions that `os.access` does not know.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise PermissionError(error.errno, "cannot be written to", str(existing)) from error
    return output


def nearest_folder(output: Path) -> Path:
    """Return the output folder, or the nearest existing one above it.

    Raises typer.BadParameter if it is a file, or if a folder to be created has a name that is not
    valid on every system.
    """
    for folder in (output, *output.absolute().parents):
        if folder.is_dir():
            return folder
        if folder.exists():
            raise typer.BadParameter(f"{folder} is not a folder", param_hint="--output")
        if folder.name and (problem := name_problem(folder.name)):
            raise typer.BadParameter(
                f"{folder.name} is not a valid name for a folder: {problem}", param_hint="--output"
            )
    raise typer.BadParameter(f"{output} is on no existing drive", param_hint="--output")


def stem_of(text: str) -> str:
    """Return a short, safe, lower-case file name made from the first words of a text.

    For example, "a poster for a jazz night, portrait" gives `a-poster-for-a-jazz-night`.
    """
    stem = ""
    for word in re.split(r"[._-]+", replace_symbols(text.casefold())):
        longer = f"{stem}-{word}".lstrip("-")
        if len(longer) > MAX_STEM_CHARS:
            break
        stem = longer
    return safe_stem(stem or text.casefold()[:MAX_STEM_CHARS])


def rename_images(result: StudioResult, classification: Classification) -> StudioResult:
    """Name images that have a default name after the title of the brief, or its first words."""
    stem = stem_of(classification.text or classification.brief)

    def new_name(name: str) -> str:
        return stem + name.removeprefix("main") if _DEFAULT_NAME.fullmatch(name) else name

    images = []
    for image in result.items:
        name, old_name = new_name(image.name), image.name
        derivatives = (
            replace(
                derivative,
                filename=f"{name}{derivative.filename.removeprefix(old_name)}"
                if derivative.filename.startswith(f"{old_name}-")
                else derivative.filename,
            )
            for derivative in image.derivatives
        )
        images.append(replace(image, name=name, derivatives=tuple(derivatives)))
    for error in result.errors:
        if "image" in error.details:
            error.details["image"] = new_name(str(error.details["image"]))
    return replace(result, items=tuple(images))


def save(result: StudioResult, folder: Path) -> list[Path]:
    """Write all files or none.

    If another program has created files of these names in `folder` meanwhile, a new folder next
    to it is used.

    Returns:
        The written files.
    """
    contents = {name: image.data for name, image in result.files.items()}
    sheet, name = _contact_sheet(result), CONTACT_SHEET
    while name in contents:
        name = f"all-{name}"
    manifest = {
        **result.to_dict(),
        "contact_sheet": {
            "file": name,
            "width": sheet.width,
            "height": sheet.height,
            "sha256": sheet.sha256,
        },
    }
    contents |= {
        name: sheet.data,
        MANIFEST: json.dumps(manifest, ensure_ascii=False, indent=2).encode(),
    }
    try:
        return write_new(folder, contents)
    except FileExistsError:
        return write_new(_free_folder(folder), contents)


def _contact_sheet(result: StudioResult) -> ImagePart:
    return imaging.contact_sheet(
        result.images, [image.name for image in result.items], tile=384, margin=24
    )


def _free_folder(folder: Path) -> Path:
    """Return the folder, or its name with a number, whichever does not exist yet."""
    for number in range(1, MAX_FOLDER_NUMBER):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if not candidate.exists():
            return candidate
    raise FileExistsError(f"no free name for {folder}; remove old folders or use --output")
