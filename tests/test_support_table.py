from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_tables_in_the_docs_are_true() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "support-table", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_test_that_a_table_leans_on_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "chat-backends.md").read_text())
    assert len(named) > 5
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(), name
