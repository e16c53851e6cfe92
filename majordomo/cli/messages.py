"""Text output shared by the commands."""

from __future__ import annotations

from rich.console import Console

from majordomo.errors import MajordomoError, plain_text


def print_failure(console: Console, name: str, error: MajordomoError) -> None:
    """Print what failed, with the error code and a hint if there is one."""
    console.print(
        f"failed: {plain_text(name)}: {error.message} ({error.code})", style="red", markup=False
    )
    if help_text := error.details.get("help"):
        console.print(f"  help: {help_text}", markup=False)


def format_bytes(size: float) -> str:
    """Format a number of bytes for people, such as "1.5 MB"; 1 kB is 1,000 bytes."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
