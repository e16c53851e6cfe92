"""Importing has no side effects: it opens only module files and changes no process state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
# These imports come before the audit hook.
import atexit, gc, json, locale, logging, os, random, signal, socket, sys, threading, warnings
events = []
AUDITED = (
    "open", "socket.", "subprocess.", "os.system", "os.exec", "os.fork",
    "os.posix_spawn", "os.putenv", "os.mkdir", "os.remove",
    "os.rename", "_thread.start", "urllib.", "sqlite3.", "shutil.", "tempfile.", "ctypes.dlopen",
    "signal.",
)
auditing = True
def audit(event, arguments):
    if auditing and event.startswith(AUDITED):
        is_path = event == "open" and isinstance(arguments[0], (str, bytes))
        events.append([event, os.fsdecode(arguments[0]) if is_path else repr(arguments)[:200]])
def process_state():
    root = logging.getLogger()
    return {
        "environment": sorted(os.environ.items()), "working folder": os.getcwd(),
        "threads": [thread.name for thread in threading.enumerate()],
        "signals": {
            str(number): repr(signal.getsignal(number)) for number in signal.valid_signals()
        },
        "hooks": [
            repr(hook)
            for hook in (
                sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook,
                sys.gettrace(),
            )
        ],
        "import": [repr(sys.path), repr(sys.meta_path), repr(sys.path_hooks)],
        "exit": atexit._ncallbacks(),
        "warnings": repr(warnings.filters),
        "logging": [
            repr(root.handlers), root.level, logging.root.manager.disable, logging.raiseExceptions
        ],
        "locale": locale.setlocale(locale.LC_ALL), "recursion": sys.getrecursionlimit(),
        "collector": [gc.isenabled(), gc.get_threshold()],
        "random": hash(random.getstate()),
        "sockets": [socket.getdefaulttimeout(), repr(socket.socket), repr(socket.getaddrinfo)],
    }
before = process_state()
sys.addaudithook(audit)
import majordomo
if LOAD_ALL:
    for name in majordomo.__all__:
        getattr(majordomo, name)
auditing = False
after = process_state()
changed = [key for key in before if before[key] != after[key]]
print(json.dumps({"events": events, "changed": changed}))
"""


def import_in_subprocess(load_all: bool) -> dict[str, Any]:
    code = f"LOAD_ALL = {load_all}\n{SCRIPT}"
    # Without this variable, bytecode is read from beside the sources.
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONPYCACHEPREFIX"
    }
    completed = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert completed.returncode == 0, completed.stderr
    report: dict[str, Any] = json.loads(completed.stdout)
    return report


def test_importing_the_package_reads_only_modules_and_changes_nothing() -> None:
    report = import_in_subprocess(False)
    opened_files = [Path(name) for event, name in report["events"] if event == "open"]
    assert [event for event in report["events"] if event[0] != "open"] == []
    assert any(path.is_relative_to(ROOT / "majordomo") for path in opened_files), (
        "the audit hook reports nothing"
    )
    standard_library = Path(json.__file__).parent.parent
    unexpected = [
        path
        for path in opened_files
        if not path.is_relative_to(ROOT / "majordomo") and not path.is_relative_to(standard_library)
    ]
    assert unexpected == []
    assert {path.suffix for path in opened_files} <= {".py", ".pyc", ".so"}
    assert not any("site-packages" in path.parts for path in opened_files)
    assert report["changed"] == []


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
def test_loading_every_public_name_has_no_outside_effects(
    full_import: dict[str, Any], forbidden: str
) -> None:
    # asyncio and anyio define socket classes; no socket may be created.
    assert [event for event in full_import["events"] if event[0].startswith(forbidden)] == []


def test_loading_every_public_name_changes_nothing(full_import: dict[str, Any]) -> None:
    # Exit handlers of other modules (logging, concurrent.futures) are not ours.
    assert set(full_import["changed"]) <= {"exit", "warnings", "import"}


@pytest.fixture(scope="module")
def full_import() -> dict[str, Any]:
    return import_in_subprocess(True)
