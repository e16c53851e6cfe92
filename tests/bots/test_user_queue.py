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


class Work:
    """Jobs that run until the test ends them; it knows who began in which order."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.ends: dict[str, anyio.Event] = {}

    def job(self, name: str) -> Callable[[], Awaitable[str]]:
        async def run() -> str:
            self.began.append(name)
            self.ends[name] = anyio.Event()
            await self.ends[name].wait()
            return name

        return run

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await settle()


async def settle() -> None:
    for _ in range(20):
        await checkpoint()


async def start(
    group: anyio.abc.TaskGroup,
    queue: UserQueue,
    work: Work,
    *names: str,
    emit: Callable[[str, int], object] | None = None,
) -> None:
    """Bring jobs called "caller/number"."""
    for name in names:
        hear = None if emit is None else lambda position, name=name: emit(name, position)
        group.start_soon(queue.run, name.partition("/")[0], work.job(name), hear)
        await settle()


async def test_it_runs_so_many_at_once_and_gives_what_they_return() -> None:
    queue = UserQueue(max_concurrency=2)

    async def seven() -> int:
        return 7

    assert await queue.run("ann", seven) == 7
    work = Work()
    async with anyio.create_task_group() as group:
        await start(group, queue, work, "ann/1", "bob/1", "cid/1")
        assert work.began == ["ann/1", "bob/1"]
        assert (queue.running, queue.waiting) == (2, 1)
        await work.end("bob/1")
        assert work.began[-1] == "cid/1"
        group.cancel_scope.cancel()
    assert (queue.running, queue.waiting) == (0, 0)


async def test_places_go_round() -> None:
    queue, work = UserQueue(per_user=10), Work()
    names = ["ann/1", "ann/2", "ann/3", "ann/4", "bob/1", "bob/2", "cid/1"]
    async with anyio.create_task_group() as group:
        await start(group, queue, work, *names)
        while len(work.began) < len(names):
            await work.end(work.began[-1])
        group.cancel_scope.cancel()
    assert work.began == ["ann/1", "ann/2", "bob/1", "cid/1", "ann/3", "bob/2", "ann/4"]


async def test_everybody_hears_their_place() -> None:
    queue, work = UserQueue(per_user=3), Work()
    heard: list[tuple[str, int]] = []

    async def tell(name: str, position: int) -> None:
        await checkpoint()
        heard.append((name, position))

    async with anyio.create_task_group() as group:
        await start(group, queue, work, "ann/1", "ann/2", "ann/3", emit=tell)
        assert heard == [("ann/2", 1), ("ann/3", 2)]
        await start(group, queue, work, "bob/1", emit=tell)
        assert sorted(heard[2:]) == [("ann/3", 3), ("bob/1", 2)]
        assert (queue.positions("ann"), queue.positions("bob"), queue.positions("eve")) == (
            (1, 3),
            (2,),
            (),
        )
        await work.end("ann/1")
        assert sorted(heard[4:]) == [("ann/3", 2), ("bob/1", 1)]
        group.cancel_scope.cancel()


async def test_one_who_has_enough_is_told_so() -> None:
    queue, work = UserQueue(per_user=2, max_queue=2), Work()
    async with anyio.create_task_group() as group:
        await start(group, queue, work, "ann/1", "ann/2")
        with pytest.raises(md.OverloadedError) as caught:
            await queue.run("ann", work.job("ann/3"))
        assert (caught.value.code, caught.value.details) == ("TOO_MANY_JOBS", {"jobs": 2})
        await start(group, queue, work, "bob/1")
        with pytest.raises(md.OverloadedError) as caught:
            await queue.run("cid", work.job("cid/1"))
        assert caught.value.code == "QUEUE_FULL"
        await work.end("ann/1")
        await start(group, queue, work, "cid/1")
        group.cancel_scope.cancel()
    assert queue._jobs == {}
    assert not queue._lines


async def test_one_who_comes_again_too_soon_is_told_when() -> None:
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
    assert list(queue._brought) == ["cid"]


async def test_a_user_id_may_cancel_what_waits_and_what_runs() -> None:
    queue, work = UserQueue(per_user=3), Work()
    ended: list[str] = []

    async def watched(name: str) -> None:
        try:
            await queue.run(name.partition("/")[0], work.job(name))
        except md.JobCancelledError as error:
            ended.append(f"{name} {error.code}")

    async with anyio.create_task_group() as group:
        for name in ("ann/1", "bob/1", "ann/2"):
            group.start_soon(watched, name)
            await settle()
        assert queue.cancel("ann") == 2
        assert queue.cancel("ann") == 0
        assert queue.cancel("nobody") == 0
        await settle()
        assert sorted(ended) == ["ann/1 CANCELED_BY_USER", "ann/2 CANCELED_BY_USER"]
        assert work.began == ["ann/1", "bob/1"]
        await work.end("bob/1")
    assert (queue.running, queue.waiting) == (0, 0)


async def test_cancelled_from_outside_it_gives_its_place_back() -> None:
    queue, work = UserQueue(), Work()
    scopes = {name: anyio.CancelScope() for name in ("ann/1", "bob/1", "cid/1")}

    async def scoped(name: str) -> None:
        with scopes[name]:
            await queue.run(name.partition("/")[0], work.job(name))

    async with anyio.create_task_group() as group:
        for name in scopes:
            group.start_soon(scoped, name)
            await settle()
        scopes["bob/1"].cancel()
        await settle()
        assert (work.began, queue.waiting) == (["ann/1"], 1)
        scopes["ann/1"].cancel()
        await settle()
        assert (work.began, queue.waiting) == (["ann/1", "cid/1"], 0)
        await work.end("cid/1")
    assert queue.running == 0


async def test_what_a_job_raises_comes_out_as_it_is_and_the_next_one_runs() -> None:
    queue, error = UserQueue(), LookupError("mine")

    async def broken() -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        await queue.run("ann", broken)
    assert caught.value is error

    def bad_tell(position: int) -> None:
        raise error

    work = Work()
    async with anyio.create_task_group() as group:
        await start(group, queue, work, "ann/1")
        with pytest.raises(LookupError):
            await queue.run("bob", work.job("bob/1"), bad_tell)
        assert queue.waiting == 0
        await start(group, queue, work, "cid/1")
        await work.end("ann/1")
        await work.end("cid/1")
    assert work.began == ["ann/1", "cid/1"]


@pytest.mark.slow
async def test_ten_thousand_may_wait(anyio_backend: str) -> None:
    count = (
        10_000 if anyio_backend == "asyncio" else 2_000
    )  # the same code; one of them is slow at ten thousand tasks
    callers = count // 4
    queue = UserQueue(max_concurrency=4, per_user=4, max_queue=10_000)
    served: list[str] = []
    heard: dict[int, list[int]] = {}
    gate = anyio.Event()

    async def one(number: int) -> None:
        user_id = f"caller {number // 4}"

        async def job() -> None:
            await gate.wait()
            served.append(user_id)

        listen = heard.setdefault(number, []).append if number % 100 == 0 else None
        await queue.run(user_id, job, listen)

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(one, number)
        while queue.waiting < count - 4:
            await checkpoint()
        positions = queue.positions("caller 123")
        assert all(later - earlier > callers - 20 for earlier, later in pairwise(positions))
        gate.set()
    turns: dict[str, int] = {}
    for caller in served:
        turns[caller] = turns.get(caller, 0) + 1
    assert all(count == 4 for count in turns.values())
    # the first four places go to whoever is there, and those who start together do so in any order
    assert len(set(served[:callers])) > callers - 20, (
        "nobody has a second place before everybody had one"
    )
    assert len(turns) == callers
    assert all(told[-1] <= 4 for told in heard.values() if told), (
        "the last of the way is told step by step"
    )
    assert (queue._jobs, queue.waiting, queue.running) == ({}, 0, 0)


@pytest.mark.parametrize(
    "settings", [{"max_concurrency": 0}, {"per_user": 1.5}, {"cooldown": -1}, {"max_queue": "many"}]
)
async def test_numbers_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        UserQueue(**settings)  # type: ignore[arg-type]
    assert caught.value.details == {"field": next(iter(settings))}


async def test_a_user_id_is_printable_text() -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        await UserQueue().run("a\nb", Work().job("a/1"))
    assert caught.value.field == "user_id"
