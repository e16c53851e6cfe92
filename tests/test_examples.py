from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
# The Discord bot needs a package and a token.
EXAMPLES = sorted(path for path in FOLDER.glob("*.py") if path.name != "discord_bot.py")
EXPECTED_OUTPUT = {
    "chat_that_generates_images.py": [
        "image: <ImagePart image/png 256x192",
        "draw_image returned 1 parts",
        "from 9 to 17, dear guest",
        "width=256 height=192",
    ],
    "bot.py": [
        "seed ",
        "<ImagePart image/png 256x256",
        "main colors are",
        "sorry: data must be a PNG",
    ],
    "bot_on_a_platform.py": [
        "ann says: !draw a lighthouse at dusk",
        "bot says: bob: you are number 1",
        "bot edits: step 4 of 8",
        "a lighthouse at dusk, for ann by offline [image/jpeg 256x192]",
        "bot says: bob: 1 stopped",
        "bot edits: The image looks ",
        '"@\u200deveryone rowing',
        "bot says: I am majordomo's offline rule-based chat",
    ],
    "chat_platform.py": ["ann says: hello"],
    "generate_then_chat.py": [
        "generated with seed ",
        "<ImagePart image/png 384x256",
        "The image looks ",
    ],
    "edit_an_image.py": ["lighthouse-at-night.png", "'prompt': 'a sky full of stars'", "'seed': 8"],
    "brief_to_files.py": [
        "medium: poster, subject: event",
        "2 images, portrait, text: BLUE ROOM",
        "prompt by rules: A poster for a jazz night.",
        "ready: main, <ImagePart image/png 256x384",
        "derived from main-2: main-2-thumbnail.webp",
        "blue-room/manifest.json",
    ],
    "one_conversation.py": [
        "is 96 x 64 pixels",
        "(('draw_image', {'prompt': 'of a lighthouse at dusk'}),)",
        "output=Size(width=128, height=96)",
    ],
    "process_images.py": [
        "lighthouse-thumbnail.webp <ImagePart image/webp 128x128",
        "lighthouse-stamped.jpg <ImagePart image/jpeg 512x384",
        "lighthouse-original.png <ImagePart image/png 512x384",
    ],
    "test_my_bot.py": ["3 passed"],
    "watch_an_image.py": [
        "step 1 of 8",
        "step 8 of 8",
        "preview: <ImagePart",
        "done: <ImagePart image/png 512x512",
    ],
}


# Tests of the docs and of the packages cover these in the ordinary run.
SLOW = {
    "edit_an_image.py",
    "brief_to_files.py",
    "one_conversation.py",
    "process_images.py",
    "watch_an_image.py",
}
# Has a test of its own, which runs it twice.
PLATFORM = FOLDER / "bot_on_a_platform.py"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name, marks=[pytest.mark.slow] * (path.name in SLOW))
        for path in EXAMPLES
        if path != PLATFORM
    ],
)
def test_example_prints_the_expected_output(path: Path, tmp_path: Path) -> None:
    runner = ["-m", "pytest", "-q", "-n0"] if path.name.startswith("test_") else []
    completed = subprocess.run(
        [sys.executable, "-W", "error", *runner, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    for line in EXPECTED_OUTPUT[path.name]:
        assert line in completed.stdout


def test_bot_on_a_platform_is_deterministic_and_follows_the_rules_of_the_platform(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-W", "error", str(PLATFORM)]
    runs = [
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        for _ in range(2)
    ]
    assert [(completed.returncode, completed.stderr) for completed in runs] == [(0, "")] * 2
    first, second = (completed.stdout for completed in runs)
    assert first == second
    for line in EXPECTED_OUTPUT[PLATFORM.name]:
        assert line in first
    assert "for bob by" not in first, "a cancelled request is not executed"
    edits = [float(line.split()[0]) for line in first.splitlines() if "bot edits" in line]
    assert len(edits) > 8
    assert all(later - earlier >= 1 for earlier, later in pairwise(edits) if later != earlier)


def test_discord_bot_names_the_missing_package(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DISCORD_TOKEN"}
    path = str(FOLDER / "discord_bot.py")
    code = f"""
import runpy, sys
sys.modules['discord'] = None
runpy.run_path({path!r}, run_name='__main__')
"""
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert completed.returncode == 1
    assert "pip install discord.py" in completed.stderr
