"""Write files atomically: a file is complete or absent."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from majordomo.errors import StorageError
from majordomo.studio.errors import storage_error, with_stage

# Prefix of the name of a file that is being written.
TEMPORARY_PREFIX = ".part-"


def write_new(folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> list[Path]:
    """Write files that do not exist yet, all or none, and return their paths.

    `folder` is created when it is missing. After a failure, files already written are removed.

    Raises FileExistsError, before anything is written, when a file exists; StorageError for other
    failures.
    """
    directory = Path(folder)
    for name in contents:
        if (directory / name).exists():
            raise FileExistsError(f"{directory / name} already exists")
    written: list[Path] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            _write(directory / name, data, overwrite=False)
            written.append(directory / name)
    except OSError as error:
        _remove(written)
        if isinstance(error, FileExistsError):
            raise
        raise _storage_error(error, directory) from error
    except BaseException:
        _remove(written)
        raise
    return written


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that it always has its old or its new content. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, data, overwrite=True)
    except OSError as error:
        raise _storage_error(error, path.parent) from error


def _write(path: Path, data: bytes, *, overwrite: bool) -> None:
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            _link(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """Give the file its final name unless that exists; a rename would overwrite another file."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    # Some file systems do not support hard links.
    except OSError:
        if path.exists():
            raise FileExistsError(f"{path} already exists") from None
        temporary.rename(path)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _storage_error(error: OSError, folder: Path) -> StorageError:
    described = with_stage(storage_error(error), "store", str(folder))
    assert isinstance(described, StorageError)
    return described
