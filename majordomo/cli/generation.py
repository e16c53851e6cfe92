"""Shared by commands that generate images: model selection, progress, previews, output files."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from majordomo import imagegen
from majordomo.cli.preview import half_blocks
from majordomo.concurrency import portal
from majordomo.errors import CallWarning
from majordomo.media.filenames import name_problem
from majordomo.media.image_part import ImagePart
from majordomo.options import SAFE_SEED_LIMIT
from majordomo.routing.config import load
from majordomo.routing.resolve import VARIABLES, default

FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".png": ""}
PREVIEWS = 8
MAX_PREVIEW_COLUMNS = 48
IMAGE_MODEL_HELP = (
    "Image model; by default MAJORDOMO_IMAGE_MODEL, else the configured default, else offline."
)
CHAT_MODEL_HELP = (
    "Chat model; by default MAJORDOMO_CHAT_MODEL, else the configured default, else offline."
)


def plain_console() -> Console:
    """Return a console that prints text as it is: no highlighting, wrapping or emoji codes."""
    return Console(highlight=False, soft_wrap=True, emoji=False)


def select_model(model: str | None, kind: str) -> tuple[str | None, str]:
    """Select the model for a command.

    Args:
        model: The value of the option, if any.
        kind: "chat" or "image".

    Returns:
        The model string, None for the default of a variable or the configuration file, and a note
        about where it comes from.
    """
    if model:
        return model, ""
    if (configured := default(load(), kind)) is not None:
        return None, f" (from {configured[1]})"
    return "offline", f" (no --model and no {VARIABLES[kind]})"


@contextmanager
def closing(model: Any) -> Iterator[None]:
    """Close the model at the end of the block."""
    try:
        yield
    finally:
        portal.run(model.aclose)


def preview_count(console: Console) -> int:
    """Return how many previews to request: none if the terminal cannot show them."""
    return PREVIEWS if console.is_terminal and console.color_system == "truecolor" else 0


def seed_or_random(seed: int | None) -> int:
    """Return the seed, or a random one of 31 bits, which every backend accepts.

    Choosing it here makes it possible to print it.
    """
    return seed if seed is not None else secrets.randbelow(SAFE_SEED_LIMIT)


def generate_and_save(
    console: Console,
    image_model: imagegen.Model,
    request: imagegen.Request,
    source: str,
    paths: Sequence[Path],
    stem: str,
    force: bool,
) -> imagegen.Result:
    """Generate images, write them, and print where they are.

    Args:
        console: Where to print.
        image_model: The model.
        request: The request.
        source: Note about where the choice of the model comes from.
        paths: Output files. Further images get a free name that starts with `stem` in the
            current folder.
        stem: Start of the names of files without a path.
        force: Overwrite existing files.
    """
    console.print(
        f"drawing with {image_model.provider}/{image_model.id}{source}, seed {request.seed}",
        style="dim",
        markup=False,
    )
    result = generate_with_progress(console, image_model, request)
    for index, image in enumerate(result.images):
        written = _write(image, paths[index] if index < len(paths) else None, stem, force)
        seed = result.details[index].seed
        console.print(
            f"{written}  {image.width}x{image.height}, "
            f"seed {seed if seed is not None else 'unknown'}",
            markup=False,
        )
    print_warnings(console, [warning for warning in result.warnings if warning.field != "previews"])
    if isinstance(result.raw, dict) and result.raw.get("neural_network") is False:
        console.print(str(result.raw.get("note", "")), style="dim", markup=False)
    return result


def _write(image: ImagePart, path: Path | None, stem: str, force: bool) -> Path:
    if path is not None:
        return image.save(path, overwrite=force)
    return image.save_in(".", stem or "image")


def generate_with_progress(
    console: Console, image_model: imagegen.Model, request: imagegen.Request
) -> imagegen.Result:
    """Generate images behind a progress bar, with previews if the terminal can show them."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=console,
    )
    task: TaskID = progress.add_task("waiting", total=None, count="")
    with (
        image_model.stream_sync(request) as stream,
        Live(progress, console=console, transient=True, refresh_per_second=8) as live,
    ):
        for event in stream:
            match event:
                case imagegen.Step():
                    progress.update(
                        task,
                        description="drawing",
                        completed=event.step,
                        total=event.total,
                        count=f"{event.step}/{event.total}",
                    )
                case imagegen.Queued():
                    position = f", position {event.position}" if event.position else ""
                    progress.update(task, description=f"queued{position}")
                case imagegen.Loading():
                    progress.update(task, description="loading the model")
                case imagegen.Preview():
                    columns = min(console.width, MAX_PREVIEW_COLUMNS)
                    live.update(Group(progress, half_blocks(event.image, columns)))
                case _:
                    pass
    return stream.result


def output_paths(output: Path | None, count: int, force: bool) -> list[Path]:
    """Return the output files for `count` images; none without `output`.

    Raises:
        typer.BadParameter: The suffix is unknown, the name is not valid on every system, the
            folder does not exist, or a file exists and `force` is false. This is checked before
            anything is generated.
    """
    if output is None:
        return []
    if output.suffix and output.suffix.lower() not in FORMATS:
        raise typer.BadParameter(
            f"suffix must be one of {', '.join(FORMATS)}; got {output.suffix}",
            param_hint="--output",
        )
    if problem := name_problem(output.name):
        raise typer.BadParameter(
            f"{output.name} is not a valid file name: {problem}", param_hint="--output"
        )
    if not output.parent.is_dir():
        raise typer.BadParameter(f"folder {output.parent} does not exist", param_hint="--output")
    paths = [
        output if number == 1 else output.with_name(f"{output.stem}-{number}{output.suffix}")
        for number in range(1, count + 1)
    ]
    if not force and (existing := [path for path in paths if path.exists()]):
        raise typer.BadParameter(
            f"{existing[0]} exists; use --force to overwrite it", param_hint="--output"
        )
    return paths


def print_warnings(console: Console, warnings: Sequence[CallWarning]) -> None:
    """Print one line for each warning."""
    for warning in warnings:
        console.print(f"warning: {warning.message}", style="yellow", markup=False)
