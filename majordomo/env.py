"""Access to environment variables. No other module reads the environment."""

from __future__ import annotations

import os


def variable(name: str) -> str | None:
    """Return the value of an environment variable; None when it is unset or empty."""
    return os.environ.get(name) or None
