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


def queue_deadline() -> Deadline:
    return Deadline(md.Timeout(queue=5))


async def test_calls_are_admitted_in_order_and_receive_each_new_position() -> None:
    admission_control = AdmissionControl(1)
    order: list[int] = []
    positions: dict[int, list[int]] = {number: [] for number in range(4)}

    async def call(number: int) -> None:
        async with admission_control.admitted(queue_deadline(), positions[number].append):
            order.append(number)
            await anyio.sleep(0.001)

    first = await admission_control.acquire(queue_deadline())
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(call, number)
            with anyio.fail_after(1):
                while not positions[number]:
                    await anyio.lowlevel.checkpoint()
        first.release()
    assert order == [0, 1, 2, 3]
    assert positions == {0: [1], 1: [2, 1], 2: [3, 2, 1], 3: [4, 3, 2, 1]}


async def test_cancelled_waiters_do_not_lose_slots() -> None:
    admission_control = AdmissionControl(2)
    for checkpoints in range(12):
        async with anyio.create_task_group() as group:

            async def call() -> None:
                async with admission_control.admitted(queue_deadline()):
                    await anyio.lowlevel.checkpoint()

            for _ in range(7):
                group.start_soon(call)
            for _ in range(checkpoints):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    for _ in range(2):
        with anyio.fail_after(1):
            admission = await admission_control.acquire(queue_deadline())
    with pytest.raises(md.DeadlineExceededError) as caught:
        await admission_control.acquire(Deadline(md.Timeout(queue=0.05)))
    assert caught.value.phase == "queue"
    admission.release()
    admission.release()
    with anyio.fail_after(1):
        await admission_control.acquire(Deadline(md.Timeout(queue=0.05)))


async def test_a_call_that_is_not_admitted_does_not_count_against_the_rate() -> None:
    gpu = ResourceGroup("box", max_queue=0)
    admission_control = AdmissionControl(
        1, rate_limiter=RateLimiter(Rate(requests_per_minute=2)), resource_group=gpu
    )
    await gpu.acquire(queue_deadline())
    for _ in range(3):
        with pytest.raises(md.OverloadedError):
            await admission_control.acquire(queue_deadline())
    gpu.release()
    for _ in range(2):
        (await admission_control.acquire(queue_deadline())).release()
    with pytest.raises(md.RateLimitError):
        await admission_control.acquire(queue_deadline())


async def test_without_limits_every_call_is_admitted() -> None:
    admission_control = AdmissionControl(None)
    for _ in range(100):
        (await admission_control.acquire(queue_deadline())).release()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    "partial_trio",
    [ModuleType("trio"), SimpleNamespace(lowlevel=ModuleType("trio.lowlevel"))],
    ids=["module only", "module and lowlevel"],
)
async def test_queueing_works_while_another_thread_is_importing_trio(
    monkeypatch: pytest.MonkeyPatch, partial_trio: Any
) -> None:
    monkeypatch.setitem(sys.modules, "trio", partial_trio)
    admission_control = AdmissionControl(1)
    first = await admission_control.acquire(queue_deadline())
    async with anyio.create_task_group() as group:
        group.start_soon(admission_control.acquire, queue_deadline())
        await anyio.wait_all_tasks_blocked()
        first.release()
    stream: TaskStream[int, None] = TaskStream(lambda emit: anyio.lowlevel.checkpoint())
    assert await stream.next_events() == []
    assert stream.finished
