"""`majordomo info`: what an image file says about itself."""

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

_TURNED = {
    2: "mirrored", 3: "turned by 180 degrees", 4: "upside down, mirrored", 5: "turned and mirrored", 6: "turned by 90 degrees",
    7: "turned and mirrored", 8: "turned by 270 degrees",
}  # fmt: skip


def info(
    files: Annotated[list[Path], typer.Argument(help="Image files.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a list with one object per file.")
    ] = False,
) -> None:
    """Show kind, size, bytes, and what an image was made with. Nothing is decoded.

    Exit status 1 when a file is no image or cannot be read.
    """
    told = [_told(path) for path in files]
    if as_json:
        typer.echo(json.dumps(told, indent=2))
    else:
        console = plain_console()
        for one in told:
            _show(console, one)
    if any("error" in one for one in told):
        raise typer.Exit(1)


def _told(path: Path) -> dict[str, Any]:
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
        "parameters": {name: _plain(value) for name, value in image.parameters.items()},
    }


def _plain(value: Any) -> Any:
    """JSON has no number that is none, and a stranger's text may say "CFG scale: nan"."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _show(console: Console, told: dict[str, Any]) -> None:
    if "error" in told:
        console.print(
            f"{plain_text(told['file'])}: {told['error']} ({told['code']})",
            style="red",
            markup=False,
        )
        return
    kind = told["mime"].removeprefix("image/").upper()
    turned = f", {_TURNED[told['orientation']]}" if told["orientation"] in _TURNED else ""
    console.print(
        f"{plain_text(told['file'])}: {kind}, {told['width']}x{told['height']}, {told['bytes']:,} bytes{turned}",
        markup=False,
    )
    for name, value in told[
        "parameters"
    ].items():  # whoever saved the file wrote these: no control characters
        console.print(f"  {plain_text(name)}: {plain_text(str(value))}", style="dim", markup=False)
