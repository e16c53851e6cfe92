"""The script `majordomo`. Errors are one line on stderr and exit status 1, wrong usage is 2."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from majordomo.cli.commands import app
    except ModuleNotFoundError as missing:
        if missing.name not in ("typer", "rich"):
            raise
        sys.exit("majordomo: the command line needs its extra: pip install 'majordomo-client[cli]'")
    from majordomo.errors import MajordomoError

    try:
        app()
    except MajordomoError as error:
        where = "/".join(part for part in (error.provider, error.model) if part)
        help_ = error.details.get("help")
        advice = f" ({error.code}; {help_})" if help_ else ""
        sys.exit(f"majordomo: {where + ': ' if where else ''}{error.message}{advice}")
    except OSError as error:
        sys.exit(
            f"majordomo: {error.filename + ': ' if isinstance(error.filename, str) else ''}{error.strerror or error}"
        )
    except KeyboardInterrupt:
        sys.exit(130)
