"""HTTP helpers that the test servers share: responses as bytes, forms, and held requests."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from dataclasses import dataclass, field
from email.message import Message
from http.client import responses
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.loopback import Peer, ReceivedRequest


class Crash(Exception):
    """The server process dies: every client that waits for it sees a closed connection."""


@dataclass(frozen=True)
class Response:
    """A complete HTTP response.

    `content_type` None sends no such header, as empty 404 responses of Go servers have none.
    """

    status: int = 200
    body: bytes = b""
    content_type: str | None = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def sent(self) -> bytes:
        """Return the response as it is sent: status line, headers and body."""
        headers = {"Content-Type": self.content_type} if self.content_type else {}
        headers |= self.headers | {"Content-Length": str(len(self.body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return (
            f"HTTP/1.1 {self.status} {responses.get(self.status, '')}\r\n{lines}\r\n".encode()
            + self.body
        )


def json_response(
    value: Any, status: int = 200, content_type: str = "application/json", **headers: str
) -> Response:
    """Return a JSON response.

    The keywords in `headers` are header names with underscores for hyphens.
    """
    return Response(
        status,
        json.dumps(value).encode(),
        content_type,
        {name.replace("_", "-"): text for name, text in headers.items()},
    )


def text_response(
    content: str, status: int = 200, content_type: str = "text/plain; charset=utf-8"
) -> Response:
    """Return a plain text response."""
    return Response(status, content.encode(), content_type)


def empty_response(status: int) -> Response:
    """Return a response without a body and without a content type."""
    return Response(status, b"", None)


# Returned for a response that has already been sent completely, in chunks.
STREAMED = Response()


@dataclass(frozen=True)
class Part:
    """A part of a multipart form; a part whose `filename` is None is a text field."""

    name: str
    content: bytes
    filename: str | None = None
    content_type: str | None = None


def header_parameter(header: str, name: str) -> str | None:
    """Return a parameter of a header value, for example `boundary` of a content type."""
    message = Message()
    message["Content-Type"] = header
    value = message.get_param(name)
    return value if isinstance(value, str) else None


def parse_form(content_type: str, body: bytes) -> list[Part]:
    """Return the parts of a multipart body, with their bytes unchanged.

    Raises ValueError for a body that is not a complete multipart form.
    """
    boundary = header_parameter(content_type, "boundary")
    if not boundary:
        raise ValueError("no boundary")
    preamble, *sections = (b"\r\n" + body).split(b"\r\n--" + boundary.encode())
    if preamble.strip() or not sections or not sections[-1].startswith(b"--"):
        raise ValueError("not a whole multipart body")
    parts = []
    for section in sections[:-1]:
        head, blank, content = section.partition(b"\r\n\r\n")
        if not blank:
            raise ValueError("a part without a body")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        lowered = {name.lower(): value for name, value in fields.items()}
        disposition = lowered.get("content-disposition", "")
        parts.append(
            Part(
                header_parameter(disposition, "name") or "",
                content,
                header_parameter(disposition, "filename"),
                lowered.get("content-type"),
            )
        )
    return parts


def route(request: ReceivedRequest) -> tuple[str, dict[str, str]]:
    """Return the path and the query of a request; of repeated query names the last value counts."""
    split = urlsplit(request.path)
    return split.path, {name: values[-1] for name, values in parse_qs(split.query).items()}


def client_left(peer: Peer, seconds: float = 0) -> bool:
    """Return whether the client closes its side within `seconds`."""
    with contextlib.suppress(OSError, ValueError):
        readable, _, _ = select.select([peer.socket], [], [], seconds)
        return bool(readable) and peer.socket.recv(1, socket.MSG_PEEK) == b""
    return True


class Gate:
    """A gate at which responses wait while a test holds it, each until its client disconnects."""

    def __init__(self) -> None:
        self.cancelled = 0
        self._closed = False
        self._waiting = 0
        self._changed = threading.Condition(threading.RLock())

    def hold(self) -> None:
        """Close the gate: the responses that follow wait."""
        with self._changed:
            self._closed = True

    def release(self) -> None:
        """Open the gate: all waiting responses go on."""
        with self._changed:
            self._closed = False
            self._changed.notify_all()

    def holding(self, count: int = 1, seconds: float = 5) -> bool:
        """Return whether exactly `count` requests are held within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting == count, seconds)

    def left(self, count: int = 1, seconds: float = 5) -> bool:
        """Return whether `count` clients have disconnected while held within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self.cancelled == count, seconds)

    def _wait(self, peer: Peer) -> bool:
        """Wait while the gate is closed; return whether the client is still connected then."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            try:
                while self._closed:
                    self._changed.wait(0.02)
                    if client_left(peer):
                        self.cancelled += 1
                        return False
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        return True
