"""`majordomo info` in a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo.media.image_containers import with_text

Picture = Callable[..., md.ImagePart]


def test_it_tells_kind_size_bytes_and_what_the_image_was_made_with(
    majordomo: Any, image: Picture
) -> None:
    made = image(64, 48, kind="JPEG").with_parameters(
        {"prompt": "a [bold]cat", "steps": 8, "seed": 7}
    )
    made.save("a.jpg", metadata=True)
    done = majordomo("info", "a.jpg")
    assert (done.status, done.err) == (0, "")
    size = Path("a.jpg").stat().st_size
    assert done.out.splitlines() == [
        f"a.jpg: JPEG, 64x48, {size:,} bytes",
        "  prompt: a [bold]cat",
        "  steps: 8",
        "  seed: 7",
    ]


def test_json_is_one_object_per_file_and_a_bad_one_has_a_code(
    majordomo: Any, image: Picture
) -> None:
    image().save("a.png")
    Path("b.png").write_text("no image")
    done = majordomo("info", "--json", "a.png", "b.png", "missing.png")
    assert done.status == 1
    good, bad, missing = json.loads(done.out)
    assert good == {
        "file": "a.png", "mime": "image/png", "width": 64, "height": 48, "bytes": len(image().data), "sha256": image().sha256,
        "orientation": 1, "parameters": {},
    }  # fmt: skip
    assert (bad["file"], bad["code"]) == ("b.png", "NOT_AN_IMAGE")
    assert (missing["code"], missing["error"]) == ("FILE_UNREADABLE", "No such file or directory")


def test_a_file_that_fails_does_not_hide_the_others(majordomo: Any, image: Picture) -> None:
    image().save("a.png")
    done = majordomo("info", "missing.png", "a.png")
    assert done.status == 1
    assert done.out.splitlines()[0] == "missing.png: No such file or directory (FILE_UNREADABLE)"
    assert done.out.splitlines()[1].startswith("a.png: PNG, 64x48")


def test_a_strangers_text_cannot_steer_the_terminal_nor_break_the_json(
    majordomo: Any, image: Picture
) -> None:
    text = "a cat \x1b[2J\nSteps: 4, CFG scale: nan"
    Path("a.png").write_bytes(with_text(image().data, "parameters", text))
    assert "\x1b" not in majordomo("info", "a.png").out

    def refuse(word: str) -> None:
        pytest.fail(f"{word} is no JSON")

    told = json.loads(majordomo("info", "--json", "a.png").out, parse_constant=refuse)
    assert "cfg_scale" not in told[0]["parameters"], "no number, so not a setting"


def test_it_says_how_an_image_is_turned(majordomo: Any, tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save("a.jpg", exif=exif)
    assert "turned by 90 degrees" in majordomo("info", "a.jpg").out
    assert majordomo("info").status == 2
