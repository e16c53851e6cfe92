"""Store the results of jobs in a folder.

Layout: `objects/<two hex digits>/<sha256>.<suffix>` has every image once, under the sha256 of its
bytes; `jobs/<name>.json`, named after the id, has the record and the manifest of one job, which
names its images. An image is removed when no job names it any more. A job file is written after its
images, so a crash leaves at most images without a job, which the next start removes.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import ConfigurationError, InvalidRequestError, StorageError
from majordomo.media.atomic_files import TEMPORARY_PREFIX, make_folder, remove_file
from majordomo.media.filenames import SUFFIXES, is_reserved
from majordomo.media.image_part import ImagePart
from majordomo.studio.errors import storage_error, with_stage
from majordomo.studio.files import replace_file
from majordomo.studio.result import StudioResult

VERSION = 1
# A temporary file older than this was left by a crash.
STALE_SECONDS = 3600.0
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_id(job: object) -> str:
    """Return a valid job id; raise InvalidRequestError (field `id`) otherwise."""
    if not isinstance(job, str) or not _ID.fullmatch(job):
        raise InvalidRequestError(
            "a job id must be 1 to 64 letters, digits, hyphens and underscores", field="id"
        )
    return job


class JobStore:
    """A folder of job results, for one process at a time; safe across threads.

    Args:
        folder: The folder; created when it is missing.
        quota: Limit for the bytes of all images. None: only the disk limits them.
        clock: Returns the time in seconds since the epoch.

    Raises:
        ConfigurationError: The quota is not a positive integer.
        StorageError: The folder cannot be created or read.
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
                f"quota must be a positive number of bytes; got {quota!r}",
                details={"field": "quota"},
            )
        self.folder: Path = Path(folder)
        self.quota = quota
        self._clock = clock
        self._lock = Lock()
        # The image files of each job, the size of each file, and how many jobs name each file.
        self._jobs: dict[str, frozenset[str]] = {}
        self._sizes: dict[str, int] = {}
        self._uses: dict[str, int] = {}
        try:
            for name in ("objects", "jobs"):
                make_folder(self.folder / name)
            self._open()
        except OSError as error:
            raise with_stage(storage_error(error), "store", str(self.folder)) from error

    def _open(self) -> None:
        for path in (self.folder / "objects").glob("*/*"):
            if not path.name.startswith(TEMPORARY_PREFIX):
                self._sizes[path.name] = path.stat().st_size
        for job, record in self._read_all():
            self._add(job, _image_files(record))
        self._remove_unused()

    @property
    def used(self) -> int:
        """Bytes of all stored images."""
        return sum(self._sizes.values())

    def ids(self) -> tuple[str, ...]:
        """Return the ids of all stored jobs."""
        return tuple(self._jobs)

    def put(self, job: str, record: Mapping[str, Any], result: StudioResult) -> None:
        """Store the result of a job with the values of its record, all or nothing.

        Raises:
            StorageError: A file cannot be written, or the quota would be exceeded (STORAGE_FULL).
        """
        check_id(job)
        manifest = result.to_dict()
        text = json.dumps(
            {"majordomo": "job", "version": VERSION, **record, "result": manifest},
            ensure_ascii=False,
        ).encode()
        images = {_file_name(image): image.data for image in result.files.values()}
        with self._lock:
            missing = {
                name: data for name, data in images.items() if self._sizes.get(name) != len(data)
            }
            self._check_quota(sum(len(data) for data in missing.values()))
            written: list[str] = []
            try:
                for name, data in missing.items():
                    replace_file(self._image_path(name), data)
                    written.append(name)
                replace_file(self._job_path(job), text)
            except BaseException:
                for name in written:
                    with suppress(OSError):
                        remove_file(self._image_path(name))
                raise
            self._sizes |= {name: len(data) for name, data in missing.items()}
            self._discard(job)
            self._add(job, frozenset(images))

    def get(self, job: str) -> tuple[dict[str, Any], StudioResult]:
        """Return the record and the result of a job.

        Raises:
            StorageError: A file is missing or has changed.
        """
        try:
            record = json.loads(self._job_path(check_id(job)).read_bytes())
            return record, StudioResult.from_dict(
                record["result"],
                lambda name, sha256: self._image_path(_stored_name(name, sha256)).read_bytes(),
            )
        except OSError as error:
            raise with_stage(storage_error(error), "store", job) from error
        except (InvalidRequestError, ValueError, KeyError, TypeError) as error:
            changed = StorageError(
                f"the files of this job were changed after they were stored: {error}",
                code="STORAGE_FAILED",
            )
            raise with_stage(changed, "store", job) from error

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the records of all stored jobs, by id, without the results."""
        return {
            job: {name: value for name, value in record.items() if name != "result"}
            for job, record in self._read_all()
        }

    def remove(self, ids: Iterable[str]) -> int:
        """Remove jobs, and the images that no other job names.

        Returns:
            How many of the jobs were stored.

        Raises:
            StorageError: A file cannot be removed.
        """
        removed = 0
        with self._lock:
            try:
                for job in ids:
                    if job in self._jobs:
                        remove_file(self._job_path(job))
                        self._discard(job)
                        removed += 1
                self._remove_unused()
            except OSError as error:
                raise with_stage(storage_error(error), "store", str(self.folder)) from error
        return removed

    def _check_quota(self, additional: int) -> None:
        if self.quota is not None and self.used + additional > self.quota:
            full = StorageError(
                f"{additional:,} more bytes would exceed the quota of {self.quota:,} bytes",
                code="STORAGE_FULL",
            )
            full.details.update(used=self.used, quota=self.quota)
            raise with_stage(full, "store", str(self.folder))

    def _add(self, job: str, files: frozenset[str]) -> None:
        self._jobs[job] = files
        for name in files:
            self._uses[name] = self._uses.get(name, 0) + 1

    def _discard(self, job: str) -> None:
        for name in self._jobs.pop(job, frozenset()):
            self._uses[name] -= 1

    def _remove_unused(self) -> None:
        """Remove images that no job names, and temporary files that a crash left."""
        for name in [name for name in self._sizes if self._uses.get(name, 0) <= 0]:
            remove_file(self._image_path(name))
            del self._sizes[name]
            self._uses.pop(name, None)
        for path in self.folder.glob(f"*/**/{TEMPORARY_PREFIX}*"):
            with suppress(OSError):
                if self._clock() - path.stat().st_mtime > STALE_SECONDS:
                    remove_file(path)

    def _read_all(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield the id and the content of every job file; skip files that are not job files."""
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
                    and (job := _job_id(path.stem))
                ):
                    # Raises for a job file that names something other than images of the store.
                    _image_files(record)
                    yield job, record

    def _image_path(self, name: str) -> Path:
        return self.folder / "objects" / name[:2] / name

    def _job_path(self, job: str) -> Path:
        return self.folder / "jobs" / f"{_job_stem(job)}.json"


def _job_stem(job: str) -> str:
    """Return the name of a job's file, without suffix.

    Ids that differ in case have different names where the file system ignores case, and no name is
    reserved for a device on Windows.
    """
    stem = re.sub("[A-Z]", lambda letter: f"%{letter[0].lower()}", job)
    return f"{stem}%" if is_reserved(stem) else stem


def _job_id(stem: str) -> str:
    """Return the id of the job that the name of a file belongs to; "" if it is none."""
    job = re.sub("%([a-z])", lambda letter: letter[1].upper(), stem.removesuffix("%"))
    return job if _ID.fullmatch(job) and _job_stem(job) == stem else ""


def _file_name(image: ImagePart) -> str:
    return image.sha256 + SUFFIXES[image.mime]


def _stored_name(name: str, sha256: str) -> str:
    """Return the file name under which an image of a manifest is stored.

    Raises InvalidRequestError for anything that is not a sha256 and a known suffix, so that no path
    leaves the folder.
    """
    suffix = "." + name.rpartition(".")[2]
    if (
        not isinstance(sha256, str)
        or not _SHA256.fullmatch(sha256)
        or suffix not in SUFFIXES.values()
    ):
        raise InvalidRequestError("the manifest names no image of the store", field="sha256")
    return sha256 + suffix


def _image_files(record: Mapping[str, Any]) -> frozenset[str]:
    entries = [
        entry for image in record["result"]["images"] for entry in (image, *image["derivatives"])
    ]
    return frozenset(_stored_name(entry["file"], entry["sha256"]) for entry in entries)
