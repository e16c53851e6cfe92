"""A raw server on the loopback: it sees every byte and may break any rule of HTTP. It knows nothing of how the client works."""

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
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Peer:
    """One connection, as the server holds it."""

    socket: socket.socket
    server: Loopback
    number: int
    _held: bytes = b""
    closed_by_client: threading.Event = field(default_factory=threading.Event)
    _thread: int = field(default_factory=threading.get_ident)

    def request(self) -> Seen | None:
        """The next whole request; None when the client has gone."""
        while b"\r\n\r\n" not in self._held:
            if not self._more():
                return None
        head, _, rest = self._held.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        length = int(headers.get("content-length", 0))
        self._held = rest
        while len(self._held) < length:
            if not self._more():
                return None
        body, self._held = self._held[:length], self._held[length:]
        seen = Seen(method, path, headers, body)
        self.server.seen.append(seen)
        return seen

    def _more(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self.closed_by_client.set()
            return False
        self._held += data
        return True

    def wait_for_close(self, seconds: float = 5) -> bool:
        """Whether the client closes its side in time."""
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
        """These bytes and the end in one packet: who has them knows that no more will come, or can know."""
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
        """A well-formed answer with a Content-Length."""
        self.send(whole(body, status, headers))

    def begin(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """The head of a chunked answer."""
        shown = {
            "content-type": "text/event-stream",
            "transfer-encoding": "chunked",
            **(headers or {}),
        }
        self.send(f"HTTP/1.1 {status} X\r\n{_lines(shown)}\r\n".encode())

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
        """The connection ends at once. Its number goes back to the system in the thread that serves it: that one may be about to read,
        and from another's hand the number would already belong to the next test's socket, whose bytes it would take away."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        if threading.get_ident() == self._thread:
            with contextlib.suppress(OSError):
                self.socket.close()


Handler = Callable[[Peer], None]


class Loopback:
    """`seen` lists every whole request in order, `connections` counts them."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.seen: list[Seen] = []
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
            with contextlib.suppress(
                OSError
            ):  # the test is over, and the server closed, before its handler was
                self._handler(peer)
        finally:
            peer.close()

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes who accepts
            self._accepting.join()
        except OSError:
            pass  # closed before, or a system that does not wake it
        self._socket.close()
        for peer in self.peers:
            peer.close()


def whole(
    body: bytes | str | dict[str, Any] = b"",
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> bytes:
    """The bytes of a well-formed answer."""
    data = (
        json.dumps(body).encode()
        if isinstance(body, dict)
        else body.encode()
        if isinstance(body, str)
        else body
    )
    shown = {
        "content-type": "application/json",
        "content-length": str(len(data)),
        **(headers or {}),
    }
    return f"HTTP/1.1 {status} X\r\n{_lines(shown)}\r\n".encode() + data


def _lines(headers: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def always(*replies: bytes) -> Handler:
    """Answers request after request with these bytes in turn, the last one for ever."""

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(replies[min(len(peer.server.seen), len(replies)) - 1])

    return handler


def chat(text: str, **more: Any) -> dict[str, Any]:
    """A whole chat completion."""
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m-2026",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        **more,
    }


def delta(content: dict[str, Any] | str, finish: str | None = None, **more: Any) -> bytes:
    """One event of a chat stream."""
    piece = {"content": content} if isinstance(content, str) else content
    choice = {"index": 0, "delta": piece, "finish_reason": finish}
    body = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m-2026",
        "choices": [choice],
        **more,
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def images_reply(*pictures: bytes, **more: Any) -> dict[str, Any]:
    """A whole answer of an image route."""
    return {
        "created": 1,
        "data": [{"b64_json": base64.b64encode(data).decode()} for data in pictures],
        **more,
    }
