"""From a brief to a folder of files, drawn by the real engine behind the gateway."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo.cli.main import main
from majordomo.imaging import Derivative
from majordomo.studio import Studio, StudioResult

pytestmark = [pytest.mark.real]
BRIEF = 'two variants of a poster for a jazz night, with the title "BLUE ROOM"'


@pytest.mark.anyio
async def test_a_brief_becomes_files(swap: md.LlamaSwap, tmp_path: Path) -> None:
    """The chat model that writes the prompts recites something else: the rules do it then, and it is said."""
    studio = Studio(
        image_model=swap.image_model("tiny-image"),
        chat_model=swap.model("recite"),
        recipe="sanitize",
        derivatives=[Derivative("thumbnail", size=32, format="webp")],
    )
    outcome = await studio.run(BRIEF, size="64x64", steps=2)
    assert len(outcome.items) == 2
    assert len({image.image.sha256 for image in outcome.items}) == 2, (
        "variants are different images"
    )
    assert all((picture.image.width, picture.image.height) == (64, 64) for picture in outcome.items)
    assert all(picture.derivatives[0].image.width == 32 for picture in outcome.items)
    assert not outcome.errors
    assert any(warning.code.startswith("LLM_") for warning in outcome.plan.warnings)
    outcome.save(tmp_path / "out")
    assert StudioResult.load(tmp_path / "out").items[0].image == outcome.items[0].image


def test_the_command_line_does_it_too(
    gateway: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"llamaswap://{gateway.url.removeprefix('http://')}/tiny-image"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "majordomo",
            "imagine",
            BRIEF,
            "--model",
            model,
            "--size",
            "64x64",
            "--steps",
            "2",
            "-o",
            "out",
        ],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"blue-room.png", "blue-room-2.png", "contact-sheet.png", "manifest.json"} <= names
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())
