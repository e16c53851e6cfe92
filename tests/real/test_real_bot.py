"""The bot of the examples with real engines behind the gateway, as its reader would start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.real]
BOT = Path(__file__).parents[2] / "examples" / "bot_on_a_platform.py"


@pytest.mark.parametrize("named", ["arguments", "environment"])
def test_the_bot_draws_and_talks(gateway: Any, tmp_path: Path, named: str) -> None:
    where = gateway.url.removeprefix("http://")
    models = [f"llamaswap://{where}/tiny-image", f"llamaswap://{where}/recite"]
    variables = dict(zip(("MAJORDOMO_IMAGE_MODEL", "MAJORDOMO_CHAT_MODEL"), models, strict=True))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(BOT), *(models if named == "arguments" else [])],
        cwd=tmp_path,
        env=os.environ | (variables if named == "environment" else {}),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"bot edits: a lighthouse at dusk, for ann by llamaswap \[image/(png|jpeg) 256x192\]",
        done.stdout,
    )
    assert "bot: what mood is it?" in done.stdout
    answers = [line for line in done.stdout.splitlines() if "colored noise" in line]
    assert len(answers) >= 2, "ann and cid each have one"
    assert "sorry" not in done.stdout
