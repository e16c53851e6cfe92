from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_table_in_the_docs_is_true() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "support-table", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
