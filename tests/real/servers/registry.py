"""A registry of models on the loopback, as much of one as Ollama pushes to and pulls from.

registry = Registry()            its address is `registry.host`; `blobs` and `manifests` are what it holds
"""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Registry:
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.spoilt = False  # blobs are given with another byte than they came with
        registry = self

        class Handler(_Handler):
            held = registry

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    held: Registry

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
            found = self.held.manifests.get(path)
        else:
            digest = path.rpartition("/")[2]
            if self.command == "GET" and digest in self.held.blobs and path.startswith("/v2/"):
                # Ollama fetches from a store under another name, and takes no content from the registry itself
                return self._send(
                    307,
                    Location=f"http://localhost:{self.held.host.partition(':')[2]}/store/{digest}",
                )
            found = self.held.blobs.get(digest)
            if found is not None and self.held.spoilt:
                found = bytes([found[0] ^ 1]) + found[1:]
        if found is None:
            return self._send(404, b'{"errors":[{"code":"NOT_FOUND","message":"not here"}]}')
        return self._send(200, found)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._body()
        place = f"/uploads/{len(self.held.uploads)}"
        self.held.uploads[place] = b""
        self._send(202, Location=f"http://{self.held.host}{place}")

    def do_PATCH(self) -> None:
        self.held.uploads[self.path] += self._body()
        self._send(202, Location=f"http://{self.held.host}{self.path}")

    def do_PUT(self) -> None:
        split, body = urlsplit(self.path), self._body()
        if split.path not in self.held.uploads:
            self.held.manifests[split.path] = body
            return self._send(201)
        (digest,) = parse_qs(split.query)["digest"]
        content = self.held.uploads[split.path]
        if digest != "sha256:" + hashlib.sha256(content).hexdigest():
            return self._send(400)
        self.held.blobs[digest] = content
        return self._send(201)
