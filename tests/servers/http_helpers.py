"""What the test servers share on the wire: answers as bytes, forms, and whether a client is still there."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.loopback import Peer, Seen


class Crash(Exception):
    """The process dies: whoever waits for it sees a closed connection."""


@dataclass(frozen=True)
class Answer:
    """One whole answer. `content_type` None sends no such header: empty 404s have none."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def sent(self) -> bytes:
        headers = {"Content-Type": self.content_type} if self.content_type else {}
        headers |= self.headers | {"Content-Length": str(len(self.body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n{lines}\r\n".encode()
            + self.body
        )


def said(
    value: Any, status: int = 200, content_type: str = "application/json", **headers: str
) -> Answer:
    """An answer in JSON."""
    return Answer(
        status,
        json.dumps(value).encode(),
        content_type,
        {name.replace("_", "-"): text for name, text in headers.items()},
    )


def text(content: str, status: int = 200, content_type: str = "text/plain; charset=utf-8") -> Answer:
    return Answer(status, content.encode(), content_type)


def empty(status: int) -> Answer:
    """No body and no content type."""
    return Answer(status, b"", None)


STREAMED = Answer()  # stands for an answer that was sent in pieces, and whole


@dataclass(frozen=True)
class Part:
    """One part of a form; `filename` None is a text field."""

    name: str
    content: bytes
    filename: str | None = None
    content_type: str | None = None


def parameter(header: str, name: str) -> str | None:
    """One parameter of a header's value, as `boundary` of a content type."""
    message = Message()
    message["Content-Type"] = header
    value = message.get_param(name)
    return value if isinstance(value, str) else None


def form(content_type: str, body: bytes) -> list[Part]:
    """The parts of a multipart body, their bytes untouched. ValueError for one that is none."""
    boundary = parameter(content_type, "boundary")
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
                parameter(disposition, "name") or "",
                content,
                parameter(disposition, "filename"),
                lowered.get("content-type"),
            )
        )
    return parts


def route(seen: Seen) -> tuple[str, dict[str, str]]:
    """The path and the query of a request, the last value of a name."""
    split = urlsplit(seen.path)
    return split.path, {name: values[-1] for name, values in parse_qs(split.query).items()}


def client_left(peer: Peer, seconds: float = 0) -> bool:
    """Whether the client has closed its side, waiting at most so long for it."""
    with contextlib.suppress(OSError, ValueError):
        readable, _, _ = select.select([peer.socket], [], [], seconds)
        return bool(readable) and peer.socket.recv(1, socket.MSG_PEEK) == b""
    return True


class Gate:
    """A place where answers wait while a test holds them, each until its client leaves."""

    def __init__(self) -> None:
        self.cancelled = 0
        self._closed = False
        self._waiting = 0
        self._changed = threading.Condition(threading.RLock())

    def hold(self) -> None:
        with self._changed:
            self._closed = True

    def release(self) -> None:
        with self._changed:
            self._closed = False
            self._changed.notify_all()

    def holding(self, count: int = 1, seconds: float = 5) -> bool:
        """Whether exactly so many requests are held within so long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting == count, seconds)

    def left(self, count: int = 1, seconds: float = 5) -> bool:
        """Whether so many clients have left while they were held, within so long."""
        with self._changed:
            return self._changed.wait_for(lambda: self.cancelled == count, seconds)

    def _wait(self, peer: Peer) -> bool:
        """Whether the client is still there once the answer is not held any more."""
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
