"""`majordomo imagine`: from a brief to a folder of finished files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from majordomo import imagegen, llm
from majordomo.cli import output_dir
from majordomo.cli.generation import (
    IMAGE_MODEL_HELP,
    closing,
    plain_console,
    print_warnings,
    seed_or_random,
    select_model,
)
from majordomo.cli.messages import print_failure
from majordomo.cli.studio_progress import run_with_progress
from majordomo.errors import CallWarning, InvalidRequestError, MajordomoError
from majordomo.imagegen.geometry import Geometry
from majordomo.imaging import STANDARD_SET, Recipe, Text
from majordomo.imaging.operations import Step
from majordomo.routing import registry
from majordomo.studio import Classification, Studio, StudioResult, classify
from majordomo.studio.errors import error_from_dict

# The images themselves are written as well, so no derivative needs to be the original.
DERIVATIVES = tuple(derivative for derivative in STANDARD_SET if derivative.name != "original")
_ASPECTS = {"portrait": "2:3", "landscape": "3:2", "square": "1:1"}
# One megapixel. The offline renderer's own default, a quarter of that, is small for a final image.
_OFFLINE_GEOMETRY = Geometry(multiple=8)


def imagine(
    brief: Annotated[
        str,
        typer.Argument(
            help="What you want, in a sentence: subject, style, shape, number of images, title."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Output folder, new or empty; by default a new folder named after the brief.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help=IMAGE_MODEL_HELP)] = None,
    chat_model: Annotated[
        str | None,
        typer.Option(
            help="Chat model that writes the prompts; by default MAJORDOMO_CHAT_MODEL, else the "
            "configured default, else rules."
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", "--n", help="Number of images; by default as the brief says.", min=1, max=16
        ),
    ] = None,
    size: Annotated[
        str, typer.Option(help="WIDTHxHEIGHT in pixels; by default as the brief says.")
    ] = "",
    aspect: Annotated[str, typer.Option(help="Aspect ratio instead of a size, such as 16:9.")] = "",
    steps: Annotated[int | None, typer.Option(help="Number of denoising steps, 1 to 1000.")] = None,
    cfg: Annotated[float | None, typer.Option(help="Guidance scale (CFG), 0 to 1000.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first image; random by default.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Operations on each image, such as resize=1024,strip.")
    ] = "",
    watermark: Annotated[str, typer.Option(help="Small text for a corner of each image.")] = "",
    drawn_text: Annotated[
        bool,
        typer.Option(
            "--drawn-text",
            help="Let the model draw a title; by default it is written over the image.",
        ),
    ] = False,
) -> None:
    """Turn a brief into finished files: images, web copies, thumbnails and a contact sheet.

    The folder also gets manifest.json with the prompts, seeds and errors. The exit status is 1 if
    no image could be generated; if some could, the others are reported.
    """
    console = plain_console()
    if size and aspect:
        raise typer.BadParameter(
            "--size already determines the aspect ratio; use one of them", param_hint="--aspect"
        )
    image_recipe = _parse_recipe(recipe)
    folder = output_dir.choose_folder(output, brief)
    classification = classify(brief)
    image_model_string, image_source = select_model(model, "image")
    chat_model_string, chat_source = select_model(chat_model, "chat")
    image_model = registry.image_model(image_model_string)
    # Without a configured chat model, rules write better prompts than the offline chat would.
    writer = registry.model(chat_model_string) if chat_model or chat_model_string is None else None
    with closing(image_model), closing(writer) if writer is not None else nullcontext():
        _print_models(console, image_model, image_source, writer, chat_source)
        studio = Studio(
            image_model,
            writer,
            recipe=image_recipe,
            derivatives=DERIVATIVES,
            overlay=False if drawn_text else title,
            watermark=watermark or None,
        )
        size = size or _offline_size(image_model, classification, aspect)
        overrides: dict[str, Any] = {
            "size": size,
            "aspect": "" if size else aspect,
            "n": n,
            "steps": steps,
            "cfg_scale": cfg,
            "seed": seed_or_random(seed),
        }
        try:
            result = run_with_progress(
                console,
                studio,
                brief,
                {name: value for name, value in overrides.items() if value not in (None, "")},
            )
        except MajordomoError as error:
            for failure in error.details.pop("failures", ()):
                image_name = str(failure["details"].get("image", ""))
                print_failure(console, image_name, error_from_dict(failure))
            raise
    _save(
        console,
        output_dir.rename_images(result, classification),
        folder,
        ignored_fields=("previews", "seed") if seed is None else ("previews",),
    )


def title(text: str) -> Step:
    """Return the step that writes a title as on a poster.

    The shorter the text, the larger it is. It is low on the image and clear of the edge.
    """
    longest_line = max(len(line) for line in text.splitlines())
    size = min(0.2, max(0.09, 1.27 / max(longest_line, 1)))
    return Text(text, anchor="bottom", size=size, margin=0.08, outline=0.03)


def _parse_recipe(text: str) -> Recipe | None:
    try:
        return Recipe.parse(text) if text else None
    except InvalidRequestError as error:
        raise typer.BadParameter(error.message, param_hint="--recipe") from None


def _print_models(
    console: Console,
    image_model: imagegen.Model,
    image_source: str,
    writer: llm.Model | None,
    chat_source: str,
) -> None:
    prompts_by = (
        f"{writer.provider}/{writer.id}{chat_source}"
        if writer is not None
        else "rules (no --chat-model and no configured chat model)"
    )
    console.print(
        f"drawing with {image_model.provider}/{image_model.id}{image_source}, "
        f"prompts by {prompts_by}",
        style="dim",
        markup=False,
    )


def _offline_size(image_model: imagegen.Model, classification: Classification, aspect: str) -> str:
    """Return a size for the offline renderer if the user gave none; "" for other models."""
    ratio = aspect or classification.aspect or _ASPECTS.get(classification.orientation, "1:1")
    sides = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", ratio)
    if image_model.provider != "offline" or classification.size or sides is None:
        return ""
    width, height = _OFFLINE_GEOMETRY.resolve(int(sides[1]) / int(sides[2]), None)
    return f"{width}x{height}"


def _save(
    console: Console, result: StudioResult, folder: Path, ignored_fields: tuple[str, ...]
) -> None:
    """Write the files, and print errors, warnings and the names of the files."""
    written = output_dir.save(result, folder)
    for error in result.errors:
        print_failure(console, str(error.details.get("image", "")), error)
    print_warnings(console, _unique_warnings(result.warnings, ignored_fields))
    if any(image.provider == "offline" for image in result.items):
        console.print("drawn by rules on this machine; no neural network drew this", style="dim")
    for path in written:
        console.print(str(path), markup=False)
    count = len(result.items)
    failed = f", {len(result.errors)} failed" if result.errors else ""
    console.print(
        f"{count} image{'s' if count != 1 else ''} in {written[0].parent}{failed}",
        style="bold",
        markup=False,
    )


def _unique_warnings(
    warnings: Sequence[CallWarning], ignored_fields: tuple[str, ...]
) -> list[CallWarning]:
    """Remove duplicate warnings, and those about fields that the user did not set."""
    return list(
        {
            (warning.code, warning.message): warning
            for warning in warnings
            if warning.field not in ignored_fields
        }.values()
    )
