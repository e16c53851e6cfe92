"""The connections of one provider in one event loop.

Theory of operation:

* Slots: a semaphore bounds the connections in use. `acquire` takes a slot first and then a
  connection; exactly one slot is released for each slot taken, by `release` or, if `acquire` fails,
  by `acquire` itself. A second semaphore bounds concurrent connection attempts.
* Idle connections are in a deque, the most recently used one last. `acquire` closes expired ones
  from the front and takes the last one that is still silent; one that is not (the server closed it
  or sent something unexpected) is closed.
* A connection in use belongs to the response, which gives it back with `release`. The pool then
  either keeps it, if it is clean, or closes it before its slot becomes free.
* A closed pool refuses `acquire`, and closes connections in use when they come back.
* The pool ends with its event loop: a suspended async generator, which asyncio.run and trio.run
  close while the loop still works, closes the idle connections.

Every step is O(1), apart from closing expired connections.
"""

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
KEEP_ALIVE_SECONDS = 60.0

ConnectFunction = Callable[[Deadline], Awaitable[Connection]]


class Pool:
    """A connection pool; at most `size` connections at once."""

    def __init__(
        self,
        connect: ConnectFunction,
        size: int = MAX_CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._slots = anyio.Semaphore(size, fast_acquire=True)
        self._connects = anyio.Semaphore(MAX_CONCURRENT_CONNECTS, fast_acquire=True)
        self._idle: deque[Connection] = deque()
        self._closed = False
        self._loop_guard: AsyncGenerator[None, None] | None = None

    async def start(self) -> None:
        """Bind the pool to the running event loop.

        asyncio.run and trio.run close suspended async generators while the loop still works.
        """
        self._loop_guard = self._close_with_loop()
        await self._loop_guard.__anext__()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._close_connections()

    async def acquire(self, deadline: Deadline) -> Connection:
        """Return a connection for one exchange; `release` must follow.

        Raises ConfigurationError when the pool is closed.
        """
        deadline.start_phase("queue")
        await _acquire(self._slots, deadline)
        try:
            if self._closed:
                raise ConfigurationError("the provider is closed", code="CLOSED")
            return await self._get_connection(deadline)
        except BaseException:
            self._slots.release()
            raise

    async def _get_connection(self, deadline: Deadline) -> Connection:
        now = self._clock()
        while self._idle and self._idle[0].expires < now:
            await self._idle.popleft().aclose()
        while self._idle:
            connection = self._idle.pop()
            try:
                if connection.stream.is_idle() and not await connection.stream.has_read_ahead():
                    return connection
            except BaseException:
                await connection.aclose()
                raise
            await connection.aclose()
        await _acquire(self._connects, deadline)
        try:
            return await self._connect(deadline)
        finally:
            self._connects.release()

    async def release(self, connection: Connection) -> None:
        """End an exchange: keep a clean connection, close another one, then release the slot."""
        try:
            if not self._closed and connection.is_clean():
                connection.used = True
                connection.expires = self._clock() + KEEP_ALIVE_SECONDS
                self._idle.append(connection)
            else:
                await connection.aclose()
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        """Close idle connections now and others when they are released. Refuse `acquire`."""
        # Another task may close the pool at the same time, and a generator can be closed only once.
        loop_guard, self._loop_guard = self._loop_guard, None
        if loop_guard is not None:
            await loop_guard.aclose()
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
