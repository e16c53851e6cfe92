"""Throttled streams: when snapshots come, what they contain, and how streams end."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import majordomo as md
from majordomo import imagegen, llm
from majordomo.bots import ImageSnapshot, Snapshot, ThrottledStream, throttle, throttle_image
from tests.support.fake_clock import FakeClock

pytestmark = pytest.mark.anyio


class ControlledStream:
    """A stream whose events come from the test; counts how often it was entered and closed."""

    def __init__(self) -> None:
        self.pending: deque[Any] = deque()
        self.new_event = anyio.Event()
        self.enter_count = self.exit_count = 0

    async def __aenter__(self) -> ControlledStream:
        self.enter_count += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.exit_count += 1

    def __aiter__(self) -> ControlledStream:
        return self

    async def __anext__(self) -> Any:
        while not self.pending:
            self.new_event = anyio.Event()
            await self.new_event.wait()
        await checkpoint()
        event = self.pending.popleft()
        if isinstance(event, BaseException):
            raise event
        return event

    def send(self, *events: object) -> None:
        self.pending += [
            llm.TextDelta(event) if isinstance(event, str) else event for event in events
        ]
        self.new_event.set()

    def end(self) -> None:
        self.send(StopAsyncIteration())


async def collect(throttled: ThrottledStream[Any], snapshots: list[Any]) -> None:
    async with throttled:
        async for snapshot in throttled:
            snapshots.append(snapshot)


@asynccontextmanager
async def collected(throttled: ThrottledStream[Any]) -> AsyncIterator[list[Any]]:
    """The snapshots so far, collected by a task."""
    snapshots: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(collect, throttled, snapshots)
        yield snapshots
        group.cancel_scope.cancel()


async def test_one_snapshot_per_interval_and_always_the_last_state() -> None:
    clock, stream = FakeClock(), ControlledStream()
    async with collected(throttle(stream, 1.2, clock=clock)) as snapshots:
        stream.send("Good ")
        await clock.run_ready_tasks()
        assert [snapshot.text for snapshot in snapshots] == ["Good "]
        stream.send("even", "ing, ")
        await clock.advance(1.1)
        assert len(snapshots) == 1
        await clock.advance(0.1)
        assert [snapshot.text for snapshot in snapshots] == ["Good ", "Good evening, "]
        await clock.advance(5)
        assert len(snapshots) == 2, "no change, no snapshot"
        stream.send("world")
        await clock.run_ready_tasks()
        assert snapshots[-1].text == "Good evening, world"
        reply = llm.Reply(md.assistant("Good evening, world!"))
        stream.send("!", llm.Done(reply))
        stream.end()
        await clock.run_ready_tasks()
        assert len(snapshots) == 3
        await clock.advance(1.2)
    assert [snapshot.finished for snapshot in snapshots] == [False, False, False, True]
    assert (snapshots[-1].text, snapshots[-1].reply, snapshots[-1].elapsed) == (
        "Good evening, world!",
        reply,
        pytest.approx(7.4),
    )
    assert (stream.enter_count, stream.exit_count) == (1, 1)


async def test_events_before_the_text_give_a_status() -> None:
    clock, stream = FakeClock(), ControlledStream()
    async with collected(throttle(stream, 1, clock=clock)) as snapshots:
        for event in (
            llm.Queued(3),
            llm.Queued(),
            llm.Loading("pulling"),
            llm.ThinkingDelta("hm"),
            llm.ThinkingDelta("m"),
            llm.ToolCallStarted(0, "1", "draw"),
        ):
            stream.send(event)
            await clock.advance(1)
        stream.send("So: ")
        await clock.advance(1)
    assert [snapshot.display_text for snapshot in snapshots] == [
        "waiting, number 3",
        "waiting",
        "loading the model",
        "thinking",
        "using draw",
        "So: ",
    ]
    assert snapshots[-1].status == ""


async def test_a_formatter_sets_the_status_and_none_changes_nothing() -> None:
    clock, stream = FakeClock(), ControlledStream()
    texts = {llm.Queued: "bitte warten"}
    async with collected(
        throttle(stream, 0, formatter=lambda event: texts.get(type(event)), clock=clock)
    ) as snapshots:
        stream.send(llm.Queued(1))
        await clock.run_ready_tasks()
        stream.send(llm.ThinkingDelta("hm"))
        await clock.run_ready_tasks()
    assert [snapshot.display_text for snapshot in snapshots] == ["bitte warten"]


async def test_text_after_a_tool_is_a_new_paragraph(
    image: Callable[..., md.ImagePart],
) -> None:
    clock, stream, generated = FakeClock(), ControlledStream(), image()
    call = llm.ToolCallPart("1", "draw")
    stream.send(
        "I draw.",
        llm.ToolCall(0, call),
        llm.ImageReady(generated),
        llm.ToolReturned(call, llm.ToolResultPart("1", "draw")),
        "There.",
    )
    stream.end()
    snapshots: list[Snapshot] = []
    await collect(throttle(stream, 0, clock=clock), snapshots)
    assert (snapshots[-1].text, snapshots[-1].images, snapshots[-1].reply) == (
        "I draw.\n\nThere.",
        (generated,),
        None,
    )


async def test_a_heartbeat_gives_a_snapshot_without_changes() -> None:
    clock, stream = FakeClock(), ControlledStream()
    async with collected(throttle(stream, 1, heartbeat=5, clock=clock)) as snapshots:
        stream.send(llm.Loading())
        for _ in range(6):
            await clock.advance(2.5)
        stream.send("a")
        await clock.advance(1)
    assert [(snapshot.display_text, snapshot.elapsed) for snapshot in snapshots] == [
        *(("loading the model", at) for at in (0, 5, 10, 15)),
        ("a", 16),
    ]


async def test_a_slow_edit_means_fewer_edits() -> None:
    clock, stream = FakeClock(), ControlledStream()
    stream.send(*"abcdefgh")
    snapshots = []
    async with throttle(stream, 1, clock=clock) as throttled:
        async for snapshot in throttled:
            snapshots.append(snapshot.text)
            stream.send("z")
            await clock.advance(10)
            if len(snapshots) == 3:
                break
    assert snapshots[0] in "abcdefgh"
    assert snapshots[1:] == ["abcdefghz", "abcdefghzz"]


async def test_pause_for_delays_the_next_snapshot() -> None:
    clock, stream = FakeClock(), ControlledStream()
    throttled = throttle(stream, 1, clock=clock)
    async with collected(throttled) as snapshots:
        stream.send("a")
        await clock.run_ready_tasks()
        throttled.pause_for(10)
        stream.send("b")
        await clock.advance(9)
        assert len(snapshots) == 1
        await clock.advance(1)
        assert snapshots[-1].text == "ab"


async def test_an_iterator_of_whole_texts_is_accepted() -> None:
    closed: list[bool] = []

    async def texts() -> AsyncIterator[str]:
        try:
            for end in range(1, 6):
                yield "hello"[:end]
        finally:
            closed.append(True)

    snapshots: list[Snapshot] = []
    await collect(throttle(texts(), 0), snapshots)
    assert (snapshots[-1].text, snapshots[-1].finished) == ("hello", True)
    async with throttle(texts(), 0) as throttled:
        async for _ in throttled:
            break
    assert closed == [True, True]


async def test_an_error_is_raised_unchanged_after_the_text_before_it() -> None:
    clock, stream = FakeClock(), ControlledStream()
    broken = md.StreamBrokenError("cut off", partial="Good ev")
    stream.send("Good ev", broken)
    snapshots = []
    with pytest.raises(md.StreamBrokenError) as caught:
        async with throttle(stream, 1, clock=clock) as throttled:
            async for snapshot in throttled:
                snapshots.append((snapshot.text, snapshot.finished))
    assert caught.value is broken
    assert snapshots == [("Good ev", False)]
    assert stream.exit_count == 1


async def test_an_immediate_error_is_raised_without_a_snapshot() -> None:
    with pytest.raises(md.ConnectionFailedError):
        async with throttle(
            md.LlamaSwap("http://127.0.0.1:9", retries=md.Retries(attempts=1))
            .model("m")
            .stream("hi")
        ) as throttled:
            async for _ in throttled:
                pass


@pytest.mark.parametrize("error", [LookupError("mine"), KeyboardInterrupt()])
async def test_an_exception_in_the_body_is_raised_unchanged(error: BaseException) -> None:
    stream = ControlledStream()
    stream.send("a")
    with pytest.raises(type(error)) as caught:
        async with throttle(stream) as throttled:
            async for _ in throttled:
                raise error
    assert caught.value is error
    assert stream.exit_count == 1


@pytest.mark.parametrize("waits_for", ["an event", "the timer", "a heartbeat"])
async def test_cancellation_closes_the_stream(waits_for: str) -> None:
    clock, stream = FakeClock(), ControlledStream()
    if waits_for == "the timer":
        stream.send("a", "b")
    throttled = throttle(
        stream, 1, heartbeat=5 if waits_for == "a heartbeat" else None, clock=clock
    )
    async with collected(throttled) as snapshots:
        await clock.run_ready_tasks()
        if waits_for == "the timer":
            stream.send("c")
            await clock.run_ready_tasks()
        assert len(clock.waits) == (waits_for != "an event")
    assert clock.waits == []
    assert len(snapshots) == (waits_for == "the timer")
    assert stream.exit_count == 1
    assert throttled._task_stream.finished
    with pytest.raises(StopAsyncIteration):
        await throttled.__anext__()


async def test_leaving_early_closes_the_stream(anyio_backend: str) -> None:
    stopped: list[bool] = []

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                yield "more"
                await anyio.sleep(0.001)
        finally:
            stopped.append(True)

    if anyio_backend == "asyncio":
        import asyncio

        before = asyncio.all_tasks()
    async with throttle(endless(), 0) as throttled:
        assert (await throttled.__anext__()).text == "more"
    assert stopped == [True]
    if anyio_backend == "asyncio":
        assert asyncio.all_tasks() == before
    gc.collect()


async def test_a_stream_that_was_entered_before_is_left_open() -> None:
    chat = md.Offline().model("rules")
    async with chat.stream("hello there") as stream, throttle(stream, 0) as throttled:
        last = [snapshot async for snapshot in throttled][-1]
    assert last.finished
    assert last.reply == stream.reply
    assert last.text == stream.reply.text


async def test_a_stream_that_is_not_iterated_is_not_entered() -> None:
    stream = ControlledStream()
    async with throttle(stream):
        pass
    assert stream.enter_count == 0


async def test_a_throttled_stream_is_used_once_and_inside_its_block() -> None:
    throttled = throttle(ControlledStream())
    with pytest.raises(RuntimeError):
        await throttled.__anext__()
    async with throttled:
        pass
    with pytest.raises(RuntimeError):
        async with throttled:
            pass


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"interval": -1}, "interval"),
        ({"heartbeat": 0}, "heartbeat"),
        ({"stream": "text"}, "stream"),
        ({"preview_interval": "5"}, "preview_interval"),
    ],
)
async def test_an_invalid_argument_is_named_by_its_field(
    settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        throttle_image(**{"stream": ControlledStream(), **settings})
    assert caught.value.field == field


async def test_an_image_stream_gives_steps_and_few_previews(
    image: Callable[..., md.ImagePart],
) -> None:
    clock, stream = FakeClock(), ControlledStream()
    first, second, third = (image(8, 8, color) for color in ("red", "green", "blue"))
    result = imagegen.Result((third,))
    async with collected(throttle_image(stream, 1, preview_interval=5, clock=clock)) as snapshots:
        for event in (
            imagegen.Queued(2),
            imagegen.Loading(),
            imagegen.Step(1, 9),
            imagegen.Preview(first),
            imagegen.Preview(second),
        ):
            stream.send(event)
            await clock.advance(1)
        stream.send(imagegen.Step(2, 9))
        await clock.advance(1)
        stream.send(imagegen.Preview(third))
        await clock.advance(3)
        stream.send(imagegen.Step(3, 9))
        await clock.advance(1)
        stream.send(imagegen.Preview(first), imagegen.Done(result))
        stream.end()
        await clock.advance(1)
    assert [snapshot.status for snapshot in snapshots] == [
        "waiting, number 2",
        "loading the model",
        "step 1 of 9",
        "step 1 of 9",
        "step 2 of 9",
        "step 3 of 9",
        "step 3 of 9",
    ]
    assert [snapshot.preview for snapshot in snapshots] == [
        None,
        None,
        None,
        first,
        None,
        third,
        None,
    ]
    assert (
        snapshots[-1].result,
        snapshots[-1].finished,
        snapshots[-1].step,
        snapshots[-1].total,
    ) == (
        result,
        True,
        3,
        9,
    )


async def test_a_real_image_stream_is_throttled() -> None:
    image_model = md.Offline().image_model("renderer")
    snapshots: list[ImageSnapshot] = []
    await collect(
        throttle_image(image_model.stream("a boat", size="64x64", steps=3, previews=1), 0),
        snapshots,
    )
    assert snapshots[-1].result is not None
    assert (snapshots[-1].step, snapshots[-1].total) == (3, 3)


async def test_a_chat_stream_is_rejected_as_an_image_stream() -> None:
    with pytest.raises(md.InvalidRequestError):
        await collect(throttle_image(md.Offline().model("rules").stream("hi"), 0), [])  # type: ignore[arg-type]
