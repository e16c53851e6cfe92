"""`majordomo imagine` in a terminal: the folder that comes of a brief."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo.cli.output_dir import stem_of
from majordomo.imaging import compare
from majordomo.studio import StudioResult
from tests.support.loopback import Handler, Loopback, Peer, chat, images_reply, whole

Image = Callable[..., md.ImagePart]
Serve = Callable[[Handler], Loopback]
BRIEF = "a poster for a jazz night, portrait, with the title BLUE ROOM"
QUICK = ("--size", "96x144", "--steps", "1", "--seed", "5")


def refusing(*seeds: int, image: md.ImagePart) -> Handler:
    """An image server that will not draw from these seeds."""

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            refused = any(f'"seed":{seed}' in seen.body.decode().replace(" ", "") for seed in seeds)
            said = {"error": "generate_image returned no results"}
            peer.send(whole(said, 500) if refused else whole(images_reply(image.data)))

    return handler


def test_the_folder_is_what_a_person_would_want_to_receive(majordomo: Any) -> None:
    done = majordomo("imagine", BRIEF, "-o", "out/", "--steps", "2", "--seed", "5")
    assert (done.status, done.err) == (0, ""), done
    assert sorted(os.listdir("out")) == [
        "blue-room-thumbnail.webp", "blue-room-web.webp", "blue-room.png", "contact-sheet.png", "manifest.json",
    ]  # fmt: skip
    poster = md.ImagePart.from_file("out/blue-room.png")
    assert poster.height * 2 == pytest.approx(poster.width * 3, rel=0.02)
    assert poster.width * poster.height > 900_000, "large enough to print small"
    thumbnail, web = (
        md.ImagePart.from_file(f"out/blue-room-{name}.webp") for name in ("thumbnail", "web")
    )
    assert (thumbnail.height, web.height) == (256, poster.height)
    for line in (
        'read: poster, event, portrait, with the words "BLUE ROOM"',
        "prompts by rules",
        "no neural network drew this",
    ):
        assert line in done.out
    assert "1 image in out" in done.out
    told = json.loads(Path("out/manifest.json").read_text())
    assert (told["brief"], told["images"][0]["file"], told["images"][0]["seed"]) == (
        BRIEF,
        "blue-room.png",
        5,
    )
    assert told["contact_sheet"]["file"] == "contact-sheet.png"
    assert StudioResult.load("out").items[0].image == poster
    assert {"prompt", "seed", "size"} <= poster.parameters.keys()


def test_the_title_is_written_low_on_the_image_in_letters_that_stand_out(majordomo: Any) -> None:
    size = ("--size", "240x360", "--steps", "2", "--seed", "5")
    assert majordomo("imagine", BRIEF, "-o", "with", *size).status == 0
    assert majordomo("imagine", BRIEF, "-o", "without", "--drawn-text", *size).status == 0
    lettered = md.ImagePart.from_file("with/blue-room.png").to_pil().convert("RGB")
    white = [
        (x, y)
        for x in range(240)
        for y in range(360)
        if lettered.getpixel((x, y)) == (255, 255, 255)
    ]
    left, right = min(x for x, _ in white if _ > 240), max(x for x, y in white if y > 240)
    assert right - left > 0.6 * 240, "as wide as a title is"
    assert 240 - right > 0.05 * 240
    assert left > 0.05 * 240
    assert len([y for _, y in white if y > 240]) > 500
    plain = md.ImagePart.from_file("without/blue-room.png").to_pil().convert("RGB")
    assert (
        sum(plain.getpixel((x, y)) == (255, 255, 255) for x in range(240) for y in range(240, 360))
        < 50
    )


def test_variants_get_names_seeds_and_a_place_on_the_contact_sheet(majordomo: Any) -> None:
    assert majordomo("imagine", BRIEF, "-o", "out", "-n", "3", *QUICK).status == 0
    told = json.loads(Path("out/manifest.json").read_text())
    assert [(one["file"], one["seed"]) for one in told["images"]] == [
        ("blue-room.png", 5),
        ("blue-room-2.png", 6),
        ("blue-room-3.png", 7),
    ]
    for one in told["images"]:
        assert [derived["file"] for derived in one["derivatives"]] == [
            f"{one['name']}-thumbnail.webp",
            f"{one['name']}-web.webp",
        ]
    sheet = md.ImagePart.from_file("out/contact-sheet.png")
    assert sheet.width > 2 * 96
    assert not compare(
        md.ImagePart.from_file("out/blue-room.png"), md.ImagePart.from_file("out/blue-room-2.png")
    ).identical
    assert len(os.listdir("out")) == 3 * 3 + 2


def test_without_a_folder_it_makes_one_after_the_brief_and_never_the_same(majordomo: Any) -> None:
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
        ("Ein Schloß bei Nacht", "ein-schloss-bei-nacht"),
        ("a poster for a jazz night, portrait, with the title", "a-poster-for-a-jazz-night"),
        ("x" * 500, "x" * 26),
    ],
)
def test_names_of_files_are_safe_and_short(brief: str, stem: str) -> None:
    assert stem_of(brief) == stem


def test_a_folder_with_something_in_it_is_refused_before_anything_is_drawn(majordomo: Any) -> None:
    Path("out").mkdir()
    Path("out/letter.txt").write_text("dear")
    Path("file").write_text("taken")
    for output in ("out", "file", "file/out"):
        done = majordomo("imagine", BRIEF, "-o", output, *QUICK)
        assert done.status == 2, done
        assert "drawing" not in done.out
    assert os.listdir("out") == ["letter.txt"]
    assert Path("file").read_text() == "taken"


def test_one_image_that_fails_costs_the_others_nothing(
    majordomo: Any, serve: Serve, image: Image
) -> None:
    server = serve(refusing(6, image=image()))
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
    told = json.loads(Path("out/manifest.json").read_text())
    assert [one["file"] for one in told["images"]] == ["blue-room.png", "blue-room-3.png"]
    assert (told["errors"][0]["code"], told["errors"][0]["details"]["stage"]) == (
        "BACKEND_FAILED",
        "generate",
    )


def test_when_nothing_comes_every_failure_is_told_and_nothing_is_written(
    majordomo: Any, serve: Serve, image: Image
) -> None:
    server = serve(refusing(5, 6, image=image()))
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


def test_a_chat_model_writes_the_prompts_and_the_manifest_keeps_what_it_said(
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
            peer.send(whole(chat(answer)))

    server = serve(handler)
    done = majordomo(
        "imagine",
        BRIEF,
        "-o",
        "out",
        "--chat",
        f"openaicompatible://127.0.0.1:{server.port}/m",
        *QUICK,
    )
    assert done.status == 0, done
    assert "smoky stage: A saxophone in blue smoke." in done.out
    assert "smoky_stage.png" in os.listdir("out")
    told = json.loads(Path("out/manifest.json").read_text())
    assert told["plan"]["chat_reply"] == answer


def test_a_chat_model_that_fails_is_told_and_the_rules_go_on(majordomo: Any) -> None:
    done = majordomo(
        "imagine", BRIEF, "-o", "out", "--chat", "openaicompatible://127.0.0.1:9/m", *QUICK
    )
    assert done.status == 0, done
    assert "warning: the prompts were written by rules: " in done.out
    assert "blue-room.png" in os.listdir("out")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument"),
        ([BRIEF, "-n", "0"], "-n"),
        ([BRIEF, "--recipe", "bend=3"], "there is no step 'bend'"),
        ([BRIEF, "--size", "64x64", "--aspect", "1:1"], "a size says the shape already"),
    ],
)
def test_wrong_usage_is_status_2(majordomo: Any, arguments: list[str], words: str) -> None:
    done = majordomo("imagine", *arguments)
    assert done.status == 2
    assert words in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([" "], "brief"),
        ([BRIEF, "--size", "axb"], "size"),
        ([BRIEF, "--steps", "0"], "steps"),
        ([BRIEF, "--model", "nobody/x"], "there is no provider 'nobody'"),
        ([BRIEF, "--model", "llamaswap://127.0.0.1:9/x"], "cannot connect"),
    ],
)
def test_an_error_is_one_clear_line_and_status_1(
    majordomo: Any, arguments: list[str], words: str
) -> None:
    done = majordomo("imagine", *arguments)
    assert done.status == 1
    assert done.err.startswith("majordomo: ")
    assert words in done.err
    assert done.err.count("\n") == 1
    assert os.listdir(".") == []


SCRIPT = [sys.executable, "-c", "from majordomo.cli.main import main; main()", "imagine"]


def test_a_terminal_is_shown_the_stages_and_steps_of_every_image(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "HOME": str(tmp_path)}
    command = [*SCRIPT, BRIEF, "-n", "2", "--size", "96x144", "--steps", "6", "-o", "out"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # the other side of a terminal has closed
        pass
    os.close(ours)
    assert process.wait(20) == 0
    text = shown.decode()
    for words in ("reading the brief", "main: ", "main-2: ", "web ready"):
        assert words in text
    assert (tmp_path / "out" / "manifest.json").exists()


def test_ctrl_c_stops_the_work_writes_nothing_and_exits_130(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda peer: (peer.request(), peer.wait_for_close(20)))
    # Who starts the tests in the background may have it ignored, and children inherit that
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); " + SCRIPT[2]
    command = [
        *SCRIPT[:2],
        heard,
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
        until = time.monotonic() + 20
        while not server.seen and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in shown
    assert os.listdir(tmp_path) == []
