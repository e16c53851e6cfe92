"""The `majordomo` script.

An error is one line on stderr and exit status 1. Wrong usage is exit status 2, and Ctrl-C is 130.
"""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line and exit."""
    _accept_all_characters()
    try:
        from majordomo.cli.commands import app
    except ModuleNotFoundError as missing:
        if missing.name not in ("typer", "rich"):
            raise
        sys.exit(
            f"majordomo: {missing.name} is not installed; run: pip install 'majordomo-client[cli]'"
        )
    from majordomo.errors import MajordomoError

    try:
        app()
    except MajordomoError as error:
        model = "/".join(part for part in (error.provider, error.model) if part)
        prefix = f"{model}: " if model else ""
        help_text = error.details.get("help")
        suffix = f" ({error.code}; {help_text})" if help_text else ""
        sys.exit(f"majordomo: {prefix}{error.message}{suffix}")
    except OSError as error:
        prefix = f"{error.filename}: " if isinstance(error.filename, str) else ""
        sys.exit(f"majordomo: {prefix}{error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _accept_all_characters() -> None:
    """Escape the characters that the output cannot represent, instead of failing.

    On Windows, a pipe or a file has an encoding with 256 characters, unless it is set otherwise.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
