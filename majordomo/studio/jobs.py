"""Runs of a studio as jobs: submitted now, looked at later."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import Unpack, cast

from anyio import to_thread

from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream
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
from majordomo.studio.inputs import StudioInput, StudioOverrides, check_input, split_overrides
from majordomo.studio.job_record import JobRecord, StudioJobStatus, again
from majordomo.studio.job_store import JobStore, check_id
from majordomo.studio.result import StudioResult
from majordomo.studio.studio import Studio, StudioStream, SyncStudioStream
from majordomo.validation import check_user_id


class Jobs(Closeable):
    """Jobs of one studio. `engine` does them (in this process, one at a time, unless you bring another), `store` is a folder (or Store)
    where results stay, None: they stay in memory. A job is forgotten, files and all, `ttl` seconds after it has ended. `clock` gives
    seconds since the epoch, `ids` the next id. Jobs that an earlier process has stored are here again, done.

    Belongs to one event loop: use either the async methods or the `..._sync` ones of one object. `async with` (or `with`) closes it.

    Raises ConfigurationError for settings that make no sense, StorageError for a folder that cannot be used.
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
            raise ConfigurationError("ttl is a number of seconds above 0", details={"field": "ttl"})
        self._studio = studio
        self._engine: JobEngine = engine or InProcessEngine()
        self._store = (
            JobStore(store, clock=clock) if isinstance(store, (str, os.PathLike)) else store
        )
        self._ttl = ttl
        self._clock = clock
        self._ids = ids
        self._records: dict[str, JobRecord] = {}
        self._ending: dict[str, float] = {}  # those that have ended, the first one first
        self._expired: list[str] = []  # their files are still there
        if self._store is not None:
            self._remember(self._store)
        self._engine.open(self._perform)

    def _remember(self, store: JobStore) -> None:
        kept = []
        for job, values in store.records().items():
            with suppress(KeyError, TypeError, ValueError):
                kept.append(JobRecord.kept(job, values))
        for record in sorted(kept, key=lambda record: record.ended or 0.0):
            self._records[record.id] = record
            self._ending[record.id] = record.ended or 0.0

    async def submit(self, start: StudioInput, **wishes: Unpack[StudioOverrides]) -> str:
        """Take a job and return its id at once. `start` and `wishes` are those of `Studio.run`; wishes has the `user_id` too.

        Raises InvalidRequestError for what cannot be run, OverloadedError (QUEUE_FULL).
        """
        check_input(start)
        split_overrides(wishes)
        user_id = wishes.get("user_id") or ""
        check_user_id(user_id)
        await self.sweep()
        job = check_id(self._ids())
        if job in self._records:
            raise InvalidRequestError(f"there is a job {job} already", field="id")
        now = self._clock()
        self._records[job] = JobRecord(job, now, user_id)
        try:
            await self._engine.put(JobOrder(job, start, wishes, user_id, now))
        except BaseException:
            del self._records[job]
            raise
        return job

    async def status(self, job: str) -> StudioJobStatus:
        """Raises NotFoundError (UNKNOWN_JOB) for one that is not, or no longer, known."""
        record = self._record(job)
        waiting = self._engine.waiting() if record.state == "queued" else ()
        return record.status(waiting.index(job) + 1 if job in waiting else None, self._ttl)

    async def list(self, user_id: str | None = None) -> list[StudioJobStatus]:
        """Every job in the order of submission, or those of one caller."""
        self._expire()
        positions = {job: at for at, job in enumerate(self._engine.waiting(), 1)}
        records = sorted(self._records.values(), key=lambda record: record.submitted)
        return [
            record.status(positions.get(record.id), self._ttl)
            for record in records
            if user_id is None or record.user_id == user_id
        ]

    async def result(self, job: str) -> StudioResult:
        """The outcome, once the job has ended. Raises what the job failed with, JobCancelledError, NotFoundError, StorageError."""
        record = self._record(job)
        while not record.over:
            await record.changed()
        return await self._outcome(record)

    async def _outcome(self, record: JobRecord) -> StudioResult:
        if record.state == "cancelled":
            raise JobCancelledError(f"job {record.id} was cancelled")
        if record.state == "failed":
            assert record.error is not None
            raise again(record.error)
        if record.outcome is not None:
            return record.outcome
        store = self._store
        assert store is not None
        return (await to_thread.run_sync(store.get, record.id))[1]

    def events(self, job: str) -> AbstractAsyncContextManager[StudioStream]:
        """What the job tells, from its beginning: of progress only the latest is kept, of a job that is done and stored only Done. May be
        read by several, and left without any effect on the job. Raises at its end what `result` raises."""
        return cast(
            "AbstractAsyncContextManager[StudioStream]",
            EventStream(lambda: _JobEventSource(self, self._record(job))),
        )

    async def cancel(self, job: str) -> bool:
        """Withdraw a job or stop it. Whether that was in time. Raises NotFoundError for one that is not known."""
        record = self._record(job)
        if record.over:
            return False
        await self._engine.cancel(job)
        if not record.over:
            self._ended(record, "cancelled")
        return record.state == "cancelled"

    async def sweep(self) -> int:
        """Forget what has expired, files and all; every `submit` does so too. Returns how many jobs have lost their files."""
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
        """Cancel everything that has not ended. What is stored stays."""
        await self._engine.aclose()
        for record in list(self._records.values()):
            if not record.over:
                self._ended(record, "cancelled")

    def submit_sync(self, start: StudioInput, **wishes: Unpack[StudioOverrides]) -> str:
        return portal.run(lambda: self.submit(start, **wishes))

    def status_sync(self, job: str) -> StudioJobStatus:
        return portal.run(lambda: self.status(job))

    def list_sync(self, user_id: str | None = None) -> Sequence[StudioJobStatus]:
        return portal.run(lambda: self.list(user_id))

    def result_sync(self, job: str) -> StudioResult:
        return portal.run(lambda: self.result(job))

    def events_sync(self, job: str) -> AbstractContextManager[SyncStudioStream]:
        return cast(
            "AbstractContextManager[SyncStudioStream]",
            SyncEventStream(lambda: _JobEventSource(self, self._record(job))),
        )

    def cancel_sync(self, job: str) -> bool:
        return portal.run(lambda: self.cancel(job))

    def sweep_sync(self) -> int:
        return portal.run(self.sweep)

    def _record(self, job: str) -> JobRecord:
        self._expire()
        record = self._records.get(job) if isinstance(job, str) else None
        if record is None:
            raise NotFoundError(
                f"there is no job {job!r}, or no longer",
                code="UNKNOWN_JOB",
                details={"id": str(job)[:80]},
            )
        return record

    def _expire(self) -> None:
        now = self._clock()
        while self._ending:
            job, ended = next(iter(self._ending.items()))
            if ended + self._ttl > now:
                return
            del self._ending[job]
            if self._records.pop(job).stored:
                self._expired.append(job)

    def _ended(self, record: JobRecord, state: str, error: MajordomoError | None = None) -> None:
        now = self._clock()
        self._ending[record.id] = now
        record.end(state, now, error)  # type: ignore[arg-type]  # one of the three

    async def _perform(self, order: JobOrder) -> None:
        """The engine's work. Whatever happens is written into the record; only a cancellation leaves."""
        record = self._records.get(order.id)
        if record is None or record.over:
            return
        record.begin(self._clock())
        try:
            async with self._studio.stream(
                order.input, **cast("StudioOverrides", order.overrides)
            ) as stream:
                async for event in stream:
                    if not isinstance(event, StudioDone):
                        record.emit(event)
            assert stream.result is not None  # a stream that ends without Done raises
            record.outcome = stream.result
            self._ended(record, "done", await self._keep(record, stream.result))
        except Exception as error:
            self._ended(record, "failed", with_stage(error, "paint"))
        finally:
            if not record.over:
                self._ended(record, "cancelled")

    async def _keep(self, record: JobRecord, outcome: StudioResult) -> MajordomoError | None:
        """Into the store; what cannot be stored stays in memory until it expires, and the error says why."""
        store = self._store
        if store is None:
            return None
        record.stage = "store"
        await self._make_room()
        try:
            values = {**record.to_dict(), "ended": self._clock()}
            await to_thread.run_sync(store.put, record.id, values, outcome)
        except MajordomoError as error:
            return error
        except Exception as error:
            return with_stage(error, "store", record.id)
        record.stored, record.outcome = True, None
        return None

    async def _make_room(self) -> None:
        with suppress(MajordomoError):  # what cannot be removed now is tried again later
            await self.sweep()


class _JobEventSource:
    """A job's events as a source."""

    def __init__(self, jobs: Jobs, record: JobRecord) -> None:
        self._jobs = jobs
        self._record = record
        self._seen = 0
        self._ended = False
        self.result: StudioResult | None = None

    async def next_events(self) -> Sequence[StudioEvent]:
        while not self._ended:
            self._seen, events = self._record.since(self._seen)
            if events:
                return events
            if self._record.over:
                self._ended = True
                self.result = await self._jobs._outcome(self._record)
                return [StudioDone(self.result)]
            await self._record.changed()
        return ()

    async def aclose(self) -> None:
        """Nothing is held: the job goes on."""
