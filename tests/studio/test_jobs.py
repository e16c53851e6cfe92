from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo import imagegen
from majordomo.imaging import Derivative
from majordomo.studio import (
    GenerationConfig,
    ImageFinished,
    ImageProgress,
    InProcessEngine,
    JobOrder,
    Jobs,
    JobStore,
    NamedPrompt,
    Plan,
    Studio,
    StudioDone,
    StudioJobStatus,
    StudioResult,
    classify,
)
from majordomo.testing import Pause, ScriptedImageModel, plain_image

IMAGE = plain_image(16, 16)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def counted() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"job-{next(numbers)}"


def jobs_of(image_model: Any, **settings: Any) -> Jobs:
    studio = (
        image_model if isinstance(image_model, Studio) else Studio(ScriptedImageModel(image_model))
    )
    return Jobs(studio, **{"clock": Clock(), "ids": counted(), **settings})


def plan_of(*names: str) -> Plan:
    return Plan(
        classify("images"),
        GenerationConfig(n=len(names)),
        tuple(NamedPrompt(name, f"a {name}") for name in names),
    )


async def ended(jobs: Jobs, *ids: str) -> None:
    for job in ids:
        with suppress(md.MajordomoError):
            await jobs.result(job)


async def test_submitting_returns_at_once_and_the_status_tells_the_way() -> None:
    first, second = Pause(), Pause()
    clock = Clock()
    answers = iter(
        [
            [
                imagegen.Loading("sdxl"),
                imagegen.Step(1, 4),
                first,
                imagegen.Step(4, 4),
                second,
                IMAGE,
            ],
            IMAGE,
        ]
    )
    async with jobs_of(lambda _: next(answers), clock=clock) as jobs:
        one, two = await jobs.submit("a cat", user_id="ann"), await jobs.submit("a dog")
        assert (one, two) == ("job-1", "job-2")
        await first.reached()
        await anyio.wait_all_tasks_blocked()
        clock.time += 5
        status = await jobs.status(one)
        assert status == StudioJobStatus(
            "job-1", "processing", None, "paint", 1, 4, 0, 1000.0, 1000.0, None, None, "ann"
        )
        assert await jobs.status(two) == StudioJobStatus("job-2", "queued", 1, submitted=1000.0)
        first.release()
        await second.reached()
        await anyio.wait_all_tasks_blocked()
        assert (await jobs.status(one)).step == 4
        second.release()
        assert len((await jobs.result(one)).items) == 1
        status = await jobs.status(one)
        assert (status.state, status.images, status.ended, status.expires) == (
            "done",
            1,
            1005.0,
            4605.0,
        )
        await jobs.result(two)
        json.dumps([status.to_dict() for status in await jobs.list()])
        assert [status.id for status in await jobs.list("ann")] == ["job-1"]


async def test_events_begin_at_the_beginning_may_be_read_by_several_and_left() -> None:
    pause = Pause()
    async with jobs_of(
        lambda _: [*(imagegen.Step(step, 50) for step in range(1, 51)), pause, IMAGE]
    ) as jobs:
        job = await jobs.submit(plan_of("a"))
        async with jobs.events(job) as early:
            assert (await anext(early)).plan.prompts[0].name == "a"
        await pause.reached()
        await anyio.wait_all_tasks_blocked()
        async with jobs.events(job) as late:
            await anext(late)
            assert await anext(late) == ImageProgress("a", imagegen.Step(50, 50)), (
                "of progress the latest"
            )
            pause.release()
            rest = [event async for event in late]
        assert [type(event) for event in rest] == [ImageFinished, StudioDone]
        assert late.result == await jobs.result(job)


async def test_a_failed_job_tells_its_error_to_everybody_who_asks() -> None:
    async with jobs_of(lambda _: md.BackendError("oom", code="GPU_OOM")) as jobs:
        job = await jobs.submit("a cat")
        caught = []
        for _ in range(2):
            with pytest.raises(md.BackendError) as error:
                await jobs.result(job)
            caught.append(error.value)
        assert caught[0] is not caught[1]
        status = await jobs.status(job)
        assert (status.state, status.stage) == ("failed", "paint")
        assert status.error is not None
        assert (status.error["code"], status.error["details"]["stage"]) == ("GPU_OOM", "paint")
        with pytest.raises(md.BackendError):
            async with jobs.events(job) as stream:
                async for _ in stream:
                    pass


async def test_a_cancelled_job_is_stopped_and_the_next_one_begins() -> None:
    pause = Pause()
    answers = iter([[pause, IMAGE], IMAGE])
    async with jobs_of(lambda _: next(answers)) as jobs:
        running, waiting, last = [await jobs.submit("a cat") for _ in range(3)]
        await pause.reached()
        assert await jobs.cancel(waiting)
        assert await jobs.cancel(running)
        assert not await jobs.cancel(running), "once is enough"
        for job in (running, waiting):
            assert (await jobs.status(job)).state == "cancelled"
            with pytest.raises(md.JobCancelledError):
                await jobs.result(job)
        assert len((await jobs.result(last)).items) == 1
        assert not await jobs.cancel(last)


async def test_of_two_hundred_jobs_half_of_them_cancelled_none_is_lost(tmp_path: Path) -> None:
    gate, painted = Pause(), []

    async def paint(request: imagegen.Request) -> Any:
        await gate.pass_through()
        painted.append(request.prompt)
        return IMAGE

    async with jobs_of(paint, engine=InProcessEngine(max_concurrency=8), store=tmp_path) as jobs:
        ids = [await jobs.submit(f"cat number {number}") for number in range(200)]
        await gate.reached()
        positions = [status.position for status in await jobs.list() if status.state == "queued"]
        assert positions == list(range(1, len(positions) + 1))
        withdrawn = {job: await jobs.cancel(job) for job in ids[::2]}
        assert set(withdrawn.values()) == {True}, "those that run and those that wait"
        gate.release()
        await ended(jobs, *ids)
        states = {status.id: status.state for status in await jobs.list()}
        assert list(states) == ids
        assert states == {job: "cancelled" if job in withdrawn else "done" for job in ids}
        assert len(painted) == 100
        assert len(list((tmp_path / "objects").glob("*/*"))) == 1, "the same bytes are kept once"
        assert len(list((tmp_path / "jobs").iterdir())) == 100


async def test_closing_cancels_what_has_not_ended_and_takes_nothing_more() -> None:
    pause = Pause()
    jobs = jobs_of(lambda _: [pause, IMAGE])
    ids = [await jobs.submit("a cat") for _ in range(3)]
    await pause.reached()
    await jobs.aclose()
    assert [(await jobs.status(job)).state for job in ids] == ["cancelled"] * 3
    with pytest.raises(md.ConfigurationError):
        await jobs.submit("a cat")
    assert len(await jobs.list()) == 3


async def test_a_full_line_is_a_typed_error_and_leaves_no_trace() -> None:
    pause = Pause()
    async with jobs_of(
        lambda _: [pause, IMAGE], engine=InProcessEngine(max_concurrency=1, max_queue=1)
    ) as jobs:
        await jobs.submit("a cat")
        await jobs.submit("a cat")
        with pytest.raises(md.OverloadedError) as caught:
            await jobs.submit("a cat")
        assert caught.value.code == "QUEUE_FULL"
        assert len(await jobs.list()) == 2


@pytest.mark.parametrize("stored", [False, True])
async def test_a_job_is_forgotten_after_its_time_files_and_all(
    tmp_path: Path, stored: bool
) -> None:
    clock = Clock()
    other = plain_image(8, 8)
    async with jobs_of(
        lambda request: [other if "dog" in request.prompt else IMAGE],
        clock=clock,
        ttl=60,
        store=tmp_path if stored else None,
    ) as jobs:
        old, same = await jobs.submit("a cat"), await jobs.submit("a cat and a dog")
        await ended(jobs, old, same)
        clock.time += 30
        young = await jobs.submit("a cat")
        await ended(jobs, young)
        clock.time += 29
        assert len(await jobs.list()) == 3
        clock.time += 1
        for job in (old, same):
            with pytest.raises(md.NotFoundError) as caught:
                await jobs.status(job)
            assert caught.value.code == "UNKNOWN_JOB"
        assert await jobs.sweep() == (2 if stored else 0)
        assert (await jobs.result(young)).images == (IMAGE,)
        if stored:
            assert [path.stem for path in (tmp_path / "objects").glob("*/*")] == [IMAGE.sha256], (
                "what a younger job names stays"
            )
            assert [path.stem for path in (tmp_path / "jobs").iterdir()] == [young]


async def test_results_outlive_the_process(tmp_path: Path) -> None:
    studio = Studio(
        ScriptedImageModel(lambda _: IMAGE),
        derivatives=[Derivative("thumb", size=8, format="webp")],
    )
    async with jobs_of(studio, store=tmp_path) as jobs:
        job = await jobs.submit(plan_of("a", "b"), user_id="ann")
        outcome = await jobs.result(job)
        before = await jobs.status(job)
    async with jobs_of(studio, store=tmp_path) as later:
        assert (await later.status(job)) == before
        assert (await later.result(job)).to_dict() == outcome.to_dict()
        assert (await later.result(job)).files == outcome.files
        with pytest.raises(md.InvalidRequestError):
            await later.submit("a cat")  # the id is taken
        async with later.events(job) as stream:
            assert [type(event) async for event in stream] == [StudioDone]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "STORAGE_FULL"),
        (errno.EROFS, "STORAGE_READ_ONLY"),
        (errno.EIO, "STORAGE_FAILED"),
    ],
)
async def test_a_disk_that_fails_costs_no_image_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    written = itertools.count()

    def fsync(_: int) -> None:
        if next(written) >= 1:  # the first file is there already when the second finds no room
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    answers = iter([IMAGE, plain_image(8, 8)])
    async with jobs_of(lambda _: next(answers), store=tmp_path) as jobs:
        job = await jobs.submit(plan_of("a", "b"))
        assert len((await jobs.result(job)).items) == 2
        status = await jobs.status(job)
        assert status.state == "done"
        assert status.error is not None
        assert status.error["code"] == code
        assert status.error["details"].keys() >= {"stage", "asked", "help"}
        assert files_in(tmp_path) == []


async def test_the_quota_is_kept_and_what_has_expired_makes_room(tmp_path: Path) -> None:
    clock = Clock()
    images = [plain_image(side, side) for side in (30, 31, 32)]
    store = JobStore(tmp_path, quota=len(images[0].data) + len(images[1].data), clock=clock)
    answers = iter(images)
    async with jobs_of(lambda _: next(answers), store=store, clock=clock, ttl=60) as jobs:
        first, second = await jobs.submit("a cat"), await jobs.submit("a cat")
        await ended(jobs, first, second)
        assert store.used == store.quota
        clock.time += 61
        third = await jobs.submit("a cat")
        await ended(jobs, third)
        assert (await jobs.status(third)).error is None
        assert store.used == len(images[2].data)


def test_more_than_the_quota_is_refused(tmp_path: Path) -> None:
    store = JobStore(tmp_path, quota=10)
    outcome = Studio(ScriptedImageModel([IMAGE])).run_sync("a cat")
    with pytest.raises(md.errors.StorageError) as caught:
        store.put("a", {}, outcome)
    assert (caught.value.code, caught.value.details["quota"]) == ("STORAGE_FULL", 10)
    assert files_in(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_a_typed_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(md.errors.StorageError) as caught:
        JobStore(tmp_path / "store")
    assert caught.value.code == "STORAGE_READ_ONLY"


def test_a_store_where_a_file_stands_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(md.errors.StorageError):
        JobStore(tmp_path / "store")


def test_what_a_crash_left_is_cleared_and_strange_files_stay(tmp_path: Path) -> None:
    clock = Clock()
    store = JobStore(tmp_path, clock=clock)
    outcome = Studio(ScriptedImageModel([IMAGE])).run_sync("a cat")
    store.put("a", {"submitted": 1.0}, outcome)
    room = tmp_path / "objects" / "ab"
    room.mkdir()
    orphan, half = room / ("ab" * 32 + ".png"), room / ".part-1234"
    strange = tmp_path / "jobs" / "notes.json"
    for path in (orphan, half, strange):
        path.write_text("{}")
    clock.time = half.stat().st_mtime + 4000
    again = JobStore(tmp_path, clock=clock)
    assert (orphan.exists(), half.exists(), strange.exists()) == (False, False, True)
    assert again.get("a")[1].images == (IMAGE,)


@pytest.mark.parametrize("sha256", ["../../../etc/passwd", "a" * 63, "A" * 64, 7])
def test_a_manifest_that_leads_elsewhere_is_no_job(tmp_path: Path, sha256: Any) -> None:
    store = JobStore(tmp_path)
    store.put("a", {}, Studio(ScriptedImageModel([IMAGE])).run_sync("a cat"))
    path = tmp_path / "jobs" / "a.json"
    record = json.loads(path.read_text())
    record["outcome"]["images"][0]["sha256"] = sha256
    path.write_text(json.dumps(record))
    assert JobStore(tmp_path).ids() == ()
    with pytest.raises(md.errors.StorageError):
        store.get("a")


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.put("a", {}, Studio(ScriptedImageModel([IMAGE])).run_sync("a cat"))
    [path] = (tmp_path / "objects").glob("*/*")
    path.write_bytes(plain_image(4, 4).data)
    with pytest.raises(md.errors.StorageError):
        store.get("a")


@pytest.mark.parametrize("job", ["", "../up", "a/b", "x" * 65, "a b", None])
async def test_an_id_that_could_be_a_path_is_refused(job: Any) -> None:
    async with jobs_of(lambda _: IMAGE, ids=lambda: job) as jobs:
        with pytest.raises(md.InvalidRequestError) as caught:
            await jobs.submit("a cat")
        assert caught.value.field == "id"
        with pytest.raises(md.NotFoundError):
            await jobs.status(job)


@pytest.mark.parametrize("start", ["", None, [], 7])
async def test_what_cannot_be_run_is_refused_when_it_is_submitted_or_fails_as_a_job(
    start: Any,
) -> None:
    async with jobs_of(lambda _: IMAGE) as jobs:
        if start == "":
            with pytest.raises(md.InvalidRequestError):
                await jobs.result(await jobs.submit(start))
            return
        with pytest.raises(md.InvalidRequestError):
            await jobs.submit(start)
        assert await jobs.list() == []


@pytest.mark.parametrize("settings", [{"ttl": 0}, {"ttl": float("nan")}, {"ttl": True}])
def test_settings_that_make_no_sense_are_typed_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(md.ConfigurationError):
        Jobs(Studio(), **settings)
    for numbers in ({"max_concurrency": 0}, {"max_queue": 0}, {"max_concurrency": 1.5}):
        with pytest.raises(md.ConfigurationError):
            InProcessEngine(**numbers)  # type: ignore[arg-type]
    with pytest.raises(md.ConfigurationError):
        JobStore("x", quota=0)


class Ledger:
    """Another engine, which works on nothing until it is told to."""

    def __init__(self) -> None:
        self.orders: list[JobOrder] = []
        self.work: Any = None

    def open(self, work: Any) -> None:
        self.work = work

    async def put(self, order: JobOrder) -> None:
        self.orders.append(order)

    def waiting(self) -> Sequence[str]:
        return [order.id for order in self.orders]

    async def cancel(self, job: str) -> None:
        self.orders = [order for order in self.orders if order.id != job]

    async def aclose(self) -> None:
        self.orders = []


async def test_another_engine_can_be_put_under_it() -> None:
    engine = Ledger()
    jobs = jobs_of(lambda _: IMAGE, engine=engine)
    one, two, three = [await jobs.submit("a cat", n=1, user_id="ann") for _ in range(3)]
    assert engine.orders[0] == JobOrder("job-1", "a cat", {"n": 1, "user_id": "ann"}, "ann", 1000.0)
    assert [(await jobs.status(job)).position for job in (one, two, three)] == [1, 2, 3]
    assert await jobs.cancel(two)
    await engine.work(engine.orders.pop(0))
    assert (await jobs.status(one)).state == "done"
    assert (await jobs.status(three)).position == 1


def test_there_are_blocking_forms(tmp_path: Path) -> None:
    with jobs_of(lambda _: IMAGE, store=tmp_path) as jobs:
        job = jobs.submit_sync("a cat")
        assert isinstance(jobs.result_sync(job), StudioResult)
        assert jobs.status_sync(job).state == "done"
        assert [status.id for status in jobs.list_sync()] == [job]
        with jobs.events_sync(job) as stream:
            assert [type(event) for event in stream] == [StudioDone]
        assert not jobs.cancel_sync(job)
        assert jobs.sweep_sync() == 0
