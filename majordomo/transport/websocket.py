"""A websocket (RFC 6455) over a socket of our own, spoken by wsproto: the extra `comfyui`. Loaded only when one is wanted."""

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

READ = 64 * 1024
CLOSE_SECONDS = 0.25  # seconds for the closing frame


class WebSocket:
    """Whole messages, each of at most `limit` bytes. One task reads; pings are answered while it does."""

    def __init__(self, stream: anyio.abc.ByteStream, deadline: Deadline, limit: int) -> None:
        self._stream = stream
        self._deadline = deadline
        self._limit = limit
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        self._held: list[str | bytes] = []
        self._size = 0
        self._ended = (
            False  # the other side has closed, or what it says cannot be followed any more
        )
        self._closed = False

    async def handshake(self, host: str, target: str, headers: Headers) -> None:
        """The handshake. Raises NotFoundError or BadResponseError when the server speaks no websocket there, and closes then."""
        ours = [
            (name, value) for name, value in headers if name.lower() != b"host"
        ]  # wsproto writes that one
        self._deadline.start_phase("first_byte")
        try:
            await self._send(Request(host=host, target=target, extra_headers=ours))
            while True:
                event = await self._next()
                if isinstance(event, AcceptConnection):
                    break
                if isinstance(event, RejectConnection):
                    kind = NotFoundError if event.status_code == 404 else BadResponseError
                    raise kind(
                        f"no websocket there (HTTP {event.status_code})",
                        code="NO_WEBSOCKET",
                        status=event.status_code,
                    )
                if event is None or not isinstance(event, RejectData):
                    raise BadResponseError("no websocket there", code="NO_WEBSOCKET")
        except BaseException:
            await self.aclose()
            raise
        self._deadline.start_phase("idle")

    async def send(self, message: str) -> None:
        """Raises ConnectionFailedError when it cannot leave, DeadlineExceededError (phase idle) when it does not in time."""
        await self._send(TextMessage(message))

    async def receive(self) -> str | bytes | None:
        """See MessageStream. Raises BadResponseError (TOO_LARGE) for a message beyond the limit, before it has come whole."""
        while (event := await self._next()) is not None:
            if isinstance(event, Ping):
                if (
                    self._protocol.state is not ConnectionState.OPEN
                ):  # a farewell came right behind it
                    continue
                await self._send(event.response())
            elif isinstance(event, CloseConnection):
                self._ended = True
                if (
                    self._protocol.state is ConnectionState.OPEN
                ):  # wsproto's own verdict, not the other side's word
                    raise self._broken()
                if self._protocol.state is ConnectionState.CLOSED:
                    raise self._lost()
                await self._send(event.response())
            elif isinstance(event, (TextMessage, BytesMessage)):
                # Text is counted in characters: at most four times fewer than its bytes, and the limit guards memory, not manners
                self._size += len(event.data)
                if self._size > self._limit:
                    self._ended = True
                    raise BadResponseError(
                        f"a message is larger than the limit of {self._limit:,} bytes",
                        code="TOO_LARGE",
                    )
                self._held.append(event.data if isinstance(event.data, str) else bytes(event.data))
                if event.message_finished:
                    return self._whole()
        return None

    def _whole(self) -> str | bytes:
        held, self._held, self._size = self._held, [], 0
        if len(held) == 1:
            return held[0]
        texts = [piece for piece in held if isinstance(piece, str)]
        return (
            "".join(texts)
            if texts
            else b"".join(piece for piece in held if isinstance(piece, bytes))
        )

    async def _next(self) -> Event | None:
        """The next event; None at the end."""
        while not self._events:
            if self._ended or self._closed:
                return None
            data: bytes | None = b""
            try:
                with anyio.move_on_after(self._deadline.next_timeout()) as scope:
                    data = await self._stream.receive(READ)
            except anyio.EndOfStream:
                data = None
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                raise self._lost() from None
            if scope.cancelled_caught:
                raise self._deadline.exceeded()
            try:
                self._protocol.receive_data(data)
                self._events = list(self._protocol.events())
            except ProtocolError:
                self._ended = True
                raise self._broken() from None
            self._ended = self._ended or data is None
        return self._events.pop(0)

    async def _send(self, event: Event) -> None:
        try:
            data = self._protocol.send(event)
            with anyio.move_on_after(self._deadline.next_timeout()) as scope:
                await self._stream.send(data)
        except (ProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            raise self._lost() from None
        if scope.cancelled_caught:
            raise self._deadline.exceeded()

    @staticmethod
    def _lost() -> ConnectionFailedError:
        return ConnectionFailedError("the websocket was lost", details={"replied": True})

    @staticmethod
    def _broken() -> BadResponseError:
        return BadResponseError(
            "what comes over the websocket breaks its rules", code="NOT_WEBSOCKET"
        )

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            # It may be closed already, or was never open
            with (
                anyio.move_on_after(CLOSE_SECONDS),
                suppress(
                    ProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError
                ),
            ):
                await self._stream.send(self._protocol.send(CloseConnection(1000)))
            await anyio.aclose_forcefully(self._stream)
