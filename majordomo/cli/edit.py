"""`majordomo edit`: an image drawn anew after a prompt, whole or where a mask is white."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from majordomo import imagegen
from majordomo.cli.generation import (
    FORMATS,
    closing,
    generate_and_save,
    model_from_string,
    plain_console,
    read_images,
    targets,
    with_seed_option,
)
from majordomo.media.filenames import safe_stem
from majordomo.media.image_part import ImagePart
from majordomo.routing import registry


def edit(
    image: Annotated[Path, typer.Argument(help="The image to begin with; it stays as it is.")],
    prompt: Annotated[str, typer.Argument(help="What it should show.")],
    mask: Annotated[
        Path | None, typer.Option(help="Grayscale, white = repaint: only there the image changes.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of the image may change, 0 to 1.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model string; else MAJORDOMO_IMAGE_MODEL, else the configured default, else offline."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write; the suffix chooses the format."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    negative: Annotated[str, typer.Option(help="What not to draw.")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed; random when not given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the output file.")] = False,
) -> None:
    """Change an image: all of it, or the part that a mask marks.

    Without -o the new image gets a free name in this folder, such as IMAGE-edited.png.
    """
    console = plain_console()
    places = targets(output, 1, force)
    for given in (image, mask):
        if output is not None and given is not None and output.resolve() == given.resolve():
            raise typer.BadParameter(
                f"{given} is what is read, and stays as it is: name another file",
                param_hint="--output",
            )
    request = imagegen.Request(
        prompt,
        steps=steps,
        negative_prompt=negative,
        images=(ImagePart.from_file(image),),
        mask=ImagePart.from_file(mask) if mask else None,
        strength=strength,
        seed=with_seed_option(seed),
        output_format=FORMATS.get(output.suffix.lower(), "") if output else "",
        previews=read_images(console),
    )
    name, why = model_from_string(model, "image")
    image_model = registry.image_model(name)
    with closing(image_model):
        generate_and_save(
            console, image_model, request, why, places, f"{safe_stem(image.stem)}-edited", force
        )
