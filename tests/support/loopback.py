"""A raw HTTP server on the loopback interface.

It sees every byte and may break any rule of HTTP. It does not depend on how the client works.
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ReceivedRequest:
    """A request that the server received completely."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Peer:
    """The server side of one connection."""

    socket: socket.socket
    server: Loopback
    number: int
    _buffer: bytes = b""
    closed_by_client: threading.Event = field(default_factory=threading.Event)
    _thread: int = field(default_factory=threading.get_ident)

    def request(self) -> ReceivedRequest | None:
        """Return the next complete request; None after the client has disconnected."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._receive_more():
                return None
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        request_line, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = request_line.split(" ")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        length = int(headers.get("content-length", 0))
        self._buffer = rest
        while len(self._buffer) < length:
            if not self._receive_more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        received = ReceivedRequest(method, path, headers, body)
        self.server.requests.append(received)
        return received

    def receive(self) -> bytes:
        """Return the bytes that follow the last request; b"" after the client has disconnected."""
        data = self._buffer or self.socket.recv(1 << 16)
        self._buffer = b""
        return data

    def _receive_more(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self.closed_by_client.set()
            return False
        self._buffer += data
        return True

    def wait_for_close(self, seconds: float = 5) -> bool:
        """Return whether the client closes its side in time."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        self.closed_by_client.set()
        return True

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def send_and_end(self, data: bytes) -> None:
        """Send these bytes and the end of the connection in one packet."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            self.socket.sendall(data)
            self.socket.shutdown(socket.SHUT_WR)

    def reply(
        self,
        body: bytes | str | dict[str, Any] = b"",
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a well-formed response with a Content-Length."""
        self.send(http_response(body, status, headers))

    def begin(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send the head of a chunked response."""
        all_headers = {
            "content-type": "text/event-stream",
            "transfer-encoding": "chunked",
            **(headers or {}),
        }
        self.send(f"HTTP/1.1 {status} X\r\n{_encode_headers(all_headers)}\r\n".encode())

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        """Close with a TCP reset."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()

    def close(self) -> None:
        """End the connection at once.

        Only the thread that serves the connection closes the file descriptor. That thread may be
        about to read; if another thread closed it, the number could already belong to the socket
        of the next test, and the read would take that socket's bytes.
        """
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        if threading.get_ident() == self._thread:
            with contextlib.suppress(OSError):
                self.socket.close()


Handler = Callable[[Peer], None]


class Loopback:
    """A server.

    `requests` lists the complete requests in order, and `connections` counts connections.
    """

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.requests: list[ReceivedRequest] = []
        self.peers: list[Peer] = []
        self._handler = handler
        self._tls = tls
        self._socket = socket.create_server(("127.0.0.1", port), backlog=2048)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept, name="Loopback", daemon=True)
        self._accepting.start()

    @property
    def connections(self) -> int:
        return len(self.peers)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(
                target=self._serve, args=(accepted,), name="Loopback", daemon=True
            ).start()

    def _serve(self, accepted: socket.socket) -> None:
        if self._tls is not None:
            try:
                accepted = self._tls.wrap_socket(accepted, server_side=True)
            except (OSError, ssl.SSLError):
                accepted.close()
                return
        peer = Peer(accepted, self, len(self.peers))
        self.peers.append(peer)
        try:
            # The test may end, and close the server, before its handler ends.
            with contextlib.suppress(OSError):
                self._handler(peer)
        finally:
            peer.close()

    def close(self) -> None:
        try:
            # This wakes the accepting thread.
            self._socket.shutdown(socket.SHUT_RDWR)
            self._accepting.join()
        except OSError:
            # The socket is closed already, or this system does not wake the thread.
            pass
        self._socket.close()
        for peer in self.peers:
            peer.close()


def http_response(
    body: bytes | str | dict[str, Any] = b"",
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> bytes:
    """Return the bytes of a well-formed response with a Content-Length."""
    data = (
        json.dumps(body).encode()
        if isinstance(body, dict)
        else body.encode()
        if isinstance(body, str)
        else body
    )
    all_headers = {
        "content-type": "application/json",
        "content-length": str(len(data)),
        **(headers or {}),
    }
    return f"HTTP/1.1 {status} X\r\n{_encode_headers(all_headers)}\r\n".encode() + data


def _encode_headers(headers: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def reply_with(*replies: bytes) -> Handler:
    """Return a handler that sends these replies in turn, and the last one from then on."""

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(replies[min(len(peer.server.requests), len(replies)) - 1])

    return handler


def chat_completion(text: str, **fields: Any) -> dict[str, Any]:
    """Return a complete chat completion."""
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m-2026",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        **fields,
    }


def delta(content: dict[str, Any] | str, finish: str | None = None, **fields: Any) -> bytes:
    """Return one event of a chat stream."""
    delta = {"content": content} if isinstance(content, str) else content
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m-2026",
        "choices": [choice],
        **fields,
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def images_reply(*images: bytes, **fields: Any) -> dict[str, Any]:
    """Return a complete response of an image route."""
    return {
        "created": 1,
        "data": [{"b64_json": base64.b64encode(data).decode()} for data in images],
        **fields,
    }
