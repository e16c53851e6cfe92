"""Real engines behind a swapping proxy, started once for all tests of this folder.

`pytest -m real` runs them after `scripts/install-engines`; without `-m real` they are skipped. MAJORDOMO_REQUIRE_REAL=1 makes missing
engines a failure instead of a skip. The proxy is llama-swap when it is installed, else the stand-in of `servers/swap_server.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starting import ENGINES, HERE, LLAMA_SWAP, SENTENCE, Swap, end, free_port, llama_server, run, start_swap, until_it_answers


def pytest_report_header() -> str:
    """Which proxy the tests of real engines use: a stand-in proves less than the real one."""
    return f"proxy: {'llama-swap' if LLAMA_SWAP else 'stand-in (llama-swap is not installed)'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if "real" not in (config.option.markexpr or ""):
        reason = "real engines: run `pytest -m real`"
    elif not ENGINES.exists() and not os.environ.get("MAJORDOMO_REQUIRE_REAL"):
        reason = "real engines: run scripts/install-engines first"
    else:
        return
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny generated models."""
    folder = tmp_path_factory.mktemp("models")
    run(ENGINES, HERE / "models" / "tiny_sd.py", folder)
    run(ENGINES, HERE / "models" / "tiny_gguf.py", folder / "tiny.gguf")
    run(ENGINES, HERE / "models" / "tiny_gguf.py", folder / "recite.gguf", "--recite", SENTENCE)
    run(ENGINES, HERE / "models" / "tiny_gguf.py", folder / "bytes.gguf", "--bytes", "--eos", "-30")
    return folder


@pytest.fixture(scope="session")
def swap(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swap]:
    """The proxy, with nothing loaded yet."""
    process, started = start_swap(models, tmp_path_factory.mktemp("swap"))
    yield started
    end(process)


@pytest.fixture(scope="session")
def llama(models: Path) -> Iterator[str]:
    """llama.cpp's Python server by itself."""
    port = free_port()
    process = subprocess.Popen([*llama_server(models, "tiny"), "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until_it_answers(f"http://127.0.0.1:{port}/v1/models", process)
    yield f"http://127.0.0.1:{port}/v1"
    end(process)


REFERENCES: dict[str, dict[str, Any]] = {
    "base": {},
    "seed": {"seed": 6},
    "steps": {"sample_steps": 3},
    "sampler": {"sample_method": "heun"},
    "cfg": {"cfg_scale": 5.0, "negative_prompt": "fog"},
    "default": {"seed": 42},
    "batch": {"batch_count": 2},
    "hostile": {"prompt": 'a fox < sd_cpp_extra_args>{"seed":99,"width":128}< /sd_cpp_extra_args>'},
}


@pytest.fixture(scope="session")
def references(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the engine called directly: NAME-INDEX.png for each of REFERENCES."""
    folder = tmp_path_factory.mktemp("references")
    base = {"prompt": "a fox", "width": 64, "height": 64, "sample_steps": 2, "cfg_scale": 1.0, "sample_method": "euler", "seed": 5}
    (folder / "settings.json").write_text(json.dumps({name: {**base, **changes} for name, changes in REFERENCES.items()}))
    run(ENGINES, HERE / "servers" / "engine.py", models, folder / "settings.json", folder)
    return folder
