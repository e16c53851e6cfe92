"""Run a studio's pipeline as jobs: submit now, ask for status and result later.

A `JobRecord` per job has its state, its kept events and, unless a store has it, its result. The
engine calls `_run_job` once for each submitted job; that method always brings the record to a final
state, also when it is cancelled. Ended jobs are listed in `_ended_at` in the order in which they
ended. When `ttl` has passed they are dropped from memory at the next access; their files are
removed by `sweep`, because removing files takes a worker thread.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Unpack, cast

from anyio import to_thread

from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream, no_result_yet
from majordomo.concurrency.lifecycle import Closeable
from majordomo.errors import (
    ConfigurationError,
    InvalidRequestError,
    JobCancelledError,
    MajordomoError,
    NotFoundError,
)
from majordomo.studio.errors import with_stage
from majordomo.studio.events import StudioDone, StudioEvent
from majordomo.studio.executor import InProcessEngine, JobEngine, JobOrder
from majordomo.studio.inputs import StudioInput, StudioOverrides, parse_input, split_overrides
from majordomo.studio.job_record import JobRecord, State, StudioJobStatus, copy_error
from majordomo.studio.job_store import JobStore, check_id
from majordomo.studio.result import StudioResult
from majordomo.studio.studio import Studio, StudioStream, SyncStudioStream
from majordomo.validation import check_user_id


class Jobs(Closeable):
    """The jobs of one studio.

    An object belongs to one event loop: use either its async methods or its `..._sync` methods.
    `async with` (or `with`) closes it. Jobs that an earlier process has stored are available again,
    in state "done".

    Args:
        studio: The pipeline.
        engine: Executes the jobs. Default: in this process, one at a time.
        store: A folder or a JobStore for the results. None keeps them in memory.
        ttl: Seconds after its end until a job is removed with its files.
        clock: Returns the time in seconds since the epoch.
        ids: Returns the id of the next job.

    Raises:
        ConfigurationError: A setting is invalid.
        StorageError: The folder cannot be used.
    """

    def __init__(
        self,
        studio: Studio,
        *,
        engine: JobEngine | None = None,
        store: JobStore | str | os.PathLike[str] | None = None,
        ttl: float = 3600.0,
        clock: Callable[[], float] = time.time,
        ids: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not ttl > 0:
            raise ConfigurationError(
                f"ttl must be a positive number of seconds; got {ttl!r}", details={"field": "ttl"}
            )
        self._studio = studio
        self._engine: JobEngine = engine or InProcessEngine()
        self._store = (
            JobStore(store, clock=clock) if isinstance(store, (str, os.PathLike)) else store
        )
        self._ttl = ttl
        self._clock = clock
        self._ids = ids
        self._records: dict[str, JobRecord] = {}
        # When each ended job ended, the first one first; and expired jobs that still have files.
        self._ended_at: dict[str, float] = {}
        self._expired: list[str] = []
        if self._store is not None:
            self._load_records(self._store)
        self._engine.open(self._run_job)

    def _load_records(self, store: JobStore) -> None:
        records = []
        for job, values in store.records().items():
            with suppress(KeyError, TypeError, ValueError):
                records.append(JobRecord.from_dict(job, values))
        for record in sorted(records, key=lambda record: record.ended_at or 0.0):
            self._records[record.id] = record
            self._ended_at[record.id] = record.ended_at or 0.0

    async def submit(self, studio_input: StudioInput, **overrides: Unpack[StudioOverrides]) -> str:
        """Queue a job and return its id at once.

        Args:
            studio_input: The first argument of `Studio.run`.
            **overrides: The keyword arguments of `Studio.run`; `user_id` is also the job's user.

        Returns:
            The job's id.

        Raises:
            InvalidRequestError: The input or an override is invalid.
            OverloadedError: The queue is full (QUEUE_FULL).
        """
        parse_input(studio_input)
        split_overrides(overrides)
        user_id = overrides.get("user_id") or ""
        check_user_id(user_id)
        await self.sweep()
        job = check_id(self._ids())
        if job in self._records:
            raise InvalidRequestError(f"a job with the id {job} already exists", field="id")
        now = self._clock()
        self._records[job] = JobRecord(job, now, user_id)
        try:
            await self._engine.put(JobOrder(job, studio_input, overrides, user_id, now))
        except BaseException:
            del self._records[job]
            raise
        return job

    async def status(self, job: str) -> StudioJobStatus:
        """Return the status of a job.

        Raises:
            NotFoundError: The job is unknown or has expired (UNKNOWN_JOB).
        """
        record = self._record(job)
        waiting = self._engine.waiting() if record.state == "queued" else ()
        return record.status(waiting.index(job) + 1 if job in waiting else None, self._ttl)

    async def list(self, user_id: str | None = None) -> list[StudioJobStatus]:
        """Return the status of every job, or of one user's jobs, in the order of submission."""
        self._expire()
        positions = {job: position for position, job in enumerate(self._engine.waiting(), 1)}
        records = sorted(self._records.values(), key=lambda record: record.submitted_at)
        return [
            record.status(positions.get(record.id), self._ttl)
            for record in records
            if user_id is None or record.user_id == user_id
        ]

    async def result(self, job: str) -> StudioResult:
        """Wait until the job has ended and return its result.

        Raises:
            MajordomoError: The error that the job failed with.
            JobCancelledError: The job was cancelled.
            NotFoundError: The job is unknown or has expired (UNKNOWN_JOB).
            StorageError: The stored result cannot be read.
        """
        record = self._record(job)
        while not record.ended:
            await record.wait_for_change()
        return await self._result(record)

    async def _result(self, record: JobRecord) -> StudioResult:
        if record.state == "cancelled":
            raise JobCancelledError(f"job {record.id} was cancelled")
        if record.state == "failed":
            assert record.error is not None
            raise copy_error(record.error)
        if record.result is not None:
            return record.result
        store = self._store
        assert store is not None
        return (await to_thread.run_sync(store.get, record.id))[1]

    def events(self, job: str) -> StudioStream:
        """Stream the events of a job from its beginning.

        Of progress only the latest is kept; a job that is done and stored has only StudioDone.
        Several readers may read at the same time, and leaving the stream does not affect the job.
        The stream ends with the errors that `result` raises.
        """
        return EventStream(lambda: _JobEventSource(self, self._record(job)))

    async def cancel(self, job: str) -> bool:
        """Withdraw or stop a job.

        Returns:
            Whether the job was cancelled; False when it had already ended.

        Raises:
            NotFoundError: The job is unknown or has expired (UNKNOWN_JOB).
        """
        record = self._record(job)
        if record.ended:
            return False
        await self._engine.cancel(job)
        if not record.ended:
            self._end(record, "cancelled")
        return record.state == "cancelled"

    async def sweep(self) -> int:
        """Remove expired jobs with their files; `submit` does this as well.

        Returns:
            How many jobs had files that were removed.

        Raises:
            StorageError: A file cannot be removed; the next sweep tries again.
        """
        self._expire()
        store, expired = self._store, self._expired
        if store is None or not expired:
            return 0
        self._expired = []
        try:
            return await to_thread.run_sync(store.remove, expired)
        except MajordomoError:
            self._expired += expired
            raise

    async def aclose(self) -> None:
        """Cancel every job that has not ended. Stored results are kept."""
        await self._engine.aclose()
        for record in list(self._records.values()):
            if not record.ended:
                self._end(record, "cancelled")

    def submit_sync(self, studio_input: StudioInput, **overrides: Unpack[StudioOverrides]) -> str:
        """Blocking version of `submit`."""
        return portal.run(lambda: self.submit(studio_input, **overrides))

    def status_sync(self, job: str) -> StudioJobStatus:
        """Blocking version of `status`."""
        return portal.run(lambda: self.status(job))

    def list_sync(self, user_id: str | None = None) -> Sequence[StudioJobStatus]:
        """Blocking version of `list`."""
        return portal.run(lambda: self.list(user_id))

    def result_sync(self, job: str) -> StudioResult:
        """Blocking version of `result`."""
        return portal.run(lambda: self.result(job))

    def events_sync(self, job: str) -> SyncStudioStream:
        """Blocking version of `events`."""
        return SyncEventStream(lambda: _JobEventSource(self, self._record(job)))

    def cancel_sync(self, job: str) -> bool:
        """Blocking version of `cancel`."""
        return portal.run(lambda: self.cancel(job))

    def sweep_sync(self) -> int:
        """Blocking version of `sweep`."""
        return portal.run(self.sweep)

    def _record(self, job: str) -> JobRecord:
        self._expire()
        record = self._records.get(job) if isinstance(job, str) else None
        if record is None:
            raise NotFoundError(
                f"there is no job {job!r}; it may have expired",
                code="UNKNOWN_JOB",
                details={"id": str(job)[:80]},
            )
        return record

    def _expire(self) -> None:
        now = self._clock()
        while self._ended_at:
            job, ended_at = next(iter(self._ended_at.items()))
            if ended_at + self._ttl > now:
                return
            del self._ended_at[job]
            if self._records.pop(job).stored:
                self._expired.append(job)

    def _end(self, record: JobRecord, state: State, error: MajordomoError | None = None) -> None:
        now = self._clock()
        self._ended_at[record.id] = now
        record.end(state, now, error)

    async def _run_job(self, order: JobOrder) -> None:
        """Execute a job for the engine. Raises nothing but a cancellation."""
        record = self._records.get(order.id)
        if record is None or record.ended:
            return
        record.start(self._clock())
        try:
            async with self._studio.stream(
                order.input, **cast("StudioOverrides", order.overrides)
            ) as stream:
                async for event in stream:
                    if not isinstance(event, StudioDone):
                        record.emit(event)
            record.result = stream.result
            self._end(record, "done", await self._store_result(record, stream.result))
        except Exception as error:
            self._end(record, "failed", with_stage(error, "generate"))
        finally:
            if not record.ended:
                self._end(record, "cancelled")

    async def _store_result(self, record: JobRecord, result: StudioResult) -> MajordomoError | None:
        """Store the result; return why that failed, and then keep it in memory until it expires."""
        store = self._store
        if store is None:
            return None
        record.stage = "store"
        await self._free_space()
        try:
            values = {**record.to_dict(), "ended_at": self._clock()}
            await to_thread.run_sync(store.put, record.id, values, result)
        except MajordomoError as error:
            return error
        except Exception as error:
            return with_stage(error, "store", record.id)
        record.stored, record.result = True, None
        return None

    async def _free_space(self) -> None:
        # What cannot be removed now is tried again later.
        with suppress(MajordomoError):
            await self.sweep()


class _JobEventSource:
    """The event source of a job, for `EventStream`."""

    def __init__(self, jobs: Jobs, record: JobRecord) -> None:
        self._jobs = jobs
        self._record = record
        self._last_number = 0
        self._ended = False
        self._result: StudioResult | None = None
        self._error: MajordomoError | None = None

    @property
    def result(self) -> StudioResult:
        """The result. Raises the error of the job, and RuntimeError before `StudioDone`."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise no_result_yet()
        return self._result

    async def next_events(self) -> Sequence[StudioEvent]:
        """Return the next events; an empty sequence after `StudioDone`."""
        while not self._ended:
            self._last_number, events = self._record.events_since(self._last_number)
            if events:
                return events
            if self._record.ended:
                self._ended = True
                try:
                    self._result = await self._jobs._result(self._record)
                except MajordomoError as error:
                    self._error = error
                    raise
                return [StudioDone(self._result)]
            await self._record.wait_for_change()
        return ()

    async def aclose(self) -> None:
        """Do nothing: the source holds no resources, and the job continues."""
