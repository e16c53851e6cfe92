"""A loopback HTTP server with scripted replies.

It does not depend on the internals of majordomo.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


def png(width: int = 64, height: int = 48, color: str = "navy") -> bytes:
    """Return a PNG file of one color."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class ReceivedRequest:
    """A request as the server received it. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded from JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """A scripted reply. A `dict` body is sent as JSON, a `list` body as one HTTP chunk per item."""

    status: int = 200
    body: bytes | dict[str, Any] | list[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)


RouteHandler = Callable[[ReceivedRequest], Reply]


class Backend:
    """A server whose routes are set with `on("POST /v1/x", reply_or_handler)`.

    `requests` lists every received request in order. A route that was not set answers 404.
    """

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.routes: dict[str, RouteHandler | Reply] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_class(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def on(self, route: str, reply: RouteHandler | Reply) -> None:
        """Set the reply, or its handler, of a route."""
        self.routes[route] = reply

    def reply_to(self, request: ReceivedRequest) -> Reply:
        """Record a request and return the reply to it."""
        self.requests.append(request)
        route = f"{request.method} {request.path.split('?')[0]}"
        reply = self.routes.get(route, Reply(404, b"404 page not found"))
        return reply(request) if callable(reply) else reply

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()


def _handler_class(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            reply = backend.reply_to(ReceivedRequest(self.command, self.path, headers, body))
            self.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            if isinstance(reply.body, list):
                self._send_chunks(reply.body)
            else:
                data = (
                    json.dumps(reply.body).encode() if isinstance(reply.body, dict) else reply.body
                )
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def _send_chunks(self, chunks: list[bytes]) -> None:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for chunk in chunks:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_DELETE = do_HEAD = _serve

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


def images_reply(*images: bytes) -> Reply:
    """Return a reply of `POST /v1/images/generations`."""
    data = [{"b64_json": base64.b64encode(image).decode()} for image in images]
    return Reply(body={"created": 1, "data": data})


def chat_reply(text: str) -> Reply:
    """Return a reply of `POST /v1/chat/completions`."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    completion = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m"}
    return Reply(body={**completion, "choices": [choice], "usage": usage})


def chat_stream_reply(*texts: str) -> Reply:
    """Return a streamed reply of `POST /v1/chat/completions` with one chunk per text."""
    chunks = [_chat_chunk({"content": text}, None) for text in texts]
    chunks += [_chat_chunk({}, "stop"), b"data: [DONE]\n\n"]
    return Reply(body=chunks, headers={"content-type": "text/event-stream"})


def _chat_chunk(delta: dict[str, Any], finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n"
