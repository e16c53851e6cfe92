"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from majordomo.errors import StorageError
from majordomo.studio.errors import storage_error, with_stage

TEMPORARY = ".part-"  # how the name of a file begins that is being written


def write_new(folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> list[Path]:
    """Write files that are not there yet, all or none; `folder` is made when it is missing.

    Raises FileExistsError before anything is written when a name is taken, StorageError else. What was written is taken away again.
    """
    where = Path(folder)
    for name in contents:
        if (where / name).exists():
            raise FileExistsError(f"{where / name} is there already")
    written: list[Path] = []
    try:
        where.mkdir(parents=True, exist_ok=True)
        for name, data in contents.items():
            _place(where / name, data, overwrite=False)
            written.append(where / name)
    except OSError as error:
        _remove(written)
        if isinstance(error, FileExistsError):
            raise
        raise _storage(error, where) from error
    except BaseException:
        _remove(written)
        raise
    return written


def replace_file(path: Path, data: bytes) -> None:
    """The file has the old content or the new one, never half of it. Raises StorageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _place(path, data, overwrite=True)
    except OSError as error:
        raise _storage(error, path.parent) from error


def _place(path: Path, data: bytes, *, overwrite: bool) -> None:
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
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
    """Give the file its name unless somebody else has it; a rename would take it from them."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # some file systems know no links
        if path.exists():
            raise FileExistsError(f"{path} is there already") from None
        temporary.rename(path)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _storage(error: OSError, folder: Path) -> StorageError:
    told = with_stage(storage_error(error), "store", str(folder))
    assert isinstance(told, StorageError)
    return told
