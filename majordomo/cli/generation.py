"""What drawing commands share: which model is meant, the bar and preview while it draws, where the images go."""

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
from majordomo.media.image_part import ImagePart
from majordomo.options import SAFE_SEEDS
from majordomo.routing.config import load
from majordomo.routing.resolve import VARIABLES, default

FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".png": ""}


def plain_console() -> Console:
    """Words as they are: nothing colored by itself, nothing wrapped, no ":cat:" made an image."""
    return Console(highlight=False, soft_wrap=True, emoji=False)


def model_from_string(given: str | None, kind: str) -> tuple[str | None, str]:
    """The model string to use, None for the default of a variable or the configuration, and where it came from."""
    if given:
        return given, ""
    if (found := default(load(), kind)) is not None:
        return None, f" (from {found[1]})"
    return "offline", f" (no --model and no {VARIABLES[kind]})"


@contextmanager
def closing(model: Any) -> Iterator[None]:
    try:
        yield
    finally:
        portal.run(model.aclose)


def read_images(shown: Console) -> int:
    """How many unfinished images are worth asking for."""
    return 8 if shown.is_terminal and shown.color_system == "truecolor" else 0


def with_seed_option(seed: int | None) -> int:
    """A seed that can be told; 31 bits, which every backend takes."""
    return seed if seed is not None else secrets.randbelow(SAFE_SEEDS)


def generate_and_save(
    shown: Console,
    image_model: imagegen.Model,
    request: imagegen.Request,
    why: str,
    places: Sequence[Path],
    stem: str,
    force: bool,
) -> imagegen.Result:
    """The result, drawn and written: to `places`, or under a free name like `stem` in this folder."""
    shown.print(
        f"drawing with {image_model.provider}/{image_model.id}{why}, seed {request.seed}",
        style="dim",
        markup=False,
    )
    result = generate_with_progress(shown, image_model, request)
    for index, drawn in enumerate(result.images):
        written = _write(drawn, places[index] if index < len(places) else None, stem, force)
        told = result.details[index].seed
        shown.print(
            f"{written}  {drawn.width}x{drawn.height}, seed {told if told is not None else 'unknown'}",
            markup=False,
        )
    print_warnings(shown, [warning for warning in result.warnings if warning.field != "previews"])
    if isinstance(result.raw, dict) and result.raw.get("neural_network") is False:
        shown.print(str(result.raw.get("note", "")), style="dim", markup=False)
    return result


def _write(image: ImagePart, target: Path | None, stem: str, force: bool) -> Path:
    if target is not None:
        return image.save(target, overwrite=force)
    return image.save_in(".", stem or "image")


def generate_with_progress(
    shown: Console, image_model: imagegen.Model, request: imagegen.Request
) -> imagegen.Result:
    """The result, with a bar while it is drawn and a preview where the terminal shows colors."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=shown,
    )
    task: TaskID = progress.add_task("waiting", total=None, count="")
    with (
        image_model.stream_sync(request) as stream,
        Live(progress, console=shown, transient=True, refresh_per_second=8) as live,
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
                    progress.update(
                        task,
                        description="queued"
                        + (f", number {event.position}" if event.position else ""),
                    )
                case imagegen.Loading():
                    progress.update(task, description="the model loads")
                case imagegen.Preview():
                    live.update(Group(progress, half_blocks(event.image, min(shown.width, 48))))
                case _:
                    pass
    assert stream.result is not None
    return stream.result


def targets(output: Path | None, count: int, force: bool) -> list[Path]:
    """Where the images go; said before drawing when a file is in the way."""
    if output is None:
        return []
    if output.suffix and output.suffix.lower() not in FORMATS:
        raise typer.BadParameter(
            f"the suffix is one of {', '.join(FORMATS)}", param_hint="--output"
        )
    if not output.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.parent}", param_hint="--output")
    names = [
        output if number == 1 else output.with_name(f"{output.stem}-{number}{output.suffix}")
        for number in range(1, count + 1)
    ]
    if not force and (taken := [name for name in names if name.exists()]):
        raise typer.BadParameter(
            f"{taken[0]} exists; use --force to overwrite it", param_hint="--output"
        )
    return names


def print_warnings(shown: Console, warnings: Sequence[CallWarning]) -> None:
    for warning in warnings:
        shown.print(f"warning: {warning.message}", style="yellow", markup=False)
