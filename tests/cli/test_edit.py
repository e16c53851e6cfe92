"""`majordomo edit` in a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from tests.support.loopback import Handler, Loopback, always, images_reply, whole

Image = Callable[..., md.ImagePart]
Serve = Callable[[Handler], Loopback]


def test_only_what_the_mask_marks_changes_and_the_image_stays(majordomo: Any, image: Image) -> None:
    image(64, 64, "red").save("in.png")
    mask = image(64, 64, "black").to_pil().convert("L")
    mask.paste(255, (32, 0, 64, 64))
    md.ImagePart.from_pil(mask).save("mask.png")
    done = majordomo(
        "edit",
        "in.png",
        "a night sky",
        "--mask",
        "mask.png",
        "--strength",
        "0.9",
        "--steps",
        "3",
        "-o",
        "out.png",
    )
    assert (done.status, done.err) == (0, ""), done
    made = md.ImagePart.from_file("out.png").to_pil().convert("RGB")
    assert made.getpixel((5, 5)) == (255, 0, 0)
    assert made.getpixel((60, 30)) != (255, 0, 0)
    assert Path("in.png").read_bytes() == image(64, 64, "red").data
    assert "out.png  64x64, seed " in done.out


def test_every_setting_arrives_at_the_backend(majordomo: Any, serve: Serve, image: Image) -> None:
    server = serve(always(whole(images_reply(image().data))))
    image(64, 64).save("in.png")
    name = f"llamaswap://127.0.0.1:{server.port}/sdxl"
    done = majordomo(
        "edit", "in.png", "a cat", "--model", name, "--strength", "0.4", "--seed", "7", "--negative", "dogs", "--steps", "5", "-o", "out.png"
    )  # fmt: skip
    assert done.status == 0, done
    sent = server.seen[0].body
    assert image(64, 64).data in sent
    for words in (
        b'"strength":0.4',
        b'"seed":7',
        b'"negative_prompt":"dogs"',
        b'"steps":5',
        b"a cat",
    ):
        assert words in sent.replace(b" ", b"") or words in sent, words
    assert Path("out.png").read_bytes() == image().data


def test_without_a_name_it_finds_a_free_one(majordomo: Any, image: Image) -> None:
    image(32, 32).save("in.png")
    Path("in-edited.png").write_text("taken")
    assert majordomo("edit", "in.png", "a cat", "--steps", "1").status == 0
    assert Path("in-edited.png").read_text() == "taken"
    assert md.ImagePart.from_file("in-edited-2.png").width == 32


@pytest.mark.parametrize(
    "arguments",
    [["-o", "in.png", "--force"], ["-o", "taken.png"], ["-o", "out.exe"], ["-o", "no/where.png"]],
)
def test_wrong_usage_is_status_2_and_touches_nothing(
    majordomo: Any, image: Image, arguments: list[str]
) -> None:
    image(32, 32).save("in.png")
    Path("taken.png").write_text("taken")
    assert majordomo("edit", "in.png", "a cat", *arguments).status == 2
    assert Path("in.png").read_bytes() == image(32, 32).data
    assert Path("taken.png").read_text() == "taken"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.png", "a cat"], "missing.png: No such file"),
        (["text.png", "a cat"], "must be a PNG, JPEG, WebP"),
        (["in.png", "a cat", "--strength", "2"], "strength"),
        (["in.png", "a cat", "--model", "nobody/x"], "there is no provider 'nobody'"),
    ],
)
def test_an_error_is_one_clear_line_and_status_1(
    majordomo: Any, image: Image, arguments: list[str], words: str
) -> None:
    image(32, 32).save("in.png")
    Path("text.png").write_text("no image")
    done = majordomo("edit", *arguments)
    assert done.status == 1
    assert done.err.startswith("majordomo: ")
    assert words in done.err
    assert done.err.count("\n") == 1
