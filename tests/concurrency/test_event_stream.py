from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest

from majordomo.concurrency.event_stream import EventStream, SyncEventStream


class Source:
    """A source that returns batches, raises errors, and waits for ever at None."""

    def __init__(self, *steps: Sequence[int] | Exception | None) -> None:
        self._steps = list(steps)
        self.closed = 0

    @property
    def result(self) -> str:
        return "result"

    async def next_events(self) -> Sequence[int]:
        step = self._steps.pop(0) if self._steps else ()
        if step is None:
            await anyio.sleep_forever()
        if isinstance(step, Exception):
            raise step
        return step or ()

    async def aclose(self) -> None:
        self.closed += 1


@pytest.mark.anyio
async def test_events_of_batches_are_returned_one_by_one() -> None:
    source = Source([1], [2, 3], [4])
    async with EventStream(lambda: source) as stream:
        assert [event async for event in stream] == [1, 2, 3, 4]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert (stream.result, source.closed) == ("result", 1)


def test_a_blocking_stream_returns_the_same_events() -> None:
    source = Source([1], [2, 3], [4])
    with SyncEventStream(lambda: source) as stream:
        assert list(stream) == [1, 2, 3, 4]
        assert list(stream) == []
    assert (stream.result, source.closed) == ("result", 1)


@pytest.mark.anyio
async def test_an_error_is_raised_once_and_ends_the_stream() -> None:
    async with EventStream(lambda: Source([1], LookupError("gone"), [2])) as stream:
        assert await anext(stream) == 1
        with pytest.raises(LookupError):
            await anext(stream)
        assert [event async for event in stream] == []


@pytest.mark.anyio
async def test_a_stream_does_not_seem_complete_after_a_cancelled_read() -> None:
    async with EventStream(lambda: Source([1], None)) as stream:
        assert await anext(stream) == 1
        with anyio.move_on_after(0.01) as scope:
            await anext(stream)
        assert scope.cancelled_caught
        with pytest.raises(RuntimeError, match="was cancelled"):
            await anext(stream)


@pytest.mark.anyio
async def test_a_stream_is_entered_once_and_read_inside_its_block() -> None:
    stream = EventStream(lambda: Source([1]))
    assert not stream.entered
    with pytest.raises(RuntimeError, match="inside its"):
        await anext(stream)
    async with stream:
        assert stream.entered
        with pytest.raises(RuntimeError, match="only once"):
            await stream.__aenter__()
