"""`majordomo process`: one recipe for many files."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import anyio
import anyio.to_thread
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from majordomo import imaging
from majordomo.cli.generation import plain_console, print_warnings
from majordomo.cli.messages import format_bytes, print_failure
from majordomo.concurrency import portal
from majordomo.concurrency.worker_threads import MAX_WORKERS
from majordomo.errors import CallWarning, InvalidRequestError, MajordomoError
from majordomo.imaging import Recipe
from majordomo.media.filenames import SUFFIXES, safe_stem
from majordomo.media.image_part import ImagePart
from majordomo.studio.errors import with_stage
from majordomo.studio.files import write_new

MOST_NAMES = 100_000


@dataclass(frozen=True, slots=True)
class Made:
    """A file that was written, or why it was not."""

    source: Path
    written: Path | None = None
    size: str = ""
    before: int = 0  # bytes
    after: int = 0
    notes: tuple[CallWarning, ...] = ()
    error: MajordomoError | None = None


def process(
    files: Annotated[
        list[str], typer.Argument(help="Image files, or patterns in quotes: 'photos/**/*.jpg'.")
    ],
    recipe: Annotated[
        str,
        typer.Option(help="Steps with commas between: resize=1024,convert=webp:quality=80,strip."),
    ] = "",
    recipe_file: Annotated[
        Path | None,
        typer.Option(help='A recipe as JSON: {"steps": [{"step": "resize", "width": 1024}]}.'),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder to write to; made when it is missing.")
    ] = Path("processed"),
) -> None:
    """Apply a recipe to many images.

    The originals stay as they are, nothing is overwritten (a name that is taken gets a number), and a file is written whole or not at all.
    A file that fails does not stop the others. Exit status 1 when one failed.
    """
    steps = _recipe(recipe, recipe_file)
    sources = _sources(files)
    if output.exists() and not output.is_dir():
        raise typer.BadParameter(f"{output} is no folder", param_hint="--output")
    console = plain_console()
    made = _watched(console, sources, steps, output)
    for one in made:
        _emit(console, one)
    done = [one for one in made if one.error is None]
    before, after = sum(one.before for one in done), sum(one.after for one in done)
    failed = f", {len(made) - len(done)} failed" if len(done) < len(made) else ""
    sizes = f", {format_bytes(before)} -> {format_bytes(after)}" if done else ""
    console.print(f"{len(done)} of {len(made)} written{failed}{sizes}", style="bold")
    if failed:
        raise typer.Exit(1)


def _recipe(line: str, file: Path | None) -> Recipe:
    if bool(line) == (file is not None):
        raise typer.BadParameter(
            "one of --recipe and --recipe-file says what to do", param_hint="--recipe"
        )
    try:
        if file is None:
            return Recipe.parse(line)
        return Recipe.from_dict(json.loads(file.read_bytes()))
    except InvalidRequestError as error:
        where = f"{error.field}: " if error.field else ""
        raise typer.BadParameter(
            f"{where}{error.message}", param_hint="--recipe-file" if file else "--recipe"
        ) from None
    except (ValueError, RecursionError):
        raise typer.BadParameter(f"{file} is no JSON", param_hint="--recipe-file") from None
    except OSError as error:
        raise typer.BadParameter(
            f"{file}: {error.strerror or error}", param_hint="--recipe-file"
        ) from None


def _sources(given: Sequence[str]) -> list[Path]:
    """The files, each once, in the order given; what a pattern finds in the order of names."""
    found: dict[Path, Path] = {}
    for name in given:
        paths = [Path(name)]
        if not paths[0].exists() and glob.has_magic(name):
            paths = [
                path
                for path in map(Path, sorted(glob.glob(name, recursive=True)))
                if path.is_file()
            ]
            if not paths:
                raise typer.BadParameter(f"no file is like {name}", param_hint="FILES")
        for path in paths:
            if path.is_dir():
                raise typer.BadParameter(
                    f"{path} is a folder; '{path}/*' is what is in it", param_hint="FILES"
                )
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _watched(console: Console, sources: Sequence[Path], recipe: Recipe, folder: Path) -> list[Made]:
    """All of them, as many at once as there are processors, with a bar."""
    made: dict[int, Made] = {}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("processing", total=len(sources))

        async def work() -> None:
            places = anyio.Semaphore(MAX_WORKERS)  # each holds a whole image

            async def one(at: int, source: Path) -> None:
                async with places:
                    progress.update(task, description=source.name)
                    made[at] = await _processed(source, recipe, folder)
                    progress.advance(task)

            async with anyio.create_task_group() as group:
                for at, source in enumerate(sources):
                    group.start_soon(one, at, source)

        portal.run(work)
    return [made[at] for at in range(len(sources))]


async def _processed(source: Path, recipe: Recipe, folder: Path) -> Made:
    try:
        image = ImagePart(await anyio.Path(source).read_bytes())
    except OSError as error:
        return Made(source, error=_unreadable(error))
    except MajordomoError as error:
        return Made(source, error=with_stage(error, "finish"))
    try:
        applied = await imaging.apply_async_with_notes(image, recipe)
    except Exception as error:
        return Made(source, error=with_stage(error, "finish"))
    made = applied.image
    try:
        written = await anyio.to_thread.run_sync(_write, made, folder, source.stem)
    except Exception as error:
        return Made(source, error=with_stage(error, "store", str(folder)))
    return Made(
        source,
        written,
        f"{made.width}x{made.height}",
        len(image.data),
        len(made.data),
        applied.notes,
    )


def _unreadable(error: OSError) -> MajordomoError:
    told = InvalidRequestError(
        error.strerror or type(error).__name__, field="file", code="FILE_UNREADABLE"
    )
    told.details["help"] = "see whether the file is there and may be read"
    return told


def _write(image: ImagePart, folder: Path, stem: str) -> Path:
    """Whole or not at all, under the name of the original, with a number where it is taken."""
    stem, suffix = safe_stem(stem), SUFFIXES[image.mime]
    for number in range(1, MOST_NAMES):
        name = f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}"
        with suppress(FileExistsError):
            return write_new(folder, {name: image.data})[0]
    raise FileExistsError(f"no free name for {stem}{suffix}")


def _emit(console: Console, made: Made) -> None:
    if made.error is not None:
        print_failure(console, str(made.source), made.error)
        return
    change = f"{format_bytes(made.before)} -> {format_bytes(made.after)}"
    console.print(f"{made.source} -> {made.written}  {made.size}, {change}", markup=False)
    print_warnings(console, made.notes)
