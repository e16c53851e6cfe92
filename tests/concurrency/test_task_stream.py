from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import pytest

from majordomo.concurrency.task_stream import TaskStream

pytestmark = pytest.mark.anyio


async def test_it_tells_while_it_works_and_then_gives_the_result() -> None:
    go = anyio.Event()

    async def work(emit: Callable[[str], None]) -> int:
        emit("one")
        emit("two")
        await go.wait()
        emit("three")
        return 7

    telling = TaskStream(work)
    assert list(await telling.next_events()) == ["one", "two"]
    go.set()
    assert list(await telling.next_events()) == ["three"]
    assert list(await telling.next_events()) == []
    assert telling.result == 7
    await telling.aclose()


async def test_it_may_be_read_by_one_task_after_the_other() -> None:
    async def work(emit: Callable[[int], None]) -> None:
        for number in range(3):
            emit(number)
            await anyio.sleep(0.01)

    telling = TaskStream(work)
    seen: list[int] = []

    async def look() -> None:
        seen.extend(await telling.next_events())

    while not telling.finished:
        async with anyio.create_task_group() as group:
            group.start_soon(look)
    assert seen == [0, 1, 2]


async def test_its_error_is_raised_as_it_is() -> None:
    async def work(emit: Callable[[int], None]) -> None:
        emit(1)
        raise LookupError("this one")

    telling = TaskStream(work)
    assert list(await telling.next_events()) == [1]
    assert list(await telling.next_events()) == []
    with pytest.raises(LookupError, match="this one"):
        _ = telling.result


async def test_closing_cancels_the_work_and_waits_for_its_clean_up() -> None:
    cleaned: list[bool] = []

    async def work(emit: Callable[[int], None]) -> None:
        emit(1)
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            cleaned.append(True)

    telling = TaskStream(work)
    await telling.next_events()
    await telling.aclose()
    await telling.aclose()
    assert cleaned == [True]


async def test_a_cancelled_reader_may_close_it() -> None:
    async def work(emit: Callable[[int], None]) -> None:
        await anyio.sleep_forever()

    telling = TaskStream(work)
    with anyio.move_on_after(0.02):
        try:
            await telling.next_events()
        finally:
            await telling.aclose()
    assert telling.finished


async def test_what_was_never_begun_needs_no_closing() -> None:
    async def work(emit: Callable[[int], None]) -> None:
        raise AssertionError

    await TaskStream(work).aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_reader_hears_that_somebody_else_has_cancelled_the_work() -> None:
    async def work(emit: Callable[[int], None]) -> int:
        emit(1)
        await anyio.sleep_forever()
        return 1

    telling = TaskStream(work)
    assert list(await telling.next_events()) == [1]
    for task in asyncio.all_tasks():
        if task.get_name() == "majordomo-work":
            task.cancel()
    assert list(await telling.next_events()) == []
    with pytest.raises(asyncio.CancelledError):
        _ = telling.result
    await telling.aclose()
