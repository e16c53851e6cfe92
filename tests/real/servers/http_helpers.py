"""What both servers of this folder share: HTTP requests and responses, and a parent to end with."""

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
    """An HTTP server with one thread per connection.

    Connections that clients keep open do not delay its end.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that disconnects is not an error.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with persistent connections.

    `answer_request` is called once for each request, after its body has been read.
    """

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
        """Send the response to the request."""
        raise NotImplementedError

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        # Skip the trailers.
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def send(
        self,
        status: int,
        body: bytes = b"",
        kind: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Send a complete response; without `kind` it has no Content-Type."""
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
        """Send a complete response in JSON."""
        self.send(status, json.dumps(value).encode(), "application/json", headers)

    def client_left(self, wait: float = 0.0) -> bool:
        """Return whether the client closes its connection within `wait` seconds."""
        return has_left(self.connection, wait)


def has_left(connection: socket.socket, wait: float = 0.0) -> bool:
    """Return whether the peer of a connection closes it within `wait` seconds."""
    try:
        readable, _, _ = select.select([connection], [], [], wait)
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True


def serve(server: Server) -> None:
    """Serve until SIGTERM or SIGINT.

    If standard input is a pipe, the server also ends with the process at the other end of it.
    """

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
