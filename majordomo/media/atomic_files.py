"""Write files so that each is complete or absent.

The bytes go to a temporary file in the same folder, which then gets the final name in one step.

Windows refuses to replace or remove a file while a program has it open, for example a virus scanner
or another thread that reads it. Such a program closes it within a fraction of a second, so these
steps are repeated for a bounded time.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from majordomo.media.filenames import comparison_key

# Prefix of the name of a file that is being written.
TEMPORARY_PREFIX = ".part-"
# ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION and ERROR_LOCK_VIOLATION. Only Windows sets
# `OSError.winerror`; on other systems, an open file is no obstacle.
_IN_USE = (5, 32, 33)
_RETRY_DELAYS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
# Limits of Windows for the path of a file and of a folder, unless its setting LongPathsEnabled is
# on. It reports a longer path as not found. Other systems name the cause themselves.
MAX_PATH, MAX_FOLDER_PATH = (259, 247) if os.name == "nt" else (None, None)
_MAX_NAME_ATTEMPTS = 100_000


def write_file(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file that is complete or absent; with `overwrite`, it keeps its old content instead.

    Raises:
        FileExistsError: The file exists and `overwrite` is False.
        OSError: The file cannot be written.
    """
    try:
        if not overwrite:
            _write(path, data)
        elif path.exists() and not path.is_file():
            # A device or a pipe has no name to replace; a folder raises here.
            path.write_bytes(data)
        else:
            # A symbolic link stays one.
            _write(Path(os.path.realpath(path)), data, replace=True)
    except OSError as error:
        # The temporary file may have the longer name.
        longest = path.with_name(max(path.name, _temporary_name(), key=len))
        raise _path_error(error, path, len(str(longest.absolute())), MAX_PATH) from error


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, if it does not exist."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _path_error(error, folder, len(str(folder.absolute())), MAX_FOLDER_PATH) from error


def _write(target: Path, data: bytes, *, replace: bool = False) -> None:
    temporary = target.with_name(_temporary_name())
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            with suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            try:
                _while_in_use(lambda: os.replace(temporary, target))
            except OSError:
                # Windows replaces no read-only file, and removes none either.
                with suppress(OSError):
                    os.chmod(temporary, stat.S_IREAD | stat.S_IWRITE)
                raise
        else:
            _link(temporary, target)
    finally:
        with suppress(OSError):
            remove_file(temporary)


def _temporary_name() -> str:
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


def _link(temporary: Path, target: Path) -> None:
    """Give the file its final name unless that exists; a rename would overwrite another file."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    # Some file systems do not support hard links.
    except OSError:
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        _while_in_use(lambda: os.rename(temporary, target))


def remove_file(path: Path) -> None:
    """Remove a file if it exists."""
    _while_in_use(lambda: path.unlink(missing_ok=True))


def _while_in_use(operation: Callable[[], None]) -> None:
    """Call `operation`, and again for up to 0.8 s while Windows says that the file is in use."""
    for delay in _RETRY_DELAYS:
        try:
            return operation()
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IN_USE:
                raise
        time.sleep(delay)
    return operation()


def _path_error(error: OSError, path: Path, length: int, limit: int | None) -> OSError:
    """Return the error with the final name of the file, and say so when the path is too long."""
    if limit is not None and length > limit and not isinstance(error, FileExistsError):
        return OSError(
            errno.ENAMETOOLONG,
            f"the path has {length} characters, and Windows allows {limit}; use a shorter path or"
            " enable long paths in Windows",
            str(path),
        )
    number = error.errno or errno.EIO
    return OSError(number, error.strerror or os.strerror(number), str(path))


def taken_names(folder: Path) -> set[str]:
    """Return the comparison keys of the names in a folder; none if it cannot be listed."""
    try:
        return {comparison_key(name) for name in os.listdir(folder)}
    except OSError:
        return set()


def write_free_name(folder: Path, stem: str, suffix: str, data: bytes) -> Path:
    """Write a file under a name that no file of the folder has, with a number where necessary.

    Raises:
        FileExistsError: No free name was found.
        OSError: The file cannot be written.
    """
    taken = taken_names(folder)
    for number in range(1, _MAX_NAME_ATTEMPTS):
        name = f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}"
        if comparison_key(name) not in taken:
            # Another program may have written this name meanwhile.
            with suppress(FileExistsError):
                write_file(folder / name, data)
                return folder / name
    raise FileExistsError(f"no free name for {stem}{suffix} in {folder}")
