from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from majordomo.concurrency.task_stream import TaskStream

pytestmark = pytest.mark.anyio


async def test_events_arrive_while_the_task_runs_and_then_the_result() -> None:
    proceed = anyio.Event()

    async def run(emit: Callable[[str], None]) -> int:
        emit("one")
        emit("two")
        await proceed.wait()
        emit("three")
        return 7

    stream = TaskStream(run)
    assert list(await stream.next_events()) == ["one", "two"]
    proceed.set()
    assert list(await stream.next_events()) == ["three"]
    assert list(await stream.next_events()) == []
    assert stream.result == 7
    await stream.aclose()


async def test_the_last_event_is_made_of_the_result_and_returned_once() -> None:
    async def run(emit: Callable[[str], None]) -> int:
        emit("one")
        return 7

    stream = TaskStream(run, last_event=lambda result: f"done {result}")
    with pytest.raises(RuntimeError, match="no result yet"):
        _ = stream.result
    assert list(await stream.next_events()) == ["one"]
    assert list(await stream.next_events()) == ["done 7"]
    assert list(await stream.next_events()) == []


async def test_a_partial_result_is_returned_until_the_task_has_ended() -> None:
    parts: list[int] = []

    async def run(emit: Callable[[int], None]) -> list[int]:
        for part in (1, 2):
            parts.append(part)
            emit(part)
            await anyio.lowlevel.checkpoint()
        return [*parts, 3]

    stream = TaskStream(run, partial=lambda: list(parts))
    assert stream.result == []
    await stream.next_events()
    assert stream.result in ([1], [1, 2])
    while await stream.next_events():
        pass
    assert stream.result == [1, 2, 3]


async def test_a_stream_that_was_closed_early_has_no_last_event() -> None:
    async def run(emit: Callable[[str], None]) -> int:
        emit("one")
        await anyio.sleep_forever()
        return 7

    stream = TaskStream(run, last_event=str)
    await stream.next_events()
    await stream.aclose()
    assert list(await stream.next_events()) == []


async def test_a_stream_may_be_read_from_several_tasks_in_turn() -> None:
    async def run(emit: Callable[[int], None]) -> None:
        for number in range(3):
            emit(number)
            await anyio.lowlevel.checkpoint()

    stream = TaskStream(run)
    events: list[int] = []

    async def read_once() -> None:
        events.extend(await stream.next_events())

    while not stream.finished:
        async with anyio.create_task_group() as group:
            group.start_soon(read_once)
    assert events == [0, 1, 2]


async def test_the_error_of_the_task_is_raised_unchanged() -> None:
    async def run(emit: Callable[[int], None]) -> None:
        emit(1)
        raise LookupError("this one")

    stream = TaskStream(run)
    assert list(await stream.next_events()) == [1]
    for _ in range(2):
        with pytest.raises(LookupError, match="this one"):
            await stream.next_events()
    with pytest.raises(LookupError, match="this one"):
        _ = stream.result


async def test_aclose_cancels_the_task_and_waits_for_its_clean_up() -> None:
    cleaned: list[bool] = []

    async def run(emit: Callable[[int], None]) -> None:
        emit(1)
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            cleaned.append(True)

    stream = TaskStream(run)
    await stream.next_events()
    await stream.aclose()
    await stream.aclose()
    assert cleaned == [True]


async def test_a_cancelled_reader_may_close_the_stream() -> None:
    async def run(emit: Callable[[int], None]) -> None:
        await anyio.sleep_forever()

    stream = TaskStream(run)
    with anyio.move_on_after(0.02):
        try:
            await stream.next_events()
        finally:
            await stream.aclose()
    assert stream.finished


async def test_closing_a_stream_that_was_not_started_does_nothing() -> None:
    async def run(emit: Callable[[int], None]) -> None:
        raise AssertionError

    await TaskStream(run).aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_reader_receives_the_cancellation_of_the_task() -> None:
    async def run(emit: Callable[[int], None]) -> int:
        emit(1)
        await anyio.sleep_forever()
        return 1

    stream = TaskStream(run)
    assert list(await stream.next_events()) == [1]
    for task in asyncio.all_tasks():
        if task.get_name() == "majordomo-task-stream":
            task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.next_events()
    with pytest.raises(asyncio.CancelledError):
        _ = stream.result
    await stream.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_is_cancelled_before_its_first_step_ends_too() -> None:
    async def run(emit: Callable[[int], None]) -> None:
        raise AssertionError

    stream = TaskStream(run)
    stream._start()
    stream._task.cancel()
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await stream.next_events()
    with anyio.fail_after(5):
        await stream.aclose()
