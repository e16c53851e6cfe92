"""Run every code block in README.md, SECURITY.md, CHANGELOG.md and docs/.

A page runs from top to bottom in a folder of its own on asyncio, as a reader would type it. There
is no network: an address leads to a server that the page names, or refuses the connection. What a
block needs in addition is in comments, which readers do not see:

    <!-- runs with: ollama, llama-swap at gpu-box:8080, openai -->
        From here on these servers of tests/servers are at their default addresses, or at the given
        ones. The names are those of `tests.support.docs_servers.SERVERS`. The keys in the usual
        variables (OPENAI_API_KEY, ...) are valid. `openai` is responses, chat completions and
        images at once; `ollama` is today's version, without images; `ollama-images` is the last
        version that generated images, `ollama-hosted` the service.
        llama-swap has sdxl, flux, z-image, qwen-image (images) and qwen3-vl, qwen3, gemma3 (chat).
        Without a script they answer by rules: a tool that the text names is called, with the JSON
        object in the text as arguments; a schema is filled; otherwise the input is repeated.

    <!-- hidden
    servers["ollama"].script.append(Reply("It is calm."))
    assert reply.text
    -->
        Python that runs in the same namespace and is not shown: replies of a server, files that the
        reader is supposed to have, test doubles of a chat platform, and checks of the results.
        `servers` has the handlers by name.

Before a block, one or more of these apply to that block only:

    <!-- not run: needs a GPU -->           not run, only compiled; the reason is required
    <!-- raises: ContentRefusedError -->    the block must end with this error
    <!-- exits with: 1 -->                  the last command of the block must exit with this status
    <!-- prints -->                         before a `text` block: the output of the previous block
                                            has its lines in this order; `...` matches anything

Languages of blocks:

    python      Runs in the page's namespace; `await` and `async with` work at the top level. A
                block without them runs in a thread, where `asyncio.run` works as in a script. With
                a title (```python title="bot.py") it is also written into the folder; when the
                title is test_*.py, pytest runs it instead, and it must pass.
    toml        Must parse. Written to `majordomo.toml`, or its title, in the folder; with a known
                table it is loaded as configuration and every provider in it is created.
                `${VARIABLES}` in it are set.
    sh, console Each `majordomo ...` runs, in this process and without a terminal;
                `export NAME=value` applies from there on. Other commands are not run. In a console
                block with prompts (`$ `) other lines are output.
    text, json, yaml, http, diff   Not run. Every fence names its language.

To run one page: `python -m pytest -n0 tests/test_docs_blocks.py -k README`. The tutorial and most
backend pages only run with `-m slow`.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
import tomllib
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio import to_thread

from majordomo import Registry
from majordomo.cli.main import main
from majordomo.queueing import resource_group as group
from tests.support.docs_blocks import DATA_LANGUAGES, Block, Note, commands, missing_lines, read
from tests.support.docs_servers import KEY, SERVERS, PageServers, page_servers

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for page in [
        ROOT / "README.md",
        ROOT / "SECURITY.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
    if page.exists() and any(isinstance(part, Block) for part in read(page.read_text()))
)
# The tutorial and most backend pages only run with -m slow: other tests do nearly the same.
DEFAULT_BACKENDS = {"docs/backends/index.md", "docs/backends/openai.md"}


def is_slow(name: str) -> bool:
    return name == "docs/tutorial.md" or (
        name.startswith("docs/backends/") and name not in DEFAULT_BACKENDS
    )


CONFIG_TABLES = {"defaults", "providers", "aliases", "chains", "gpus", "prices"}


class Reader:
    """Executes a page, block by block."""

    def __init__(self, folder: Path, built: PageServers, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.page_servers, self.patch = folder, built, patch
        self.names: dict[str, Any] = {"__name__": "__main__", "servers": built.servers}
        self.printed = ""
        # Keeps providers alive when a page reuses their names; open connections end with the loop.
        self.kept_objects: list[Any] = []

    async def follow(self, part: Block | Note) -> None:
        if isinstance(part, Note):
            await (
                self._build(part) if part.kind == "runs with" else self._python(part.text, "hidden")
            )
            return
        if "not run" in part.comments:
            assert part.comments["not run"], f"line {part.line}: give the reason"
            assert part.language != "python" or compile(
                part.text, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            )
            return
        if "prints" in part.comments:
            missing = missing_lines(part.text, self.printed)
            assert not missing, f"line {part.line}: not printed: {missing}, but: {self.printed}"
            return
        if part.language in ("python", "py", "pycon"):
            await self._code(part)
        elif part.language == "toml":
            self._toml(part)
        elif part.language in ("sh", "console", "bash", "shell"):
            await self._shell(part)
        else:
            assert part.language in DATA_LANGUAGES[:-1], (
                f"line {part.line}: unknown language {part.language!r}"
            )

    async def _build(self, note: Note) -> None:
        for entry in note.text.split(","):
            name, _, address = entry.strip().partition(" at ")
            assert name in SERVERS, (
                f"line {note.line}: unknown server {name!r}; use one of {', '.join(SERVERS)}"
            )
            self.page_servers.build(name, address.strip())

    async def _code(self, block: Block) -> None:
        if included := re.fullmatch(r'--8<-- "(.*)"\s*', block.text):
            assert included[1].startswith("examples/"), (
                f"line {block.line}: only examples can be included; other tests run them"
            )
            assert (ROOT / included[1]).exists()
            return
        if block.title:
            (self.folder / block.title).write_text(block.text)
        if block.title.startswith("test_"):
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "anyio",
                "-p",
                "majordomo.testing.plugin",
                block.title,
            ]
            # Loading all installed plugins would take seconds.
            environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
            completed = await anyio.run_process(
                command, cwd=self.folder, env=environment, check=False, stderr=subprocess.STDOUT
            )
            self.printed = completed.stdout.decode()
            assert completed.returncode == 0, self.printed
            return
        expected = block.comments.get("raises")
        try:
            await self._python(block.text, f"line {block.line}")
        except Exception as error:
            if expected is None or type(error).__name__ != expected.rpartition(".")[2]:
                raise
        else:
            assert expected is None, f"line {block.line}: {expected} was not raised"

    async def _python(self, text: str, where: str) -> None:
        code = compile(text, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            try:
                if code.co_flags & inspect.CO_COROUTINE:
                    self.kept_objects += self.names.values()
                    await eval(code, self.names)
                else:
                    await to_thread.run_sync(eval, code, self.names)
            finally:
                if where != "hidden":
                    self.printed = out.getvalue()

    def _toml(self, block: Block) -> None:
        tables = tomllib.loads(block.text)
        file = self.folder / (block.title or "majordomo.toml")
        if not CONFIG_TABLES & set(tables):
            return
        file.write_text(block.text)
        for name in re.findall(r"(?<!\$)\$\{(\w+)\}", block.text):
            self.patch.setenv(name, KEY)
        with Registry(file) as registry:
            for name in registry.config.providers:
                registry.provider(name)

    async def _shell(self, block: Block) -> None:
        status, self.printed = 0, ""
        for command in commands(block.text):
            assignments = dict(
                word.split("=", 1)
                for word in command
                if re.match(r"[A-Z_]+=", word) and word in command[: command.index(word) + 1]
            )
            if command[0] == "export":
                for name, value in assignments.items():
                    self.patch.setenv(name, value)
            elif command[0] == "majordomo":
                assert status == 0, f"line {block.line}: {self.printed}"
                status, output = await to_thread.run_sync(_run_command, command)
                self.printed += output
        expected = int(block.comments.get("exits with", "0"))
        assert status == expected, f"line {block.line}: exit status {status}: {self.printed}"


def _run_command(command: list[str]) -> tuple[int, str]:
    """Run `majordomo ...` in this process; return its exit status and output."""
    output = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setenv("COLUMNS", "120")
        patch.setattr(sys, "argv", command)
        patch.setattr(sys, "stdin", io.StringIO())
        main()
    code = ended.value.code
    return (
        (1, output.getvalue() + code + "\n")
        if isinstance(code, str)
        else (int(code or 0), output.getvalue())
    )


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def built(authority: trustme.CA, tmp_path: Path) -> Iterator[PageServers]:
    certificates = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(certificates))
    with page_servers(authority, str(certificates)) as running:
        yield running


@pytest.fixture
def anyio_backend() -> str:
    """Run pages on asyncio, as most readers do."""
    return "asyncio"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=(name := str(page.relative_to(ROOT))),
            marks=[pytest.mark.slow] * is_slow(name),
        )
        for page in PAGES
    ],
)
async def test_page_runs_from_top_to_bottom(
    page: Path, built: PageServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("MAJORDOMO_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(folder)
    # A page is a separate program with resource groups of its own.
    monkeypatch.setattr(group, "_groups", weakref.WeakValueDictionary())
    reader = Reader(folder, built, monkeypatch)
    parts = read(await anyio.Path(page).read_text())
    for part in parts:
        try:
            await reader.follow(part)
        except BaseException as error:
            error.add_note(
                f"in {page.relative_to(ROOT)}, line {part.line}; refused so far: {built.refused}"
            )
            raise
