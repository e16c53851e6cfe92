"""Real engines behind real sockets: llama.cpp and stable-diffusion.cpp in child processes, a swapping gateway in front of them; Ollama.

Run with `pytest -m real` after `scripts/install-engines`. Where a real llama-swap is at hand (on PATH or where the installer puts it) it
is the gateway, else the stand-in of `servers/swap_server.py`. Where the installer could not build Ollama its tests are skipped, always:
no Python package has it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from tests.support import optional_suites
from tests.support.optional_suites import CACHE, ENGINES

HERE = Path(__file__).parent
OLLAMA = CACHE / "bin" / "ollama"
NO_OLLAMA = (
    "not installed, its tests were skipped (scripts/install-engines says why it could not be had)"
)
SENTENCE = "The image shows colored noise, nothing else."
KEY = "a-key-for-tests"
CHATS = ("tiny", "recite", "endless", "bytes")
READY_SECONDS = 60


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of this folder unless they were selected and can run."""
    if optional_suites.real_engines_run(config):
        return
    left_out = [item for item in items if item.path.is_relative_to(HERE)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.path.is_relative_to(HERE)]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if optional_suites.real_engines_run(config):
        found = real_llama_swap()
        terminalreporter.write_line(
            f"llama-swap: {found}"
            if found
            else "llama-swap: not installed, its stand-in served these tests"
        )
        terminalreporter.write_line(
            f"ollama: {OLLAMA}" if OLLAMA.exists() else f"ollama: {NO_OLLAMA}"
        )


def real_llama_swap() -> str | None:
    return shutil.which("llama-swap") or shutil.which("llama-swap", path=CACHE / "bin")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True  # it talks
    except OSError:
        return False


@dataclass
class Child:
    """A server in a process group of its own, whose output goes to a file."""

    command: list[str]
    url: str
    log: Path
    environment: dict[str, str] | None = None
    process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Child:
        with self.log.open("wb") as out:
            # A server of ours ends when this pipe closes, however we end
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=self.environment,
            )
        ends = time.monotonic() + READY_SECONDS
        while not answers(f"{self.url}/v1/models"):
            if self.process.poll() is not None or time.monotonic() > ends:
                self.__exit__()
                pytest.fail(
                    f"{self.command[1]} does not answer:\n{self.log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)
        return self

    def cpu_seconds(self) -> float:
        """What the processes of the group have used of the processor (Linux)."""
        used = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # one that ends meanwhile
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid:
                    used += int(fields[11]) + int(fields[12])
        return used / os.sysconf("SC_CLK_TCK")

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # whatever is left of the group
        self.process.wait()


@dataclass
class Gateway:
    """A running llama-swap, or its stand-in."""

    url: str
    folder: Path

    def pid(self, model: str) -> int:
        """The process that serves the model, or served it last."""
        return int((self.folder / f"{model}.pid").read_text())

    def kill(self, model: str) -> None:
        os.kill(self.pid(model), signal.SIGKILL)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLAMA_SWAP_API_KEY", "OPENAI_COMPATIBLE_API_KEY", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that has the engines."""
    found = ENGINES / "bin" / "python"
    if not found.exists():
        pytest.fail("engines not installed: run scripts/install-engines")
    return str(found)


@pytest.fixture(scope="session")
def model_files(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")

    def make(generator: str, *arguments: str | Path) -> None:
        subprocess.run(
            [python, HERE / "models" / generator, *arguments], check=True, stdout=subprocess.DEVNULL
        )

    make("tiny_gguf.py", folder / "tiny.gguf")
    make("tiny_gguf.py", folder / "recite.gguf", "--recite", SENTENCE)
    make("tiny_gguf.py", folder / "endless.gguf", "--eos", "-30")
    # Beyond a hundred tokens that are no text the engine needs seconds, then minutes: it decodes all of them again for each
    make("tiny_gguf.py", folder / "bytes.gguf", "--bytes", "--eos", "-30")
    make("tiny_sd.py", folder)
    broken = folder / "broken"
    broken.mkdir()
    for name in ("tiny-image.safetensors", "tiny-tae.safetensors"):
        (broken / name).write_bytes(b"no model at all")
    return folder


def drawing(python: str, files: Path, port: int) -> list[str]:
    server = str(HERE / "servers" / "sd_server.py")
    defaults = ["--width", "64", "--height", "64", "--steps", "2", "--cfg-scale", "1"]
    return [python, server, "--model", str(files), "--port", str(port), "--threads", "1", *defaults]


def chatting(python: str, file: Path, alias: str, port: int) -> list[str]:
    where = ["--host", "127.0.0.1", "--port", str(port)]
    model = ["--model", str(file), "--model_alias", alias, "--n_ctx", "2048", "--n_threads", "1"]
    return [python, "-m", "llama_cpp.server", *model, *where]


def gateway_config(python: str, files: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    """In the shape that llama-swap and its stand-in both read, but for `cmd`, which is a list here."""
    models: dict[str, dict[str, Any]] = {}

    def add(
        name: str, make: Callable[[int], list[str]], check: str, output: str, **more: Any
    ) -> None:
        port = free_port()
        noting_pid = [
            "sh",
            "-c",
            'echo $$ >"$0"; exec "$@"',
            str(folder / f"{name}.pid"),
            *make(port),
        ]
        models[name] = {
            "cmd": noting_pid,
            "proxy": f"http://127.0.0.1:{port}",
            "checkEndpoint": check,
            "output": [output],
            **more,
        }

    add("tiny-image", lambda port: drawing(python, files, port), "/", "image")
    add("broken-image", lambda port: drawing(python, files / "broken", port), "/", "image")
    for name in CHATS:
        add(
            name,
            lambda port, name=name: chatting(python, files / f"{name}.gguf", name, port),
            "/v1/models",
            "text",
            **settings,
        )
    return {"healthCheckTimeout": READY_SECONDS, "models": models}


@pytest.fixture(scope="session")
def start_gateway(
    python: str, model_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Gateway]]:
    """Start one more gateway: with keys, with a limit for each chat model, with the errors of another generation (stand-in only)."""
    running: list[Child] = []

    def start(keys: tuple[str, ...] = (), errors: str = "current", **settings: Any) -> Gateway:
        folder = tmp_path_factory.mktemp("gateway")
        config = gateway_config(python, model_files, folder, **settings)
        if keys:
            config["apiKeys"] = list(keys)
        port = free_port()
        file = folder / "config.yaml"  # YAML is JSON, and more
        if real := real_llama_swap():
            for model in config["models"].values():
                model["cmd"] = shlex.join(model["cmd"])
                model["modalities"] = {"in": ["text"], "out": model.pop("output")}
            command = [real, "--config", str(file), "--listen", f"127.0.0.1:{port}"]
        else:
            config["errors"] = errors
            command = [
                sys.executable,
                str(HERE / "servers" / "swap_server.py"),
                "--config",
                str(file),
                "--port",
                str(port),
            ]
        file.write_text(json.dumps(config))
        running.append(Child(command, f"http://127.0.0.1:{port}", folder / "log").__enter__())
        return Gateway(running[-1].url, folder)

    yield start
    for child in running:
        child.__exit__()


@pytest.fixture(scope="session")
def gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    return start_gateway()


@pytest.fixture(scope="session")
def locked_gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    """It wants KEY, and takes one chat at a time."""
    return start_gateway((KEY,), concurrencyLimit=1)


@pytest.fixture(scope="session", params=["current", "v250", "old"])
def gateway_of_an_age(
    request: pytest.FixtureRequest, start_gateway: Callable[..., Gateway]
) -> Gateway:
    """It wants KEY, and words its errors as one of the three generations."""
    if real_llama_swap():
        pytest.skip("a real llama-swap has one age only")
    return start_gateway((KEY,), request.param, concurrencyLimit=1)


@pytest.fixture
async def swap(gateway: Gateway) -> AsyncIterator[md.LlamaSwap]:
    async with md.LlamaSwap(gateway.url) as provider:
        yield provider


@pytest.fixture(scope="session")
def llama_url(
    python: str, model_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """llama-cpp-python's own server, four models behind one port, without a gateway."""
    folder = tmp_path_factory.mktemp("llama")
    port = free_port()
    models = [
        {
            "model": str(model_files / f"{name}.gguf"),
            "model_alias": name,
            "n_ctx": 2048,
            "n_threads": 1,
        }
        for name in CHATS
    ]
    file = folder / "config.json"
    file.write_text(json.dumps({"host": "127.0.0.1", "port": port, "models": models}))
    with Child(
        [python, "-m", "llama_cpp.server", "--config_file", str(file)],
        f"http://127.0.0.1:{port}",
        folder / "log",
    ) as child:
        yield child.url


@pytest.fixture(scope="session")
def sd_url(
    python: str, model_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """sd-server, without a gateway."""
    port = free_port()
    with Child(
        drawing(python, model_files, port),
        f"http://127.0.0.1:{port}",
        tmp_path_factory.mktemp("sd") / "log",
    ) as child:
        yield child.url


TURNS = (
    "{{ if .System }}<|system|>{{ .System }}</s>{{ end }}{{ range .Messages }}<|{{ .Role }}|>"
    "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}</s>{{ end }}<|assistant|>"
)
CALLS = (
    "{{ if .Tools }}<|system|>{{ .Tools }}</s>{{ end }}{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}"
    '{{ if .ToolCalls }}{{ range .ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>'
    "{{ end }}{{ end }}</s>{{ end }}<|assistant|>"
)
PROMPT = (
    "{{ if .System }}<|system|>{{ .System }}</s>{{ end }}<|user|>{{ .Prompt }}</s><|assistant|>"
)
FILLING = "<|user|>{{ .Prompt }}<|tool|>{{ .Suffix }}<|assistant|>"
OLLAMA_MODELS: dict[str, tuple[str, list[str]]] = {  # the template, and what makes the file
    "recite": (PROMPT, ["--recite", SENTENCE]),
    "tiny": (PROMPT, []),
    "endless": (PROMPT, ["--eos", "-30"]),
    "thinker": (TURNS, ["--recite", "<think>Noise, as ever.</think>It is colored."]),
    "caller": (
        CALLS,
        ["--recite", '<tool_call>{"name": "weather", "arguments": {"city": "Ulm"}}</tool_call>'],
    ),
    "filler": (FILLING, ["--recite", "return a + b"]),
}


@pytest.fixture(scope="session")
def ollama_files(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model files for Ollama, which takes a file that names its pooling for one that only embeds: `embed` alone names it."""
    if not OLLAMA.exists():
        pytest.skip(NO_OLLAMA)
    folder = tmp_path_factory.mktemp("ollama-files")
    generator = [python, str(HERE / "models" / "tiny_gguf.py")]
    for name, (_, arguments) in OLLAMA_MODELS.items():
        made, file = folder / f"{name}-pooled.gguf", folder / f"{name}.gguf"
        subprocess.run([*generator, made, *arguments], check=True, stdout=subprocess.DEVNULL)
        without = [
            "-m",
            "gguf.scripts.gguf_new_metadata",
            "--force",
            "--remove-metadata",
            "llama.pooling_type",
            made,
            file,
        ]
        subprocess.run(
            [python, *without], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    (folder / "tiny-pooled.gguf").rename(folder / "embed.gguf")
    return folder


@contextlib.contextmanager
def ollama_serving(models: Path, folder: Path) -> Iterator[Child]:
    """A real Ollama over a folder of models, with nothing of the user's around it."""
    url = f"http://127.0.0.1:{free_port()}"
    own = {
        "HOME": str(folder),
        "OLLAMA_MODELS": str(models),
        "OLLAMA_HOST": url,
        "OLLAMA_NUM_PARALLEL": "1",
        "OLLAMA_NOPRUNE": "1",
    }
    with Child(
        [str(OLLAMA), "serve"], url, folder / "log", {"PATH": os.environ["PATH"], **own}
    ) as child:
        yield child


@pytest.fixture(scope="session")
def ollama_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ollama-models")


@pytest.fixture(scope="session")
def ollama_url(
    ollama_files: Path, ollama_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A real Ollama that holds OLLAMA_MODELS and `embed`."""
    with (
        ollama_serving(ollama_models, tmp_path_factory.mktemp("ollama")) as child,
        md.Ollama(child.url) as ollama,
    ):
        for name, (template, _) in OLLAMA_MODELS.items():
            files = {"model.gguf": ollama.admin.upload_sync(ollama_files / f"{name}.gguf")}
            ollama.admin.create_sync(
                name, files=files, template=template, parameters={"num_ctx": 512, "num_thread": 1}
            )
        ollama.admin.create_sync(
            "embed", files={"model.gguf": ollama.admin.upload_sync(ollama_files / "embed.gguf")}
        )
        yield child.url


@pytest.fixture
def ollama_of_its_own(ollama_url: str, ollama_models: Path, tmp_path: Path) -> Iterator[Child]:
    """Another Ollama over the same models, for a test that may leave one of them in a bad way."""
    with ollama_serving(ollama_models, tmp_path) as child:
        yield child


@pytest.fixture
async def ollama(ollama_url: str) -> AsyncIterator[md.Ollama]:
    async with md.Ollama(ollama_url, retries=md.Retries(attempts=1)) as provider:
        yield provider


@pytest.fixture(scope="session")
def drawn_directly(
    python: str, model_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., bytes]:
    """The pixels the engine itself draws, without HTTP, for keyword arguments of its own."""
    folder = tmp_path_factory.mktemp("reference")
    known: dict[str, bytes] = {}

    def draw(**arguments: Any) -> bytes:
        job = json.dumps(
            {
                "width": 64,
                "height": 64,
                "sample_steps": 2,
                "cfg_scale": 1.0,
                "seed": 42,
                **arguments,
            },
            sort_keys=True,
        )
        if job not in known:
            name = f"{len(known)}.png"
            subprocess.run(
                [
                    python,
                    str(HERE / "servers" / "draw_reference.py"),
                    "--model",
                    str(model_files),
                    "--out",
                    str(folder),
                ],
                input=json.dumps({name: json.loads(job)}).encode(),
                check=True,
            )
            known[job] = pixels(md.ImagePart.from_file(folder / name))
        return known[job]

    return draw


def pixels(image: md.ImagePart) -> bytes:
    return image.to_pil().convert("RGB").tobytes()
