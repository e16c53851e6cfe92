"""`majordomo info`: the header and the generation parameters of image files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from majordomo.cli.generation import plain_console
from majordomo.errors import MajordomoError, plain_text
from majordomo.media.image_header import read_orientation
from majordomo.media.image_part import ImagePart

# EXIF orientation to text; 1 is upright.
_ORIENTATIONS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "upside down, mirrored",
    5: "turned and mirrored",
    6: "turned by 90 degrees",
    7: "turned and mirrored",
    8: "turned by 270 degrees",
}


def info(
    files: Annotated[list[Path], typer.Argument(help="Image files.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a list with one object per file.")
    ] = False,
) -> None:
    """Show format, size and generation parameters of image files, without decoding them.

    The exit status is 1 if a file is not an image or cannot be read.
    """
    reports = [_read(path) for path in files]
    if as_json:
        typer.echo(json.dumps(reports, indent=2))
    else:
        console = plain_console()
        for report in reports:
            _show(console, report)
    if any("error" in report for report in reports):
        raise typer.Exit(1)


def _read(path: Path) -> dict[str, Any]:
    try:
        image = ImagePart.from_file(path)
    except MajordomoError as error:
        return {"file": str(path), **error.to_dict()}
    except OSError as error:
        return {
            "file": str(path),
            "error": error.strerror or type(error).__name__,
            "code": "FILE_UNREADABLE",
            "details": {},
        }
    return {
        "file": str(path),
        "mime": image.mime,
        "width": image.width,
        "height": image.height,
        "bytes": len(image.data),
        "sha256": image.sha256,
        "orientation": read_orientation(image.data),
        "parameters": {name: _json_value(value) for name, value in image.parameters.items()},
    }


def _json_value(value: Any) -> Any:
    """Return infinity and NaN as text: JSON cannot express them, and a file may contain them."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _show(console: Console, report: dict[str, Any]) -> None:
    name = plain_text(report["file"])
    if "error" in report:
        console.print(f"{name}: {report['error']} ({report['code']})", style="red", markup=False)
        return
    image_format = report["mime"].removeprefix("image/").upper()
    orientation = (
        f", {_ORIENTATIONS[report['orientation']]}"
        if report["orientation"] in _ORIENTATIONS
        else ""
    )
    console.print(
        f"{name}: {image_format}, {report['width']}x{report['height']}, "
        f"{report['bytes']:,} bytes{orientation}",
        markup=False,
    )
    # The file is untrusted, so control characters are removed.
    for key, value in report["parameters"].items():
        console.print(f"  {plain_text(key)}: {plain_text(str(value))}", style="dim", markup=False)
