from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(
    path for path in FOLDER.glob("*.py") if path.name != "discord_bot.py"
)  # it wants a package and a token
SAYS = {
    "chat_that_generates_images.py": [
        "drawn: <ImagePart image/png 256x192",
        "draw_image gave 1 parts",
        "from 9 to 17, dear guest",
        "width=256 height=192",
    ],
    "bot.py": [
        "seed ",
        "<ImagePart image/png 256x256",
        "main colors are",
        "sorry: these 21 bytes are no PNG",
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
        "drawn from seed ",
        "<ImagePart image/png 384x256",
        "The image looks ",
    ],
    "edit_an_image.py": ["lighthouse-at-night.png", "'prompt': 'a sky full of stars'", "'seed': 8"],
    "brief_to_files.py": [
        "read: a poster about an event, portrait, 2 times, titled BLUE ROOM",
        "planned by rules: A poster for a jazz night.",
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
        "so far: <ImagePart",
        "done: <ImagePart image/png 512x512",
    ],
}


# What these show, pages of the docs and tests of their rooms show every day
LONGER = {
    "edit_an_image.py",
    "brief_to_files.py",
    "one_conversation.py",
    "process_images.py",
    "watch_an_image.py",
}
PLATFORM = FOLDER / "bot_on_a_platform.py"  # has a test of its own, which runs it twice


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.name, marks=[pytest.mark.slow] * (path.name in LONGER))
        for path in EXAMPLES
        if path != PLATFORM
    ],
)
def test_every_example_runs_and_says_what_it_should(path: Path, tmp_path: Path) -> None:
    runner = ["-m", "pytest", "-q", "-n0"] if path.name.startswith("test_") else []
    done = subprocess.run(
        [sys.executable, "-W", "error", *runner, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for words in SAYS[path.name]:
        assert words in done.stdout


def test_the_bot_on_a_platform_is_the_same_each_time_and_keeps_the_platforms_rules(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-W", "error", str(PLATFORM)]
    runs = [
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        for _ in range(2)
    ]
    assert [(done.returncode, done.stderr) for done in runs] == [(0, "")] * 2
    first, second = (done.stdout for done in runs)
    assert first == second
    for words in SAYS[PLATFORM.name]:
        assert words in first
    assert "for bob by" not in first, "what was cancelled is not drawn"
    edits = [float(line.split()[0]) for line in first.splitlines() if "bot edits" in line]
    assert len(edits) > 8
    assert all(later - earlier >= 1 for earlier, later in pairwise(edits) if later != earlier)


def test_the_discord_bot_says_what_it_needs(tmp_path: Path) -> None:
    without = {name: value for name, value in os.environ.items() if name != "DISCORD_TOKEN"}
    blocked = f"import runpy, sys; sys.modules['discord'] = None; runpy.run_path({str(FOLDER / 'discord_bot.py')!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocked],
        cwd=tmp_path,
        env=without,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "pip install discord.py" in done.stderr
