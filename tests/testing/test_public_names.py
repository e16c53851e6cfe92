"""The kit as a whole: its names, and what it costs those who do not use it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import majordomo
from majordomo import testing

ROOT = Path(majordomo.__file__).parent
NAMES = [
    "BadGateway",
    "BadJSON",
    "CutAfter",
    "Fault",
    "Faults",
    "Garbage",
    "ModelLoading",
    "NetworkForbiddenError",
    "Pause",
    "RateLimited",
    "Recorder",
    "RecordingError",
    "RecordingMissingError",
    "Refused",
    "Replay",
    "ScriptError",
    "ScriptedChatModel",
    "ScriptedImageModel",
    "ScriptedProvider",
    "Slow",
    "Status",
    "WrongContentType",
    "no_network",
    "plain_image",
]


def test_the_names_are_these() -> None:
    assert sorted(testing.__all__) == NAMES
    assert all(getattr(testing, name).__module__.startswith("majordomo.testing.") for name in NAMES)
    assert set(NAMES) <= set(dir(testing))
    with pytest.raises(AttributeError, match="nobody"):
        testing.nobody  # noqa: B018


def test_what_type_checkers_see_is_what_is_there() -> None:
    tree = ast.parse(Path(testing.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(testing.__all__)


def test_pytest_is_known_to_the_plugin_alone() -> None:
    found = [
        path.relative_to(ROOT) for path in ROOT.rglob("*.py") if "import pytest" in path.read_text()
    ]
    assert found == [Path("testing/plugin.py")]


def test_the_plugin_loads_nothing_heavy() -> None:
    check = "import sys, pytest; before = set(sys.modules); import majordomo.testing.plugin; print(' '.join(set(sys.modules) - before))"
    loaded = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    ).stdout.split()
    ours = {name for name in loaded if name.startswith("majordomo")}
    assert ours == {"majordomo", "majordomo.testing", "majordomo.testing.plugin"}
    assert not {"httpx", "httpcore", "pydantic", "anyio", "asyncio", "PIL"} & set(loaded)
