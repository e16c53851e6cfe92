"""A studio run in a terminal: lines for the plan, and a progress bar for each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from majordomo import imagegen, studio
from majordomo.backend_status import Loading, Queued
from majordomo.errors import plain_text


def run_with_progress(
    console: Console, instance: studio.Studio, brief: str, overrides: Mapping[str, Any]
) -> studio.StudioResult:
    """Run the studio, show its progress, and return its result. Raises what the studio raises."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[count]}", markup=False),
        TimeElapsedColumn(),
    )
    with (
        Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as progress,
        instance.stream_sync(brief, **overrides) as stream,
    ):
        bars = _ProgressBars(console, progress)
        for event in stream:
            bars.on_event(event)
    return stream.result


class _ProgressBars:
    """A progress bar for planning, and then one for each image."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._planning = progress.add_task("reading the brief", total=None, count="")
        self._bars: dict[str, TaskID] = {}

    def on_event(self, event: studio.StudioEvent) -> None:
        """Show an event."""
        match event:
            case studio.Classified(classification):
                self._print(_describe(classification))
                self._progress.update(self._planning, description="writing the prompts")
            case studio.PlanReady(plan):
                self._show_plan(plan)
            case studio.ImageProgress(name, Queued(position)):
                self._update(name, "queued" + (f", position {position}" if position else ""))
            case studio.ImageProgress(name, Loading()):
                self._update(name, "loading the model")
            case studio.ImageProgress(name, imagegen.Step() as step):
                self._update(
                    name,
                    "drawing",
                    completed=step.step,
                    total=step.total,
                    count=f"{step.step}/{step.total}",
                )
            case studio.ImageFinished(image):
                self._update(image.name, "making copies", completed=1, total=1, count="")
            case studio.DerivativeReady(name, derived):
                self._update(name, f"{derived.name} ready")
            case studio.ImageFailed(name, error):
                self._update(name, f"failed at {error.details.get('stage', 'an unknown stage')}")
            case _:
                pass

    def _show_plan(self, plan: studio.Plan) -> None:
        self._print(f"prompts by {plan.answered_by}" + (" (cached)" if plan.cached else ""))
        for prompt in plan.prompts:
            self._print(f"  {plain_text(prompt.name)}: {plain_text(prompt.prompt, 300)}")
        self._progress.remove_task(self._planning)
        for prompt in plan.variants:
            self._bars[prompt.name] = self._progress.add_task(
                f"{plain_text(prompt.name)}: waiting", total=None, count=""
            )

    def _update(self, name: str, status: str, **state: Any) -> None:
        if (bar := self._bars.get(name)) is not None:
            self._progress.update(bar, description=f"{plain_text(name)}: {status}", **state)

    def _print(self, line: str) -> None:
        self._console.print(line, style="dim", markup=False)


def _describe(classification: studio.Classification) -> str:
    """Return what was recognized in the brief, as one line."""
    shape = classification.size or classification.aspect or classification.orientation
    parts = [
        classification.medium,
        classification.subject,
        classification.style,
        classification.mood,
        shape,
    ]
    if classification.count:
        parts.append(f"{classification.count} images")
    if classification.text:
        parts.append(f'with the text "{plain_text(classification.text, 200)}"')
    return "recognized: " + (", ".join(filter(None, parts)) or "nothing in particular")
