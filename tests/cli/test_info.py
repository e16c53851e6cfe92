"""Tests of `majordomo info`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo.media.image_containers import with_text

ImageFactory = Callable[..., md.ImagePart]


def test_info_shows_format_size_and_parameters(majordomo: Any, image: ImageFactory) -> None:
    image_file = image(64, 48, kind="JPEG").with_parameters(
        {"prompt": "a [bold]cat", "steps": 8, "seed": 7}
    )
    image_file.save("a.jpg", metadata=True)
    done = majordomo("info", "a.jpg")
    assert (done.status, done.err) == (0, "")
    size = Path("a.jpg").stat().st_size
    assert done.out.splitlines() == [
        f"a.jpg: JPEG, 64x48, {size:,} bytes",
        "  prompt: a [bold]cat",
        "  steps: 8",
        "  seed: 7",
    ]


def test_json_has_one_object_per_file_and_error_codes(majordomo: Any, image: ImageFactory) -> None:
    image().save("a.png")
    Path("b.png").write_text("no image")
    done = majordomo("info", "--json", "a.png", "b.png", "missing.png")
    assert done.status == 1
    good, bad, missing = json.loads(done.out)
    assert good == {
        "file": "a.png",
        "mime": "image/png",
        "width": 64,
        "height": 48,
        "bytes": len(image().data),
        "sha256": image().sha256,
        "orientation": 1,
        "parameters": {},
    }
    assert (bad["file"], bad["code"]) == ("b.png", "NOT_AN_IMAGE")
    assert (missing["code"], missing["error"]) == ("FILE_UNREADABLE", "No such file or directory")


def test_failed_file_does_not_hide_the_others(majordomo: Any, image: ImageFactory) -> None:
    image().save("a.png")
    done = majordomo("info", "missing.png", "a.png")
    assert done.status == 1
    assert done.out.splitlines()[0] == "missing.png: No such file or directory (FILE_UNREADABLE)"
    assert done.out.splitlines()[1].startswith("a.png: PNG, 64x48")


def test_untrusted_text_cannot_control_the_terminal_or_break_the_json(
    majordomo: Any, image: ImageFactory
) -> None:
    text = "a cat \x1b[2J\nSteps: 4, CFG scale: nan"
    Path("a.png").write_bytes(with_text(image().data, "parameters", text))
    assert "\x1b" not in majordomo("info", "a.png").out

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not valid JSON")

    reports = json.loads(majordomo("info", "--json", "a.png").out, parse_constant=refuse)
    assert "cfg_scale" not in reports[0]["parameters"], "not a number, so not a setting"


def test_info_shows_the_orientation(majordomo: Any, tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save("a.jpg", exif=exif)
    assert "turned by 90 degrees" in majordomo("info", "a.jpg").out
    assert majordomo("info").status == 2
