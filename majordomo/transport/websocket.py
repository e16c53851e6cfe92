"""Websockets (RFC 6455) over a socket of our own, with wsproto (extra `comfyui`).

Imported only when a websocket is opened. The protocol state is wsproto's; this module does the
waiting, enforces the message limit and closes the socket.
"""

from __future__ import annotations

from contextlib import suppress

import anyio
import anyio.abc
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from majordomo.errors import BadResponseError, ConnectionFailedError, NotFoundError
from majordomo.transport.base_url import Headers
from majordomo.transport_types import Deadline

READ_BYTES = 64 * 1024
# Time limit for sending the closing frame.
CLOSE_SECONDS = 0.25


class WebSocket:
    """A client websocket with complete messages of at most `limit` bytes.

    Only one task may read. Pings are answered while it does.
    """

    def __init__(self, stream: anyio.abc.ByteStream, deadline: Deadline, limit: int) -> None:
        self._stream = stream
        self._deadline = deadline
        self._limit = limit
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        self._fragments: list[str | bytes] = []
        self._message_size = 0
        # The server has closed, or broken the protocol so that nothing can follow.
        self._ended = False
        self._closed = False

    async def handshake(self, host: str, target: str, headers: Headers) -> None:
        """Perform the opening handshake.

        Raises NotFoundError or BadResponseError, and closes the socket, if there is no websocket at
        `target`.
        """
        # wsproto writes the Host header itself.
        extra_headers = [(name, value) for name, value in headers if name.lower() != b"host"]
        self._deadline.start_phase("first_byte")
        try:
            await self._send(Request(host=host, target=target, extra_headers=extra_headers))
            while True:
                event = await self._next_event()
                if isinstance(event, AcceptConnection):
                    break
                if isinstance(event, RejectConnection):
                    error_type = NotFoundError if event.status_code == 404 else BadResponseError
                    raise error_type(
                        f"the server refused the websocket (HTTP {event.status_code})",
                        code="NO_WEBSOCKET",
                        status=event.status_code,
                    )
                if event is None or not isinstance(event, RejectData):
                    raise BadResponseError(
                        "the server did not open a websocket", code="NO_WEBSOCKET"
                    )
        except BaseException:
            await self.aclose()
            raise
        self._deadline.start_phase("idle")

    async def send(self, message: str) -> None:
        """Send a text message.

        Raises ConnectionFailedError if the connection is lost, DeadlineExceededError (phase idle)
        if sending takes too long.
        """
        await self._send(TextMessage(message))

    async def receive(self) -> str | bytes | None:
        """Return the next message, or None after the server has closed the websocket.

        Raises BadResponseError (`TOO_LARGE`) for a message beyond the limit, before all of it has
        arrived.
        """
        while (event := await self._next_event()) is not None:
            if isinstance(event, Ping):
                # A closing frame followed the ping immediately.
                if self._protocol.state is not ConnectionState.OPEN:
                    continue
                await self._send(event.response())
            elif isinstance(event, CloseConnection):
                self._ended = True
                # In this state the event comes from wsproto, which detected a protocol error, and
                # not from the server.
                if self._protocol.state is ConnectionState.OPEN:
                    raise self._protocol_error()
                if self._protocol.state is ConnectionState.CLOSED:
                    raise self._connection_lost()
                await self._send(event.response())
            elif isinstance(event, (TextMessage, BytesMessage)):
                # Text is counted in characters. That under-counts its bytes by at most 4x, which is
                # fine for a bound on memory.
                self._message_size += len(event.data)
                if self._message_size > self._limit:
                    self._ended = True
                    raise BadResponseError(
                        f"a websocket message is larger than the limit of {self._limit:,} bytes",
                        code="TOO_LARGE",
                    )
                self._fragments.append(
                    event.data if isinstance(event.data, str) else bytes(event.data)
                )
                if event.message_finished:
                    return self._join_fragments()
        return None

    def _join_fragments(self) -> str | bytes:
        fragments, self._fragments, self._message_size = self._fragments, [], 0
        if len(fragments) == 1:
            return fragments[0]
        texts = [fragment for fragment in fragments if isinstance(fragment, str)]
        return (
            "".join(texts)
            if texts
            else b"".join(fragment for fragment in fragments if isinstance(fragment, bytes))
        )

    async def _next_event(self) -> Event | None:
        """Return the next event; None at the end."""
        while not self._events:
            if self._ended or self._closed:
                return None
            data: bytes | None = b""
            try:
                with anyio.move_on_after(self._deadline.next_timeout()) as scope:
                    data = await self._stream.receive(READ_BYTES)
            except anyio.EndOfStream:
                data = None
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                raise self._connection_lost() from None
            if scope.cancelled_caught:
                raise self._deadline.exceeded()
            try:
                self._protocol.receive_data(data)
                self._events = list(self._protocol.events())
            except ProtocolError:
                self._ended = True
                raise self._protocol_error() from None
            self._ended = self._ended or data is None
        return self._events.pop(0)

    async def _send(self, event: Event) -> None:
        try:
            data = self._protocol.send(event)
            with anyio.move_on_after(self._deadline.next_timeout()) as scope:
                await self._stream.send(data)
        except (ProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            raise self._connection_lost() from None
        if scope.cancelled_caught:
            raise self._deadline.exceeded()

    @staticmethod
    def _connection_lost() -> ConnectionFailedError:
        return ConnectionFailedError("the websocket connection was lost", details={"replied": True})

    @staticmethod
    def _protocol_error() -> BadResponseError:
        return BadResponseError("the server violated the websocket protocol", code="NOT_WEBSOCKET")

    async def aclose(self) -> None:
        """Send a closing frame and close the socket. Calling it twice is allowed."""
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            # The websocket may be closed already, or may never have been open.
            with (
                anyio.move_on_after(CLOSE_SECONDS),
                suppress(
                    ProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError
                ),
            ):
                await self._stream.send(self._protocol.send(CloseConnection(1000)))
            await anyio.aclose_forcefully(self._stream)
