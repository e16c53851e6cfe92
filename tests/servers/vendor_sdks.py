"""Imports of third-party clients that check the test servers; the library does not need them."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def require(name: str) -> Any:
    """Import the module, or skip the test when it is not installed.

    With MAJORDOMO_REQUIRE_PEERS set, a missing module is a failure.
    """
    if os.environ.get("MAJORDOMO_REQUIRE_PEERS"):
        return importlib.import_module(name)
    return pytest.importorskip(
        name, reason=f"{name} is not installed (MAJORDOMO_REQUIRE_PEERS=1 makes that a failure)"
    )
