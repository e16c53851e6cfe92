"""UserQueue: the order in which users are served, positions, limits and cancellation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise

import anyio
import pytest
from anyio.lowlevel import checkpoint

import majordomo as md
from majordomo.bots import UserQueue
from tests.support.fake_clock import FakeClock

pytestmark = pytest.mark.anyio


class ControlledJobs:
    """Jobs that run until the test ends them; records the order in which they started."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ends: dict[str, anyio.Event] = {}

    def job(self, name: str) -> Callable[[], Awaitable[str]]:
        async def run() -> str:
            self.started.append(name)
            self.ends[name] = anyio.Event()
            await self.ends[name].wait()
            return name

        return run

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await run_ready_tasks()


async def run_ready_tasks() -> None:
    for _ in range(20):
        await checkpoint()


async def start_jobs(
    group: anyio.abc.TaskGroup,
    queue: UserQueue,
    jobs: ControlledJobs,
    *names: str,
    emit: Callable[[str, int], object] | None = None,
) -> None:
    """Start jobs named "user/number"."""
    for name in names:
        on_position = None if emit is None else lambda position, name=name: emit(name, position)
        group.start_soon(queue.run, name.partition("/")[0], jobs.job(name), on_position)
        await run_ready_tasks()


async def test_max_concurrency_jobs_run_at_once_and_return_their_results() -> None:
    queue = UserQueue(max_concurrency=2)

    async def seven() -> int:
        return 7

    assert await queue.run("ann", seven) == 7
    jobs = ControlledJobs()
    async with anyio.create_task_group() as group:
        await start_jobs(group, queue, jobs, "ann/1", "bob/1", "cid/1")
        assert jobs.started == ["ann/1", "bob/1"]
        assert (queue.running, queue.waiting) == (2, 1)
        await jobs.end("bob/1")
        assert jobs.started[-1] == "cid/1"
        group.cancel_scope.cancel()
    assert (queue.running, queue.waiting) == (0, 0)


async def test_slots_are_assigned_round_robin_over_users() -> None:
    queue, jobs = UserQueue(per_user=10), ControlledJobs()
    names = ["ann/1", "ann/2", "ann/3", "ann/4", "bob/1", "bob/2", "cid/1"]
    async with anyio.create_task_group() as group:
        await start_jobs(group, queue, jobs, *names)
        while len(jobs.started) < len(names):
            await jobs.end(jobs.started[-1])
        group.cancel_scope.cancel()
    assert jobs.started == ["ann/1", "ann/2", "bob/1", "cid/1", "ann/3", "bob/2", "ann/4"]


async def test_positions_are_reported_when_they_change() -> None:
    queue, jobs = UserQueue(per_user=3), ControlledJobs()
    reported: list[tuple[str, int]] = []

    async def report(name: str, position: int) -> None:
        await checkpoint()
        reported.append((name, position))

    async with anyio.create_task_group() as group:
        await start_jobs(group, queue, jobs, "ann/1", "ann/2", "ann/3", emit=report)
        assert reported == [("ann/2", 1), ("ann/3", 2)]
        await start_jobs(group, queue, jobs, "bob/1", emit=report)
        assert sorted(reported[2:]) == [("ann/3", 3), ("bob/1", 2)]
        assert (queue.positions("ann"), queue.positions("bob"), queue.positions("eve")) == (
            (1, 3),
            (2,),
            (),
        )
        await jobs.end("ann/1")
        assert sorted(reported[4:]) == [("ann/3", 2), ("bob/1", 1)]
        group.cancel_scope.cancel()


async def test_too_many_jobs_of_a_user_or_in_the_queue_raise_overloaded_error() -> None:
    queue, jobs = UserQueue(per_user=2, max_queue=2), ControlledJobs()
    async with anyio.create_task_group() as group:
        await start_jobs(group, queue, jobs, "ann/1", "ann/2")
        with pytest.raises(md.OverloadedError) as caught:
            await queue.run("ann", jobs.job("ann/3"))
        assert (caught.value.code, caught.value.details) == ("TOO_MANY_JOBS", {"jobs": 2})
        await start_jobs(group, queue, jobs, "bob/1")
        with pytest.raises(md.OverloadedError) as caught:
            await queue.run("cid", jobs.job("cid/1"))
        assert caught.value.code == "QUEUE_FULL"
        await jobs.end("ann/1")
        await start_jobs(group, queue, jobs, "cid/1")
        group.cancel_scope.cancel()
    assert queue._jobs == {}
    assert (queue.running, queue.waiting) == (0, 0)


async def test_a_job_during_the_cooldown_raises_rate_limit_error() -> None:
    clock = FakeClock()
    queue = UserQueue(cooldown=30, per_user=5, clock=clock)

    async def nothing() -> None:
        return None

    await queue.run("ann", nothing)
    clock.time += 12
    await queue.run("bob", nothing)
    with pytest.raises(md.RateLimitError) as caught:
        await queue.run("ann", nothing)
    assert (caught.value.code, caught.value.retry_after) == ("COOLING_DOWN", 18)
    clock.time += 18
    await queue.run("ann", nothing)
    clock.time += 100
    await queue.run("cid", nothing)
    assert list(queue._last_arrivals) == ["cid"]


async def test_cancel_ends_waiting_and_running_jobs_of_a_user() -> None:
    queue, jobs = UserQueue(per_user=3), ControlledJobs()
    ended: list[str] = []

    async def record_cancellation(name: str) -> None:
        try:
            await queue.run(name.partition("/")[0], jobs.job(name))
        except md.JobCancelledError as error:
            ended.append(f"{name} {error.code}")

    async with anyio.create_task_group() as group:
        for name in ("ann/1", "bob/1", "ann/2"):
            group.start_soon(record_cancellation, name)
            await run_ready_tasks()
        assert queue.cancel("ann") == 2
        assert queue.cancel("ann") == 0
        assert queue.cancel("dan") == 0
        await run_ready_tasks()
        assert sorted(ended) == ["ann/1 CANCELLED_BY_USER", "ann/2 CANCELLED_BY_USER"]
        assert jobs.started == ["ann/1", "bob/1"]
        await jobs.end("bob/1")
    assert (queue.running, queue.waiting) == (0, 0)


async def test_a_cancelled_task_releases_its_slot_or_position() -> None:
    queue, jobs = UserQueue(), ControlledJobs()
    scopes = {name: anyio.CancelScope() for name in ("ann/1", "bob/1", "cid/1")}

    async def run_in_scope(name: str) -> None:
        with scopes[name]:
            await queue.run(name.partition("/")[0], jobs.job(name))

    async with anyio.create_task_group() as group:
        for name in scopes:
            group.start_soon(run_in_scope, name)
            await run_ready_tasks()
        scopes["bob/1"].cancel()
        await run_ready_tasks()
        assert (jobs.started, queue.waiting) == (["ann/1"], 1)
        scopes["ann/1"].cancel()
        await run_ready_tasks()
        assert (jobs.started, queue.waiting) == (["ann/1", "cid/1"], 0)
        await jobs.end("cid/1")
    assert queue.running == 0


async def test_an_exception_of_a_job_is_raised_unchanged_and_the_next_job_runs() -> None:
    queue, error = UserQueue(), LookupError("mine")

    async def broken() -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        await queue.run("ann", broken)
    assert caught.value is error

    def raise_error(position: int) -> None:
        raise error

    jobs = ControlledJobs()
    async with anyio.create_task_group() as group:
        await start_jobs(group, queue, jobs, "ann/1")
        with pytest.raises(LookupError):
            await queue.run("bob", jobs.job("bob/1"), raise_error)
        assert queue.waiting == 0
        await start_jobs(group, queue, jobs, "cid/1")
        await jobs.end("ann/1")
        await jobs.end("cid/1")
    assert jobs.started == ["ann/1", "cid/1"]


@pytest.mark.slow
async def test_ten_thousand_jobs_can_wait(anyio_backend: str) -> None:
    # Trio is slow with ten thousand tasks.
    count = 10_000 if anyio_backend == "asyncio" else 2_000
    users = count // 4
    queue = UserQueue(max_concurrency=4, per_user=4, max_queue=10_000)
    finished: list[str] = []
    positions_by_job: dict[int, list[int]] = {}
    start_running = anyio.Event()

    async def run_job(number: int) -> None:
        user_id = f"user {number // 4}"

        async def job() -> None:
            await start_running.wait()
            finished.append(user_id)

        on_position = positions_by_job.setdefault(number, []).append if number % 100 == 0 else None
        await queue.run(user_id, job, on_position)

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(run_job, number)
        while queue.waiting < count - 4:
            await checkpoint()
        positions = queue.positions("user 123")
        assert all(later - earlier > users - 20 for earlier, later in pairwise(positions))
        start_running.set()
    turns: dict[str, int] = {}
    for user_id in finished:
        turns[user_id] = turns.get(user_id, 0) + 1
    assert all(count == 4 for count in turns.values())
    # The first four slots go to the first four jobs, and jobs that start together may run in any
    # order.
    assert len(set(finished[:users])) > users - 20, (
        "no user gets a second slot before every user got one"
    )
    assert len(turns) == users
    assert all(positions[-1] <= 4 for positions in positions_by_job.values() if positions), (
        "the last moves are all reported"
    )
    assert (queue._jobs, queue.waiting, queue.running) == ({}, 0, 0)


@pytest.mark.parametrize(
    "settings", [{"max_concurrency": 0}, {"per_user": 1.5}, {"cooldown": -1}, {"max_queue": "many"}]
)
async def test_numbers_out_of_range_are_rejected(settings: dict[str, object]) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        UserQueue(**settings)  # type: ignore[arg-type]
    assert caught.value.details == {"field": next(iter(settings))}


async def test_a_user_id_is_printable_text() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await UserQueue().run("a\nb", ControlledJobs().job("a/1"))
    assert caught.value.field == "user_id"
