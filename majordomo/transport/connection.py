"""One HTTP/1.1 connection, and whether it can be reused."""

from __future__ import annotations

from collections.abc import Iterator

from majordomo.errors import InvalidRequestError
from majordomo.transport.response_parser import ResponseParser
from majordomo.transport.socket_stream import READ_BYTES, SocketStream
from majordomo.transport_types import Deadline, StreamingBody


class Connection:
    """A socket stream and the parser of the current response."""

    __slots__ = ("_request_sent", "expires", "response", "stream", "used")

    def __init__(self, stream: SocketStream) -> None:
        self.stream: SocketStream = stream
        self.response: ResponseParser = ResponseParser()
        self._request_sent = False
        # Whether a response has been read from this connection before.
        self.used: bool = False
        # When the pool closes the idle connection, by the pool's clock.
        self.expires: float = 0.0

    async def exchange(
        self, method: str, head: bytes, body: bytes | StreamingBody, deadline: Deadline
    ) -> bytes:
        """Send a request and receive the head of the response; return what follows it.

        Check `response.failed` afterwards. Raises InvalidRequestError if the body does not have its
        length, ConnectionLostError, and DeadlineExceededError.
        """
        self.stream.begin(deadline)
        self.response = ResponseParser(method)
        # False also if sending fails: a request of which a part is missing is not over.
        self._request_sent = False
        content = b""

        def process_early(received: bytes) -> bool:
            nonlocal content
            content = self._feed(received)
            return self._has_response()

        self._request_sent = await self.stream.send(_parts(head, body), process_early)
        while not self._has_response():
            content = await self.receive()
        return content

    def _has_response(self) -> bool:
        """Return whether the head of the final response has arrived, or cannot arrive any more."""
        return bool(self.response.status or self.response.failed)

    async def receive(self) -> bytes:
        """Return the content in the next bytes that arrive; b"" may also mean that there is none.

        Check `response.failed` afterwards. Raises ConnectionLostError and DeadlineExceededError.
        """
        return self._feed(await self.stream.receive())

    def _feed(self, received: bytes) -> bytes:
        if received:
            return self.response.feed(received)
        self.response.feed_end()
        return b""

    def is_clean(self) -> bool:
        """Return whether the last exchange is over and left nothing behind.

        The request was sent, the response is complete, nothing followed it, and the last read did
        not fill its buffer.
        """
        return self._request_sent and self.response.reusable and self.stream.drained

    async def aclose(self) -> None:
        """Close the socket. Calling it twice is allowed."""
        await self.stream.aclose()


def _parts(head: bytes, body: bytes | StreamingBody) -> Iterator[bytes]:
    yield head
    if isinstance(body, bytes):
        for at in range(0, len(body), READ_BYTES):
            yield body[at : at + READ_BYTES]
        return
    remaining = body.length
    for chunk in body.chunks():
        remaining -= len(chunk)
        if remaining < 0:
            break
        yield chunk
    if remaining:
        raise InvalidRequestError(
            f"the request body must have {body.length:,} bytes, as it declares; it is"
            f" {'longer' if remaining < 0 else 'shorter'}",
            field="body",
        )
