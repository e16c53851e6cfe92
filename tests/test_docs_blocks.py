"""Every block of code in README.md, SECURITY.md, CHANGELOG.md and docs/ runs.

A page runs from top to bottom, in a folder of its own, on asyncio: as a reader would, who types what stands there. No network is there: an
address leads to the server that the page names, or refuses the connection. What a block needs and the reader has anyway stands
in comments, which no reader sees:

    <!-- runs with: ollama, llama-swap at gpu-box:8080, openai -->
        From here on these servers of tests/servers stand behind their usual addresses, or behind others. The names are those of
        `documents.behind.SERVERS`. The keys in the usual variables (OPENAI_API_KEY, ...) are right. `openai` is responses, chat
        completions and images at once; `ollama` is today's, without images; `ollama-images` is the last version that drew,
        `ollama-hosted` the service.
        llama-swap serves sdxl, flux, z-image, qwen-image (images) and qwen3-vl, qwen3, gemma3 (chat).
        Without a script they answer by rules: a tool that the text names is called, with the JSON object in the text as arguments; a
        schema is filled; else what was said is said back.

    <!-- hidden
    servers["ollama"].script.append(Reply("It is calm."))
    assert reply.text
    -->
        Python that runs in the same names and is not shown: what a server says, files that the reader is supposed to have, stand-ins
        for a chat platform, and checks of what came out. `servers` has the handlers by name.

Before a block, one or more of these speak of that block alone:

    <!-- not run: needs a GPU -->       not run, only compiled; the reason is obligatory
    <!-- raises: ContentRefusedError -->   the block must end with this error
    <!-- exits with: 1 -->              the last command of the block must
    <!-- prints -->                     before a `text` block: its lines stand in the output of the block before, in this order, `...` being anything

What the kinds of blocks mean:

    python      Runs in the page's names; `await` and `async with` work at the top. A block without them runs in a thread, where `asyncio.run`
                works as in a script. With a title (```python title="bot.py") it is written into the folder as well; when that
                is called test_*.py, pytest runs it instead, and it must pass.
    toml        Must parse. Written to `majordomo.toml`, or its title, in the folder; with a table that we know it is loaded as configuration and every
                provider in it is made. `${VARIABLES}` it names are set.
    sh, console Each `majordomo ...` runs, in this process and without a terminal; `export NAME=value` counts from there on. Other commands are
                for the reader alone. In a console block with prompts (`$ `) other lines are what the command said.
    text, json, yaml, http, diff   Not run. Every fence names its language.

One page alone: `python -m pytest -n0 tests/test_docs_blocks.py -k README`; the tutorial and most backends run with `-m slow` only.
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
from tests.support.docs_blocks import OUTPUT_OF_OTHERS, Block, Note, commands, missing_lines, read
from tests.support.docs_servers import KEY, SERVERS, Town, town

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
# What their own tests do as well, word for word or nearly: the tutorial, and each backend but one
DAILY_BACKENDS = {"docs/backends/index.md", "docs/backends/openai.md"}


def in_its_turn(name: str) -> bool:
    return name == "docs/tutorial.md" or (
        name.startswith("docs/backends/") and name not in DAILY_BACKENDS
    )


CONFIGURATION = {"defaults", "providers", "aliases", "chains", "gpus", "prices"}


class Reader:
    """Does what a page says, block by block."""

    def __init__(self, folder: Path, built: Town, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.town, self.patch = folder, built, patch
        self.names: dict[str, Any] = {"__name__": "__main__", "servers": built.servers}
        self.printed = ""
        # A reader's shell forgets a provider when its name is given to the next one; what it leaves open ends with the loop
        self.held: list[Any] = []

    async def follow(self, part: Block | Note) -> None:
        if isinstance(part, Note):
            await (
                self._build(part) if part.kind == "runs with" else self._python(part.text, "hidden")
            )
            return
        if "not run" in part.words:
            assert part.words["not run"], f"line {part.line}: say why it is not run"
            assert part.language != "python" or compile(
                part.text, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            )
            return
        if "prints" in part.words:
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
            assert part.language in OUTPUT_OF_OTHERS[:-1], (
                f"line {part.line}: a fence of {part.language!r}; which language is it?"
            )

    async def _build(self, note: Note) -> None:
        for wanted in note.text.split(","):
            name, _, address = wanted.strip().partition(" at ")
            assert name in SERVERS, (
                f"line {note.line}: there is no server {name!r}, but {', '.join(SERVERS)}"
            )
            self.town.build(name, address.strip())

    async def _code(self, block: Block) -> None:
        if included := re.fullmatch(r'--8<-- "(.*)"\s*', block.text):
            assert included[1].startswith("examples/"), (
                f"line {block.line}: only examples may be included; other tests run them"
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
            few = os.environ | {
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"
            }  # what else is installed here takes seconds to load
            done = await anyio.run_process(
                command, cwd=self.folder, env=few, check=False, stderr=subprocess.STDOUT
            )
            self.printed = done.stdout.decode()
            assert done.returncode == 0, self.printed
            return
        expected = block.words.get("raises")
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
                    self.held += self.names.values()
                    await eval(code, self.names)
                else:
                    await to_thread.run_sync(eval, code, self.names)
            finally:
                if where != "hidden":
                    self.printed = out.getvalue()

    def _toml(self, block: Block) -> None:
        tables = tomllib.loads(block.text)
        file = self.folder / (block.title or "majordomo.toml")
        if not CONFIGURATION & set(tables):
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
            given = dict(
                word.split("=", 1)
                for word in command
                if re.match(r"[A-Z_]+=", word) and word in command[: command.index(word) + 1]
            )
            if command[0] == "export":
                for name, value in given.items():
                    self.patch.setenv(name, value)
            elif command[0] == "majordomo":
                assert status == 0, f"line {block.line}: {self.printed}"
                status, said = await to_thread.run_sync(_script, command)
                self.printed += said
        wanted = int(block.words.get("exits with", "0"))
        assert status == wanted, f"line {block.line}: exit status {status}: {self.printed}"


def _script(command: list[str]) -> tuple[int, str]:
    """`majordomo ...` in this process: its exit status and all it said."""
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setenv("COLUMNS", "120")
        patch.setattr(sys, "argv", command)
        patch.setattr(sys, "stdin", io.StringIO())
        main()
    code = ended.value.code
    return (
        (1, said.getvalue() + code + "\n")
        if isinstance(code, str)
        else (int(code or 0), said.getvalue())
    )


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def built(authority: trustme.CA, tmp_path: Path) -> Iterator[Town]:
    certificates = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(certificates))
    with town(authority, str(certificates)) as made:
        yield made


@pytest.fixture
def anyio_backend() -> str:
    """Pages use asyncio, as most readers do."""
    return "asyncio"


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page,
            id=(name := str(page.relative_to(ROOT))),
            marks=[pytest.mark.slow] * in_its_turn(name),
        )
        for page in PAGES
    ],
)
async def test_a_page_runs_from_top_to_bottom(
    page: Path, built: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("MAJORDOMO_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        group, "_groups", weakref.WeakValueDictionary()
    )  # a page is a program of its own, with groups of its own
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
