"""Write files of the studio: several of them all or none, and with errors of the library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from majordomo.errors import StorageError
from majordomo.media.atomic_files import make_folder, remove_file, taken_names, write_file
from majordomo.media.filenames import comparison_key
from majordomo.studio.errors import storage_error, with_stage


def write_new(folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> list[Path]:
    """Write files that do not exist yet, all or none, and return their paths.

    `folder` is created when it is missing. After a failure, files already written are removed.

    Raises FileExistsError, before anything is written, when a file exists, also if its name differs
    only in case; StorageError for other failures.
    """
    directory = Path(folder)
    taken = taken_names(directory)
    for name in contents:
        if comparison_key(name) in taken:
            raise FileExistsError(f"{directory / name} already exists")
    written: list[Path] = []
    try:
        make_folder(directory)
        for name, data in contents.items():
            write_file(directory / name, data)
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
        make_folder(path.parent)
        write_file(path, data, overwrite=True)
    except OSError as error:
        raise _storage_error(error, path.parent) from error


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            remove_file(path)


def _storage_error(error: OSError, folder: Path) -> StorageError:
    described = with_stage(storage_error(error), "store", str(folder))
    assert isinstance(described, StorageError)
    return described
