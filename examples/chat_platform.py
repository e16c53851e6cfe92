"""A small chat platform in this process: channels, messages, edits, attachments and limits.

`bot_on_a_platform.py` runs on it. Run by itself, it posts one message. Its clock only moves when
the program moves it, so that every run is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

import majordomo as md
from majordomo.bots import Clock

# In characters and in bytes.
MESSAGE_LIMIT = 300
UPLOAD_LIMIT = 24_000
# Minimum time between two edits in one channel.
EDIT_INTERVAL_SECONDS = 1.0


class PlatformError(Exception):
    """An error of the platform. `retry_after` is in seconds; 0 when waiting does not help."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class SimulatedClock(Clock):
    """A clock that `advance` moves; waits that end by then are finished."""

    def __init__(self) -> None:
        # Streams that move the clock.
        self.busy = 0
        self._time = 0.0
        self._waits: list[tuple[float, anyio.CancelScope]] = []

    def now(self) -> float:
        return self._time

    async def wait_for(self, seconds: float, wait: Callable[[], Awaitable[object]]) -> bool:
        with anyio.CancelScope() as scope:
            entry = (self._time + seconds, scope)
            self._waits.append(entry)
            try:
                await wait()
            finally:
                self._waits.remove(entry)
        return not scope.cancelled_caught

    async def advance(self, seconds: float) -> None:
        self._time += seconds
        for until, scope in list(self._waits):
            if until <= self._time:
                scope.cancel()
        for _ in range(50):
            await checkpoint()

    async def idle(self) -> None:
        """Let other tasks run; move the clock to the next wait when no stream moves it."""
        # Real time: images are generated in threads, which need the processor.
        await anyio.sleep(0.001)
        if not self.busy and self._waits:
            await self.advance(min(until for until, _ in self._waits) - self._time)


async def slowly(
    stream: AbstractAsyncContextManager[Any], clock: Clock, seconds: float
) -> AsyncIterator[Any]:
    """Yield events with a delay; the offline models are too fast to show progress."""
    simulated = clock if isinstance(clock, SimulatedClock) else SimulatedClock()
    simulated.busy += 1
    try:
        async with stream as events:
            async for event in events:
                yield event
                if simulated is clock:
                    await simulated.advance(seconds)
    finally:
        simulated.busy -= 1


@dataclass(eq=False)
class Message:
    channel: Channel
    author: str
    text: str
    attachments: tuple[md.ImagePart, ...] = ()
    deleted: bool = False

    async def edit(self, text: str, attachments: tuple[md.ImagePart, ...] | None = None) -> None:
        """Edit the message. Raises PlatformError: too long, too large, deleted or too soon."""
        platform = self.channel.platform
        await checkpoint()
        if self.deleted:
            raise PlatformError("no such message")
        _check(self.author, text, attachments or ())
        now = platform.clock.now()
        if now < self.channel.next_edit:
            raise PlatformError("too many edits", self.channel.next_edit - now)
        self.channel.next_edit = now + EDIT_INTERVAL_SECONDS
        self.text = text
        if attachments is not None:
            self.attachments = attachments
        await self.channel.announce(self, "edits")

    async def delete(self) -> None:
        await checkpoint()
        self.deleted = True
        self.channel.messages.remove(self)


@dataclass(eq=False)
class Channel:
    platform: Platform
    name: str
    messages: list[Message] = field(default_factory=list)
    next_edit: float = 0.0

    async def send(
        self, author: str, text: str, attachments: tuple[md.ImagePart, ...] = ()
    ) -> Message:
        """Post a message. Raises PlatformError: empty, too long or too large."""
        await checkpoint()
        if not text.strip() and not attachments:
            raise PlatformError("an empty message")
        _check(author, text, attachments)
        message = Message(self, author, text, attachments)
        self.messages.append(message)
        await self.announce(message, "says")
        return message

    async def announce(self, message: Message, verb: str) -> None:
        images = "".join(
            f" [{image.mime} {image.width}x{image.height}]" for image in message.attachments
        )
        self.platform.transcript.append(
            f"{self.platform.clock.now():5.1f}  {message.author} {verb}: {message.text}{images}"
        )
        for listener in self.platform.listeners:
            await listener(message, verb)


class Platform:
    """Channels by name, listeners, and a transcript of everything posted."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SimulatedClock()
        self.transcript: list[str] = []
        self.listeners: list[Callable[[Message, str], Awaitable[None]]] = []
        self._channels: dict[str, Channel] = {}

    def channel(self, name: str) -> Channel:
        return self._channels.setdefault(name, Channel(self, name))


def _check(author: str, text: str, attachments: tuple[md.ImagePart, ...]) -> None:
    if len(text) > MESSAGE_LIMIT:
        raise PlatformError(f"a message has at most {MESSAGE_LIMIT} characters, not {len(text)}")
    if author == "bot" and "@everyone" in text:
        raise PlatformError("a bot may not mention everyone")
    if any(len(image.data) > UPLOAD_LIMIT for image in attachments):
        raise PlatformError(f"an attachment has at most {UPLOAD_LIMIT:,} bytes")


async def main() -> None:
    platform = Platform()
    await platform.channel("harbor").send("ann", "hello")
    print("\n".join(platform.transcript))


if __name__ == "__main__":
    asyncio.run(main())
