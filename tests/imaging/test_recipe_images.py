from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_images_in_the_docs_match_their_recipes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "recipe-images", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
