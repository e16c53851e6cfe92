"""HTTP/1.1 by hand for `raw`: one buffer, no checks, nothing a product could do without. It shows where the floor is."""

import asyncio
import re

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
READS = memoryview(
    bytearray(256 * 1024)
)  # what is read is used up before the next read, whichever connection it is for


class Connection(asyncio.BufferedProtocol):
    """One request at a time. A reply with a length is received in place; a chunked one is handed over read by read."""

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
        """The body of the reply; or None when it was chunked and went to `on_data` in pieces."""
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
        at, pieces = 0, []
        while (line := data.find(b"\r\n", at)) > 0:
            size = int(data[at:line], 16)
            end = line + 2 + size
            if len(data) < end + 2:
                break
            pieces.append(data[line + 2 : end])
            at = end + 2
            if size == 0:
                self._chunks = None
                self._on_data(b"".join(pieces))
                self._done.set_result(None)
                return
        self._chunks = data[at:]
        if pieces:
            self._on_data(b"".join(pieces))


class Pool:
    def __init__(self, host, port):
        self._address = host, port
        self._idle = []

    async def request(self, path, body, on_data=None):
        """`body` is a list of bytes, sent as they are."""
        connection = self._idle.pop() if self._idle else await self._dial()
        length = sum(map(len, body))
        head = (
            b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            % (path, length)
        )
        reply = await connection.request([head, *body], on_data)
        self._idle.append(connection)
        return reply

    async def _dial(self):
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, *self._address
        )
        return connection

    def close(self):
        for connection in self._idle:
            connection._transport.abort()
