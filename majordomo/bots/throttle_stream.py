"""Streams as a chat shows them: a message edited now and then, not at every word.

One task reads the stream and keeps what it says; the caller takes the latest state, at most once per `every` seconds. So nothing is
waited for twice, no reading is ever cancelled to look at a clock, and a slow edit only means fewer of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from majordomo import imagegen, llm
from majordomo.bots.clock import Clock
from majordomo.bots.snapshots import (
    ChatState,
    ChatStatus,
    ImageSnapshot,
    ImageState,
    ImageStatus,
    Snapshot,
    chat_status,
    image_status,
)
from majordomo.concurrency.task_stream import TaskStream
from majordomo.errors import InvalidRequestError, StreamBrokenError
from majordomo.validation import check_number

S_co = TypeVar("S_co", covariant=True)


class SnapshotState(Protocol[S_co]):
    """What a stream has said so far."""

    def update(self, event: Any, now: float) -> bool:
        """Hear an event; whether it is worth showing."""
        ...

    def snapshot(self, now: float, *, finished: bool) -> S_co: ...


class ThrottledStream(Generic[S_co]):
    """Snapshots of a stream, for `async with` and then `async for`. Leaving closes the stream, wherever it is.

    The first snapshot comes at once, each further one `every` seconds after the one before or later, and only when something has
    changed or a heartbeat is due. The last has `finished` set. When the stream fails, what it had said comes first, and then its error,
    as it was raised.
    """

    def __init__(
        self,
        given: Any,
        made: Callable[[float], SnapshotState[S_co]],
        every: float,
        heartbeat: float | None,
        clock: Clock | None,
    ) -> None:
        check_number("interval", every, 0, 3600)
        check_number("heartbeat", heartbeat, 0.001, 3600)
        if not hasattr(given, "__aenter__") and not hasattr(given, "__anext__"):
            raise InvalidRequestError(
                f"a stream is what `model.stream(...)` gives or an async iterator, not {type(given).__name__}",
                field="stream",
            )
        self._given = given
        self._made = made
        self._every = every
        self._heartbeat = heartbeat
        self.clock: Clock = clock or Clock()
        self._telling: TaskStream[None, None] = TaskStream(self._read)
        self._state: SnapshotState[S_co] | None = None
        self._not_before = 0.0  # of the clock
        self._changed = False  # since the last snapshot
        self._whole = False  # the stream came to its own end
        self._over = False

    def pause_for(self, seconds: float) -> None:
        """No snapshot for so long: the platform asked for patience."""
        self._not_before = max(self._not_before, self.clock.now() + seconds)

    async def __aenter__(self) -> Self:
        if self._state is not None:
            raise RuntimeError("a throttled stream is entered once")
        self._not_before = self.clock.now()
        self._state = self._made(self._not_before)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        await self._telling.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> S_co:
        if self._state is None:
            raise RuntimeError("a throttled stream is read inside its `async with`")
        if self._over:
            raise StopAsyncIteration
        await self._news()
        self._raise_failure()
        if (wait := self._not_before - self.clock.now()) > 0:
            await self.clock.sleep(wait)
            self._raise_failure()
        now = self.clock.now()
        self._changed, self._not_before, self._over = False, now + self._every, self._whole
        return self._state.snapshot(now, finished=self._whole)

    async def _news(self) -> None:
        """Wait until the stream has said something worth showing, or is over, or was silent for a heartbeat."""
        began = self.clock.now()
        while not self._changed and not self._telling.finished:
            if self._heartbeat is None:
                await self._telling.next_events()
            elif (left := began + self._heartbeat - self.clock.now()) > 0:
                await self.clock.within(left, self._telling.next_events)
            else:
                return

    def _raise_failure(self) -> None:
        """Raise what ended the stream, once all it had said is shown."""
        if self._telling.finished and not self._whole and not self._changed:
            self._over = True
            _ = self._telling.result
            raise StreamBrokenError("the task that read the stream was stopped with its event loop")

    async def _read(self, emit: Callable[[None], None]) -> None:
        """The task. Everything that touches the stream happens in it, entering and leaving too."""
        async with self._entered() as stream:
            async for event in stream:
                assert self._state is not None
                if self._state.update(event, self.clock.now()) and not self._changed:
                    self._changed = True
                    emit(None)
        self._whole = self._changed = True

    def _entered(self) -> AbstractAsyncContextManager[Any]:
        given = self._given
        if getattr(given, "entered", False):
            return nullcontext(given)  # who entered it leaves it
        if hasattr(given, "__aenter__"):
            return given  # type: ignore[no-any-return]  # the model's own stream, to be entered here
        return aclosing(given) if hasattr(given, "aclose") else nullcontext(given)


def throttle(
    stream: AbstractAsyncContextManager[llm.Stream]
    | AsyncIterator[llm.ChatEvent]
    | AsyncIterator[str],
    interval: float = 1.2,
    *,
    heartbeat: float | None = None,
    formatter: ChatStatus = chat_status,
    clock: Clock | None = None,
) -> ThrottledStream[Snapshot]:
    """A chat stream as snapshots of the whole answer so far, at most one per `every` seconds; the last state always comes.

        async with throttle(chat.stream(question)) as answer:
            async for snapshot in answer:
                await message.edit(snapshot.shown)

    `stream` is what `model.stream(...)` or `md.stream_tools(...)` gives, entered here and closed on leaving (one that was entered before
    is read, and left to its owner), or an async iterator of events or of whole texts so far. `heartbeat`: a snapshot after so many silent
    seconds too, for a typing mark that runs out. `words` says what a status is called; None is no news.

    Raises InvalidRequestError (fields `stream`, `every`, `heartbeat`) at once, and from the iteration whatever the stream raises,
    unchanged.
    """
    return ThrottledStream(
        stream, lambda now: ChatState(formatter, now), interval, heartbeat, clock
    )


def throttle_image(
    stream: AbstractAsyncContextManager[imagegen.Stream] | AsyncIterator[imagegen.ImageEvent],
    interval: float = 1.2,
    *,
    preview_interval: float = 5.0,
    heartbeat: float | None = None,
    formatter: ImageStatus = image_status,
    clock: Clock | None = None,
) -> ThrottledStream[ImageSnapshot]:
    """An image stream as lines of progress, at most one per `every` seconds, with a new preview at most every `preview_interval`.

    Everything else is as with `throttle`; the last snapshot has the result.
    """
    check_number("preview_interval", preview_interval, 0, 3600)
    return ThrottledStream(
        stream, lambda now: ImageState(formatter, now, preview_interval), interval, heartbeat, clock
    )
