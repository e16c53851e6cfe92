"""`majordomo doctor` in a terminal."""

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
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        "MAJORDOMO_CONFIG",
        "XDG_CONFIG_HOME",
        "MAJORDOMO_CHAT_MODEL",
        "MAJORDOMO_IMAGE_MODEL",
        "MAJORDOMO_EMBEDDING_MODEL",
        "LLAMA_SWAP_API_KEY",
    ]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["doctor", "--configured", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


def write(text: str, path: str = "majordomo.toml") -> None:
    Path(path).write_text(text)


def test_a_healthy_set_up_is_status_0(serve: Serve) -> None:
    swap, ollama = serve(LlamaSwap({"qwen3": StableDiffusion()})), serve(OllamaChat())
    write(
        f"[defaults]\nchat='box/qwen3'\n[providers.box]\ntype='llamaswap'\nbase_url='{swap.url}'\n[providers.ollama]\nbase_url='{ollama.url}'\n"
    )
    status, shown = run()
    assert status == 0, shown
    assert "configuration: majordomo.toml (looked for majordomo.toml, " in shown
    assert f"box (llamaswap) at {swap.url}: ready, llama-swap, " in shown
    assert f"ollama at {ollama.url}: ready, Ollama 0." in shown
    assert "gemma3" in shown
    assert shown.endswith("all that is configured works\n")


def test_a_broken_one_is_status_1_and_says_what_to_change(serve: Serve) -> None:
    swap = serve(LlamaSwap({"qwen3": StableDiffusion()}, keys=["right"]))
    write(
        f"[providers.box]\ntype='llamaswap'\nbase_url='{swap.url}'\n[providers.far]\ntype='openai'\napi_key='${{NO_SUCH_KEY}}'\n",
        "other.toml",
    )
    status, shown = run("--config", "other.toml")
    assert status == 1
    assert "configuration: other.toml\n" in shown
    assert f"box (llamaswap) at {swap.url}: refused" in shown
    assert "fault: 401: " in shown
    assert 'set api_key = "${BOX_API_KEY}" in [providers.box]' in shown
    assert "far (openai): broken" in shown
    assert (
        "fault: other.toml, line 6: providers.far.api_key: the variable NO_SUCH_KEY is not set, or empty"
        in shown
    )
    assert shown.endswith("something that is configured does not work\n")


def test_a_loading_one_is_status_0(serve: Serve) -> None:
    swap = LlamaSwap({"sdxl": StableDiffusion()}, instant=False)
    server = serve(swap)
    write(
        f"[providers.box]\ntype='llamaswap'\nbase_url='{server.url}'\n[defaults]\nimage='box/sdxl'\n"
    )
    with other_client_waiting(server, swap, "sdxl"):
        status, shown = run()
    assert status == 0, shown
    assert ": loading, llama-swap" in shown
    assert "hint: sdxl is not loaded." in shown


def test_it_speaks_json(serve: Serve) -> None:
    write("[defaults]\nchat='offline'\n")
    status, shown = run("--json")
    assert status == 0
    told = json.loads(shown)
    assert (told["ok"], told["source"], told["looked"][0]) == (
        True,
        "majordomo.toml",
        "majordomo.toml",
    )
    assert [(found["name"], found["status"]) for found in told["findings"]] == [
        ("offline", "ready")
    ]
    write("[defalts]\n")
    status, shown = run("--json")
    assert status == 1
    assert "did you mean defaults?" in json.loads(shown)["advice"][0]["message"]


def test_without_a_configuration_it_says_where_one_is_looked_for(tmp_path: Path) -> None:
    status, shown = run()
    assert status == 0
    assert (
        f"no configuration (looked for majordomo.toml, {tmp_path}/home/.config/majordomo/majordomo.toml)"
        in shown
    )
    assert "nothing is configured; `offline` needs nothing" in shown


def test_the_other_commands_use_the_configuration(serve: Serve) -> None:
    write(
        "[providers.pen]\ntype='offline'\n[defaults]\nchat='pen/rules'\nimage='painter'\n[aliases]\npainter='pen/renderer?steps=3'\n"
    )
    done = CliRunner().invoke(app, ["chat", "hello"])
    assert "asking offline/rules (from defaults.chat of majordomo.toml)" in done.output
    done = CliRunner().invoke(app, ["draw", "a tree", "-o", "x.png", "--size", "32x32"])
    assert "drawing with offline/renderer (from defaults.image of majordomo.toml)" in done.output
    for arguments in (["models"], ["models", "pen"], ["models", "painter"]):
        assert "pen/renderer" in CliRunner().invoke(app, arguments).output, (
            "a name that can be used again"
        )
    assert "offline/renderer" in CliRunner().invoke(app, ["models", "offline"]).output
