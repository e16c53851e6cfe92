"""Tests of `majordomo process`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from tests.support import system

ImageFactory = Callable[..., md.ImagePart]


def test_recipe_is_applied_to_every_file_and_input_files_are_kept(
    majordomo: Any, image: ImageFactory
) -> None:
    originals = {
        name: image(200, 100, color) for name, color in (("a.png", "red"), ("b.png", "green"))
    }
    for name, image in originals.items():
        image.save(name)
    done = majordomo("process", "*.png", "--recipe", "resize=64,convert=webp,strip", "-o", "out")
    assert (done.status, done.err) == (0, ""), done
    for name, image in originals.items():
        assert Path(name).read_bytes() == image.data
        processed = md.ImagePart.from_file(Path("out", name).with_suffix(".webp"))
        assert (processed.mime, processed.width, processed.height) == ("image/webp", 64, 32)
    assert sorted(os.listdir("out")) == ["a.webp", "b.webp"]
    assert "a.png -> out/a.webp  64x32, " in done.out
    assert "2 of 2 written, " in done.out


def test_failed_file_is_reported_and_does_not_stop_the_others(
    majordomo: Any, image: ImageFactory
) -> None:
    image().save("a.png")
    Path("bad.png").write_bytes(image(100, 100, "red").data[:60])
    Path("text.png").write_text("no image")
    done = majordomo(
        "process",
        "text.png",
        "bad.png",
        "missing.png",
        "a.png",
        "--recipe",
        "resize=32",
        "-o",
        "out",
    )
    assert done.status == 1
    assert os.listdir("out") == ["a.png"]
    assert "failed: text.png: " in done.out
    assert done.out.count("(BAD_IMAGE)") == 2
    assert "failed: missing.png: No such file or directory (FILE_UNREADABLE)" in done.out
    assert done.out.count("  help: ") == 3
    assert "1 of 4 written, 3 failed, " in done.out


def test_existing_names_get_a_number(majordomo: Any, image: ImageFactory) -> None:
    Path("x").mkdir()
    Path("y").mkdir()
    image(8, 8, "red").save("x/a.png")
    image(8, 8, "blue").save("y/a.png")
    assert majordomo("process", "**/a.png", "x/a.png", "--recipe", "strip", "-o", "x").status == 0
    assert sorted(os.listdir("x")) == ["a-2.png", "a-3.png", "a.png"]
    assert Path("x/a.png").read_bytes() == image(8, 8, "red").data


def test_recipe_may_be_a_file(majordomo: Any, image: ImageFactory) -> None:
    image(64, 64).save("a.png")
    Path("recipe.json").write_text(
        json.dumps({"steps": [{"step": "resize", "width": 16, "how": "long_side"}]})
    )
    done = majordomo("process", "a.png", "--recipe-file", "recipe.json")
    assert done.status == 0, done
    assert md.ImagePart.from_file("processed/a.png").width == 16


def test_recipe_warnings_are_printed(majordomo: Any, image: ImageFactory) -> None:
    image(8, 8).save("a.png")
    assert (
        "warning: the image is 8x8 and was not enlarged"
        in majordomo("process", "a.png", "--recipe", "resize=64").out
    )


@system.needs_read_only_folders
def test_unwritable_folder_has_an_error_code(majordomo: Any, image: ImageFactory) -> None:
    image(8, 8).save("a.png")
    Path("out").mkdir(mode=0o500)
    done = majordomo("process", "a.png", "--recipe", "strip", "-o", "out")
    assert done.status == 1
    assert "(STORAGE_READ_ONLY)" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png"], "exactly one of --recipe and"),
        (
            ["a.png", "--recipe", "strip", "--recipe-file", "broken.json"],
            "exactly one of --recipe and",
        ),
        (["a.png", "--recipe", "bend=3"], "got 'bend'"),
        (["a.png", "--recipe-file", "broken.json"], "broken.json is not valid JSON"),
        (["a.png", "--recipe-file", "missing.json"], "missing.json: No such file"),
        (["*.webp", "--recipe", "strip"], "no file matches *.webp"),
        ([".", "--recipe", "strip"], ". is a folder"),
        (["a.png", "--recipe", "strip", "-o", "a.png"], "a.png is not a folder"),
        (["--recipe", "strip"], "Missing argument"),
    ],
)
def test_wrong_usage_is_status_2_and_writes_no_file(
    majordomo: Any, image: ImageFactory, arguments: list[str], message: str
) -> None:
    image(8, 8).save("a.png")
    Path("broken.json").write_text("{")
    done = majordomo("process", *arguments)
    assert done.status == 2
    assert message in done.err
    assert sorted(os.listdir(".")) == ["a.png", "broken.json"]
