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
from majordomo.cli.output_dir import nearest_folder
from majordomo.concurrency import portal
from majordomo.concurrency.worker_threads import MAX_WORKERS
from majordomo.errors import CallWarning, InvalidRequestError, MajordomoError
from majordomo.imaging import Recipe
from majordomo.media.filenames import SUFFIXES, safe_stem
from majordomo.media.image_part import ImagePart
from majordomo.studio.errors import with_stage
from majordomo.studio.files import write_new

MAX_FILE_NUMBER = 100_000


@dataclass(frozen=True, slots=True)
class ProcessedFile:
    """The outcome for one input file."""

    source: Path
    """The input file."""
    written: Path | None = None
    """The output file; None on failure."""
    size: str = ""
    """Size of the output, as "WIDTHxHEIGHT" in pixels."""
    bytes_before: int = 0
    """Bytes of the input file."""
    bytes_after: int = 0
    """Bytes of the output file."""
    notes: tuple[CallWarning, ...] = ()
    """Warnings of the recipe."""
    error: MajordomoError | None = None
    """Why no file was written."""


def process(
    files: Annotated[
        list[str],
        typer.Argument(help="Image files, or patterns in quotes such as 'photos/**/*.jpg'."),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            help="Steps separated by commas, such as resize=1024,convert=webp:quality=80,strip."
        ),
    ] = "",
    recipe_file: Annotated[
        Path | None,
        typer.Option(help='Recipe as a JSON file: {"steps": [{"step": "resize", "width": 1024}]}.'),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Output folder; created if it does not exist.")
    ] = Path("processed"),
) -> None:
    """Apply a recipe to many images.

    The input files are not changed and no file is overwritten: a name that exists gets a number.
    Each file is written completely or not at all. A failed file does not stop the others; the
    exit status is then 1.
    """
    steps = _read_recipe(recipe, recipe_file)
    sources = _expand_files(files)
    nearest_folder(output)
    console = plain_console()
    results = _process_all(console, sources, steps, output)
    for result in results:
        _print_result(console, result)
    done = [result for result in results if result.error is None]
    bytes_before = sum(result.bytes_before for result in done)
    bytes_after = sum(result.bytes_after for result in done)
    failed = f", {len(results) - len(done)} failed" if len(done) < len(results) else ""
    sizes = f", {format_bytes(bytes_before)} -> {format_bytes(bytes_after)}" if done else ""
    console.print(f"{len(done)} of {len(results)} written{failed}{sizes}", style="bold")
    if failed:
        raise typer.Exit(1)


def _read_recipe(text: str, file: Path | None) -> Recipe:
    if bool(text) == (file is not None):
        raise typer.BadParameter(
            "exactly one of --recipe and --recipe-file is required", param_hint="--recipe"
        )
    try:
        if file is None:
            return Recipe.parse(text)
        return Recipe.from_dict(json.loads(file.read_bytes()))
    except InvalidRequestError as error:
        field = f"{error.field}: " if error.field else ""
        raise typer.BadParameter(
            f"{field}{error.message}", param_hint="--recipe-file" if file else "--recipe"
        ) from None
    except (ValueError, RecursionError):
        raise typer.BadParameter(f"{file} is not valid JSON", param_hint="--recipe-file") from None
    except OSError as error:
        raise typer.BadParameter(
            f"{file}: {error.strerror or error}", param_hint="--recipe-file"
        ) from None


def _expand_files(names: Sequence[str]) -> list[Path]:
    """Return the files, without duplicates, in their order; matches of a pattern are sorted."""
    paths_by_target: dict[Path, Path] = {}
    for name in names:
        paths = [Path(name)]
        if not paths[0].exists() and glob.has_magic(name):
            paths = [
                path
                for path in map(Path, sorted(glob.glob(name, recursive=True)))
                if path.is_file()
            ]
            if not paths:
                raise typer.BadParameter(f"no file matches {name}", param_hint="FILES")
        for path in paths:
            if path.is_dir():
                raise typer.BadParameter(
                    f"{path} is a folder; use '{path}/*' for the files in it", param_hint="FILES"
                )
            paths_by_target.setdefault(path.resolve(), path)
    return list(paths_by_target.values())


def _process_all(
    console: Console, sources: Sequence[Path], recipe: Recipe, folder: Path
) -> list[ProcessedFile]:
    """Process the files behind a progress bar, one per worker thread at a time."""
    results: dict[int, ProcessedFile] = {}
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

        async def run() -> None:
            # Each file in progress keeps an entire image in memory.
            semaphore = anyio.Semaphore(MAX_WORKERS)

            async def process_one(index: int, source: Path) -> None:
                async with semaphore:
                    progress.update(task, description=source.name)
                    results[index] = await _process_file(source, recipe, folder)
                    progress.advance(task)

            async with anyio.create_task_group() as group:
                for index, source in enumerate(sources):
                    group.start_soon(process_one, index, source)

        portal.run(run)
    return [results[index] for index in range(len(sources))]


async def _process_file(source: Path, recipe: Recipe, folder: Path) -> ProcessedFile:
    try:
        image = ImagePart(await anyio.Path(source).read_bytes())
    except OSError as error:
        return ProcessedFile(source, error=_unreadable(error))
    except MajordomoError as error:
        return ProcessedFile(source, error=with_stage(error, "finish"))
    try:
        applied = await imaging.apply_async_with_notes(image, recipe)
    except Exception as error:
        return ProcessedFile(source, error=with_stage(error, "finish"))
    output = applied.image
    try:
        written = await anyio.to_thread.run_sync(_write, output, folder, source.stem)
    except Exception as error:
        return ProcessedFile(source, error=with_stage(error, "store", str(folder)))
    return ProcessedFile(
        source,
        written,
        f"{output.width}x{output.height}",
        len(image.data),
        len(output.data),
        applied.notes,
    )


def _unreadable(error: OSError) -> MajordomoError:
    result = InvalidRequestError(
        error.strerror or type(error).__name__, field="file", code="FILE_UNREADABLE"
    )
    result.details["help"] = "check that the file exists and can be read"
    return result


def _write(image: ImagePart, folder: Path, stem: str) -> Path:
    """Write an image completely or not at all, under a free name that starts with `stem`."""
    stem, suffix = safe_stem(stem), SUFFIXES[image.mime]
    for number in range(1, MAX_FILE_NUMBER):
        name = f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}"
        with suppress(FileExistsError):
            return write_new(folder, {name: image.data})[0]
    raise FileExistsError(f"no free name for {stem}{suffix}")


def _print_result(console: Console, result: ProcessedFile) -> None:
    if result.error is not None:
        print_failure(console, str(result.source), result.error)
        return
    change = f"{format_bytes(result.bytes_before)} -> {format_bytes(result.bytes_after)}"
    console.print(f"{result.source} -> {result.written}  {result.size}, {change}", markup=False)
    print_warnings(console, result.notes)
