"""A written file is complete or absent, and what Windows does differently is handled."""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from majordomo.media import atomic_files
from majordomo.testing import plain_image

SMALL, LARGE = plain_image(8, 8), plain_image(9, 9)


class InUseError(PermissionError):
    """What Windows raises for a file that another program has open."""

    winerror = 32


def failing(real: Callable[..., None], error: OSError, times: int) -> Callable[..., None]:
    """Return `real`, which raises `error` this many times first."""
    calls = itertools.count()

    def call(*arguments: Any, **options: Any) -> None:
        if next(calls) < times:
            raise error
        real(*arguments, **options)

    return call


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the delays between two attempts, and wait for none of them."""
    delays: list[float] = []
    monkeypatch.setattr(atomic_files.time, "sleep", delays.append)
    return delays


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_leaves_no_file_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    existing = SMALL.save(tmp_path / "existing.png")
    monkeypatch.setattr(os, "fsync", failing(os.fsync, OSError(number, os.strerror(number)), 3))
    for path, write in (
        (tmp_path / "new.png", lambda: LARGE.save(tmp_path / "new.png")),
        (tmp_path / "other.png", lambda: LARGE.save_in(tmp_path, "other")),
        (existing, lambda: LARGE.save(existing, overwrite=True)),
    ):
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
            write()
        assert (caught.value.errno, caught.value.filename) == (number, str(path))
    assert [path.name for path in tmp_path.iterdir()] == ["existing.png"]
    assert existing.read_bytes() == SMALL.data


def test_a_limit_of_the_system_leaves_no_truncated_file(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="the limit exists on POSIX systems only")
    code = f"""
import os, resource, signal, sys
from pathlib import Path
from majordomo.media.atomic_files import write_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    write_file(Path({str(tmp_path / "a")!r}), bytes(2000))
except OSError as error:
    os.write(1, error.filename.encode())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_files_of_concurrent_writers_never_replace_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: SMALL.save_in(tmp_path, "same"), range(40)))
    assert len(set(paths)) == 40
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {SMALL.data}
    assert len(list(tmp_path.iterdir())) == 40


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a permission on Windows")
def test_overwriting_keeps_the_mode_and_a_symbolic_link(tmp_path: Path) -> None:
    target, link = SMALL.save(tmp_path / "target.png"), tmp_path / "link.png"
    target.chmod(0o600)
    link.symlink_to(target)
    with pytest.raises(FileExistsError) as caught:
        LARGE.save(link)
    assert caught.value.filename == str(link)
    assert LARGE.save(link, overwrite=True).is_symlink()
    assert target.read_bytes() == LARGE.data
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes have no path here")
def test_overwriting_a_pipe_writes_into_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    atomic_files.write_file(pipe, b"data", overwrite=True)
    assert os.read(reader, 9) == b"data"
    os.close(reader)
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize("function", ["replace", "unlink", "rename"])
def test_a_file_that_is_in_use_on_windows_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, short_delays: list[float]
) -> None:
    path = tmp_path / "a.png"
    monkeypatch.setattr(os, function, failing(getattr(os, function), InUseError(13, "in use"), 4))
    if function == "rename":
        # A file system without hard links.
        monkeypatch.setattr(os, "link", failing(os.link, OSError(errno.EPERM, "no links"), 1))
    SMALL.save(path)
    LARGE.save(path, overwrite=True)
    atomic_files.remove_file(path)
    assert list(tmp_path.iterdir()) == []
    assert len(short_delays) == 4


def test_a_read_only_file_that_cannot_be_replaced_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SMALL.save(tmp_path / "a.png")
    path.chmod(stat.S_IREAD)

    def refuse_read_only(real: Callable[..., None]) -> Callable[..., None]:
        def call(*paths: Any, **options: Any) -> None:
            if not all(os.stat(name).st_mode & stat.S_IWRITE for name in paths):
                raise InUseError(13, "access is denied")
            real(*paths, **options)

        return call

    with monkeypatch.context() as patch:
        for function in ("replace", "unlink"):
            patch.setattr(os, function, refuse_read_only(getattr(os, function)))
        with pytest.raises(PermissionError) as caught:
            LARGE.save(path, overwrite=True)
    assert caught.value.filename == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == SMALL.data
    assert not path.stat().st_mode & stat.S_IWRITE
    path.chmod(stat.S_IREAD | stat.S_IWRITE)


def test_a_file_that_stays_in_use_raises_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_delays: list[float]
) -> None:
    path = SMALL.save(tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing(os.replace, InUseError(13, "in use"), 99))
        with pytest.raises(PermissionError) as caught:
            LARGE.save(path, overwrite=True)
    assert caught.value.filename == str(path)
    assert 0.5 < sum(short_delays) < 1
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [SMALL.data]


def test_a_missing_permission_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_delays: list[float]
) -> None:
    path = SMALL.save(tmp_path / "a.png")
    monkeypatch.setattr(os, "replace", failing(os.replace, PermissionError(13, "denied"), 1))
    with pytest.raises(PermissionError):
        LARGE.save(path, overwrite=True)
    assert short_delays == []


def test_a_path_that_is_too_long_for_windows_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "MAX_PATH", 259)
    monkeypatch.setattr(atomic_files, "MAX_FOLDER_PATH", 247)
    # Windows reports that the folder does not exist, as Linux does for this one.
    path = tmp_path / "missing" / ("x" * 250)
    length = len(f"{path}.png")
    with pytest.raises(OSError, match=f"{length} characters, and Windows allows 259") as caught:
        SMALL.save(path)
    assert caught.value.errno == errno.ENAMETOOLONG
    # The temporary file has the longer name here, of 22 characters.
    short = tmp_path / "missing" / ("y" * (259 - len(str(tmp_path / "missing")) - 23)) / "a.png"
    with pytest.raises(OSError, match="260 characters, and Windows allows 259"):
        SMALL.save(short)
    with pytest.raises(FileNotFoundError):
        SMALL.save(tmp_path / "missing" / "short")
    (tmp_path / "file").write_bytes(b"")
    folder = tmp_path / "file" / ("x" * 240)
    with pytest.raises(OSError, match=f"{len(str(folder))} characters, and Windows allows 247"):
        atomic_files.make_folder(folder)
