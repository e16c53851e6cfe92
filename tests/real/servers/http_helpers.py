"""What both test servers share: reading a request whole, answering it, and ending with the process that started them."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """One thread for each connection; connections that clients keep open do not hold up the end."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that leaves is no news
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with kept connections. `answer_request` is called once for each request, with its body read."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    body: bytes

    def log_message(self, format: str, *args: object) -> None:
        print(
            f"{self.command} {self.path} {args[1] if len(args) > 1 else ''}",
            file=sys.stderr,
            flush=True,
        )

    def do_GET(self) -> None:
        self.body = self._read_body()
        self.answer_request()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_GET

    def answer_request(self) -> None:
        raise NotImplementedError

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(pieces)

    def send(
        self,
        status: int,
        body: bytes = b"",
        kind: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """A whole answer; without a kind it has no Content-Type."""
        self.send_response(status)
        if kind is not None:
            self.send_header("Content-Type", kind)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(value).encode(), "application/json", headers)

    def client_left(self, wait: float = 0.0) -> bool:
        """Whether the client closes its connection within `wait` seconds."""
        return has_left(self.connection, wait)


def has_left(connection: socket.socket, wait: float = 0.0) -> bool:
    try:
        readable, _, _ = select.select([connection], [], [], wait)
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True


def serve(server: Server) -> None:
    """Serve until SIGTERM or SIGINT, or, where standard input is a pipe, until the process at its other end is gone."""

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()

    def watch_parent() -> None:
        while os.read(0, 4096):
            pass
        stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=watch_parent, daemon=True).start()
    server.serve_forever(poll_interval=0.05)
    server.server_close()
