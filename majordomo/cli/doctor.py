"""`majordomo doctor`: what works, what does not, and what to change."""

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

MOST = 20  # models of one backend
COLORS = {"ready": "green", "loading": "yellow", "busy": "yellow"}


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(help="Configuration file; else MAJORDOMO_CONFIG and the usual places."),
    ] = None,
    configured: Annotated[
        bool,
        typer.Option("--configured", help="Only what is configured, not the usual local servers."),
    ] = False,
    patience: Annotated[
        float, typer.Option(help="Seconds each backend has to answer.", min=0.1, max=60)
    ] = BACKEND_TIMEOUT_SECONDS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask every backend how it is, and say what to change. Free of charge: nothing is generated, nothing is loaded.

    Exit status 1 when something that is configured does not work.
    """
    diagnosis = portal.run(
        lambda: examine(
            config, default_servers=() if configured else DEFAULT_SERVERS, timeout=patience
        )
    )
    if as_json:
        typer.echo(json.dumps(diagnosis.to_dict(), indent=2))
    else:
        show(plain_console(), diagnosis)
    if not diagnosis.ok:
        raise typer.Exit(1)


def show(console: Console, diagnosis: DoctorReport) -> None:
    looked = ", ".join(diagnosis.searched)
    if diagnosis.source:
        console.print(
            f"configuration: {diagnosis.source}" + (f" (looked for {looked})" if looked else ""),
            markup=False,
        )
    else:
        console.print(
            f"no configuration (looked for {looked})" if looked else "no configuration",
            markup=False,
        )
    _advise(console, diagnosis.hints)
    for section, wanted in (("configured", True), ("on this machine", False)):
        found = [finding for finding in diagnosis.findings if finding.configured is wanted]
        if found:
            console.print(f"\n{section}", style="bold")
        for finding in found:
            _show(console, finding)
    console.print(f"\n{_verdict(diagnosis)}", style="bold")


def _verdict(diagnosis: DoctorReport) -> str:
    if not diagnosis.ok:
        return "something that is configured does not work"
    if any(finding.configured for finding in diagnosis.findings):
        return "all that is configured works"
    return "nothing is configured; `offline` needs nothing, and draws and answers on this machine"


def _show(console: Console, finding: BackendReport) -> None:
    style = COLORS.get(finding.status, "red" if finding.configured else "dim")
    about = f" at {finding.address}" if finding.address else ""
    server = f", {finding.server}" if finding.server else ""
    time = f", {finding.latency * 1000:.0f} ms" if finding.latency else ""
    kind = f" ({finding.kind})" if finding.configured and finding.kind != finding.name else ""
    console.print(
        f"{finding.name}{kind}{about}: {finding.status}{server}{time}", style=style, markup=False
    )
    if finding.models:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2))
        for model in finding.models[:MOST]:
            table.add_row(
                "", *map(Text, (model.id, " ".join(sorted(model.capabilities)) or "?", model.state))
            )
        console.print(table)
        if len(finding.models) > MOST:
            console.print(
                f"  and {len(finding.models) - MOST} more: majordomo models {finding.name}",
                markup=False,
            )
    _advise(console, finding.hints, quiet=not finding.configured)


def _advise(console: Console, advice: tuple[Hint, ...], *, quiet: bool = False) -> None:
    for told in advice:
        style = "red" if told.fault else "dim" if quiet else "yellow"
        console.print(
            f"  {'fault' if told.fault else 'hint'}: {told.message}", style=style, markup=False
        )
