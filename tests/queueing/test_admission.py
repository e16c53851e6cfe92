from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import anyio
import pytest

import majordomo as md
from majordomo.concurrency.task_stream import TaskStream
from majordomo.queueing.admission import AdmissionControl
from majordomo.queueing.rate_limiter import RateLimiter
from majordomo.queueing.resource_group import ResourceGroup
from majordomo.settings import Rate
from majordomo.transport_types import Deadline

pytestmark = pytest.mark.anyio


def waiting() -> Deadline:
    return Deadline(md.Timeout(queue=5))


async def test_it_admits_in_order_and_tells_each_new_position() -> None:
    gate = AdmissionControl(1)
    order: list[int] = []
    told: dict[int, list[int]] = {number: [] for number in range(4)}

    async def work(number: int) -> None:
        async with gate.admitted(waiting(), told[number].append):
            order.append(number)
            await anyio.sleep(0.001)

    first = await gate.acquire(waiting())
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(work, number)
            with anyio.fail_after(1):
                while not told[number]:
                    await anyio.lowlevel.checkpoint()
        first.release()
    assert order == [0, 1, 2, 3]
    assert told == {0: [1], 1: [2, 1], 2: [3, 2, 1], 3: [4, 3, 2, 1]}


async def test_who_leaves_the_line_loses_nobody_a_place() -> None:
    gate = AdmissionControl(2)
    for turns in range(12):
        async with anyio.create_task_group() as group:

            async def work() -> None:
                async with gate.admitted(waiting()):
                    await anyio.lowlevel.checkpoint()

            for _ in range(7):
                group.start_soon(work)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    for _ in range(2):
        with anyio.fail_after(1):
            place = await gate.acquire(waiting())
    with pytest.raises(md.DeadlineExceededError) as caught:
        await gate.acquire(Deadline(md.Timeout(queue=0.05)))
    assert caught.value.phase == "queue"
    place.release()
    place.release()
    with anyio.fail_after(1):
        await gate.acquire(Deadline(md.Timeout(queue=0.05)))


async def test_a_call_that_is_never_made_costs_no_rate() -> None:
    gpu = ResourceGroup("box", max_queue=0)
    gate = AdmissionControl(
        1, rate_limiter=RateLimiter(Rate(requests_per_minute=2)), resource_group=gpu
    )
    await gpu.acquire(waiting())
    for _ in range(3):
        with pytest.raises(md.OverloadedError):
            await gate.acquire(waiting())
    gpu.release()
    for _ in range(2):
        (await gate.acquire(waiting())).release()
    with pytest.raises(md.RateLimitError):
        await gate.acquire(waiting())


async def test_without_places_it_is_open() -> None:
    gate = AdmissionControl(None)
    for _ in range(100):
        (await gate.acquire(waiting())).release()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "half",
    [ModuleType("trio"), SimpleNamespace(lowlevel=ModuleType("trio.lowlevel"))],
    ids=["begun", "further"],
)
async def test_a_line_works_while_another_thread_is_half_way_through_importing_trio(
    monkeypatch: pytest.MonkeyPatch, half: Any
) -> None:
    monkeypatch.setitem(sys.modules, "trio", half)
    gate = AdmissionControl(1)
    first = await gate.acquire(waiting())
    async with anyio.create_task_group() as group:
        group.start_soon(gate.acquire, waiting())
        await anyio.wait_all_tasks_blocked()
        first.release()
    telling: TaskStream[int, None] = TaskStream(lambda tell: anyio.lowlevel.checkpoint())
    assert await telling.next_events() == []
    assert telling.finished
