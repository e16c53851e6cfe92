"""The only place that reads the environment."""

from __future__ import annotations

import os


def variable(name: str) -> str | None:
    """The variable's value; None when unset or empty."""
    return os.environ.get(name) or None
