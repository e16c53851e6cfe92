"""Tests of `majordomo draw`, `chat` and `models`."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import majordomo as md
from majordomo.cli.main import main
from tests.support import system
from tests.support.loopback import (
    DONE,
    Handler,
    Loopback,
    Peer,
    delta,
    http_response,
    images_reply,
    reply_with,
)

Serve = Callable[[Handler], Loopback]


def run(
    folder: Path,
    *arguments: str,
    text: str | bytes = "",
    encoding: str = "utf-8",
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run the script in this process, which is much faster than in a process of its own."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MAJORDOMO_")
    } | {"COLUMNS": "120", **variables}
    data = text if isinstance(text, bytes) else text.encode()
    # As the interpreter opens pipes, without translation of line ends.
    stdin, out, err = (
        io.TextIOWrapper(io.BytesIO(content), encoding, newline="\n")
        for content in (data, b"", b"")
    )
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as exited,
    ):
        for name in os.environ.keys() - environment.keys():
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["majordomo", *arguments])
        patch.setattr(sys, "stdin", stdin)
        main()
    code = exited.value.code
    # The interpreter prints the text and exits with status 1.
    message = code + "\n" if isinstance(code, str) else ""
    for stream in (out, err):
        stream.seek(0)
    return subprocess.CompletedProcess(
        arguments, 1 if message else code or 0, out.read(), err.read() + message
    )


def run_alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MAJORDOMO_")
    }
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        "from majordomo.cli.main import main; main()",
        *arguments,
    ]
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**environment, "COLUMNS": "120"},
    )


def test_draw_and_ask_work_offline(tmp_path: Path) -> None:
    done = run_alone(
        tmp_path,
        "draw",
        "a lighthouse at dusk",
        "-o",
        "x.png",
        "--size",
        "96x64",
        "--steps",
        "4",
        "--ask",
        "How big is it?",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "offline/renderer (no --model and no MAJORDOMO_IMAGE_MODEL)" in done.stdout
    assert "no neural network drew this" in done.stdout
    assert "The image is 96 x 64 pixels, PNG." in done.stdout
    image = md.ImagePart.from_file(tmp_path / "x.png")
    assert (image.width, image.height) == (96, 64)


def test_printed_seed_reproduces_the_image(tmp_path: Path) -> None:
    first = run(tmp_path, "draw", "a tree", "-o", "a.png", "--size", "64x64", "--steps", "3")
    match = re.search(r"a\.png  64x64, seed (\d+)", first.stdout)
    assert match is not None
    run(
        tmp_path,
        "draw",
        "a tree",
        "-o",
        "b.png",
        "--size",
        "64x64",
        "--steps",
        "3",
        "--seed",
        match[1],
    )
    run(
        tmp_path,
        "draw",
        "a tree",
        "-o",
        "c.png",
        "--size",
        "64x64",
        "--steps",
        "3",
        "--seed",
        str(int(match[1]) + 1),
    )
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png"))
    assert a == b != c


def test_draw_options_reach_the_backend(
    serve: Serve, image: Callable[[], md.ImagePart], tmp_path: Path
) -> None:
    server = serve(reply_with(http_response(images_reply(image().data, image().data))))
    done = run(
        tmp_path,
        "draw",
        "a cat",
        "--model",
        f"llamaswap://127.0.0.1:{server.port}/sdxl",
        "--n",
        "2",
        "--size",
        "64x48",
        "--steps",
        "8",
        "--cfg",
        "4.5",
        "--negative",
        "dogs",
        "--sampler",
        "euler_a",
        "--seed",
        "7",
    )
    assert done.returncode == 0, done.stderr
    expected = {
        "n": 2,
        "size": "64x48",
        "steps": 8,
        "cfg_scale": 4.5,
        "negative_prompt": "dogs",
        "sample_method": "euler_a",
        "seed": 7,
    }
    assert expected.items() <= server.requests[0].json.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-cat-2.png", "a-cat.png"]
    assert "warning" not in done.stdout


def test_model_from_a_variable_is_used_and_reported(
    serve: Serve, tmp_path: Path, image: Callable[[], md.ImagePart]
) -> None:
    image().save(tmp_path / "in.png")

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.begin()
            peer.chunk(delta("a [bold]blue[/bold] ") + delta("square") + delta({}, "stop") + DONE)
            peer.end()

    server = serve(handler)
    name = f"openaicompatible://127.0.0.1:{server.port}/m"
    done = run(tmp_path, "chat", "what is this?", "--image", "in.png", MAJORDOMO_CHAT_MODEL=name)
    assert (done.returncode, done.stderr) == (0, "")
    assert "openaicompatible/m (from MAJORDOMO_CHAT_MODEL)" in done.stdout
    assert "a [bold]blue[/bold] square" in done.stdout
    assert server.requests[0].path == "/v1/chat/completions"
    assert (
        server.requests[0].json["messages"][0]["content"][1]["image_url"]["url"]
        == image().to_data_url()
    )


def test_chat_reads_standard_input(tmp_path: Path) -> None:
    done = run(tmp_path, "chat", text="hello\nthere")
    assert 'You said: "hello there"' in done.stdout


def test_models_lists_the_default_provider(tmp_path: Path) -> None:
    done = run(tmp_path, "models")
    assert "offline/renderer" in done.stdout
    assert "edit image" in done.stdout


def test_backend_text_is_not_interpreted_as_markup(serve: Serve, tmp_path: Path) -> None:
    """Brackets are not markup and colons not emoji: titles of A1111 end in a hash."""
    server = serve(
        reply_with(
            http_response(
                {
                    "data": [
                        {
                            "id": "sd.safetensors [e1441589a6]",
                            "description": "an [bold]old[/italic] one :cat:",
                        }
                    ]
                }
            )
        )
    )
    done = run(tmp_path, "models", f"openaicompatible://127.0.0.1:{server.port}/m")
    assert "sd.safetensors [e1441589a6]" in done.stdout, done.stderr
    assert "an [bold]old[/italic] one :cat:" in done.stdout
    answer = "text/event-stream", delta("a:100:b [/b]", "stop") + DONE
    server = serve(reply_with(http_response(answer[1], headers={"content-type": answer[0]})))
    done = run(
        tmp_path, "chat", "hi", "--model", f"openaicompatible://127.0.0.1:{server.port}/m[/x]"
    )
    assert "asking openaicompatible/m[/x]" in done.stdout, done.stderr
    assert "a:100:b [/b]" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["draw", "a", "--model", "unknown/x"], "there is no provider 'unknown'"),
        (
            ["draw", "a", "--model", "llamaswap://127.0.0.1:9/x"],
            "llamaswap/x: cannot connect to 127.0.0.1:9",
        ),
        (["draw", "a", "--size", "axb"], "size must be"),
        (["draw", "a", "--steps", "0"], "steps must be"),
        (["draw", " "], "prompt must not be empty"),
        (["chat", "x", "--image", "missing.png"], "missing.png: No such file"),
        (["chat", "x", "--image", "text.png"], "must be a PNG, JPEG, WebP, GIF or AVIF"),
        (["models", "llamaswap://127.0.0.1:9"], "cannot connect"),
    ],
)
def test_error_is_one_line_and_status_1(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "text.png").write_text("no image")
    done = run(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("majordomo: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["draw"],
        ["draw", "a", "--stpes", "3"],
        ["paint"],
        ["draw", "a", "-o", "x.exe"],
        ["draw", "a", "-o", "here.png"],
        ["draw", "a", "-o", "no/where.png"],
    ],
)
def test_wrong_usage_is_status_2(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "here.png").write_text("old content")
    assert run(tmp_path, *arguments).returncode == 2
    assert (tmp_path / "here.png").read_text() == "old content"


def test_force_overwrites_and_the_suffix_selects_the_format(tmp_path: Path) -> None:
    (tmp_path / "here.jpg").write_text("old content")
    assert (
        run(
            tmp_path, "draw", "a", "-o", "here.jpg", "--force", "--size", "32x32", "--steps", "1"
        ).returncode
        == 0
    )
    assert md.ImagePart.from_file(tmp_path / "here.jpg").mime == "image/jpeg"


def restore_sigint() -> None:
    """Restore SIGINT, which background jobs of a shell and their children ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@system.needs_sigint
def test_ctrl_c_cancels_the_request_and_exits_130(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda peer: (peer.request(), peer.wait_for_close(20)))
    command = [
        sys.executable,
        "-c",
        "from majordomo.cli.main import main; main()",
        "draw",
        "a",
        "--model",
        f"llamaswap://127.0.0.1:{server.port}/x",
    ]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=restore_sigint,
    ) as process:
        deadline = time.monotonic() + 20
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert server.peers[0].closed_by_client.wait(1)


def test_missing_extra_is_reported_with_the_install_command(tmp_path: Path) -> None:
    code = "import sys; sys.modules['typer'] = None; from majordomo.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "pip install 'majordomo-client[cli]'" in done.stderr


def test_draw_accepts_an_input_image_and_a_mask(
    tmp_path: Path, image: Callable[..., md.ImagePart]
) -> None:
    image(64, 64, "red").save(tmp_path / "in.png")
    image(64, 64, "black").save(tmp_path / "mask.png")
    done = run(
        tmp_path,
        "draw",
        "a cat",
        "--image",
        "in.png",
        "--mask",
        "mask.png",
        "--strength",
        "0.5",
        "--scheduler",
        "karras",
        "-o",
        "out.png",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert md.ImagePart.from_file(tmp_path / "out.png").to_pil().convert("RGB").getpixel(
        (5, 5)
    ) == (255, 0, 0), "the black area of the mask is kept"
    done = run(tmp_path, "draw", "a cat", "--aspect", "2:1", "-o", "image.png")
    image_file = md.ImagePart.from_file(tmp_path / "image.png")
    assert abs(image_file.width / image_file.height - 2) < 0.1


@pytest.mark.parametrize("name", ["a:b.png", "NUL.png", "what?.jpg", "é" * 130 + ".png"])
def test_a_file_name_that_windows_refuses_is_refused_before_generating(
    tmp_path: Path, name: str
) -> None:
    done = run(tmp_path, "draw", "a", "-o", name)
    assert done.returncode == 2
    assert "is not a valid file name" in " ".join(done.stderr.split())
    assert "drawing" not in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("draw", "--help"),
        ("models",),
        ("draw", "an \U0001f98a by ü 猫", "--size", "64x64", "--steps", "1"),
        ("imagine", "a \U0001f98a named 猫", "--size", "64x64", "--steps", "1"),
        ("process", "*.png", "--recipe", "strip"),
        ("process", "*.png", "猫.png", "--recipe", "strip"),
        ("info", "猫 ü.png"),
    ],
    ids=" ".join,
)
def test_output_needs_no_unicode(
    tmp_path: Path, image: Callable[..., md.ImagePart], arguments: tuple[str, ...]
) -> None:
    image(8, 8).save(tmp_path / "猫 ü.png")
    # The encoding of a pipe on Windows.
    done = run(tmp_path, *arguments, encoding="cp1252")
    text = done.stdout + done.stderr
    assert done.returncode == (1 if "猫.png" in arguments else 0), text
    if arguments[0] == "process":
        assert "\\u732b" in text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("grüße 猫".encode(), "grüße 猫"),
        ("\ufeffgrüße".encode(), "grüße"),
        (b"gr\xfc\xdfe", "grüße"),
    ],
)
def test_a_pipe_is_read_as_utf_8_or_in_the_encoding_of_the_system(
    serve: Serve, tmp_path: Path, data: bytes, text: str
) -> None:
    server = serve(reply_with(http_response(b'{"choices": [{"message": {"content": "ok"}}]}')))
    model = f"openaicompatible://127.0.0.1:{server.port}/v1/m"
    done = run(tmp_path, "chat", "--model", model, text=data, encoding="cp1252")
    assert done.returncode == 0, done.stderr
    assert server.requests[0].json["messages"][0]["content"] == text
