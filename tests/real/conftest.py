"""Real engines behind real sockets: llama.cpp, stable-diffusion.cpp and Ollama.

llama.cpp and stable-diffusion.cpp run in child processes behind a gateway that swaps models. Run
with `pytest -m real` after `scripts/install-engines`. The gateway is a real llama-swap if there
is one on PATH or where the installer puts it, else the substitute in `servers/swap_server.py`.
The tests of Ollama are skipped if the installer could not build it: there is no Python package of
it.
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
NO_OLLAMA = "not installed, its tests were skipped (scripts/install-engines prints the reason)"
SENTENCE = "The image shows colored noise, nothing else."
KEY = "a-key-for-tests"
CHAT_MODELS = ("tiny", "recite", "endless", "bytes")
# Further names of the model "recite".
ALIASES: dict[str, Any] = {
    "aliases": ["reciter"],
    "filters": {"setParamsByID": {"recite:short": {"max_tokens": 2}}},
}
READY_SECONDS = 60


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of this folder unless they were selected and can run."""
    if optional_suites.real_engines_run(config):
        return
    deselected = [item for item in items if item.path.is_relative_to(HERE)]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if not item.path.is_relative_to(HERE)]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Report which gateway and which Ollama were used."""
    if optional_suites.real_engines_run(config):
        llama_swap = real_llama_swap()
        terminalreporter.write_line(
            f"llama-swap: {llama_swap}"
            if llama_swap
            else "llama-swap: not installed, its substitute ran these tests"
        )
        terminalreporter.write_line(
            f"ollama: {OLLAMA}" if OLLAMA.exists() else f"ollama: {NO_OLLAMA}"
        )


def real_llama_swap() -> str | None:
    """Return the path of a real llama-swap; None if there is none."""
    return shutil.which("llama-swap") or shutil.which("llama-swap", path=CACHE / "bin")


def free_port() -> int:
    """Return a free port on the loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(url: str) -> bool:
    """Return whether a server answers at this URL, with any status."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


@dataclass
class Child:
    """A server in its own process group, with its output in a file."""

    command: list[str]
    url: str
    log: Path
    environment: dict[str, str] | None = None
    process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Child:
        with self.log.open("wb") as out:
            # The servers of this folder end when this pipe closes, however pytest ends.
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=self.environment,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not answers(f"{self.url}/v1/models"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                pytest.fail(
                    f"{self.command[1]} does not answer:\n"
                    f"{self.log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)
        return self

    def cpu_seconds(self) -> float:
        """Return the CPU time that the processes of the group have used (Linux only)."""
        used = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            # A process may end meanwhile.
            with contextlib.suppress(OSError):
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
            # What is left of the group.
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Gateway:
    """A running llama-swap, or its substitute."""

    url: str
    folder: Path

    def pid(self, model: str) -> int:
        """Return the process id of the model's current or last server."""
        return int((self.folder / f"{model}.pid").read_text())

    def kill(self, model: str) -> None:
        """Kill the model's server."""
        os.kill(self.pid(model), signal.SIGKILL)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove API keys from the environment."""
    for name in ("LLAMA_SWAP_API_KEY", "OPENAI_COMPATIBLE_API_KEY", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def python() -> str:
    """The Python interpreter that has the engines."""
    interpreter = ENGINES / "bin" / "python"
    if not interpreter.exists():
        pytest.fail("engines not installed: run scripts/install-engines")
    return str(interpreter)


@pytest.fixture(scope="session")
def model_files(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of generated model files."""
    folder = tmp_path_factory.mktemp("models")

    def make(generator: str, *arguments: str | Path) -> None:
        subprocess.run(
            [python, HERE / "models" / generator, *arguments], check=True, stdout=subprocess.DEVNULL
        )

    make("tiny_gguf.py", folder / "tiny.gguf")
    make("tiny_gguf.py", folder / "recite.gguf", "--recite", SENTENCE)
    make("tiny_gguf.py", folder / "endless.gguf", "--eos", "-30")
    # Beyond a hundred tokens that are not text the engine needs seconds, then minutes: it decodes
    # all of them again for each new token.
    make("tiny_gguf.py", folder / "bytes.gguf", "--bytes", "--eos", "-30")
    make("tiny_sd.py", folder)
    broken = folder / "broken"
    broken.mkdir()
    for name in ("tiny-image.safetensors", "tiny-tae.safetensors"):
        (broken / name).write_bytes(b"no model at all")
    return folder


def image_command(python: str, files: Path, port: int) -> list[str]:
    """Return the command of an image server."""
    server = str(HERE / "servers" / "sd_server.py")
    defaults = ["--width", "64", "--height", "64", "--steps", "2", "--cfg-scale", "1"]
    return [python, server, "--model", str(files), "--port", str(port), "--threads", "1", *defaults]


def chat_command(python: str, file: Path, alias: str, port: int) -> list[str]:
    """Return the command of a chat server."""
    address = ["--host", "127.0.0.1", "--port", str(port)]
    model = ["--model", str(file), "--model_alias", alias, "--n_ctx", "2048", "--n_threads", "1"]
    return [python, "-m", "llama_cpp.server", *model, *address]


def gateway_config(python: str, files: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    """Return a configuration for llama-swap and its substitute.

    Only `cmd` differs: it is a list here.
    """
    models: dict[str, dict[str, Any]] = {}

    def add(
        name: str,
        make_command: Callable[[int], list[str]],
        check_endpoint: str,
        output: str,
        **extra: Any,
    ) -> None:
        port = free_port()
        command = [
            "sh",
            "-c",
            'echo $$ >"$0"; exec "$@"',
            str(folder / f"{name}.pid"),
            *make_command(port),
        ]
        models[name] = {
            "cmd": command,
            "proxy": f"http://127.0.0.1:{port}",
            "checkEndpoint": check_endpoint,
            "output": [output],
            **extra,
        }

    add("tiny-image", lambda port: image_command(python, files, port), "/", "image")
    add("broken-image", lambda port: image_command(python, files / "broken", port), "/", "image")
    for name in CHAT_MODELS:
        add(
            name,
            lambda port, name=name: chat_command(python, files / f"{name}.gguf", name, port),
            "/v1/models",
            "text",
            **(ALIASES if name == "recite" else {}),
            **settings,
        )
    return {"healthCheckTimeout": READY_SECONDS, "models": models}


@pytest.fixture(scope="session")
def start_gateway(
    python: str, model_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Gateway]]:
    """Start another gateway.

    It may have API keys, a limit for each chat model, and (the substitute only) the errors of
    another generation.
    """
    running: list[Child] = []

    def start(keys: tuple[str, ...] = (), errors: str = "current", **settings: Any) -> Gateway:
        folder = tmp_path_factory.mktemp("gateway")
        config = gateway_config(python, model_files, folder, **settings)
        if keys:
            config["apiKeys"] = list(keys)
        port = free_port()
        # JSON is valid YAML.
        file = folder / "config.yaml"
        if real := real_llama_swap():
            for model in config["models"].values():
                model["cmd"] = shlex.join(model["cmd"])
                model["capabilities"] = {"in": ["text"], "out": model.pop("output")}
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
    """A gateway that requires KEY and accepts one request per chat model at a time."""
    return start_gateway((KEY,), concurrencyLimit=1)


@pytest.fixture(scope="session", params=["current", "v250", "old"])
def gateway_of_each_generation(
    request: pytest.FixtureRequest, start_gateway: Callable[..., Gateway]
) -> Gateway:
    """A gateway that requires KEY, with the error messages of one of the three generations."""
    if real_llama_swap():
        pytest.skip("a real llama-swap has the errors of one generation only")
    return start_gateway((KEY,), request.param, concurrencyLimit=1)


@pytest.fixture
async def swap(gateway: Gateway) -> AsyncIterator[md.LlamaSwap]:
    async with md.LlamaSwap(gateway.url) as provider:
        yield provider


@pytest.fixture(scope="session")
def llama_url(
    python: str, model_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of llama-cpp-python's own server: four models on one port, without a gateway."""
    folder = tmp_path_factory.mktemp("llama")
    port = free_port()
    models = [
        {
            "model": str(model_files / f"{name}.gguf"),
            "model_alias": name,
            "n_ctx": 2048,
            "n_threads": 1,
        }
        for name in CHAT_MODELS
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
    """The URL of sd-server, without a gateway."""
    port = free_port()
    with Child(
        image_command(python, model_files, port),
        f"http://127.0.0.1:{port}",
        tmp_path_factory.mktemp("sd") / "log",
    ) as child:
        yield child.url


CHAT_TEMPLATE = (
    "{{ if .System }}<|system|>{{ .System }}</s>{{ end }}{{ range .Messages }}<|{{ .Role }}|>"
    "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}</s>{{ end }}"
    "<|assistant|>"
)
TOOL_TEMPLATE = (
    "{{ if .Tools }}<|system|>{{ .Tools }}</s>{{ end }}"
    "{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}"
    "{{ if .ToolCalls }}{{ range .ToolCalls }}"
    '<tool_call>{"name": "{{ .Function.Name }}", '
    '"arguments": {{ .Function.Arguments }}}</tool_call>'
    "{{ end }}{{ end }}</s>{{ end }}<|assistant|>"
)
PROMPT_TEMPLATE = (
    "{{ if .System }}<|system|>{{ .System }}</s>{{ end }}<|user|>{{ .Prompt }}</s><|assistant|>"
)
INSERT_TEMPLATE = "<|user|>{{ .Prompt }}<|tool|>{{ .Suffix }}<|assistant|>"
# The template, and the arguments of the generator of the file.
OLLAMA_MODELS: dict[str, tuple[str, list[str]]] = {
    "recite": (PROMPT_TEMPLATE, ["--recite", SENTENCE]),
    "tiny": (PROMPT_TEMPLATE, []),
    "endless": (PROMPT_TEMPLATE, ["--eos", "-30"]),
    "thinker": (CHAT_TEMPLATE, ["--recite", "<think>Noise, as ever.</think>It is colored."]),
    "caller": (
        TOOL_TEMPLATE,
        ["--recite", '<tool_call>{"name": "weather", "arguments": {"city": "Ulm"}}</tool_call>'],
    ),
    "filler": (INSERT_TEMPLATE, ["--recite", "return a + b"]),
}


@pytest.fixture(scope="session")
def ollama_files(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model files for Ollama.

    Ollama treats a file that names its pooling as an embedding model; only `embed` names it.
    """
    if not OLLAMA.exists():
        pytest.skip(NO_OLLAMA)
    folder = tmp_path_factory.mktemp("ollama-files")
    generator = [python, str(HERE / "models" / "tiny_gguf.py")]
    for name, (_, arguments) in OLLAMA_MODELS.items():
        pooled, file = folder / f"{name}-pooled.gguf", folder / f"{name}.gguf"
        subprocess.run([*generator, pooled, *arguments], check=True, stdout=subprocess.DEVNULL)
        remove_pooling = [
            "-m",
            "gguf.scripts.gguf_new_metadata",
            "--force",
            "--remove-metadata",
            "llama.pooling_type",
            pooled,
            file,
        ]
        subprocess.run(
            [python, *remove_pooling],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    (folder / "tiny-pooled.gguf").rename(folder / "embed.gguf")
    return folder


@contextlib.contextmanager
def ollama_serving(models: Path, folder: Path) -> Iterator[Child]:
    """Run a real Ollama on a folder of models, without the user's configuration."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "HOME": str(folder),
        "OLLAMA_MODELS": str(models),
        "OLLAMA_HOST": url,
        "OLLAMA_NUM_PARALLEL": "1",
        "OLLAMA_NOPRUNE": "1",
    }
    with Child(
        [str(OLLAMA), "serve"], url, folder / "log", {"PATH": os.environ["PATH"], **environment}
    ) as child:
        yield child


@pytest.fixture(scope="session")
def ollama_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ollama-models")


@pytest.fixture(scope="session")
def ollama_url(
    ollama_files: Path, ollama_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a real Ollama that has OLLAMA_MODELS and `embed`."""
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
def separate_ollama(ollama_url: str, ollama_models: Path, tmp_path: Path) -> Iterator[Child]:
    """Another Ollama on the same models, for a test that may leave one of them in a bad state."""
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
    """Return the pixels that the engine generates without HTTP, for its own keyword arguments."""
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
                    str(HERE / "servers" / "reference_images.py"),
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
    """Return the pixels of an image in RGB."""
    return image.to_pil().convert("RGB").tobytes()
