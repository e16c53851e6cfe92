from __future__ import annotations

import errno
import itertools
import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
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
from tests.support import system, windows_names
from tests.support.wait_until import wait_until

IMAGE = plain_image(16, 16)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def numbered_ids() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"job-{next(numbers)}"


def jobs_of(image_model: Any, **settings: Any) -> Jobs:
    studio = (
        image_model if isinstance(image_model, Studio) else Studio(ScriptedImageModel(image_model))
    )
    return Jobs(studio, **{"clock": Clock(), "ids": numbered_ids(), **settings})


def plan_of(*names: str) -> Plan:
    return Plan(
        classify("images"),
        GenerationConfig(n=len(names)),
        tuple(NamedPrompt(name, f"a {name}") for name in names),
    )


async def wait_for_end(jobs: Jobs, *ids: str) -> None:
    for job in ids:
        with suppress(md.MajordomoError):
            await jobs.result(job)


async def test_submit_returns_at_once_and_status_reports_progress() -> None:
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
            "job-1", "processing", None, "generate", 1, 4, 0, 1000.0, 1000.0, None, None, "ann"
        )
        assert await jobs.status(two) == StudioJobStatus("job-2", "queued", 1, submitted_at=1000.0)
        first.release()
        await second.reached()
        await anyio.wait_all_tasks_blocked()
        assert (await jobs.status(one)).step == 4
        second.release()
        assert len((await jobs.result(one)).items) == 1
        status = await jobs.status(one)
        assert (status.state, status.images, status.ended_at, status.expires_at) == (
            "done",
            1,
            1005.0,
            4605.0,
        )
        await jobs.result(two)
        json.dumps([status.to_dict() for status in await jobs.list()])
        assert [status.id for status in await jobs.list("ann")] == ["job-1"]


async def test_users_take_turns_and_each_users_jobs_keep_their_order() -> None:
    pauses: list[Pause] = []
    started: list[str] = []

    def draw(request: imagegen.Request) -> list[Any]:
        started.append(request.prompt)
        pauses.append(Pause())
        return [pauses[-1], IMAGE]

    async with jobs_of(draw) as jobs:
        ids = [
            await jobs.submit(plan_of(name), user_id=name.partition("-")[0])
            for name in ("ann-1", "ann-2", "ann-3", "bob-1")
        ]
        assert [(await jobs.status(job)).position for job in ids[1:]] == [1, 3, 2]
        for number in range(4):
            await wait_until(lambda number=number: len(pauses) > number)
            pauses[number].release()
        await wait_for_end(jobs, *ids)
    assert started == ["a ann-1", "a ann-2", "a bob-1", "a ann-3"]


async def test_events_start_at_the_beginning_for_several_readers() -> None:
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
                "only the latest progress is kept"
            )
            pause.release()
            rest = [event async for event in late]
        assert [type(event) for event in rest] == [ImageFinished, StudioDone]
        assert late.result == await jobs.result(job)


async def test_failed_job_raises_its_error_for_every_reader() -> None:
    async with jobs_of(lambda _: md.BackendError("oom", code="GPU_OOM")) as jobs:
        job = await jobs.submit("a cat")
        caught = []
        for _ in range(2):
            with pytest.raises(md.BackendError) as error:
                await jobs.result(job)
            caught.append(error.value)
        assert caught[0] is not caught[1]
        status = await jobs.status(job)
        assert (status.state, status.stage) == ("failed", "generate")
        assert status.error is not None
        assert (status.error["code"], status.error["details"]["stage"]) == ("GPU_OOM", "generate")
        with pytest.raises(md.BackendError):
            async with jobs.events(job) as stream:
                async for _ in stream:
                    pass


async def test_cancelled_job_is_stopped_and_the_next_one_starts() -> None:
    pause = Pause()
    answers = iter([[pause, IMAGE], IMAGE])
    async with jobs_of(lambda _: next(answers)) as jobs:
        running, waiting, last = [await jobs.submit("a cat") for _ in range(3)]
        await pause.reached()
        assert await jobs.cancel(waiting)
        assert await jobs.cancel(running)
        assert not await jobs.cancel(running), "it has ended already"
        for job in (running, waiting):
            assert (await jobs.status(job)).state == "cancelled"
            with pytest.raises(md.JobCancelledError):
                await jobs.result(job)
        assert len((await jobs.result(last)).items) == 1
        assert not await jobs.cancel(last)


async def test_no_job_is_lost_when_half_of_two_hundred_are_cancelled(tmp_path: Path) -> None:
    pause, prompts = Pause(), []

    async def generate(request: imagegen.Request) -> Any:
        await pause.pass_through()
        prompts.append(request.prompt)
        return IMAGE

    async with jobs_of(generate, engine=InProcessEngine(max_concurrency=8), store=tmp_path) as jobs:
        ids = [await jobs.submit(f"cat number {number}") for number in range(200)]
        await pause.reached()
        positions = [status.position for status in await jobs.list() if status.state == "queued"]
        assert positions == list(range(1, len(positions) + 1))
        cancelled = {job: await jobs.cancel(job) for job in ids[::2]}
        assert set(cancelled.values()) == {True}, "running and waiting jobs"
        pause.release()
        await wait_for_end(jobs, *ids)
        states = {status.id: status.state for status in await jobs.list()}
        assert list(states) == ids
        assert states == {job: "cancelled" if job in cancelled else "done" for job in ids}
        assert len(prompts) == 100
        assert len(list((tmp_path / "objects").glob("*/*"))) == 1, "equal bytes are stored once"
        assert len(list((tmp_path / "jobs").iterdir())) == 100


async def test_closing_cancels_open_jobs_and_refuses_new_ones() -> None:
    pause = Pause()
    jobs = jobs_of(lambda _: [pause, IMAGE])
    ids = [await jobs.submit("a cat") for _ in range(3)]
    await pause.reached()
    await jobs.aclose()
    assert [(await jobs.status(job)).state for job in ids] == ["cancelled"] * 3
    with pytest.raises(md.ConfigurationError):
        await jobs.submit("a cat")
    assert len(await jobs.list()) == 3


async def test_full_queue_raises_overloaded_error_and_records_nothing() -> None:
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
async def test_job_and_its_files_expire_after_ttl(tmp_path: Path, stored: bool) -> None:
    clock = Clock()
    other = plain_image(8, 8)
    async with jobs_of(
        lambda request: [other if "dog" in request.prompt else IMAGE],
        clock=clock,
        ttl=60,
        store=tmp_path if stored else None,
    ) as jobs:
        old, same = await jobs.submit("a cat"), await jobs.submit("a cat and a dog")
        await wait_for_end(jobs, old, same)
        clock.time += 30
        young = await jobs.submit("a cat")
        await wait_for_end(jobs, young)
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
                "an image that another job names is kept"
            )
            assert [path.stem for path in (tmp_path / "jobs").iterdir()] == [young]


async def test_stored_results_are_available_to_the_next_process(tmp_path: Path) -> None:
    studio = Studio(
        ScriptedImageModel(lambda _: IMAGE),
        derivatives=[Derivative("thumb", size=8, format="webp")],
    )
    async with jobs_of(studio, store=tmp_path) as jobs:
        job = await jobs.submit(plan_of("a", "b"), user_id="ann")
        result = await jobs.result(job)
        before = await jobs.status(job)
    async with jobs_of(studio, store=tmp_path) as later:
        assert (await later.status(job)) == before
        assert (await later.result(job)).to_dict() == result.to_dict()
        assert (await later.result(job)).files == result.files
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
async def test_failing_disk_costs_no_image_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    written = itertools.count()

    def fsync(_: int) -> None:
        if next(written) >= 1:  # The first file is complete; the second fails.
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
        assert status.error["details"].keys() >= {"stage", "input", "help"}
        assert files_in(tmp_path) == []


async def test_expired_jobs_free_space_within_the_quota(tmp_path: Path) -> None:
    clock = Clock()
    images = [plain_image(side, side) for side in (30, 31, 32)]
    store = JobStore(tmp_path, quota=len(images[0].data) + len(images[1].data), clock=clock)
    answers = iter(images)
    async with jobs_of(lambda _: next(answers), store=store, clock=clock, ttl=60) as jobs:
        first, second = await jobs.submit("a cat"), await jobs.submit("a cat")
        await wait_for_end(jobs, first, second)
        assert store.used == store.quota
        clock.time += 61
        third = await jobs.submit("a cat")
        await wait_for_end(jobs, third)
        assert (await jobs.status(third)).error is None
        assert store.used == len(images[2].data)


def test_put_beyond_the_quota_raises_storage_full(tmp_path: Path) -> None:
    store = JobStore(tmp_path, quota=10)
    result = Studio(ScriptedImageModel([IMAGE])).run_sync("a cat")
    with pytest.raises(md.errors.StorageError) as caught:
        store.put("a", {}, result)
    assert (caught.value.code, caught.value.details["quota"]) == ("STORAGE_FULL", 10)
    assert files_in(tmp_path) == []


@system.needs_read_only_folders
def test_store_in_a_read_only_folder_raises_storage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(md.errors.StorageError) as caught:
        JobStore(tmp_path / "store")
    assert caught.value.code == "STORAGE_READ_ONLY"


def test_ids_have_files_of_their_own_where_case_is_ignored(tmp_path: Path) -> None:
    ids = ["a", "A", "aA", "Aa", "con", "Con", "CON", "nul", "com1", "COM1", "a-B_c"]
    store = JobStore(tmp_path)
    result = Studio(ScriptedImageModel([IMAGE])).run_sync("a cat")
    for job in ids:
        store.put(job, {"for": job}, result)
    names = [path.name for path in (tmp_path / "jobs").iterdir()]
    assert len({name.lower() for name in names}) == len(ids)
    assert all(windows_names.is_valid(name) for name in names)
    again = JobStore(tmp_path)
    assert sorted(again.ids()) == sorted(ids)
    assert {job: again.get(job)[0]["for"] for job in ids} == {job: job for job in ids}
    assert again.remove(ids) == len(ids)
    assert files_in(tmp_path) == []


def test_a_job_is_replaced_and_removed_while_its_files_are_open(tmp_path: Path) -> None:
    """Windows refuses both while a file is open; readers have it open for a short time."""
    store = JobStore(tmp_path)
    result = Studio(ScriptedImageModel([IMAGE])).run_sync("a cat")
    store.put("a", {"version of the test": 1}, result)

    def open_all() -> ExitStack:
        files = ExitStack()
        for path in files_in(tmp_path):
            files.enter_context(path.open("rb"))
        return files

    def close_soon() -> None:
        files = open_all()
        threading.Timer(0.1, files.close).start()

    close_soon()
    store.put("a", {"version of the test": 2}, result)
    assert store.get("a")[0]["version of the test"] == 2
    close_soon()
    assert store.remove(["a"]) == 1
    assert files_in(tmp_path) == []


def test_store_at_the_path_of_a_file_raises_storage_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(md.errors.StorageError):
        JobStore(tmp_path / "store")


def test_store_removes_files_of_a_crash_and_keeps_unknown_files(tmp_path: Path) -> None:
    clock = Clock()
    store = JobStore(tmp_path, clock=clock)
    result = Studio(ScriptedImageModel([IMAGE])).run_sync("a cat")
    store.put("a", {"submitted_at": 1.0}, result)
    folder = tmp_path / "objects" / "ab"
    folder.mkdir()
    orphan, unfinished = folder / ("ab" * 32 + ".png"), folder / ".part-1234"
    unknown = tmp_path / "jobs" / "notes.json"
    for path in (orphan, unfinished, unknown):
        path.write_text("{}")
    clock.time = unfinished.stat().st_mtime + 4000
    again = JobStore(tmp_path, clock=clock)
    assert (orphan.exists(), unfinished.exists(), unknown.exists()) == (False, False, True)
    assert again.get("a")[1].images == (IMAGE,)


@pytest.mark.parametrize("sha256", ["../../../etc/passwd", "a" * 63, "A" * 64, 7])
def test_job_file_with_an_invalid_sha256_is_ignored(tmp_path: Path, sha256: Any) -> None:
    store = JobStore(tmp_path)
    store.put("a", {}, Studio(ScriptedImageModel([IMAGE])).run_sync("a cat"))
    path = tmp_path / "jobs" / "a.json"
    record = json.loads(path.read_text())
    record["result"]["images"][0]["sha256"] = sha256
    path.write_text(json.dumps(record))
    assert JobStore(tmp_path).ids() == ()
    with pytest.raises(md.errors.StorageError):
        store.get("a")


def test_get_of_changed_bytes_raises_storage_error(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    store.put("a", {}, Studio(ScriptedImageModel([IMAGE])).run_sync("a cat"))
    [path] = (tmp_path / "objects").glob("*/*")
    path.write_bytes(plain_image(4, 4).data)
    with pytest.raises(md.errors.StorageError):
        store.get("a")


@pytest.mark.parametrize("job", ["", "../up", "a/b", "x" * 65, "a b", None])
async def test_invalid_job_id_is_refused(job: Any) -> None:
    async with jobs_of(lambda _: IMAGE, ids=lambda: job) as jobs:
        with pytest.raises(md.InvalidRequestError) as caught:
            await jobs.submit("a cat")
        assert caught.value.field == "id"
        with pytest.raises(md.NotFoundError):
            await jobs.status(job)


@pytest.mark.parametrize("studio_input", ["", None, [], 7])
async def test_invalid_input_is_refused_by_submit_or_fails_the_job(
    studio_input: Any,
) -> None:
    async with jobs_of(lambda _: IMAGE) as jobs:
        if studio_input == "":
            with pytest.raises(md.InvalidRequestError):
                await jobs.result(await jobs.submit(studio_input))
            return
        with pytest.raises(md.InvalidRequestError):
            await jobs.submit(studio_input)
        assert await jobs.list() == []


@pytest.mark.parametrize("settings", [{"ttl": 0}, {"ttl": float("nan")}, {"ttl": True}])
def test_invalid_setting_raises_configuration_error(settings: dict[str, Any]) -> None:
    with pytest.raises(md.ConfigurationError):
        Jobs(Studio(), **settings)
    for numbers in ({"max_concurrency": 0}, {"max_queue": 0}, {"max_concurrency": 1.5}):
        with pytest.raises(md.ConfigurationError):
            InProcessEngine(**numbers)  # type: ignore[arg-type]
    with pytest.raises(md.ConfigurationError):
        JobStore("x", quota=0)


class ManualEngine:
    """An engine that executes an order only when the test calls its handler."""

    def __init__(self) -> None:
        self.orders: list[JobOrder] = []
        self.handler: Any = None

    def open(self, handler: Any) -> None:
        self.handler = handler

    async def put(self, order: JobOrder) -> None:
        self.orders.append(order)

    def waiting(self) -> Sequence[str]:
        return [order.id for order in self.orders]

    async def cancel(self, job: str) -> None:
        self.orders = [order for order in self.orders if order.id != job]

    async def aclose(self) -> None:
        self.orders = []


async def test_jobs_work_with_another_engine() -> None:
    engine = ManualEngine()
    jobs = jobs_of(lambda _: IMAGE, engine=engine)
    one, two, three = [await jobs.submit("a cat", n=1, user_id="ann") for _ in range(3)]
    assert engine.orders[0] == JobOrder("job-1", "a cat", {"n": 1, "user_id": "ann"}, "ann", 1000.0)
    assert [(await jobs.status(job)).position for job in (one, two, three)] == [1, 2, 3]
    assert await jobs.cancel(two)
    await engine.handler(engine.orders.pop(0))
    assert (await jobs.status(one)).state == "done"
    assert (await jobs.status(three)).position == 1


def test_sync_methods_work_without_an_event_loop(tmp_path: Path) -> None:
    with jobs_of(lambda _: IMAGE, store=tmp_path) as jobs:
        job = jobs.submit_sync("a cat")
        assert isinstance(jobs.result_sync(job), StudioResult)
        assert jobs.status_sync(job).state == "done"
        assert [status.id for status in jobs.list_sync()] == [job]
        with jobs.events_sync(job) as stream:
            assert [type(event) for event in stream] == [StudioDone]
        assert not jobs.cancel_sync(job)
        assert jobs.sweep_sync() == 0
