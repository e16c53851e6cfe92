"""Handwritten HTTP/1.1 for `raw`: one buffer, no checks. It shows the lower bound."""

import asyncio
import re

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
# Shared by all connections: data is consumed before the next read.
READS = memoryview(bytearray(256 * 1024))


class Connection(asyncio.BufferedProtocol):
    """One request at a time.

    A body with a length is received in place; a chunked body is passed on read by read.
    """

    def __init__(self):
        self._done = None
        self._body = None
        self._filled = 0
        self._chunks = None

    def connection_made(self, transport):
        self._transport = transport

    def connection_lost(self, error):
        if self._done and not self._done.done():
            self._done.set_exception(error or ConnectionError("closed by the server"))

    async def request(self, message, on_data=None):
        """Return the body, or None when it was chunked and passed to `on_data` in parts."""
        self._done = asyncio.get_running_loop().create_future()
        self._on_data = on_data
        self._transport.writelines(message)
        return await self._done

    def get_buffer(self, hint):
        return READS if self._body is None else memoryview(self._body)[self._filled :]

    def buffer_updated(self, count):
        if self._body is not None:
            self._filled += count
        elif self._chunks is not None:
            self._chunked(bytes(READS[:count]))
            return
        else:
            head, _, rest = bytes(READS[:count]).partition(b"\r\n\r\n")
            length = LENGTH.search(head)
            if length is None:
                self._chunks = b""
                self._chunked(rest)
                return
            self._body = bytearray(int(length[1]))
            self._body[: len(rest)] = rest
            self._filled = len(rest)
        if self._filled == len(self._body):
            body, self._body = self._body, None
            self._done.set_result(body)

    def _chunked(self, data):
        data = self._chunks + data
        at, parts = 0, []
        while (line := data.find(b"\r\n", at)) > 0:
            size = int(data[at:line], 16)
            end = line + 2 + size
            if len(data) < end + 2:
                break
            parts.append(data[line + 2 : end])
            at = end + 2
            if size == 0:
                self._chunks = None
                self._on_data(b"".join(parts))
                self._done.set_result(None)
                return
        self._chunks = data[at:]
        if parts:
            self._on_data(b"".join(parts))


class Pool:
    def __init__(self, host, port):
        self._address = host, port
        self._idle = []

    async def request(self, path, body, on_data=None):
        """Send a request; `body` is a list of bytes."""
        connection = self._idle.pop() if self._idle else await self._connect()
        length = sum(map(len, body))
        head = (
            b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % (path, length)
        )
        reply = await connection.request([head, *body], on_data)
        self._idle.append(connection)
        return reply

    async def _connect(self):
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, *self._address
        )
        return connection

    def close(self):
        for connection in self._idle:
            connection._transport.abort()
