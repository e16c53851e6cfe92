"""An event loop with asyncio's transports for Windows, on any system.

`asyncio.ProactorEventLoop` exists on Windows only, but its transports are written in Python. They
differ in one respect that matters here: a receive is always in progress, so what arrives while
reading is paused leaves the socket and waits in the transport.
"""

from __future__ import annotations

import asyncio
import errno
import selectors
import socket
from asyncio import proactor_events
from collections.abc import Callable
from typing import Any

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class ReadinessProactor:
    """The operations of `asyncio.IocpProactor` for stream sockets; waits for ready sockets."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._operations: dict[
            tuple[int, int], tuple[asyncio.Future[Any], Callable[[], object]]
        ] = {}
        self._loop: Any = None

    def set_loop(self, loop: object) -> None:
        self._loop = loop

    def close(self) -> None:
        self._selector.close()

    def select(self, timeout: float | None = None) -> list[object]:
        for key, mask in self._selector.select(timeout):
            for event in (READ, WRITE):
                future, operation = self._operations.get((key.fd, event), (None, None))
                if not mask & event or future is None or operation is None or future.done():
                    continue
                try:
                    result = operation()
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._end(key.fd, event)
                    future.set_exception(error)
                else:
                    self._end(key.fd, event)
                    future.set_result(result)
        return []

    def recv(self, conn: socket.socket, size: int, flags: int = 0) -> asyncio.Future[Any]:
        return self._begin(conn, READ, lambda: conn.recv(size, flags))

    def recv_into(
        self, conn: socket.socket, buffer: bytearray, flags: int = 0
    ) -> asyncio.Future[Any]:
        return self._begin(conn, READ, lambda: conn.recv_into(buffer, 0, flags))

    def send(self, conn: socket.socket, data: bytes, flags: int = 0) -> asyncio.Future[Any]:
        left = bytearray(data)

        def operation() -> int:
            # Windows reports the end of the operation when all bytes are sent.
            while left:
                del left[: conn.send(left, flags)]
            return len(data)

        return self._begin(conn, WRITE, operation)

    def connect(self, conn: socket.socket, address: Any) -> asyncio.Future[Any]:
        conn.setblocking(False)
        number = conn.connect_ex(address)

        def operation() -> None:
            if number := conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, "the connection failed")

        assert number in (0, errno.EINPROGRESS), number
        return self._begin(conn, WRITE, operation)

    def _begin(
        self, conn: socket.socket, event: int, operation: Callable[[], object]
    ) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._operations[conn.fileno(), event] = future, operation
        self._update(conn.fileno())
        return future

    def _end(self, fd: int, event: int) -> None:
        self._operations.pop((fd, event), None)
        self._update(fd)

    def _update(self, fd: int) -> None:
        mask = sum(event for event in (READ, WRITE) if (fd, event) in self._operations)
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        if mask:
            self._selector.register(fd, mask)


class ProactorEventLoop(proactor_events.BaseProactorEventLoop):
    """An event loop whose connections are those of `asyncio.ProactorEventLoop`."""

    def __init__(self) -> None:
        super().__init__(ReadinessProactor())

    def run_forever(self) -> None:
        # As on Windows: without it, no other thread could wake the loop.
        self.call_soon(self._loop_self_reading)  # type: ignore[attr-defined]  # of the base class
        try:
            super().run_forever()
        finally:
            if self._self_reading_future is not None:
                self._self_reading_future.cancel()
                self._self_reading_future = None
