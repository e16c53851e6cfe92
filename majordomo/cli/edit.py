"""`majordomo edit`: a picture drawn anew after a prompt, whole or where a mask is white."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from majordomo import imagegen
from majordomo.cli.generation import FORMATS, closing, delivered, named, pictures, plain_console, seeded, targets
from majordomo.media.image_part import ImagePart, safe_stem
from majordomo.routing import registry


def edit(
    picture: Annotated[Path, typer.Argument(help="The picture to begin with; it stays as it is.")],
    prompt: Annotated[str, typer.Argument(help="What it should show.")],
    mask: Annotated[Path | None, typer.Option(help="Greyscale, white = repaint: only there the picture changes.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much of the picture may change, 0 to 1.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model string; else MAJORDOMO_IMAGE_MODEL, else the configured default, else offline.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write; the suffix chooses the format.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed; random when not given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
) -> None:
    """Change a picture: all of it, or the part that a mask marks.

    Without -o the new picture gets a free name in this folder, such as PICTURE-edited.png.
    """
    console = plain_console()
    places = targets(output, 1, force)
    for given in (picture, mask):
        if output is not None and given is not None and output.resolve() == given.resolve():
            raise typer.BadParameter(f"{given} is what is read, and stays as it is: name another file", param_hint="--output")
    request = imagegen.Request(
        prompt,
        steps=steps,
        negative_prompt=negative,
        images=(ImagePart.from_file(picture),),
        mask=ImagePart.from_file(mask) if mask else None,
        strength=strength,
        seed=seeded(seed),
        output_format=FORMATS.get(output.suffix.lower(), "") if output else "",
        previews=pictures(console),
    )
    name, why = named(model, "image")
    painter = registry.image_model(name)
    with closing(painter):
        delivered(console, painter, request, why, places, f"{safe_stem(picture.stem)}-edited", force)
