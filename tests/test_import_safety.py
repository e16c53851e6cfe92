"""Importing does nothing but import: no socket, no thread, no file but modules, and nothing of the process is changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
WATCHED = """
import atexit, gc, json, locale, logging, os, random, signal, socket, sys, threading, warnings  # before the watch begins
seen = []
NEWS = ("open", "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.putenv", "os.mkdir", "os.remove", "os.rename",
        "_thread.start", "urllib.", "sqlite3.", "shutil.", "tempfile.", "ctypes.dlopen", "signal.")
watching = True
def watch(event, arguments):
    if watching and event.startswith(NEWS):
        seen.append([event, os.fsdecode(arguments[0]) if event == "open" and isinstance(arguments[0], (str, bytes)) else repr(arguments)[:200]])
def state():
    root = logging.getLogger()
    return {
        "environment": sorted(os.environ.items()), "working folder": os.getcwd(), "threads": [thread.name for thread in threading.enumerate()],
        "signals": {str(number): repr(signal.getsignal(number)) for number in signal.valid_signals()},
        "hooks": [repr(hook) for hook in (sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook, sys.gettrace())],
        "import": [repr(sys.path), repr(sys.meta_path), repr(sys.path_hooks)], "exit": atexit._ncallbacks(),
        "warnings": repr(warnings.filters), "logging": [repr(root.handlers), root.level, logging.root.manager.disable, logging.raiseExceptions],
        "locale": locale.setlocale(locale.LC_ALL), "recursion": sys.getrecursionlimit(), "collector": [gc.isenabled(), gc.get_threshold()],
        "random": hash(random.getstate()), "sockets": [socket.getdefaulttimeout(), repr(socket.socket), repr(socket.getaddrinfo)],
    }
before = state()
sys.addaudithook(watch)
import majordomo
if LOADED:
    for name in majordomo.__all__:
        getattr(majordomo, name)
watching = False
after = state()
print(json.dumps({"seen": seen, "changed": [key for key in before if before[key] != after[key]]}))
"""


def imported(loaded: bool) -> dict[str, Any]:
    code = f"LOADED = {loaded}\n{WATCHED}"
    beside = {
        name: value for name, value in os.environ.items() if name != "PYTHONPYCACHEPREFIX"
    }  # bytecode is read where the sources are
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=beside,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_importing_the_root_reads_nothing_but_modules_and_changes_nothing() -> None:
    found = imported(False)
    opened = [Path(what) for event, what in found["seen"] if event == "open"]
    assert [event for event in found["seen"] if event[0] != "open"] == []
    assert any(path.is_relative_to(ROOT / "majordomo") for path in opened), "the watch sees nothing"
    standard = Path(json.__file__).parent.parent
    strange = [
        path
        for path in opened
        if not path.is_relative_to(ROOT / "majordomo") and not path.is_relative_to(standard)
    ]
    assert strange == []
    assert {path.suffix for path in opened} <= {".py", ".pyc", ".so"}
    assert not any("site-packages" in path.parts for path in opened)
    assert found["changed"] == []


@pytest.mark.parametrize(
    "forbidden",
    [
        "socket.",
        "subprocess.",
        "os.",
        "_thread.start",
        "urllib.",
        "sqlite3.",
        "tempfile.",
        "signal.",
    ],
)
def test_loading_every_public_name_reaches_nothing(
    everything: dict[str, Any], forbidden: str
) -> None:
    # asyncio and anyio define classes of sockets; making one is what nobody may do
    assert [event for event in everything["seen"] if event[0].startswith(forbidden)] == []


def test_loading_every_public_name_changes_nothing(everything: dict[str, Any]) -> None:
    # what others register for the end of the process (logging, concurrent.futures) is theirs
    assert set(everything["changed"]) <= {"exit", "warnings", "import"}


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    return imported(True)
