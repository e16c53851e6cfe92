"""Tests of `majordomo imagine`: the folder that it creates from a brief."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo.cli.output_dir import stem_of
from majordomo.imaging import compare
from majordomo.studio import StudioResult
from tests.support import system
from tests.support.loopback import (
    Handler,
    Loopback,
    Peer,
    chat_completion,
    http_response,
    images_reply,
)

ImageFactory = Callable[..., md.ImagePart]
Serve = Callable[[Handler], Loopback]
BRIEF = "a poster for a jazz night, portrait, with the title BLUE ROOM"
QUICK = ("--size", "96x144", "--steps", "1", "--seed", "5")


def image_server_refusing(*seeds: int, image: md.ImagePart) -> Handler:
    """Return an image server that fails for these seeds."""

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            refused = any(
                f'"seed":{seed}' in request.body.decode().replace(" ", "") for seed in seeds
            )
            error_body = {"error": "generate_image returned no results"}
            peer.send(
                http_response(error_body, 500)
                if refused
                else http_response(images_reply(image.data))
            )

    return handler


def test_output_folder_contains_images_copies_and_manifest(majordomo: Any) -> None:
    done = majordomo("imagine", BRIEF, "-o", "out/", "--steps", "2", "--seed", "5")
    assert (done.status, done.err) == (0, ""), done
    assert sorted(os.listdir("out")) == [
        "blue-room-thumbnail.webp",
        "blue-room-web.webp",
        "blue-room.png",
        "contact-sheet.png",
        "manifest.json",
    ]
    poster = md.ImagePart.from_file("out/blue-room.png")
    assert poster.height * 2 == pytest.approx(poster.width * 3, rel=0.02)
    assert poster.width * poster.height > 900_000, "large enough for a small print"
    thumbnail, web = (
        md.ImagePart.from_file(f"out/blue-room-{name}.webp") for name in ("thumbnail", "web")
    )
    assert (thumbnail.height, web.height) == (256, poster.height)
    for line in (
        'recognized: poster, event, portrait, with the text "BLUE ROOM"',
        "prompts by rules",
        "no neural network drew this",
    ):
        assert line in done.out
    assert "1 image in out" in done.out
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert (manifest["brief"], manifest["images"][0]["file"], manifest["images"][0]["seed"]) == (
        BRIEF,
        "blue-room.png",
        5,
    )
    assert manifest["contact_sheet"]["file"] == "contact-sheet.png"
    assert StudioResult.load("out").items[0].image == poster
    assert {"prompt", "seed", "size"} <= poster.parameters.keys()


def test_title_is_written_low_on_the_image(majordomo: Any) -> None:
    size = ("--size", "240x360", "--steps", "2", "--seed", "5")
    assert majordomo("imagine", BRIEF, "-o", "with", *size).status == 0
    assert majordomo("imagine", BRIEF, "-o", "without", "--drawn-text", *size).status == 0
    with_title = md.ImagePart.from_file("with/blue-room.png").to_pil().convert("RGB")
    white = [
        (x, y)
        for x in range(240)
        for y in range(360)
        if with_title.getpixel((x, y)) == (255, 255, 255)
    ]
    left, right = min(x for x, _ in white if _ > 240), max(x for x, y in white if y > 240)
    assert right - left > 0.6 * 240, "the title is wide"
    assert 240 - right > 0.05 * 240
    assert left > 0.05 * 240
    assert len([y for _, y in white if y > 240]) > 500
    plain = md.ImagePart.from_file("without/blue-room.png").to_pil().convert("RGB")
    assert (
        sum(plain.getpixel((x, y)) == (255, 255, 255) for x in range(240) for y in range(240, 360))
        < 50
    )


def test_variants_have_names_and_seeds_and_are_on_the_contact_sheet(majordomo: Any) -> None:
    assert majordomo("imagine", BRIEF, "-o", "out", "-n", "3", *QUICK).status == 0
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert [(entry["file"], entry["seed"]) for entry in manifest["images"]] == [
        ("blue-room.png", 5),
        ("blue-room-2.png", 6),
        ("blue-room-3.png", 7),
    ]
    for entry in manifest["images"]:
        assert [derived["file"] for derived in entry["derivatives"]] == [
            f"{entry['name']}-thumbnail.webp",
            f"{entry['name']}-web.webp",
        ]
    sheet = md.ImagePart.from_file("out/contact-sheet.png")
    assert sheet.width > 2 * 96
    assert not compare(
        md.ImagePart.from_file("out/blue-room.png"), md.ImagePart.from_file("out/blue-room-2.png")
    ).identical
    assert len(os.listdir("out")) == 3 * 3 + 2


def test_default_folder_is_named_after_the_brief_and_new(majordomo: Any) -> None:
    for _ in range(2):
        assert majordomo("imagine", "a red boat", *QUICK).status == 0
    assert sorted(os.listdir(".")) == ["a-red-boat", "a-red-boat-2"]
    assert "a-red-boat.png" in os.listdir("a-red-boat-2")


@pytest.mark.parametrize(
    ("brief", "stem"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("CON", "image_con"),
        ("…", "image"),
        ("हिन्दी में एक कविता", "हिन्दी-में-एक-कविता"),
        ("Ein Schloß bei Nacht", "ein-schloss-bei-nacht"),
        ("a poster for a jazz night, portrait, with the title", "a-poster-for-a-jazz-night"),
        ("x" * 500, "x" * 26),
    ],
)
def test_file_names_are_safe_and_short(brief: str, stem: str) -> None:
    assert stem_of(brief) == stem


def test_non_empty_folder_is_rejected_before_generating(majordomo: Any) -> None:
    Path("out").mkdir()
    Path("out/letter.txt").write_text("dear")
    Path("file").write_text("old content")
    for output in ("out", "file", "file/out"):
        done = majordomo("imagine", BRIEF, "-o", output, *QUICK)
        assert done.status == 2, done
        assert "drawing" not in done.out
    assert os.listdir("out") == ["letter.txt"]
    assert Path("file").read_text() == "old content"


@pytest.mark.parametrize("output", ["what?", "a/NUL/out", "out "])
def test_folder_name_that_windows_refuses_is_rejected_before_generating(
    majordomo: Any, output: str
) -> None:
    for command in (["imagine", BRIEF, *QUICK], ["process", "a.png", "--recipe", "strip"]):
        Path("a.png").touch()
        done = majordomo(*command, "-o", output)
        assert done.status == 2, done
        assert "is not a valid name for a folder" in done.err
        assert "drawing" not in done.out
        assert os.listdir(".") == ["a.png"]


def test_folder_that_cannot_be_written_to_is_reported_before_generating(
    majordomo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "denied", "some temporary name")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    done = majordomo("imagine", BRIEF, "-o", "out", *QUICK)
    assert (done.status, done.err) == (1, f"majordomo: {os.getcwd()}: cannot be written to\n")
    assert "drawing" not in done.out
    assert os.listdir(".") == []


def test_failed_image_does_not_affect_the_others(
    majordomo: Any, serve: Serve, image: ImageFactory
) -> None:
    server = serve(image_server_refusing(6, image=image()))
    done = majordomo(
        "imagine",
        BRIEF,
        "-o",
        "out",
        "-n",
        "3",
        "--model",
        f"llamaswap://127.0.0.1:{server.port}/sdxl",
        *QUICK,
    )
    assert done.status == 0, done
    assert "failed: blue-room-2: generate_image returned no results" in done.out
    assert "(BACKEND_FAILED)" in done.out
    assert "  help: try again, with other settings or another model" in done.out
    assert "2 images in out, 1 failed" in done.out
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert [entry["file"] for entry in manifest["images"]] == ["blue-room.png", "blue-room-3.png"]
    assert (manifest["errors"][0]["code"], manifest["errors"][0]["details"]["stage"]) == (
        "BACKEND_FAILED",
        "generate",
    )


def test_no_files_are_written_when_all_images_fail(
    majordomo: Any, serve: Serve, image: ImageFactory
) -> None:
    server = serve(image_server_refusing(5, 6, image=image()))
    done = majordomo(
        "imagine",
        BRIEF,
        "-o",
        "out",
        "-n",
        "2",
        "--model",
        f"llamaswap://127.0.0.1:{server.port}/sdxl",
        *QUICK,
    )
    assert done.status == 1
    assert done.out.count("(BACKEND_FAILED)") == 2
    assert done.err.startswith("majordomo: llamaswap/sdxl: ")
    assert "BACKEND_FAILED; try again, with other settings" in done.err
    assert not Path("out").exists()


def test_chat_model_writes_the_prompts_and_its_answer_is_in_the_manifest(
    majordomo: Any, serve: Serve
) -> None:
    answer = json.dumps(
        {
            "prompts": [
                {
                    "name": "smoky stage",
                    "prompt": "A saxophone in blue smoke.",
                    "negative_prompt": "",
                }
            ]
        }
    )

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(http_response(chat_completion(answer)))

    server = serve(handler)
    done = majordomo(
        "imagine",
        BRIEF,
        "-o",
        "out",
        "--chat-model",
        f"openaicompatible://127.0.0.1:{server.port}/m",
        *QUICK,
    )
    assert done.status == 0, done
    assert "smoky stage: A saxophone in blue smoke." in done.out
    assert "smoky_stage.png" in os.listdir("out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["plan"]["chat_reply"] == answer


def test_failing_chat_model_is_a_warning_and_rules_write_the_prompts(majordomo: Any) -> None:
    done = majordomo(
        "imagine", BRIEF, "-o", "out", "--chat-model", "openaicompatible://127.0.0.1:9/m", *QUICK
    )
    assert done.status == 0, done
    assert "warning: the prompts were written by rules: " in done.out
    assert "blue-room.png" in os.listdir("out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument"),
        ([BRIEF, "-n", "0"], "-n"),
        ([BRIEF, "--recipe", "bend=3"], "got 'bend'"),
        (
            [BRIEF, "--size", "64x64", "--aspect", "1:1"],
            "--size already determines the aspect ratio",
        ),
    ],
)
def test_wrong_usage_is_status_2(majordomo: Any, arguments: list[str], message: str) -> None:
    done = majordomo("imagine", *arguments)
    assert done.status == 2
    assert message in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([" "], "brief"),
        ([BRIEF, "--size", "axb"], "size"),
        ([BRIEF, "--steps", "0"], "steps"),
        ([BRIEF, "--model", "unknown/x"], "there is no provider 'unknown'"),
        ([BRIEF, "--model", "llamaswap://127.0.0.1:9/x"], "cannot connect"),
    ],
)
def test_error_is_one_line_and_status_1(majordomo: Any, arguments: list[str], message: str) -> None:
    done = majordomo("imagine", *arguments)
    assert done.status == 1
    assert done.err.startswith("majordomo: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert os.listdir(".") == []


SCRIPT = [sys.executable, "-c", "from majordomo.cli.main import main; main()", "imagine"]


@system.needs_terminal
def test_terminal_shows_the_progress_of_every_image(tmp_path: Path) -> None:
    controller, terminal = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "HOME": str(tmp_path)}
    command = [*SCRIPT, BRIEF, "-n", "2", "--size", "96x144", "--steps", "6", "-o", "out"]
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
    for description in ("reading the brief", "main: ", "main-2: ", "web ready"):
        assert description in text
    assert (tmp_path / "out" / "manifest.json").exists()


@system.needs_sigint
def test_ctrl_c_writes_nothing_and_exits_130(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda peer: (peer.request(), peer.wait_for_close(20)))
    # Background jobs of a shell ignore SIGINT, and child processes inherit that.
    with_sigint = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + SCRIPT[2]
    )
    command = [
        *SCRIPT[:2],
        with_sigint,
        SCRIPT[3],
        BRIEF,
        "-o",
        "out",
        "--model",
        f"llamaswap://127.0.0.1:{server.port}/x",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + 20
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert os.listdir(tmp_path) == []
