"""The reference has every public name, and what is made from the code and the decisions is in step with them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "reference-pages"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("reference_pages", str(SCRIPT))
    spec = importlib.util.spec_from_loader("reference_pages", loader)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    loader.exec_module(made)
    return made


def test_every_public_name_is_described_and_listed(script: ModuleType) -> None:
    page = (ROOT / "docs" / "reference" / "index.md").read_text()
    for package, names in script.public_names().items():
        section = page.partition(f"## {package}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| \[`(\w+)`\]", section, re.MULTILINE) == names
    known = script.described(ROOT / "docs" / "reference")
    for name in re.findall(r"^\| \[`\w+`\]\[([\w.]+)\]", page, re.MULTILINE):
        assert name in known or name.startswith("majordomo.errors.")


def test_nothing_is_described_that_is_not_there(script: ModuleType) -> None:
    for identifier in script.described(ROOT / "docs" / "reference"):
        home, _, name = identifier.rpartition(".")
        assert hasattr(importlib.import_module(home), name)


def test_the_made_pages_are_in_step() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
