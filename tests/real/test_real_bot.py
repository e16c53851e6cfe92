"""The example bot with real engines behind the gateway, started as a user starts it."""

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


@pytest.mark.parametrize("source", ["arguments", "environment"])
def test_the_bot_generates_images_and_replies(gateway: Any, tmp_path: Path, source: str) -> None:
    address = gateway.url.removeprefix("http://")
    models = [f"llamaswap://{address}/tiny-image", f"llamaswap://{address}/recite"]
    variables = dict(zip(("MAJORDOMO_IMAGE_MODEL", "MAJORDOMO_CHAT_MODEL"), models, strict=True))
    process = subprocess.run(
        [sys.executable, "-W", "error", str(BOT), *(models if source == "arguments" else [])],
        cwd=tmp_path,
        env=os.environ | (variables if source == "environment" else {}),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert re.search(
        r"bot edits: a lighthouse at dusk, for ann by llamaswap \[image/(png|jpeg) 256x192\]",
        process.stdout,
    )
    assert "bot: what mood is it?" in process.stdout
    answers = [line for line in process.stdout.splitlines() if "colored noise" in line]
    assert len(answers) >= 2, "one answer each for ann and cid"
    assert "sorry" not in process.stdout
