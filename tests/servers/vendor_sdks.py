"""Independent software that checks the test servers; none of it is needed to use the library."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def require(name: str) -> Any:
    """The module, or a skip that says why; with MAJORDOMO_REQUIRE_PEERS set its absence is a failure."""
    if os.environ.get("MAJORDOMO_REQUIRE_PEERS"):
        return importlib.import_module(name)
    return pytest.importorskip(
        name, reason=f"{name} is not installed (MAJORDOMO_REQUIRE_PEERS=1 makes that a failure)"
    )
