"""The reference describes every public name, and generated pages are up to date."""

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
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_index_lists_every_public_name_with_a_description(script: ModuleType) -> None:
    page = (ROOT / "docs" / "reference" / "index.md").read_text()
    for package, names in script.public_names().items():
        section = page.partition(f"## {package}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| \[`(\w+)`\]", section, re.MULTILINE) == names
    described = script.described(ROOT / "docs" / "reference")
    for name in re.findall(r"^\| \[`\w+`\]\[([\w.]+)\]", page, re.MULTILINE):
        assert name in described or name.startswith("majordomo.errors.")


def test_reference_describes_only_existing_names(script: ModuleType) -> None:
    for identifier in script.described(ROOT / "docs" / "reference"):
        module_name, _, name = identifier.rpartition(".")
        assert hasattr(importlib.import_module(module_name), name)


def test_generated_pages_are_up_to_date() -> None:
    completed = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, timeout=60
    )
    assert (completed.returncode, completed.stderr) == (0, "")
