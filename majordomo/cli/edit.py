"""`majordomo edit`: an image changed after a prompt, entirely or where a mask is white."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from majordomo import imagegen
from majordomo.cli.generation import (
    FORMATS,
    IMAGE_MODEL_HELP,
    closing,
    generate_and_save,
    output_paths,
    plain_console,
    preview_count,
    seed_or_random,
    select_model,
)
from majordomo.media.filenames import safe_stem
from majordomo.media.image_part import ImagePart
from majordomo.routing import registry


def edit(
    image: Annotated[Path, typer.Argument(help="Input image; the file is not changed.")],
    prompt: Annotated[str, typer.Argument(help="Prompt: what the result should show.")],
    mask: Annotated[
        Path | None,
        typer.Option(help="Grayscale mask; white areas are repainted, black areas stay."),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="How much the input image may change, from 0 (not at all) to 1."),
    ] = None,
    model: Annotated[str | None, typer.Option(help=IMAGE_MODEL_HELP)] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Output file; its suffix selects the format."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of denoising steps, 1 to 1000.")] = None,
    negative: Annotated[str, typer.Option(help="Negative prompt.")] = "",
    seed: Annotated[int | None, typer.Option(help="Seed; random by default.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite output files that exist.")
    ] = False,
) -> None:
    """Change an image, or the part of it that a mask marks.

    Without -o, the result gets a free name in the current folder, such as IMAGE-edited.png. An
    option without a stated default is not sent: the backend's own default applies.
    """
    console = plain_console()
    paths = output_paths(output, 1, force)
    for input_path in (image, mask):
        if (
            output is not None
            and input_path is not None
            and output.resolve() == input_path.resolve()
        ):
            raise typer.BadParameter(
                f"{input_path} is an input and cannot be overwritten; choose another file",
                param_hint="--output",
            )
    request = imagegen.Request(
        prompt,
        steps=steps,
        negative_prompt=negative,
        images=(ImagePart.from_file(image),),
        mask=ImagePart.from_file(mask) if mask else None,
        strength=strength,
        seed=seed_or_random(seed),
        output_format=FORMATS.get(output.suffix.lower(), "") if output else "",
        previews=preview_count(console),
    )
    model_string, source = select_model(model, "image")
    image_model = registry.image_model(model_string)
    with closing(image_model):
        generate_and_save(
            console, image_model, request, source, paths, f"{safe_stem(image.stem)}-edited", force
        )
