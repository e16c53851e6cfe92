"""Make a Python on Linux behave like one on Windows, as far as this can be done in a process.

`apply` removes the names that Windows lacks, and makes file operations fail that fail there. It
must be called before other modules are imported, as `sitecustomize` is. What it cannot change: path
separators, file systems that ignore case, `os.name`, and the event loops.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.support.windows_names import is_valid

# Modules, and names in modules, that the documentation of Python describes as "Availability: Unix".
# Some others cannot be removed, because pytest or trio uses them on Linux.
MISSING_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
MISSING_NAMES = {
    os: (
        *("fork", "forkpty", "register_at_fork", "geteuid", "getegid", "mkfifo", "mknod"),
        *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_SYNC", "O_DSYNC"),
        *("chown", "lchown", "fchown", "fchmod", "killpg", "setsid", "sched_getaffinity"),
        *("fdatasync", "sync", "statvfs", "getloadavg", "openpty", "sendfile", "pread", "pwrite"),
    ),
    select: ("poll",),
    signal: (
        *("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT", "alarm", "setitimer", "sigwait"),
        *("pthread_sigmask", "pthread_kill"),
    ),
    socket: ("AF_UNIX", "SO_REUSEPORT"),
    time: ("tzset",),
}
# ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION, ERROR_ALREADY_EXISTS, ERROR_INVALID_NAME
ACCESS_DENIED, SHARING_VIOLATION, ALREADY_EXISTS, INVALID_NAME = 5, 32, 183, 123


def windows_error(number: int, winerror: int, text: str, path: Any) -> OSError:
    """Return an OSError with the number of Windows, which only Windows sets."""
    kinds: dict[int, type[OSError]] = {
        errno.EACCES: PermissionError,
        errno.EEXIST: FileExistsError,
    }
    kind = type("WindowsError", (kinds.get(number, OSError),), {"winerror": winerror})
    error: OSError = kind(number, text, os.fspath(path))
    return error


def apply() -> None:
    """Change this process."""
    poll = select.poll
    for absent in MISSING_MODULES:
        sys.modules[absent] = None  # type: ignore[assignment]
    for module, names in MISSING_NAMES.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
        exported = getattr(module, "__all__", [])
        exported[:] = [name for name in exported if name not in names]
    sys.modules["select"] = _Select("select", poll)
    socket.socketpair = _tcp_socketpair  # type: ignore[assignment]
    os.open = _without_folders(os.open)
    os.unlink = os.remove = _unless_open(os.unlink, SHARING_VIOLATION)
    os.replace = _unless_open(os.replace, ACCESS_DENIED)
    os.rename = _unless_present(_unless_open(os.rename, SHARING_VIOLATION))
    # Loads the encoding that it needs, which must not happen while a file is being created.
    is_valid("a")
    sys.addaudithook(_refuse_invalid_names)


class _Select(ModuleType):
    """The module `select` without `poll`, which trio uses wherever it does not run on Windows."""

    def __init__(self, name: str, poll: Any) -> None:
        super().__init__(name)
        self.__dict__.update(vars(select), _poll=poll)

    def __getattr__(self, name: str) -> Any:
        if name == "poll" and sys._getframe(1).f_globals["__name__"].startswith("trio."):
            return self._poll
        raise AttributeError(f"module 'select' has no attribute {name!r}")


def _tcp_socketpair(*_: object) -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return server.accept()[0], client


def _without_folders(original: Callable[..., int]) -> Callable[..., int]:
    """Refuse to open a folder. `shutil` and others that check `dir_fd` first may do it."""

    def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
        module = sys._getframe(1).f_globals.get("__name__", "")
        if module.startswith("majordomo") and os.path.isdir(path):
            raise windows_error(errno.EACCES, ACCESS_DENIED, "Permission denied", path)
        return original(path, flags, *args, **options)

    return opened


def _is_open(path: Any) -> bool:
    """Return whether this process has a file open."""
    if isinstance(path, int) or not os.path.isfile(path):
        return False
    real = os.path.realpath(path)
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == real:
                return True
        except OSError:
            continue
    return False


def _unless_open(original: Callable[..., None], winerror: int) -> Callable[..., None]:
    def changed(*paths: Any, **options: Any) -> None:
        # Paths relative to an open folder exist on Linux only.
        if not any(options.values()):
            for path in paths:
                if _is_open(path):
                    raise windows_error(errno.EACCES, winerror, "the file is in use", path)
        original(*paths, **options)

    return changed


def _unless_present(original: Callable[..., None]) -> Callable[..., None]:
    def renamed(source: Any, target: Any, **options: Any) -> None:
        if not any(options.values()) and os.path.lexists(target):
            raise windows_error(errno.EEXIST, ALREADY_EXISTS, "the file exists", target)
        original(source, target, **options)

    return renamed


def _refuse_invalid_names(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to create a file or a folder under a name that Windows does not allow."""
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path, _, flags = arguments
        if not flags & os.O_CREAT:
            return
    elif event == "os.mkdir":
        path = arguments[0]
    else:
        return
    name = os.path.basename(os.fsdecode(path).rstrip("/"))
    if name and not is_valid(name):
        raise windows_error(errno.EINVAL, INVALID_NAME, "the name is invalid", path)


def sitecustomize(root: str) -> str:
    """Return a module `sitecustomize` that changes every Python that has it on its path."""
    return f"import sys\nsys.path.insert(0, {root!r})\nfrom {__name__} import apply\napply()\n"
