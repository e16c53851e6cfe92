"""One socket under an HTTP connection. All waiting and all time limits are here.

Theory of operation:

* A `SocketStream` serves one request at a time. `begin` resets it for the next request on the same
  connection: `sent` (bytes of the request were sent), `replied` (bytes of the response arrived).
* Time: each wait opens one cancel scope with `deadline.next_timeout()` and closes it before
  anything else runs. While the first byte is awaited, the wait is split into ticks, after each of
  which `deadline.watch` may change the phase.
* Sending: parts of a request are joined up to 64 KiB, so that the head and a small body leave in
  one packet. What is longer than an empty socket takes at once may have to wait for the server, so
  on TCP a task listens until it is sent: a server may respond before it has the whole body, and
  then stop reading. `send` passes what arrives to its caller, which knows whether it ends the
  request, as a final response does, or not, as an informational (1xx) response does not.
* Reuse: `drained`, `is_idle` and, where the event loop reads ahead, `has_read_ahead` tell the pool
  whether something unread may remain.
* Closing: `aclose` is idempotent and shielded. The `Connection` closes the stream, the pool or the
  response closes the `Connection`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from majordomo.concurrency.companion_task import run_with_companion
from majordomo.concurrency.loop_wakeup import running_trio
from majordomo.errors import MajordomoError
from majordomo.transport_types import Deadline

MAX_WRITE_BUFFER_BYTES = 64 * 1024
# As much as an event loop reads at once. With less, each read would be split in two and waited for
# twice.
READ_BYTES = 256 * 1024
READABLE = 1
WRITABLE = 4

# What anyio raises when the connection is lost, or was closed by another task.
_LOST = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class ConnectionLostError(Exception):
    """The connection failed, or was closed here."""


def poll_socket(fd: int, events: int) -> int:
    """Return which of the events a socket has now. READABLE includes the end and errors.

    A socket that cannot be polled is taken for writable, or else for readable: it can send a
    request, but is not reused.
    """
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fd, events)
        ready = poll.poll(0)
        # POLLIN and POLLOUT have the values of READABLE and WRITABLE. Other bits are errors.
        return (ready[0][1] & WRITABLE) | bool(ready[0][1] & ~WRITABLE) if ready else 0
    # Windows.
    try:
        readable, writable, failed = select.select([fd], [fd] if events & WRITABLE else [], [fd], 0)
    except (ValueError, OSError):
        # The number of the file descriptor is too large, or the socket is closed.
        return events & WRITABLE or READABLE
    return (READABLE if readable or failed else 0) | (WRITABLE if writable else 0)


def _loop_reads_ahead() -> bool:
    """Return whether the running event loop reads from sockets before it is asked to."""
    # Loaded by asyncio on Windows only.
    proactor = sys.modules.get("asyncio.proactor_events")
    if proactor is None or running_trio() is not None:
        return False
    return isinstance(sys.modules["asyncio"].get_running_loop(), proactor.BaseProactorEventLoop)


class SocketStream:
    """The bytes that a connection sends and receives."""

    __slots__ = (
        "_closed",
        "_fd",
        "_free_bytes",
        "_loop_reads_ahead",
        "_read_was_full",
        "_secure",
        "_ssl",
        "_stream",
        "deadline",
        "replied",
        "sent",
    )

    def __init__(self, stream: anyio.abc.ByteStream, deadline: Deadline, *, secure: bool) -> None:
        self._stream = stream
        self._secure = secure
        self.deadline: Deadline = deadline
        self._read_was_full = False
        self._closed = False
        # Whether bytes of the current request were sent.
        self.sent: bool = False
        # Whether bytes of its response arrived.
        self.replied: bool = False
        raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        self._fd: int = raw.fileno()
        # What the socket takes at once when it is empty. The system counts its own structures too,
        # which on Linux are up to 60% of the buffer, in small packets.
        self._free_bytes: int = raw.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 3
        self._loop_reads_ahead = _loop_reads_ahead()
        self._ssl: Any = None
        if secure:
            from anyio.streams.tls import TLSAttribute

            self._ssl = stream.extra(TLSAttribute.ssl_object)

    def begin(self, deadline: Deadline) -> None:
        """Start a new request on this socket."""
        self.deadline = deadline
        self.sent = self.replied = False

    async def receive(self) -> bytes:
        """Return the next bytes, at most READ_BYTES; b"" at the end.

        Raises ConnectionLostError and DeadlineExceededError.
        """
        received: bytes | None = None
        deadline = self.deadline
        while received is None:
            wait = deadline.next_timeout()
            watch = deadline.watch if deadline.phase != "idle" else None
            try:
                with anyio.move_on_after(wait if watch is None else min(wait, deadline.tick)):
                    received = await self._receive()
            except _LOST:
                raise ConnectionLostError from None
            if received is None:
                if watch is not None:
                    # Also when the limit has passed: it may have been the wrong one, because the
                    # model is loading.
                    await watch()
                if watch is None or deadline.remaining() <= 0:
                    raise deadline.exceeded()
        return received

    async def _receive(self) -> bytes:
        """Return the next bytes, b"" at the end, without a time limit."""
        try:
            received = await self._stream.receive(READ_BYTES)
        except anyio.EndOfStream:
            received = b""
        # anyio returns up to that many bytes of what it has buffered. After a full read there may
        # be more in its buffer, which polling the socket does not show.
        self._read_was_full = len(received) >= READ_BYTES
        self.replied = self.replied or bool(received)
        return received

    async def send(self, parts: Iterable[bytes], on_receive: Callable[[bytes], bool]) -> bool:
        """Send the parts of a request; return whether all of them were sent.

        If not, the server has responded already, or the connection is lost. In both cases the
        response is to be read: it tells more than the error.

        Args:
            parts: The parts, at least one.
            on_receive: Called with what arrives before everything is sent, b"" at the end. It
                returns whether the server has responded, so that sending ends.
        """
        blocks = _join(parts)
        # Not on TLS, where a receive that has to send cannot run beside a send.
        if self._secure:
            return await self._send(blocks)
        block = next(blocks)
        if len(block) <= self._free_bytes:
            if not await self._send([block]):
                return False
            block = next(blocks, b"")
            if not block:
                return True
        return await self._send_while_listening(chain([block], blocks), on_receive)

    async def _send(self, blocks: Iterable[bytes]) -> bool:
        for block in blocks:
            self.sent = True
            try:
                with anyio.move_on_after(self.deadline.next_timeout()) as scope:
                    await self._stream.send(block)
            except _LOST:
                return False
            if scope.cancelled_caught:
                raise self.deadline.exceeded()
        return True

    async def _send_while_listening(
        self, blocks: Iterable[bytes], on_receive: Callable[[bytes], bool]
    ) -> bool:
        sending = anyio.CancelScope()

        async def send() -> bool:
            with sending:
                for block in blocks:
                    # If sending fails because the server has reset the connection, asyncio drops
                    # what it has not received. `listen` receives it, or ends the sending.
                    while poll_socket(self._fd, READABLE | WRITABLE) & READABLE:
                        await anyio.lowlevel.checkpoint()
                    if not await self._send([block]):
                        return False
                return True
            return False

        async def listen() -> None:
            # If the connection is lost, sending or the next receive fails too.
            with contextlib.suppress(*_LOST):
                received = await self._receive()
                while not on_receive(received) and received:
                    received = await self._receive()
            sending.cancel()

        return await run_with_companion(send, listen)

    @property
    def drained(self) -> bool:
        """Whether no received bytes can be buffered above the socket."""
        return not self._read_was_full

    def is_idle(self) -> bool:
        """Return whether nothing has arrived: no bytes, no end, no unread TLS record."""
        if self._closed or poll_socket(self._fd, READABLE):
            return False
        if self._ssl is None:
            return True
        try:
            self._ssl.read(1)
        except ssl.SSLWantReadError:
            return True
        except (ssl.SSLError, OSError, ValueError):
            return False
        return False

    async def has_read_ahead(self) -> bool:
        """Return whether the event loop has received something before it was asked to.

        asyncio on Windows always has a receive under way. What arrives between two requests waits
        above the socket then, where polling does not see it.
        """
        if not self._loop_reads_ahead:
            return False
        found: list[bytes] = []

        async def receive() -> None:
            try:
                found.append(await self._stream.receive(1))
            except (anyio.EndOfStream, *_LOST):
                found.append(b"")

        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            # The task starts in the first turn of the event loop and takes what is there.
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        return bool(found)

    async def aclose(self) -> None:
        """Close the socket. Calling it twice is allowed."""
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            try:
                await anyio.aclose_forcefully(self._stream)
            except RuntimeError:
                # The event loop is closed, and the garbage collector closes the socket. Shut it
                # down so that the server sees the end before that.
                with contextlib.suppress(OSError):
                    self._stream.extra(anyio.abc.SocketAttribute.raw_socket).shutdown(
                        socket.SHUT_RDWR
                    )


def _join(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts, joined until there are MAX_WRITE_BUFFER_BYTES."""
    pending: list[bytes] = []
    size = 0
    for part in parts:
        pending.append(part)
        size += len(part)
        if size >= MAX_WRITE_BUFFER_BYTES:
            yield b"".join(pending)
            pending, size = [], 0
    if size:
        yield b"".join(pending)


async def connect_tcp(host: str, port: int) -> anyio.abc.ByteStream:
    """Open a TCP connection with keep-alive probes.

    Models load for minutes, and the probes detect that the server has vanished meanwhile.
    """
    try:
        stream = await anyio.connect_tcp(host, port)
    except BaseExceptionGroup as group:
        # A ban on connections in this process raises a typed error, which anyio wraps in groups.
        match = group.subgroup(MajordomoError)
        if match is None:
            raise
        while isinstance(match, BaseExceptionGroup):
            match = match.exceptions[0]  # type: ignore[assignment]  # ends at the error itself
        raise match from None
    except ValueError:
        # anyio groups the errors of all addresses, and there was no address.
        raise OSError("the name has no address") from None
    raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
    try:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError:
        # For example because the server has closed the connection already.
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)
        raise
    return stream


async def start_tls(
    stream: anyio.abc.ByteStream, host: str, context: ssl.SSLContext
) -> anyio.abc.ByteStream:
    """Start TLS over `stream`. The caller closes `stream` if that fails or is cancelled."""
    from anyio.streams.tls import TLSStream

    return await TLSStream.wrap(
        stream, server_side=False, hostname=host, ssl_context=context, standard_compatible=False
    )
