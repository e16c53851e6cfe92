"""`majordomo doctor`: which backends work, and what to change when one does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from majordomo.cli.generation import plain_console
from majordomo.concurrency import portal
from majordomo.routing.doctor import BACKEND_TIMEOUT_SECONDS, examine
from majordomo.routing.hints import DEFAULT_SERVERS
from majordomo.routing.report import BackendReport, DoctorReport, Hint

MAX_MODELS_PER_BACKEND = 20
COLORS = {"ready": "green", "loading": "yellow", "busy": "yellow"}


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            help="Configuration file; by default MAJORDOMO_CONFIG, else the default locations."
        ),
    ] = None,
    configured: Annotated[
        bool,
        typer.Option(
            "--configured", help="Check only configured backends, not the default local servers."
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Timeout per backend in seconds.", min=0.1, max=60)
    ] = BACKEND_TIMEOUT_SECONDS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check which backends are reachable, and suggest how to fix problems.

    Nothing is generated and no model is loaded, so a check costs nothing. The exit status is 1 if
    a configured backend does not work.
    """
    report = portal.run(
        lambda: examine(
            config, default_servers=() if configured else DEFAULT_SERVERS, timeout=timeout
        )
    )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        show(plain_console(), report)
    if not report.ok:
        raise typer.Exit(1)


def show(console: Console, report: DoctorReport) -> None:
    """Print a report."""
    searched = f" (searched {', '.join(report.searched)})" if report.searched else ""
    if report.source:
        console.print(f"configuration: {report.source}{searched}", markup=False)
    else:
        console.print(f"no configuration{searched}", markup=False)
    _print_hints(console, report.hints)
    for title, configured in (("configured", True), ("on this machine", False)):
        findings = [finding for finding in report.findings if finding.configured is configured]
        if findings:
            console.print(f"\n{title}", style="bold")
        for finding in findings:
            _print_finding(console, finding)
    console.print(f"\n{_summary(report)}", style="bold")


def _summary(report: DoctorReport) -> str:
    if not report.ok:
        return "some configured backends do not work"
    if any(finding.configured for finding in report.findings):
        return "all configured backends work"
    return "nothing is configured; the default `offline` runs on this machine and needs no setup"


def _print_finding(console: Console, finding: BackendReport) -> None:
    style = COLORS.get(finding.status, "red" if finding.configured else "dim")
    address = f" at {finding.address}" if finding.address else ""
    server = f", {finding.server}" if finding.server else ""
    latency = f", {finding.latency * 1000:.0f} ms" if finding.latency else ""
    kind = f" ({finding.kind})" if finding.configured and finding.kind != finding.name else ""
    console.print(
        f"{finding.name}{kind}{address}: {finding.status}{server}{latency}",
        style=style,
        markup=False,
    )
    if finding.models:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
        for model in finding.models[:MAX_MODELS_PER_BACKEND]:
            table.add_row(
                "", *map(Text, (model.id, " ".join(sorted(model.capabilities)) or "?", model.state))
            )
        console.print(table)
        if len(finding.models) > MAX_MODELS_PER_BACKEND:
            console.print(
                f"  and {len(finding.models) - MAX_MODELS_PER_BACKEND} more; "
                f"list them with: majordomo models {finding.name}",
                markup=False,
            )
    _print_hints(console, finding.hints, dim=not finding.configured)


def _print_hints(console: Console, hints: tuple[Hint, ...], *, dim: bool = False) -> None:
    for hint in hints:
        style = "red" if hint.fault else "dim" if dim else "yellow"
        console.print(
            f"  {'fault' if hint.fault else 'hint'}: {hint.message}", style=style, markup=False
        )
