"""Tests of `majordomo edit`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from tests.support.loopback import Handler, Loopback, http_response, images_reply, reply_with

ImageFactory = Callable[..., md.ImagePart]
Serve = Callable[[Handler], Loopback]


def test_edit_changes_only_the_masked_area_and_keeps_the_input_file(
    majordomo: Any, image: ImageFactory
) -> None:
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
    edited = md.ImagePart.from_file("out.png").to_pil().convert("RGB")
    assert edited.getpixel((5, 5)) == (255, 0, 0)
    assert edited.getpixel((60, 30)) != (255, 0, 0)
    assert Path("in.png").read_bytes() == image(64, 64, "red").data
    assert "out.png  64x64, seed " in done.out


def test_edit_options_reach_the_backend(majordomo: Any, serve: Serve, image: ImageFactory) -> None:
    server = serve(reply_with(http_response(images_reply(image().data))))
    image(64, 64).save("in.png")
    name = f"llamaswap://127.0.0.1:{server.port}/sdxl"
    done = majordomo(
        "edit",
        "in.png",
        "a cat",
        "--model",
        name,
        "--strength",
        "0.4",
        "--seed",
        "7",
        "--negative",
        "dogs",
        "--steps",
        "5",
        "-o",
        "out.png",
    )
    assert done.status == 0, done
    sent = server.requests[0].body
    assert image(64, 64).data in sent
    for message in (
        b'"strength":0.4',
        b'"seed":7',
        b'"negative_prompt":"dogs"',
        b'"steps":5',
        b"a cat",
    ):
        assert message in sent.replace(b" ", b"") or message in sent, message
    assert Path("out.png").read_bytes() == image().data


def test_default_output_gets_a_free_name(majordomo: Any, image: ImageFactory) -> None:
    image(32, 32).save("in.png")
    Path("in-edited.png").write_text("old content")
    assert majordomo("edit", "in.png", "a cat", "--steps", "1").status == 0
    assert Path("in-edited.png").read_text() == "old content"
    assert md.ImagePart.from_file("in-edited-2.png").width == 32


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "in.png", "--force"],
        ["-o", "existing.png"],
        ["-o", "out.exe"],
        ["-o", "no/where.png"],
    ],
)
def test_wrong_usage_is_status_2_and_changes_no_file(
    majordomo: Any, image: ImageFactory, arguments: list[str]
) -> None:
    image(32, 32).save("in.png")
    Path("existing.png").write_text("old content")
    assert majordomo("edit", "in.png", "a cat", *arguments).status == 2
    assert Path("in.png").read_bytes() == image(32, 32).data
    assert Path("existing.png").read_text() == "old content"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png", "a cat"], "missing.png: No such file"),
        (["text.png", "a cat"], "must be a PNG, JPEG, WebP"),
        (["in.png", "a cat", "--strength", "2"], "strength"),
        (["in.png", "a cat", "--model", "unknown/x"], "there is no provider 'unknown'"),
    ],
)
def test_error_is_one_line_and_status_1(
    majordomo: Any, image: ImageFactory, arguments: list[str], message: str
) -> None:
    image(32, 32).save("in.png")
    Path("text.png").write_text("no image")
    done = majordomo("edit", *arguments)
    assert done.status == 1
    assert done.err.startswith("majordomo: ")
    assert message in done.err
    assert done.err.count("\n") == 1
