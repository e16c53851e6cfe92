"""Tests of image previews in a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

import majordomo as md
from majordomo.cli.preview import half_blocks
from tests.support import system


def test_each_character_shows_two_pixels() -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    image.paste((0, 0, 255), (0, 2, 4, 4))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    text = half_blocks(md.ImagePart(buffer.getvalue()), 4)
    assert text.plain == "▀▀▀▀\n▀▀▀▀\n"
    styles = [span.style for span in text.spans]
    colors = [(style.color.triplet, style.bgcolor.triplet) for style in styles]  # type: ignore[union-attr]
    assert colors[0] == ((255, 0, 0), (255, 0, 0))
    assert colors[-1] == ((0, 0, 255), (0, 0, 255))


def test_preview_keeps_the_aspect_ratio(image: Callable[..., md.ImagePart]) -> None:
    lines = half_blocks(image(200, 100), 40).plain.splitlines()
    assert {len(line) for line in lines} == {40}
    assert len(lines) == 10


@system.needs_terminal
def test_terminal_shows_steps_and_a_preview(tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    command = [
        sys.executable,
        "-c",
        "from majordomo.cli.main import main; main()",
        "draw",
        "a boat",
        "-o",
        "x.png",
        "--size",
        "64x64",
        "--steps",
        "6",
    ]
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
        "COLUMNS": "100",
    }
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    output = b""
    try:
        while chunk := os.read(controller, 65536):
            output += chunk
    except OSError:
        # The process has closed its side of the terminal.
        pass
    os.close(controller)
    assert process.wait(20) == 0
    text = output.decode()
    assert "▀" in text
    assert "6/6" in text
    assert (tmp_path / "x.png").exists()
