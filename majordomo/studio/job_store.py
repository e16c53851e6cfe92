"""Results of jobs in a folder: every image once, under the sha256 of its bytes, and one JSON file per job that names them."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from majordomo.errors import ConfigurationError, InvalidRequestError, StorageError
from majordomo.media.filenames import SUFFIXES
from majordomo.media.image_part import ImagePart
from majordomo.studio.errors import storage_error, with_stage
from majordomo.studio.files import TEMPORARY, replace_file
from majordomo.studio.result import StudioResult

VERSION = 1
STALE = 3600.0  # seconds after which an unfinished file belongs to nobody any more
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA = re.compile(r"[0-9a-f]{64}")


def check_id(job: object) -> str:
    """Raise InvalidRequestError (field `id`) for what cannot be a job's id: 1 to 64 letters, digits, - and _."""
    if not isinstance(job, str) or not _ID.fullmatch(job):
        raise InvalidRequestError("an id is 1 to 64 letters, digits, - and _", field="id")
    return job


class JobStore:
    """The folder, for one process at a time; safe across threads. `quota` bounds its files in bytes, None: the disk does.

    Raises StorageError for a folder that cannot be made or read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        quota: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if quota is not None and (
            isinstance(quota, bool) or not isinstance(quota, int) or quota < 1
        ):
            raise ConfigurationError(
                "quota is a number of bytes above 0", details={"field": "quota"}
            )
        self.folder: Path = Path(folder)
        self.quota = quota
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, frozenset[str]] = {}  # which files each names
        self._sizes: dict[str, int] = {}  # of files, by name
        self._uses: dict[str, int] = {}  # by how many jobs
        try:
            for room in ("objects", "jobs"):
                (self.folder / room).mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise with_stage(storage_error(error), "store", str(self.folder)) from error

    def _open(self) -> None:
        for path in (self.folder / "objects").glob("*/*"):
            if not path.name.startswith(TEMPORARY):
                self._sizes[path.name] = path.stat().st_size
        for job, record in self._read_all():
            self._note(job, _files(record))
        self._clear()

    @property
    def used(self) -> int:
        """Bytes of all images kept."""
        return sum(self._sizes.values())

    def ids(self) -> tuple[str, ...]:
        return tuple(self._jobs)

    def put(self, job: str, record: Mapping[str, Any], outcome: StudioResult) -> None:
        """Keep a job's outcome with what its `record` says. All or nothing: raises StorageError, STORAGE_FULL beyond the quota too."""
        check_id(job)
        manifest = outcome.to_dict()
        text = json.dumps(
            {"majordomo": "job", "version": VERSION, **record, "outcome": manifest},
            ensure_ascii=False,
        ).encode()
        images = {_name(image): image.data for image in outcome.files.values()}
        with self._lock:
            fresh = {
                name: data for name, data in images.items() if self._sizes.get(name) != len(data)
            }
            self._check_quota(sum(len(data) for data in fresh.values()))
            written: list[str] = []
            try:
                for name, data in fresh.items():
                    replace_file(self._path(name), data)
                    written.append(name)
                replace_file(self._record(job), text)
            except BaseException:
                for name in written:
                    with suppress(OSError):
                        self._path(name).unlink(missing_ok=True)
                raise
            self._sizes |= {name: len(data) for name, data in fresh.items()}
            self._forget(job)
            self._note(job, frozenset(images))

    def get(self, job: str) -> tuple[dict[str, Any], StudioResult]:
        """The record and the outcome of a job. Raises StorageError for files that are gone or changed."""
        try:
            record = json.loads(self._record(check_id(job)).read_bytes())
            return record, StudioResult.from_dict(
                record["outcome"],
                lambda name, sha256: self._path(_stored(name, sha256)).read_bytes(),
            )
        except OSError as error:
            raise with_stage(storage_error(error), "store", job) from error
        except (InvalidRequestError, ValueError, KeyError, TypeError) as error:
            broken = StorageError(
                f"the files of this job are not those that were kept: {error}",
                code="STORAGE_FAILED",
            )
            raise with_stage(broken, "store", job) from error

    def records(self) -> dict[str, dict[str, Any]]:
        """What is known of every job kept, without the outcomes."""
        return {
            job: {name: value for name, value in record.items() if name != "outcome"}
            for job, record in self._read_all()
        }

    def remove(self, ids: Iterable[str]) -> int:
        """Forget these jobs, and the images that no other job names. Returns how many jobs were kept of them. Raises StorageError."""
        removed = 0
        with self._lock:
            try:
                for job in ids:
                    if job in self._jobs:
                        self._record(job).unlink(missing_ok=True)
                        self._forget(job)
                        removed += 1
                self._clear()
            except OSError as error:
                raise with_stage(storage_error(error), "store", str(self.folder)) from error
        return removed

    def _check_quota(self, more: int) -> None:
        if self.quota is not None and self.used + more > self.quota:
            full = StorageError(
                f"{more:,} bytes more would be over the quota of {self.quota:,}",
                code="STORAGE_FULL",
            )
            full.details.update(used=self.used, quota=self.quota)
            raise with_stage(full, "store", str(self.folder))

    def _note(self, job: str, files: frozenset[str]) -> None:
        self._jobs[job] = files
        for name in files:
            self._uses[name] = self._uses.get(name, 0) + 1

    def _forget(self, job: str) -> None:
        for name in self._jobs.pop(job, frozenset()):
            self._uses[name] -= 1

    def _clear(self) -> None:
        """Take away images of no job, and what a crash has left half-written."""
        for name in [name for name in self._sizes if self._uses.get(name, 0) <= 0]:
            self._path(name).unlink(missing_ok=True)
            del self._sizes[name]
            self._uses.pop(name, None)
        for path in self.folder.glob(f"*/**/{TEMPORARY}*"):
            with suppress(OSError):
                if self._clock() - path.stat().st_mtime > STALE:
                    path.unlink(missing_ok=True)

    def _read_all(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Files that are none of ours are left alone."""
        for path in sorted((self.folder / "jobs").glob("*.json")):
            with suppress(
                InvalidRequestError,
                ValueError,
                RecursionError,
                KeyError,
                TypeError,
                AttributeError,
                OSError,
            ):
                record = json.loads(path.read_bytes())
                if (
                    record["majordomo"] == "job"
                    and record["version"] == VERSION
                    and _ID.fullmatch(path.stem)
                ):
                    _files(record)  # raises for what is none
                    yield path.stem, record

    def _path(self, name: str) -> Path:
        return self.folder / "objects" / name[:2] / name

    def _record(self, job: str) -> Path:
        return self.folder / "jobs" / f"{job}.json"


def _name(image: ImagePart) -> str:
    return image.sha256 + SUFFIXES[image.mime]


def _stored(name: str, sha256: str) -> str:
    """The name an image is kept under. Raises InvalidRequestError for what is no name of ours, so that no path leaves the folder."""
    suffix = "." + name.rpartition(".")[2]
    if not isinstance(sha256, str) or not _SHA.fullmatch(sha256) or suffix not in SUFFIXES.values():
        raise InvalidRequestError("this names no image of the store", field="sha256")
    return sha256 + suffix


def _files(record: Mapping[str, Any]) -> frozenset[str]:
    told = [one for image in record["outcome"]["images"] for one in (image, *image["derivatives"])]
    return frozenset(_stored(one["file"], one["sha256"]) for one in told)
