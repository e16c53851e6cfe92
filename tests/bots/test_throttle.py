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


class Talk:
    """A stream that says what the test tells it to; it knows whether it was entered and left."""

    def __init__(self) -> None:
        self.said: deque[Any] = deque()
        self.news = anyio.Event()
        self.entered_times = self.left = 0

    async def __aenter__(self) -> Talk:
        self.entered_times += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.left += 1

    def __aiter__(self) -> Talk:
        return self

    async def __anext__(self) -> Any:
        while not self.said:
            self.news = anyio.Event()
            await self.news.wait()
        await checkpoint()
        said = self.said.popleft()
        if isinstance(said, BaseException):
            raise said
        return said

    def say(self, *events: object) -> None:
        self.said += [llm.TextDelta(event) if isinstance(event, str) else event for event in events]
        self.news.set()

    def end(self) -> None:
        self.say(StopAsyncIteration())


async def collect(live: ThrottledStream[Any], into: list[Any]) -> None:
    async with live:
        async for snapshot in live:
            into.append(snapshot)


@asynccontextmanager
async def shown(live: ThrottledStream[Any]) -> AsyncIterator[list[Any]]:
    """Snapshots as they come, taken by a task of their own."""
    seen: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(collect, live, seen)
        yield seen
        group.cancel_scope.cancel()


async def test_at_most_one_edit_in_so_many_seconds_and_the_last_state_always() -> None:
    clock, talk = FakeClock(), Talk()
    async with shown(throttle(talk, 1.2, clock=clock)) as seen:
        talk.say("Good ")
        await clock.settle()
        assert [snapshot.text for snapshot in seen] == ["Good "]
        talk.say("even", "ing, ")
        await clock.advance(1.1)
        assert len(seen) == 1
        await clock.advance(0.1)
        assert [snapshot.text for snapshot in seen] == ["Good ", "Good evening, "]
        await clock.advance(5)
        assert len(seen) == 2, "nothing new, nothing to show"
        talk.say("world")
        await clock.settle()
        assert seen[-1].text == "Good evening, world"
        reply = llm.Reply(md.assistant("Good evening, world!"))
        talk.say("!", llm.Done(reply))
        talk.end()
        await clock.settle()
        assert len(seen) == 3
        await clock.advance(1.2)
    assert [snapshot.finished for snapshot in seen] == [False, False, False, True]
    assert (seen[-1].text, seen[-1].reply, seen[-1].elapsed) == (
        "Good evening, world!",
        reply,
        pytest.approx(7.4),
    )
    assert (talk.entered_times, talk.left) == (1, 1)


async def test_what_happens_before_the_first_word_is_shown_as_words() -> None:
    clock, talk = FakeClock(), Talk()
    async with shown(throttle(talk, 1, clock=clock)) as seen:
        for event in (
            llm.Queued(3),
            llm.Queued(),
            llm.Loading("pulling"),
            llm.ThinkingDelta("hm"),
            llm.ThinkingDelta("m"),
            llm.ToolCallStarted(0, "1", "draw"),
        ):
            talk.say(event)
            await clock.advance(1)
        talk.say("So: ")
        await clock.advance(1)
    assert [snapshot.shown for snapshot in seen] == [
        "waiting, number 3",
        "waiting",
        "loading the model",
        "thinking",
        "using draw",
        "So: ",
    ]
    assert seen[-1].status == ""


async def test_words_of_ones_own_and_no_word_for_what_is_no_news() -> None:
    clock, talk = FakeClock(), Talk()
    words = {llm.Queued: "bitte warten"}
    async with shown(
        throttle(talk, 0, formatter=lambda event: words.get(type(event)), clock=clock)
    ) as seen:
        talk.say(llm.Queued(1))
        await clock.settle()
        talk.say(llm.ThinkingDelta("hm"))
        await clock.settle()
    assert [snapshot.shown for snapshot in seen] == ["bitte warten"]


async def test_the_words_after_a_tool_are_a_new_paragraph(
    image: Callable[..., md.ImagePart],
) -> None:
    clock, talk, drawn = FakeClock(), Talk(), image()
    call = llm.ToolCallPart("1", "draw")
    talk.say(
        "I draw.",
        llm.ToolCall(0, call),
        llm.ImageReady(drawn),
        llm.ToolReturned(call, llm.ToolResultPart("1", "draw")),
        "There.",
    )
    talk.end()
    seen: list[Snapshot] = []
    await collect(throttle(talk, 0, clock=clock), seen)
    assert (seen[-1].text, seen[-1].images, seen[-1].reply) == ("I draw.\n\nThere.", (drawn,), None)


async def test_a_heartbeat_when_nothing_is_said() -> None:
    clock, talk = FakeClock(), Talk()
    async with shown(throttle(talk, 1, heartbeat=5, clock=clock)) as seen:
        talk.say(llm.Loading())
        for _ in range(6):
            await clock.advance(2.5)
        talk.say("a")
        await clock.advance(1)
    assert [(snapshot.shown, snapshot.elapsed) for snapshot in seen] == [
        *(("loading the model", at) for at in (0, 5, 10, 15)),
        ("a", 16),
    ]


async def test_a_slow_edit_means_fewer_edits() -> None:
    clock, talk = FakeClock(), Talk()
    talk.say(*"abcdefgh")
    seen = []
    async with throttle(talk, 1, clock=clock) as live:
        async for snapshot in live:
            seen.append(snapshot.text)
            talk.say("z")
            await clock.advance(10)
            if len(seen) == 3:
                break
    assert seen[0] in "abcdefgh"
    assert seen[1:] == ["abcdefghz", "abcdefghzz"]


async def test_a_platform_may_ask_for_patience() -> None:
    clock, talk = FakeClock(), Talk()
    live = throttle(talk, 1, clock=clock)
    async with shown(live) as seen:
        talk.say("a")
        await clock.settle()
        live.pause_for(10)
        talk.say("b")
        await clock.advance(9)
        assert len(seen) == 1
        await clock.advance(1)
        assert seen[-1].text == "ab"


async def test_whole_texts_from_any_iterator() -> None:
    closed: list[bool] = []

    async def texts() -> AsyncIterator[str]:
        try:
            for end in range(1, 6):
                yield "hello"[:end]
        finally:
            closed.append(True)

    seen: list[Snapshot] = []
    await collect(throttle(texts(), 0), seen)
    assert (seen[-1].text, seen[-1].finished) == ("hello", True)
    async with throttle(texts(), 0) as live:
        async for _ in live:
            break
    assert closed == [True, True]


async def test_a_failure_comes_after_what_was_said_and_unchanged() -> None:
    clock, talk = FakeClock(), Talk()
    broken = md.StreamBrokenError("cut off", partial="Good ev")
    talk.say("Good ev", broken)
    seen = []
    with pytest.raises(md.StreamBrokenError) as caught:
        async with throttle(talk, 1, clock=clock) as live:
            async for snapshot in live:
                seen.append((snapshot.text, snapshot.finished))
    assert caught.value is broken
    assert seen == [("Good ev", False)]
    assert talk.left == 1


async def test_a_failure_at_once_is_raised_at_once() -> None:
    with pytest.raises(md.ConnectionFailedError):
        async with throttle(
            md.LlamaSwap("http://127.0.0.1:9", retries=md.Retries(attempts=1))
            .model("m")
            .stream("hi")
        ) as live:
            async for _ in live:
                pass


@pytest.mark.parametrize("error", [LookupError("mine"), KeyboardInterrupt()])
async def test_an_exception_in_the_callers_body_leaves_unchanged(error: BaseException) -> None:
    talk = Talk()
    talk.say("a")
    with pytest.raises(type(error)) as caught:
        async with throttle(talk) as live:
            async for _ in live:
                raise error
    assert caught.value is error
    assert talk.left == 1


@pytest.mark.parametrize("waits_for", ["an event", "the timer", "a heartbeat"])
async def test_cancelling_leaves_nothing_behind(waits_for: str) -> None:
    clock, talk = FakeClock(), Talk()
    if waits_for == "the timer":
        talk.say("a", "b")
    live = throttle(talk, 1, heartbeat=5 if waits_for == "a heartbeat" else None, clock=clock)
    async with shown(live) as seen:
        await clock.settle()
        if waits_for == "the timer":
            talk.say("c")
            await clock.settle()
        assert len(clock.waits) == (waits_for != "an event")
    assert clock.waits == []
    assert len(seen) == (waits_for == "the timer")
    assert talk.left == 1
    assert live._telling.finished
    with pytest.raises(StopAsyncIteration):
        await live.__anext__()


async def test_leaving_early_stops_the_call(anyio_backend: str) -> None:
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
    async with throttle(endless(), 0) as live:
        assert (await live.__anext__()).text == "more"
    assert stopped == [True]
    if anyio_backend == "asyncio":
        assert asyncio.all_tasks() == before
    gc.collect()


async def test_a_stream_that_was_entered_before_is_left_to_its_owner() -> None:
    chat = md.Offline().model("rules")
    async with chat.stream("hello there") as stream, throttle(stream, 0) as live:
        last = [snapshot async for snapshot in live][-1]
    assert last.finished
    assert last.reply == stream.reply
    assert last.text == stream.reply.text


async def test_a_stream_never_looked_at_is_never_opened() -> None:
    talk = Talk()
    async with throttle(talk):
        pass
    assert talk.entered_times == 0


async def test_it_is_used_once_and_inside_its_with() -> None:
    live = throttle(Talk())
    with pytest.raises(RuntimeError):
        await live.__anext__()
    async with live:
        pass
    with pytest.raises(RuntimeError):
        async with live:
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
async def test_what_makes_no_sense_names_its_field(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(md.InvalidRequestError) as caught:
        throttle_image(**{"stream": Talk(), **settings})
    assert caught.value.field == field


async def test_an_image_tells_its_steps_and_shows_few_previews(
    image: Callable[..., md.ImagePart],
) -> None:
    clock, talk = FakeClock(), Talk()
    first, second, third = (image(8, 8, color) for color in ("red", "green", "blue"))
    result = imagegen.Result((third,))
    async with shown(throttle_image(talk, 1, preview_interval=5, clock=clock)) as seen:
        for event in (
            imagegen.Queued(2),
            imagegen.Loading(),
            imagegen.Step(1, 9),
            imagegen.Preview(first),
            imagegen.Preview(second),
        ):
            talk.say(event)
            await clock.advance(1)
        talk.say(imagegen.Step(2, 9))
        await clock.advance(1)
        talk.say(imagegen.Preview(third))
        await clock.advance(3)
        talk.say(imagegen.Step(3, 9))
        await clock.advance(1)
        talk.say(imagegen.Preview(first), imagegen.Done(result))
        talk.end()
        await clock.advance(1)
    told: list[ImageSnapshot] = seen
    assert [snapshot.status for snapshot in told] == [
        "waiting, number 2",
        "loading the model",
        "step 1 of 9",
        "step 1 of 9",
        "step 2 of 9",
        "step 3 of 9",
        "step 3 of 9",
    ]
    assert [snapshot.preview for snapshot in told] == [None, None, None, first, None, third, None]
    assert (told[-1].result, told[-1].finished, told[-1].step, told[-1].total) == (
        result,
        True,
        3,
        9,
    )


async def test_it_goes_over_a_real_image_stream() -> None:
    image_model = md.Offline().image_model("renderer")
    seen: list[ImageSnapshot] = []
    await collect(
        throttle_image(image_model.stream("a boat", size="64x64", steps=3, previews=1), 0), seen
    )
    assert seen[-1].result is not None
    assert (seen[-1].step, seen[-1].total) == (3, 3)


async def test_a_chat_stream_is_no_image_stream() -> None:
    with pytest.raises(md.InvalidRequestError):
        await collect(throttle_image(md.Offline().model("rules").stream("hi"), 0), [])  # type: ignore[arg-type]
