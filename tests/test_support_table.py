from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_tables_in_the_docs_are_up_to_date() -> None:
    completed = subprocess.run(
        [sys.executable, ROOT / "scripts" / "support-table", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize(
    ("page", "minimum"),
    [("chat-backends.md", 5), ("promises.md", 30), ("properties.md", 30), ("security.md", 40)],
)
def test_every_test_named_in_the_docs_exists(page: str, minimum: int) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / page).read_text())
    assert len(named) > minimum
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"


@pytest.mark.parametrize(("page", "sentences"), [("promises.md", 15), ("properties.md", 9)])
def test_every_guarantee_names_its_tests(page: str, sentences: int) -> None:
    rows = [
        row for row in (ROOT / "docs" / page).read_text().splitlines() if row.startswith("| **")
    ]
    assert len(rows) == sentences
    assert all("::test_" in row for row in rows)


@pytest.mark.slow
def test_fault_table_is_up_to_date() -> None:
    completed = subprocess.run(
        [sys.executable, ROOT / "scripts" / "count-faults", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
