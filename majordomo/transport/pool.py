"""The connections of one provider in one event loop. Every step is O(1), and whatever happens, exactly one slot comes back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio

from majordomo.errors import ConfigurationError
from majordomo.transport.connection import Connection
from majordomo.transport_types import Deadline

MAX_CONNECTIONS = 1000
MAX_CONCURRENT_CONNECTS = 64
KEEP_SECONDS = 60.0

ConnectFunction = Callable[[Deadline], Awaitable[Connection]]


class Pool:
    """Slot first, then connection; at most `size` connections at once."""

    def __init__(
        self,
        dial: ConnectFunction,
        size: int = MAX_CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dial = dial
        self._clock = clock
        self._slots = anyio.Semaphore(size, fast_acquire=True)
        self._dials = anyio.Semaphore(MAX_CONCURRENT_CONNECTS, fast_acquire=True)
        self._idle: deque[Connection] = deque()
        self._closed = False
        self._guard: AsyncGenerator[None, None] | None = None

    async def start(self) -> None:
        """Tie the pool to its loop: asyncio.run and trio.run close suspended async generators while the loop still works."""
        self._guard = self._close_with_loop()
        await self._guard.__anext__()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._close_connections()

    async def acquire(self, deadline: Deadline) -> Connection:
        """A connection for one exchange; `release` must follow. Raises ConfigurationError when the pool is closed."""
        deadline.start_phase("queue")
        await _acquire(self._slots, deadline)
        try:
            if self._closed:
                raise ConfigurationError("the provider is closed", code="CLOSED")
            return await self._connection(deadline)
        except BaseException:
            self._slots.release()
            raise

    async def _connection(self, deadline: Deadline) -> Connection:
        now = self._clock()
        while self._idle and self._idle[0].expires < now:
            await self._idle.popleft().aclose()
        while self._idle:
            connection = self._idle.pop()
            if connection.wire.is_silent():
                return connection
            await connection.aclose()
        await _acquire(self._dials, deadline)
        try:
            return await self._dial(deadline)
        finally:
            self._dials.release()

    async def release(self, connection: Connection) -> None:
        """The exchange is over. A connection that is not clean is closed before its slot is free."""
        try:
            if not self._closed and connection.is_clean():
                connection.used = True
                connection.expires = self._clock() + KEEP_SECONDS
                self._idle.append(connection)
            else:
                await connection.aclose()
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Close what is idle, and what is in use as soon as it comes back. Taking is refused from now on."""
        if self._guard is not None:
            await self._guard.aclose()
        await self._close_connections()

    async def _close_connections(self) -> None:
        self._closed = True
        with anyio.CancelScope(shield=True):
            while self._idle:
                await self._idle.popleft().aclose()


async def _acquire(semaphore: anyio.Semaphore, deadline: Deadline) -> None:
    try:
        semaphore.acquire_nowait()
    except anyio.WouldBlock:
        with anyio.move_on_after(deadline.next_timeout()) as scope:
            await semaphore.acquire()
        if scope.cancelled_caught:
            raise deadline.exceeded() from None
