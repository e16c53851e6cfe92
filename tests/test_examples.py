from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
SAYS = {
    "a_chat_that_draws.py": [
        "drawn: <ImagePart image/png 256x192",
        "draw_picture gave 1 parts",
        "from 9 to 17, dear guest",
        "width=256 height=192",
    ],
    "bot.py": ["seed ", "<ImagePart image/png 256x256", "main colours are", "sorry: these 23 bytes are no PNG"],
    "draw_then_talk.py": ["drawn from seed ", "<ImagePart image/png 384x256", "The picture looks "],
    "edit_a_picture.py": ["lighthouse-at-night.png", "'prompt': 'a sky full of stars'", "'seed': 8"],
    "one_conversation.py": [
        "is 96 x 64 pixels",
        "(('draw_picture', {'prompt': 'of a lighthouse at dusk'}),)",
        "output=Size(width=128, height=96)",
    ],
    "test_my_bot.py": ["3 passed"],
    "watch_a_picture.py": ["step 1 of 8", "step 8 of 8", "so far: <ImagePart", "done: <ImagePart image/png 512x512"],
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_runs_and_says_what_it_should(path: Path, tmp_path: Path) -> None:
    runner = ["-m", "pytest", "-q"] if path.name.startswith("test_") else []
    done = subprocess.run([sys.executable, "-W", "error", *runner, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    for words in SAYS[path.name]:
        assert words in done.stdout
