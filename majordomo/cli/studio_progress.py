"""A studio's run in a terminal: what is read and planned in lines that stay, and a bar for each image while it is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from majordomo import imagegen, studio
from majordomo.backend_status import Loading, Queued
from majordomo.errors import plain_text


def watched(
    console: Console, workshop: studio.Studio, brief: str, wishes: Mapping[str, Any]
) -> studio.StudioResult:
    """The outcome of the brief, told while it comes about. Raises what the studio raises."""
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[count]}", markup=False), TimeElapsedColumn()
    )  # fmt: skip
    with (
        Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as progress,
        workshop.stream_sync(brief, **wishes) as stream,
    ):
        board = _Board(console, progress)
        for event in stream:
            board.emit(event)
    assert stream.result is not None
    return stream.result


class _Board:
    """Which bar is whose."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._first = progress.add_task("reading the brief", total=None, count="")
        self._bars: dict[str, TaskID] = {}

    def emit(self, event: studio.StudioEvent) -> None:
        match event:
            case studio.Classified(read):
                self._say(_read(read))
                self._progress.update(self._first, description="writing the prompts")
            case studio.PlanReady(plan):
                self._planned(plan)
            case studio.ImageProgress(name, Queued() as event_):
                self._show(
                    name, "queued" + (f", number {event_.position}" if event_.position else "")
                )
            case studio.ImageProgress(name, Loading()):
                self._show(name, "the model loads")
            case studio.ImageProgress(name, imagegen.Step() as step):
                self._show(
                    name,
                    "drawing",
                    completed=step.step,
                    total=step.total,
                    count=f"{step.step}/{step.total}",
                )
            case studio.ImageFinished(picture):
                self._show(picture.name, "making copies", completed=1, total=1, count="")
            case studio.DerivativeReady(name, derived):
                self._show(name, f"{derived.name} ready")
            case studio.ImageFailed(name, error):
                self._show(name, f"failed at {error.details.get('stage', 'work')}")
            case _:
                pass

    def _planned(self, plan: studio.Plan) -> None:
        self._say(f"prompts by {plan.answered_by}" + (" (asked before)" if plan.cached else ""))
        for prompt in plan.prompts:
            self._say(f"  {plain_text(prompt.name)}: {plain_text(prompt.prompt, 300)}")
        self._progress.remove_task(self._first)
        for prompt in plan.variants:
            self._bars[prompt.name] = self._progress.add_task(
                f"{plain_text(prompt.name)}: waiting", total=None, count=""
            )

    def _show(self, name: str, what: str, **state: Any) -> None:
        if (bar := self._bars.get(name)) is not None:
            self._progress.update(bar, description=f"{plain_text(name)}: {what}", **state)

    def _say(self, line: str) -> None:
        self._console.print(line, style="dim", markup=False)


def _read(read: studio.Classification) -> str:
    told = [
        *filter(
            None,
            (
                read.medium,
                read.subject,
                read.style,
                read.mood,
                read.size or read.aspect or read.orientation,
            ),
        )
    ]
    if read.count:
        told.append(f"{read.count} images")
    if read.text:
        told.append(f'with the words "{plain_text(read.text, 200)}"')
    return "read: " + (", ".join(told) or "nothing but the words")
