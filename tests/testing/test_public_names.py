"""Tests of the testing kit as a package: its public names and what importing it loads."""

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


def test_the_package_exports_exactly_its_public_names() -> None:
    assert sorted(testing.__all__) == NAMES
    assert all(getattr(testing, name).__module__.startswith("majordomo.testing.") for name in NAMES)
    assert set(NAMES) <= set(dir(testing))
    with pytest.raises(AttributeError, match="no_such_name"):
        testing.no_such_name  # noqa: B018 (the access raises)


def test_type_checking_imports_match_public_names() -> None:
    tree = ast.parse(Path(testing.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == set(testing.__all__)


def test_only_the_plugin_imports_pytest() -> None:
    importing = [
        path.relative_to(ROOT) for path in ROOT.rglob("*.py") if "import pytest" in path.read_text()
    ]
    assert importing == [Path("testing/plugin.py")]


def test_the_plugin_loads_nothing_heavy() -> None:
    check = (
        "import sys, pytest; before = set(sys.modules); import majordomo.testing.plugin; "
        "print(' '.join(set(sys.modules) - before))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    ).stdout.split()
    ours = {name for name in loaded if name.startswith("majordomo")}
    assert ours == {"majordomo", "majordomo.testing", "majordomo.testing.plugin"}
    assert not {"httpx", "h11", "pydantic", "anyio", "asyncio", "PIL"} & set(loaded)
