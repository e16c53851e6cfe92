"""Starting and ending real engines, and the proxy in front of them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "majordomo"
ENGINES = Path(os.environ.get("MAJORDOMO_ENGINES") or CACHE / "engines") / "bin" / "python"
LLAMA_SWAP = shutil.which("llama-swap") or shutil.which("llama-swap", path=CACHE / "bin")
SENTENCE = "The sea is calm and the lamp is lit."


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def until_it_answers(url: str, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"{process.args} ended"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def llama_server(models: Path, name: str) -> list[str]:
    """The command of llama.cpp's Python server for one model; the port is filled in by whoever starts it."""
    alias = ["--model", str(models / f"{name}.gguf"), "--model_alias", name, "--n_ctx", "1024", "--n_threads", "1"]
    return [str(ENGINES), "-m", "llama_cpp.server", *alias, "--host", "127.0.0.1", "--interrupt_requests", "false"]


@dataclass(frozen=True)
class Swap:
    url: str
    kind: str
    models: Path
    ports: dict[str, int]


def commands(models: Path) -> dict[str, dict[str, Any]]:
    """What the proxy may start: pictures, three chat models, and one that dies at once."""
    found: dict[str, dict[str, Any]] = {}
    painter = [str(ENGINES), str(HERE / "servers" / "sd_server.py"), "--models", str(models)]
    for name, command, check in (
        ("tiny-image", painter, "/"),
        ("tiny", llama_server(models, "tiny"), "/v1/models"),
        ("recite", llama_server(models, "recite"), "/v1/models"),
        ("bytes", llama_server(models, "bytes"), "/v1/models"),
        ("broken", [sys.executable, "-c", "raise SystemExit(3)"], "/"),
    ):
        port = free_port()
        found[name] = {"command": [*command, *(["--port", str(port)] if name != "broken" else [])], "port": port, "check": check}
    return found


def start_swap(models: Path, folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], Swap]:
    config = commands(models)
    port = free_port()
    if LLAMA_SWAP is not None and not options:
        text = "healthCheckTimeout: 60\nmodels:\n" + "".join(
            f"  {name}:\n    cmd: {json.dumps(' '.join(entry['command']))}\n    proxy: http://127.0.0.1:{entry['port']}\n    checkEndpoint: {entry['check']}\n"
            for name, entry in config.items()
        )
        (folder / "config.yaml").write_text(text)
        command = [LLAMA_SWAP, "-config", str(folder / "config.yaml"), "-listen", f"127.0.0.1:{port}"]
    else:
        (folder / "config.json").write_text(json.dumps(config))
        command = [sys.executable, str(HERE / "servers" / "swap_server.py"), str(folder / "config.json"), "--port", str(port), *options]
    process = subprocess.Popen(command)
    kind = "llama-swap" if command[0] == LLAMA_SWAP else "stand-in"
    until_it_answers(f"http://127.0.0.1:{port}/health", process)
    return process, Swap(f"http://127.0.0.1:{port}", kind, models, {name: entry["port"] for name, entry in config.items()})


def process_on(port: int) -> int | None:
    """The process that listens on a port of this machine, from /proc."""
    wanted = f"0100007F:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if row[1] == wanted and row[3] == "0A"}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) in inodes:
                return int(link.parts[2])
        except OSError:
            continue
    return None
