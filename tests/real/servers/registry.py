"""A registry of models on the loopback, with what Ollama needs to push to it and pull from it.

The address of `Registry()` is `registry.host`; `blobs` and `manifests` are its contents.
"""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Registry:
    """A running registry."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        # Send blobs with a changed first byte.
        self.corrupted = False
        running = self

        class Handler(_Handler):
            registry = running

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if "/manifests/" in path:
            content = self.registry.manifests.get(path)
        else:
            digest = path.rpartition("/")[2]
            if self.command == "GET" and digest in self.registry.blobs and path.startswith("/v2/"):
                # Ollama fetches blobs from a store with another host name, and does not accept
                # content from the registry itself.
                return self._send(
                    307,
                    Location=f"http://localhost:{self.registry.host.partition(':')[2]}/store/{digest}",
                )
            content = self.registry.blobs.get(digest)
            if content is not None and self.registry.corrupted:
                content = bytes([content[0] ^ 1]) + content[1:]
        if content is None:
            return self._send(404, b'{"errors":[{"code":"NOT_FOUND","message":"not here"}]}')
        return self._send(200, content)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._body()
        path = f"/uploads/{len(self.registry.uploads)}"
        self.registry.uploads[path] = b""
        self._send(202, Location=f"http://{self.registry.host}{path}")

    def do_PATCH(self) -> None:
        self.registry.uploads[self.path] += self._body()
        self._send(202, Location=f"http://{self.registry.host}{self.path}")

    def do_PUT(self) -> None:
        split, body = urlsplit(self.path), self._body()
        if split.path not in self.registry.uploads:
            self.registry.manifests[split.path] = body
            return self._send(201)
        (digest,) = parse_qs(split.query)["digest"]
        content = self.registry.uploads[split.path]
        if digest != "sha256:" + hashlib.sha256(content).hexdigest():
            return self._send(400)
        self.registry.blobs[digest] = content
        return self._send(201)
