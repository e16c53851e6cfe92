"""One socket: all waiting and all time limits are here, one scope per wait, none open while anything else runs."""

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

MAX_BUFFER = 64 * 1024
READ = (
    256 * 1024
)  # as much as an event loop takes at once: with less, every piece is cut in two and waited for twice


class SocketStream(httpcore.AsyncNetworkStream):
    """What httpcore's connection reads from and writes to. httpcore's own time-outs stay unset; `deadline` is asked before every wait."""

    def __init__(self, stream: anyio.abc.ByteStream, deadline: Deadline, *, secure: bool) -> None:
        self._stream = stream
        self._secure = secure
        self.deadline: Deadline = deadline
        self._held: list[bytes] = []
        self._held_size = 0
        self._filled = False
        self._closed = False
        self.sent: bool = False  # whether bytes of the present request have left
        self.replied: bool = False  # whether bytes of its answer have arrived
        raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        self._poll = select.poll()
        self._poll.register(raw.fileno(), select.POLLIN)
        self._poll_both = select.poll()
        self._poll_both.register(raw.fileno(), select.POLLIN | select.POLLOUT)
        self._chunks = Chunks()
        self._early = b""  # what was read while a body was still being sent
        self._ssl: Any = stream.extra(TLSAttribute.ssl_object, None)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next bytes for httpcore, b"" at the end: up to READ, though it would take fewer. Sends what is held first."""
        if self._held:
            with contextlib.suppress(
                httpcore.WriteError
            ):  # an answer may be there all the same, and says more
                await self._flush()
        return self._chunks.release() or self._chunks.feed(await self.read_available(READ))

    async def read_available(self, most: int) -> bytes:
        """The next bytes as they come, at most so many (up to READ); b"" at the end."""
        received = await self._received(most)
        # anyio hands out what it has up to that many bytes: a full piece may have more behind it, above the socket
        self._filled = len(received) >= most
        if received:
            self.replied = True
        return received

    async def read_chunks(self) -> bytes:
        """What the next chunks of the body hold; b"" where the protocol library must see what comes. Raises BadChunkError."""
        chunks, data = self._chunks, b""
        while chunks.plain:
            if text := chunks.take(data):
                return text
            if chunks.plain and not (data := await self.read_available(READ)):
                break  # the end: it says what that means
        return b""

    async def _received(self, most: int) -> bytes:
        if self._early:
            data, self._early = self._early[:most], self._early[most:]
            return data
        deadline = self.deadline
        while True:
            received: bytes | None = None
            wait = deadline.next_timeout()
            watch = deadline.watch if deadline.phase != "idle" else None
            try:
                with anyio.move_on_after(wait if watch is None else min(wait, deadline.tick)):
                    received = await self._stream.receive(most)
            except anyio.EndOfStream:
                return b""
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                raise httpcore.ReadError("connection lost") from None
            if received is not None:
                return received
            if watch is not None:
                await (
                    watch()
                )  # even when the limit has passed: it may have been the wrong one, the model loads
            if watch is None or deadline.remaining() <= 0:
                raise deadline.exceeded()  # ours, and typed: it passes through httpcore untouched

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Held until 64 KiB or the next read, so that head and small body leave in one packet."""
        self._held.append(buffer)
        self._held_size += len(buffer)
        if self._held_size >= MAX_BUFFER:
            await self._flush()

    async def _flush(self) -> None:
        data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held, self._held_size = [], 0
        watched = False
        # A server that answers before it has the whole body (413) may reset the connection, and its answer would be lost:
        # look before each further piece. Not on TLS, where session tickets look like an answer.
        if self.sent and not self._secure:
            ready = self._poll_both.poll(0)
            if ready and ready[0][1] & ~select.POLLOUT:
                raise httpcore.WriteError("the server already answers")
            watched = (
                not ready
            )  # the socket is full: the server does not read, it may be about to answer
        self.sent = True
        try:
            with anyio.move_on_after(self.deadline.next_timeout()) as scope:
                await (self._send_watching(data) if watched else self._stream.send(data))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            raise httpcore.WriteError("connection lost") from None
        if scope.cancelled_caught:
            raise self.deadline.exceeded()
        if self._early:
            raise httpcore.WriteError("the server already answers")

    async def _send_watching(self, data: bytes) -> None:
        """Send while listening. What the server says meanwhile is kept for the next read, and ends the sending."""
        async with anyio.create_task_group() as group:

            async def listen() -> None:
                try:
                    self._early = await self._stream.receive(READ)
                except (
                    anyio.EndOfStream,
                    anyio.BrokenResourceError,
                    anyio.ClosedResourceError,
                    OSError,
                ):
                    return  # the next write or read meets it too
                group.cancel_scope.cancel()

            async def send() -> None:
                try:
                    await self._stream.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                    broken.append(True)
                group.cancel_scope.cancel()

            broken: list[bool] = []
            group.start_soon(listen)
            group.start_soon(send)
        if broken and not self._early:
            raise anyio.BrokenResourceError

    def begin(self, deadline: Deadline) -> None:
        """A new request starts on this socket."""
        self.deadline = deadline
        self.sent = self.replied = False
        self._early = b""
        self._held, self._held_size = [], 0
        self._chunks = Chunks()

    @property
    def drained(self) -> bool:
        """Whether nothing can wait above the socket: the last read did not fill its buffer, and nothing of it is held back."""
        return not self._filled and not self._chunks.holds

    def is_silent(self) -> bool:
        """Whether nothing at all has come since: no bytes, no end, no unread TLS record."""
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
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            try:
                await anyio.aclose_forcefully(self._stream)
            except RuntimeError:  # its event loop is closed, and the collector's are its sockets; the other side need not wait for that
                with contextlib.suppress(OSError):
                    self._stream.extra(anyio.abc.SocketAttribute.raw_socket).shutdown(
                        socket.SHUT_RDWR
                    )

    def get_extra_info(self, info: str) -> Any:
        return self._ssl if info == "ssl_object" else None


async def connect_tcp(host: str, port: int) -> anyio.abc.ByteStream:
    """A TCP connection that notices, in time, when the other side is gone: models load for minutes."""
    try:
        stream = await anyio.connect_tcp(host, port)
    except BaseExceptionGroup as group:
        found = group.subgroup(
            MajordomoError
        )  # a ban on connections in this process refuses in its own words, which anyio wraps
        if found is None:
            raise
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]  # type: ignore[assignment]  # down to the error itself
        raise found from None
    except ValueError:  # anyio makes a group of the failures of all addresses, and there was none
        raise OSError("the name has no address") from None
    raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return stream


async def start_tls(
    stream: anyio.abc.ByteStream, host: str, context: ssl.SSLContext
) -> anyio.abc.ByteStream:
    """TLS over `stream`, which is closed when that fails or is cancelled."""
    from anyio.streams.tls import TLSStream

    try:
        return await TLSStream.wrap(
            stream, server_side=False, hostname=host, ssl_context=context, standard_compatible=False
        )
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.aclose_forcefully(stream)
        raise
