"""Tests of `majordomo doctor`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from majordomo.cli.commands import app
from tests.servers.llamaswap import LlamaSwap, other_client_waiting
from tests.servers.ollama_chat import OllamaChat
from tests.servers.stable_diffusion import StableDiffusion
from tests.support.loopback import Handler, Loopback

Serve = Callable[[Handler], Loopback]


@pytest.fixture(autouse=True)
def isolated_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        "MAJORDOMO_CONFIG",
        "XDG_CONFIG_HOME",
        "MAJORDOMO_CHAT_MODEL",
        "MAJORDOMO_IMAGE_MODEL",
        "MAJORDOMO_EMBEDDING_MODEL",
        "LLAMA_SWAP_API_KEY",
    ]:
        monkeypatch.delenv(name, raising=False)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor", "--configured", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


def write(text: str, path: str = "majordomo.toml") -> None:
    Path(path).write_text(text)


def test_working_configuration_is_status_0(serve: Serve) -> None:
    swap, ollama = serve(LlamaSwap({"qwen3": StableDiffusion()})), serve(OllamaChat())
    write(
        f"[defaults]\nchat='box/qwen3'\n[providers.box]\ntype='llamaswap'\nbase_url='{swap.url}'\n[providers.ollama]\nbase_url='{ollama.url}'\n"
    )
    status, output = run()
    assert status == 0, output
    assert "configuration: majordomo.toml (searched majordomo.toml, " in output
    assert f"box (llamaswap) at {swap.url}: ready, llama-swap, " in output
    assert f"ollama at {ollama.url}: ready, Ollama 0." in output
    assert "gemma3" in output
    assert output.endswith("all configured backends work\n")


def test_broken_backend_is_status_1_with_hints(serve: Serve) -> None:
    swap = serve(LlamaSwap({"qwen3": StableDiffusion()}, keys=["right"]))
    write(
        f"[providers.box]\ntype='llamaswap'\nbase_url='{swap.url}'\n[providers.far]\ntype='openai'\napi_key='${{NO_SUCH_KEY}}'\n",
        "other.toml",
    )
    status, output = run("--config", "other.toml")
    assert status == 1
    assert "configuration: other.toml\n" in output
    assert f"box (llamaswap) at {swap.url}: refused" in output
    assert "fault: 401: " in output
    assert 'set api_key = "${BOX_API_KEY}" in [providers.box]' in output
    assert "far (openai): broken" in output
    assert (
        "fault: other.toml, line 6: providers.far.api_key: "
        "the variable NO_SUCH_KEY is not set, or empty" in output
    )
    assert output.endswith("some configured backends do not work\n")


def test_loading_model_is_status_0(serve: Serve) -> None:
    swap = LlamaSwap({"sdxl": StableDiffusion()}, instant=False)
    server = serve(swap)
    write(
        f"[providers.box]\ntype='llamaswap'\nbase_url='{server.url}'\n[defaults]\nimage='box/sdxl'\n"
    )
    with other_client_waiting(server, swap, "sdxl"):
        status, output = run()
    assert status == 0, output
    assert ": loading, llama-swap" in output
    assert "hint: sdxl is not loaded." in output


def test_json_output_has_the_whole_report(serve: Serve) -> None:
    write("[defaults]\nchat='offline'\n")
    status, output = run("--json")
    assert status == 0
    report = json.loads(output)
    assert (report["ok"], report["source"], report["searched"][0]) == (
        True,
        "majordomo.toml",
        "majordomo.toml",
    )
    assert [(finding["name"], finding["status"]) for finding in report["findings"]] == [
        ("offline", "ready")
    ]
    write("[defalts]\n")
    status, output = run("--json")
    assert status == 1
    assert "did you mean defaults?" in json.loads(output)["hints"][0]["message"]


def test_missing_configuration_lists_the_searched_paths(tmp_path: Path) -> None:
    status, output = run()
    assert status == 0
    assert (
        "no configuration (searched majordomo.toml, "
        f"{tmp_path}/home/.config/majordomo/majordomo.toml)" in output
    )
    assert "nothing is configured; the default `offline`" in output


def test_other_commands_use_the_configuration(serve: Serve) -> None:
    write(
        "[providers.pen]\ntype='offline'\n[defaults]\nchat='pen/rules'\nimage='art'\n"
        "[aliases]\nart='pen/renderer?steps=3'\n"
    )
    done = CliRunner().invoke(app, ["chat", "hello"])
    assert "asking offline/rules (from defaults.chat of majordomo.toml)" in done.output
    done = CliRunner().invoke(app, ["draw", "a tree", "-o", "x.png", "--size", "32x32"])
    assert "drawing with offline/renderer (from defaults.image of majordomo.toml)" in done.output
    for arguments in (["models"], ["models", "pen"], ["models", "art"]):
        assert "pen/renderer" in CliRunner().invoke(app, arguments).output, (
            "the printed name can be used as a model string"
        )
    assert "offline/renderer" in CliRunner().invoke(app, ["models", "offline"]).output
