"""How results and failures are said in a terminal."""

from __future__ import annotations

from rich.console import Console

from majordomo.errors import MajordomoError, plain_text


def print_failure(console: Console, what: str, error: MajordomoError) -> None:
    """What failed, with which code, and what may help."""
    console.print(
        f"failed: {plain_text(what)}: {error.message} ({error.code})", style="red", markup=False
    )
    if help_ := error.details.get("help"):
        console.print(f"  help: {help_}", markup=False)


def format_bytes(number: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return (
                f"{number:.0f} {unit}"
                if unit == "bytes" or number >= 10
                else f"{number:.1f} {unit}"
            )
        number /= 1000
    return f"{number:.1f} GB"
