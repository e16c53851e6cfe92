"""Suites that need tools which a development environment lacks, and when they run.

A plain `pytest` leaves them out and prints nothing about them. When a user selects such a suite
and a tool is missing, `missing_tools` has the reason. MAJORDOMO_REQUIRE_REAL=1 and
MAJORDOMO_REQUIRE_PEERS=1 run the suite in any case, so that a missing tool is a failure.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "majordomo"
ENGINES = Path(os.environ.get("MAJORDOMO_ENGINES") or CACHE / "engines")

PEERS = {
    "test_independent_a1111.py": "webuiapi",
    "test_independent_anthropic.py": "anthropic",
    "test_independent_fal.py": "fal_client",
    "test_independent_gemini.py": "google.genai",
    "test_independent_ollama.py": "ollama",
    "test_independent_openai.py": "openai",
    "test_independent_openai_chat.py": "openai",
}
"""The independent client that each file in tests/servers runs against a test server."""


def marker_selected(config: pytest.Config, marker: str) -> bool:
    """Return whether `-m` asks for this marker."""
    expression = config.getoption("markexpr")
    return marker in expression and f"not {marker}" not in expression


def real_engines_run(config: pytest.Config) -> bool:
    """Return whether the tests in tests/real run.

    They run when they are selected, and the engines are installed or required.
    """
    required = os.environ.get("MAJORDOMO_REQUIRE_REAL") == "1"
    return marker_selected(config, "real") and (required or _engines_installed())


def lacks_peer(file_name: str) -> bool:
    """Return whether this file is left out because its independent client is not installed."""
    if os.environ.get("MAJORDOMO_REQUIRE_PEERS"):
        return False
    return file_name in PEERS and not _installed(PEERS[file_name])


def missing_tools(config: pytest.Config) -> list[str]:
    """Return why suites that the user selected did not run, one line for each suite."""
    lines = []
    paths = _selected_paths(config)
    if marker_selected(config, "real"):
        if not real_engines_run(config):
            lines.append("real engines: not installed, no test ran; run scripts/install-engines")
    elif any(path.is_relative_to(TESTS / "real") for path in paths):
        lines.append("real engines: no test ran; add -m real")
    peers = sorted({module for name, module in PEERS.items() if lacks_peer(name)})
    # A file named on the command line is collected and skipped with a reason of its own.
    if peers and TESTS / "servers" in paths:
        lines.append(
            "independent clients: not installed, their tests did not run: "
            f"{', '.join(peers)}; run pip install -e '.[peers]'"
        )
    return lines


def _selected_paths(config: pytest.Config) -> list[Path]:
    """Return the files and folders named on the command line."""
    folder = config.invocation_params.dir
    return [(folder / argument.partition("::")[0]).resolve() for argument in config.args]


def _engines_installed() -> bool:
    return (ENGINES / "bin" / "python").exists()


@cache
def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False
