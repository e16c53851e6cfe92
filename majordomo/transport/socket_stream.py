"""One socket under httpcore's HTTP/1.1 connection. All waiting and all time limits are here.

Theory of operation:

* A `SocketStream` serves one request at a time. `begin` resets it for the next request on the same
  connection: `sent` (bytes of the request were sent), `replied` (bytes of the response arrived).
* Time: each wait opens one cancel scope with `deadline.next_timeout()` and closes it before
  anything else runs. httpcore's own time-outs are not used. While the first byte is awaited, the
  wait is split into ticks, after each of which `deadline.watch` may change the phase.
* Sending: `write` collects bytes until 64 KiB or the next read, so that the head and a small body
  leave in one packet. On TCP, before each further part of a body, the socket is polled: a server
  that responds before it has the whole body may reset the connection, which would lose its
  response. If the socket is full, the stream listens while it sends; what arrives then is kept in
  `_early_response` for the next read, and sending ends with a WriteError, after which httpcore
  reads the response.
* Receiving: bytes pass through `Chunks`. `read` returns what h11 must see, `read_chunks` and
  `read_available` return parts of the body without h11.
* Reuse: `drained` and `is_idle` tell the pool whether something unread may remain.
* Closing: `aclose` is idempotent and shielded. The `Connection` closes the stream, the pool or the
  response closes the `Connection`.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from typing import Any

import anyio
import anyio.abc
from anyio.streams.tls import TLSAttribute

from majordomo.errors import MajordomoError
from majordomo.transport.chunks import Chunks
from majordomo.transport.httpcore_compat import httpcore
from majordomo.transport_types import Deadline

MAX_WRITE_BUFFER_BYTES = 64 * 1024
# As much as an event loop reads at once. With less, each read would be split in two and waited for
# twice.
READ_BYTES = 256 * 1024
POLLIN: int = getattr(select, "POLLIN", 1)
POLLOUT: int = getattr(select, "POLLOUT", 4)
_POLLERR = 8


class SelectPoll:
    """The part of `select.poll` that one socket needs, for systems without it, such as Windows."""

    def __init__(self) -> None:
        self._fd = -1
        self._events = 0

    def register(self, fd: int, events: int) -> None:
        """Set the socket and the events, POLLIN or POLLIN | POLLOUT."""
        self._fd, self._events = fd, events

    def poll(self, timeout_ms: float) -> list[tuple[int, int]]:
        """Return the socket with its events; [] if there is none within `timeout_ms`."""
        fds = [self._fd]
        readable, writable, failed = select.select(
            fds, fds if self._events & POLLOUT else [], fds, timeout_ms / 1000
        )
        events = (
            (POLLIN if readable else 0) | (POLLOUT if writable else 0) | (_POLLERR if failed else 0)
        )
        return [(self._fd, events)] if events else []


create_poll: Any = getattr(select, "poll", SelectPoll)


class SocketStream(httpcore.AsyncNetworkStream):
    """The network stream that httpcore's connection reads from and writes to."""

    def __init__(self, stream: anyio.abc.ByteStream, deadline: Deadline, *, secure: bool) -> None:
        self._stream = stream
        self._secure = secure
        self.deadline: Deadline = deadline
        self._write_buffer: list[bytes] = []
        self._write_buffer_size = 0
        self._read_was_full = False
        self._closed = False
        # Whether bytes of the current request were sent.
        self.sent: bool = False
        # Whether bytes of its response arrived.
        self.replied: bool = False
        raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        self._poll = create_poll()
        self._poll.register(raw.fileno(), POLLIN)
        self._poll_both = create_poll()
        self._poll_both.register(raw.fileno(), POLLIN | POLLOUT)
        self._chunks = Chunks()
        # What was received while a body was being sent.
        self._early_response = b""
        self._ssl: Any = stream.extra(TLSAttribute.ssl_object, None)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Send what is buffered, then return the next bytes for httpcore; b"" at the end.

        Returns up to READ_BYTES, regardless of `max_bytes`.
        """
        if self._write_buffer:
            # A response may have arrived all the same, and it tells more than the write error.
            with contextlib.suppress(httpcore.WriteError):
                await self._flush()
        return self._chunks.release() or self._chunks.feed(await self.read_available(READ_BYTES))

    async def read_available(self, max_bytes: int) -> bytes:
        """Return the next bytes as received, at most `max_bytes` (up to READ_BYTES).

        Returns b"" at the end.
        """
        received = await self._receive(max_bytes)
        # anyio returns up to that many bytes of what it has buffered. After a full read there may
        # be more in its buffer, which polling the socket does not show.
        self._read_was_full = len(received) >= max_bytes
        if received:
            self.replied = True
        return received

    async def read_chunks(self) -> bytes:
        """Return the content of the next chunks of the body.

        Returns b"" when h11 must see what comes next. Raises BadChunkError.
        """
        chunks, data = self._chunks, b""
        while chunks.plain:
            if content := chunks.take(data):
                return content
            if chunks.plain and not (data := await self.read_available(READ_BYTES)):
                # The connection has ended; h11 decides what that means.
                break
        return b""

    async def _receive(self, max_bytes: int) -> bytes:
        if self._early_response:
            data, self._early_response = (
                self._early_response[:max_bytes],
                self._early_response[max_bytes:],
            )
            return data
        deadline = self.deadline
        while True:
            received: bytes | None = None
            wait = deadline.next_timeout()
            watch = deadline.watch if deadline.phase != "idle" else None
            try:
                with anyio.move_on_after(wait if watch is None else min(wait, deadline.tick)):
                    received = await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                raise httpcore.ReadError("connection lost") from None
            if received is not None:
                return received
            if watch is not None:
                # Also when the limit has passed: it may have been the wrong one, because the model
                # is loading.
                await watch()
            if watch is None or deadline.remaining() <= 0:
                # This typed error passes through httpcore unchanged.
                raise deadline.exceeded()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Buffer the bytes; they are sent from 64 KiB on or with the next read."""
        self._write_buffer.append(buffer)
        self._write_buffer_size += len(buffer)
        if self._write_buffer_size >= MAX_WRITE_BUFFER_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        data = (
            self._write_buffer[0] if len(self._write_buffer) == 1 else b"".join(self._write_buffer)
        )
        self._write_buffer, self._write_buffer_size = [], 0
        listen = False
        # A server that responds before it has the whole body (413) may reset the connection, and
        # its response would be lost: poll before each further part. Not on TLS, where session
        # tickets look like a response.
        if self.sent and not self._secure:
            ready = self._poll_both.poll(0)
            if ready and ready[0][1] & ~POLLOUT:
                raise httpcore.WriteError("the server already responded")
            # The socket is full: the server does not read, and may be about to respond.
            listen = not ready
        self.sent = True
        try:
            with anyio.move_on_after(self.deadline.next_timeout()) as scope:
                await (self._send_while_listening(data) if listen else self._stream.send(data))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            raise httpcore.WriteError("connection lost") from None
        if scope.cancelled_caught:
            raise self.deadline.exceeded()
        if self._early_response:
            raise httpcore.WriteError("the server already responded")

    async def _send_while_listening(self, data: bytes) -> None:
        """Send, and stop sending when the server responds. Keep the response for the next read."""
        async with anyio.create_task_group() as group:

            async def listen() -> None:
                try:
                    self._early_response = await self._stream.receive(READ_BYTES)
                except (
                    anyio.EndOfStream,
                    anyio.BrokenResourceError,
                    anyio.ClosedResourceError,
                    OSError,
                ):
                    # The next write or read fails too.
                    return
                group.cancel_scope.cancel()

            async def send() -> None:
                try:
                    await self._stream.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                    send_failed.append(True)
                group.cancel_scope.cancel()

            send_failed: list[bool] = []
            group.start_soon(listen)
            group.start_soon(send)
        if send_failed and not self._early_response:
            raise anyio.BrokenResourceError

    def begin(self, deadline: Deadline) -> None:
        """Start a new request on this socket."""
        self.deadline = deadline
        self.sent = self.replied = False
        self._early_response = b""
        self._write_buffer, self._write_buffer_size = [], 0
        self._chunks = Chunks()

    @property
    def drained(self) -> bool:
        """Whether no received bytes can be buffered above the socket.

        True if the last read did not fill its buffer and no chunk is pending.
        """
        return not self._read_was_full and not self._chunks.has_pending

    def is_idle(self) -> bool:
        """Return whether nothing has arrived: no bytes, no end, no unread TLS record."""
        if self._closed or self._poll.poll(0):
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

    def get_extra_info(self, info: str) -> Any:
        """Return the SSL object for "ssl_object"; None for anything else."""
        return self._ssl if info == "ssl_object" else None


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
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return stream


async def start_tls(
    stream: anyio.abc.ByteStream, host: str, context: ssl.SSLContext
) -> anyio.abc.ByteStream:
    """Start TLS over `stream`. Closes `stream` if that fails or is cancelled."""
    from anyio.streams.tls import TLSStream

    try:
        return await TLSStream.wrap(
            stream, server_side=False, hostname=host, ssl_context=context, standard_compatible=False
        )
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)
        raise
