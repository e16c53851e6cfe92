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
from majordomo.cli import output_dir as folders
from majordomo.cli.generation import (
    closing,
    model_from_string,
    plain_console,
    print_warnings,
    with_seed_option,
)
from majordomo.cli.messages import print_failure
from majordomo.cli.studio_progress import watched
from majordomo.errors import CallWarning, InvalidRequestError, MajordomoError
from majordomo.imagegen.geometry import Geometry
from majordomo.imaging import STANDARD_SET, Recipe, Text
from majordomo.imaging.operations import Step
from majordomo.routing import registry
from majordomo.studio import Classification, Studio, StudioResult, classify
from majordomo.studio.errors import error_from_dict

DERIVATIVES = tuple(
    one for one in STANDARD_SET if one.name != "original"
)  # the images themselves are there
_SHAPES = {"portrait": "2:3", "landscape": "3:2", "square": "1:1"}
_OFFLINE = Geometry(
    multiple=8
)  # a megapixel: its own default is a quarter of that, little for an image to keep


def imagine(
    brief: Annotated[
        str,
        typer.Argument(
            help="What is wanted, in a sentence: subject, style, shape, how many, a title."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder to write to, new or empty; else one named after the brief.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Who draws; else MAJORDOMO_IMAGE_MODEL, else the configured default, else offline."
        ),
    ] = None,
    chat: Annotated[
        str | None,
        typer.Option(
            help="Who writes the prompts; else MAJORDOMO_CHAT_MODEL, else the configured default, else rules."
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option("-n", "--n", help="How many images; else as the brief says.", min=1, max=16),
    ] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels; else as the brief says.")] = "",
    aspect: Annotated[str, typer.Option(help="Shape instead of a size: 16:9.")] = "",
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    cfg: Annotated[float | None, typer.Option(help="How strongly the prompt rules.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first image; random when not given.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="What is done to each image: resize=1024,strip.")
    ] = "",
    watermark: Annotated[str, typer.Option(help="A small text in a corner.")] = "",
    drawn_text: Annotated[
        bool,
        typer.Option(
            "--drawn-text", help="Let the model draw a title; else it is written over the image."
        ),
    ] = False,
) -> None:
    """Make finished files of a brief: images, copies for the web, thumbnails, a contact sheet and manifest.json.

    Exit status 1 when nothing came of it. Images that failed beside others are told, and stand in the manifest.
    """
    console = plain_console()
    if size and aspect:
        raise typer.BadParameter("a size says the shape already", param_hint="--aspect")
    steps_after = _recipe(recipe)
    place = folders.chosen(output, brief)
    read = classify(brief)
    name, why = model_from_string(model, "image")
    writer, whence = model_from_string(chat, "chat")
    image_model = registry.image_model(name)
    author = (
        registry.model(writer) if chat or writer is None else None
    )  # nobody was named: rules are better than a clerk that repeats
    with closing(image_model), closing(author) if author is not None else nullcontext():
        _introduce(console, image_model, why, author, whence)
        overlay = False if drawn_text else title
        studio = Studio(
            image_model,
            author,
            recipe=steps_after,
            derivatives=DERIVATIVES,
            overlay=overlay,
            watermark=watermark or None,
        )
        size = size or _sharp(image_model, read, aspect)
        shape = {"size": size, "aspect": "" if size else aspect}
        wishes: dict[str, Any] = {
            **shape,
            "n": n,
            "steps": steps,
            "cfg_scale": cfg,
            "seed": with_seed_option(seed),
        }
        try:
            outcome = watched(
                console,
                studio,
                brief,
                {name: value for name, value in wishes.items() if value not in (None, "")},
            )
        except MajordomoError as error:
            for failure in error.details.pop("failures", ()):
                image_name = str(failure["details"].get("image", ""))
                print_failure(console, image_name, error_from_dict(failure))
            raise
    _deliver(
        console,
        folders.titled(outcome, read),
        place,
        unasked=("previews", "seed") if seed is None else ("previews",),
    )


def title(words: str) -> Step:
    """A title as on a poster: the shorter it is, the larger, low on the image and clear of its edge."""
    longest = max(len(line) for line in words.splitlines())
    size = min(0.2, max(0.09, 1.27 / max(longest, 1)))
    return Text(words, anchor="bottom", size=size, margin=0.08, outline=0.03)


def _recipe(line: str) -> Recipe | None:
    try:
        return Recipe.parse(line) if line else None
    except InvalidRequestError as error:
        raise typer.BadParameter(error.message, param_hint="--recipe") from None


def _introduce(
    console: Console, image_model: imagegen.Model, why: str, author: llm.Model | None, whence: str
) -> None:
    writer = (
        f"{author.provider}/{author.id}{whence}"
        if author is not None
        else "rules (no --chat and no configured chat model)"
    )
    console.print(
        f"drawing with {image_model.provider}/{image_model.id}{why}, prompts by {writer}",
        style="dim",
        markup=False,
    )


def _sharp(image_model: imagegen.Model, read: Classification, aspect: str) -> str:
    """A size for the offline renderer where nobody said one; "" leaves it to the others."""
    shape = aspect or read.aspect or _SHAPES.get(read.orientation, "1:1")
    sides = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", shape)
    if image_model.provider != "offline" or read.size or sides is None:
        return ""
    width, height = _OFFLINE.resolve(int(sides[1]) / int(sides[2]), None)
    return f"{width}x{height}"


def _deliver(
    console: Console, outcome: StudioResult, place: Path, unasked: tuple[str, ...]
) -> None:
    written = folders.save(outcome, place)
    for error in outcome.errors:
        print_failure(console, str(error.details.get("image", "")), error)
    print_warnings(console, _once(outcome.warnings, unasked))
    if any(image.provider == "offline" for image in outcome.items):
        console.print("drawn by rules on this machine: no neural network drew this", style="dim")
    for path in written:
        console.print(str(path), markup=False)
    count = len(outcome.items)
    missing = f", {len(outcome.errors)} failed" if outcome.errors else ""
    console.print(
        f"{count} image{'s' if count != 1 else ''} in {written[0].parent}{missing}",
        style="bold",
        markup=False,
    )


def _once(warnings: Sequence[CallWarning], unasked: tuple[str, ...]) -> list[CallWarning]:
    """Every image may bring the same; and what nobody asked for was not refused."""
    return list(
        {
            (warning.code, warning.message): warning
            for warning in warnings
            if warning.field not in unasked
        }.values()
    )
