"""The package works on Windows and macOS, as far as that can be tested on Linux.

`tests/support/windows_emulation.py` takes from a Python on Linux what Windows does not have. The
workflow runs the tests on both systems.
"""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.windows_emulation import MISSING_MODULES, MISSING_NAMES, sitecustomize

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "majordomo"
# Suites that the emulation runs: transport, portal, stores, files, and what has sockets or files.
SUITES = [
    *("tests/transport", "tests/concurrency", "tests/queueing", "tests/testing", "tests/media"),
    *("tests/studio/test_jobs.py", "tests/studio/test_result.py"),
    *("tests/cli/test_commands.py", "tests/cli/test_process.py", "tests/cli/test_imagine.py"),
]

# What follows is named "Availability: Unix" or "not Windows" in the documentation of Python, or
# behaves in another way on Windows.
POSIX_MODULES = {*MISSING_MODULES, "posix", "readline", "curses"}
POSIX_NAMES = {
    **{module.__name__: set(names) for module, names in MISSING_NAMES.items()},
    "socket": {
        *MISSING_NAMES[socket],
        *("AF_NETLINK", "AF_ALG", "MSG_DONTWAIT", "MSG_NOSIGNAL", "SO_BINDTODEVICE", "send_fds"),
        *("recv_fds", "SCM_RIGHTS", "if_nametoindex"),
    },
}
POSIX_NAMES["os"] |= {
    *(
        "chroot",
        "getuid",
        "getgid",
        "geteuid",
        "getegid",
        "getgroups",
        "setuid",
        "setgid",
        "getsid",
    ),
    *(
        "getpgid",
        "getpgrp",
        "setpgid",
        "nice",
        "uname",
        "wait",
        "wait3",
        "wait4",
        "waitid",
        "ctermid",
    ),
    *("WIFEXITED", "WEXITSTATUS", "WIFSIGNALED", "WTERMSIG", "WNOHANG", "posix_spawn", "spawnlp"),
    *("sched_yield", "sched_setaffinity", "memfd_create", "pipe2", "preadv", "pwritev", "readv"),
    *(
        "writev",
        "lockf",
        "makedev",
        "mkfifo",
        "pathconf",
        "sysconf",
        "confstr",
        "eventfd",
        "splice",
    ),
    *("getxattr", "setxattr", "copy_file_range", "posix_fallocate", "posix_fadvise", "O_ASYNC"),
    *("O_NOCTTY", "O_PATH", "O_TMPFILE", "O_NDELAY", "O_DIRECT", "openpty", "ttyname", "tcgetpgrp"),
    # Windows does this in another way: a rename does not replace, only the flag "read-only" can be
    # set, there are no links on some file systems, and a signal ends the process.
    *("rename", "renames", "chmod", "umask", "link", "symlink", "access", "kill"),
}
POSIX_NAMES["select"] |= {"epoll", "kqueue", "devpoll", "POLLIN", "POLLOUT", "POLLERR", "POLLHUP"}
POSIX_NAMES["signal"] |= {
    *("SIGKILL", "SIGPIPE", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGWINCH", "SIGIO"),
    *("pause", "sigpending", "siginterrupt", "set_wakeup_fd", "signal", "SIGTERM", "SIGINT"),
}
POSIX_NAMES["time"] |= {"clock_gettime", "pthread_getcpuclockid"}
# Methods that have these names in one class of the standard library only.
POSIX_METHODS = {
    *("add_reader", "add_writer", "remove_reader", "remove_writer"),  # asyncio's event loop
    *("add_signal_handler", "remove_signal_handler", "create_unix_connection"),
    *("sendmsg", "recvmsg", "recvmsg_into"),  # a socket
    *("hardlink_to", "symlink_to", "lchmod"),  # a path
}
POSIX_ARGUMENTS = {"preexec_fn", "pass_fds", "start_new_session", "process_group", "dir_fd"}
POSIX_FOLDERS = ("/dev/", "/tmp", "/proc/", "/etc/", "/var/", "/usr/", "/run/")

# The places with a fallback, and what it is.
FALLBACKS = {
    ("concurrency/fork_safety.py", "os.register_at_fork"): "hasattr: no fork, nothing to reset",
    ("media/atomic_files.py", "os.link"): "a rename where the file system has no links",
    ("media/atomic_files.py", "os.rename"): "after a check; Windows never replaces a file by it",
    ("media/atomic_files.py", "os.chmod"): "sets what the system can keep of the mode",
    ("transport/socket_stream.py", "select.poll"): "hasattr: select.select",
}


def posix_uses(tree: ast.AST) -> Iterator[str]:
    """Yield each use of a name that does not exist, or means something else, on Windows."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    modules[name.asname or name.name] = name.name
                    if name.name.partition(".")[0] in POSIX_MODULES:
                        yield f"import {name.name}"
            case ast.ImportFrom(module=str(module), names=names):
                if module.partition(".")[0] in POSIX_MODULES:
                    yield f"import {module}"
                for name in names:
                    if name.name in POSIX_NAMES.get(module, ()):
                        yield f"{module}.{name.name}"
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if (
                attribute in POSIX_NAMES.get(modules.get(name, ""), ())
            ):
                yield f"{modules[name]}.{attribute}"
            case ast.Attribute(attr=attribute) if attribute in POSIX_METHODS:
                yield f".{attribute}"
            case ast.keyword(arg=str(argument)) if argument in POSIX_ARGUMENTS:
                yield f"{argument}="
            case ast.Constant(value=str(text)) if text.startswith(POSIX_FOLDERS):
                yield f"the path {text!r}"
            case ast.Call():
                yield from unportable_call(node)


def unportable_call(call: ast.Call) -> Iterator[str]:
    """Yield why a call depends on the system: the default encoding, or a format of strftime."""
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            pass
        case _:
            return
    arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
    texts = [node.value for node in arguments if isinstance(node, ast.Constant)]
    if name == "strftime" and any("%-" in str(text) for text in texts):
        yield "strftime with %-"
    has_encoding = any(keyword.arg == "encoding" for keyword in call.keywords)
    opens_text = (
        (isinstance(call.func, ast.Name) and name == "open")
        or (isinstance(call.func, ast.Attribute) and name == "open" and texts)
    ) and not any(set("rwax") & set(str(text)) and "b" in str(text) for text in texts)
    reads_text = name == "read_text" and not call.args
    writes_text = name == "write_text" and len(call.args) < 2
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        # `os.open` and a module with a function of that name open no text.
        opens_text = opens_text and call.func.value.id not in ("os", "image", "Image")
    if (opens_text or reads_text or writes_text) and not has_encoding:
        yield f"{name}() without an encoding"


def test_names_that_only_posix_systems_have_are_used_only_with_a_fallback() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), use)
        for path in PACKAGE.rglob("*.py")
        for use in posix_uses(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found - FALLBACKS.keys() == set(), "add a fallback, and list it in FALLBACKS"
    assert FALLBACKS.keys() - found == set(), "not used any more: remove it from FALLBACKS"


@pytest.mark.parametrize(
    ("code", "use"),
    [
        ("import fcntl", "import fcntl"),
        ("from termios import tcgetattr", "import termios"),
        ("import os\nos.fork()", "os.fork"),
        ("import os as system\nsystem.rename(1, 2)", "os.rename"),
        ("from select import poll", "select.poll"),
        ("import select\nselect.poll().poll(0)", "select.poll"),
        ("import signal\nsignal.signal(signal.SIGHUP, None)", "signal.SIGHUP"),
        ("import socket\nsocket.socket(socket.AF_UNIX)", "socket.AF_UNIX"),
        ("loop.add_signal_handler(2, stop)", ".add_signal_handler"),
        ("run(preexec_fn=None)", "preexec_fn="),
        ("folder = '/tmp/x'", "the path '/tmp/x'"),
        ("date.strftime('%-d')", "strftime with %-"),
        ("path.read_text()", "read_text() without an encoding"),
        ("path.write_text('x')", "write_text() without an encoding"),
        ("open(path)", "open() without an encoding"),
        ("path.open('w')", "open() without an encoding"),
    ],
)
def test_a_name_that_only_posix_systems_have_is_found(code: str, use: str) -> None:
    assert use in set(posix_uses(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "path.open('rb')",
        "path.open(mode='xb')",
        "open(path, encoding='utf-8')",
        "path.read_text('utf-8')",
        "path.write_text('x', 'utf-8')",
        "client.open(request)",
        "import os\nos.replace(a, b)",
        "import os\nhasattr(os, 'fork')",
    ],
)
def test_portable_code_is_allowed(code: str) -> None:
    assert list(posix_uses(ast.parse(code))) == []


def run_emulated(folder: Path, *arguments: str, timeout: float) -> str:
    """Run Python with these arguments as if it were on Windows; return what it prints."""
    (folder / "sitecustomize.py").write_text(sitecustomize(str(ROOT)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        cwd=ROOT,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    return done.stdout


emulated = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="the emulation of Windows needs Linux"
)


@emulated
def test_every_module_can_be_imported_without_what_windows_lacks(tmp_path: Path) -> None:
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    )
    assert len(modules) > 200
    code = f"""
import importlib, os, select, sys
assert not hasattr(os, "fork") and not hasattr(os, "register_at_fork")
assert not hasattr(select, "poll") and sys.modules["fcntl"] is None
for module in {modules}:
    importlib.import_module(module)
print("imported")
"""
    assert run_emulated(tmp_path, "-c", code, timeout=120).strip() == "imported"


@emulated
@pytest.mark.slow
def test_transport_portal_and_stores_pass_without_what_windows_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    output = run_emulated(
        folder,
        *("-m", "pytest", "-q", "-n0", f"--basetemp={tmp_path / 'tests'}", *SUITES),
        timeout=900,
    )
    passed = int(output.rpartition(" passed")[0].rpartition("\n")[2].split()[-1])
    assert passed > 700
