"""A minimal HTTP client for the tests of the test servers, without another client's habits."""

from __future__ import annotations

import base64
import http.client
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL import Image


@dataclass
class Response:
    """A response as the client received it."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded from JSON."""
        return json.loads(self.body)

    @property
    def content_type(self) -> str | None:
        """The content type; None when there is none."""
        return self.headers["content-type"]

    @property
    def events(self) -> list[tuple[str | None, Any]]:
        """The events of a stream: name, and data decoded from JSON."""
        events = []
        for block in self.body.decode().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if line)
            if fields:
                events.append((fields.get("event"), json.loads(fields["data"])))
        return events


def send_request(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    seconds: float = 10,
) -> Response:
    """Send one request on a new connection. A dict or a list is sent as JSON."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    content_type = {} if body is None else {"Content-Type": "application/json"}
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=seconds)
    try:
        connection.request(method, path, data, content_type | (headers or {}))
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())
    finally:
        connection.close()


Field = tuple[Any, ...]  # (name, text) or (name, bytes, content type)


def send_form(
    url: str,
    path: str,
    fields: Iterable[Field],
    headers: dict[str, str] | None = None,
    seconds: float = 10,
) -> Response:
    """Post a multipart form of text fields and files."""
    sections = []
    for name, content, *content_type in fields:
        extra = f'; filename="upload"\r\nContent-Type: {content_type[0]}' if content_type else ""
        data = content.encode() if isinstance(content, str) else content
        sections.append(
            f'--frontier\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode()
            + data
            + b"\r\n"
        )
    body = b"".join(sections) + b"--frontier--\r\n"
    return send_request(
        url,
        "POST",
        path,
        body,
        {"Content-Type": "multipart/form-data; boundary=frontier"} | (headers or {}),
        seconds,
    )


def png(
    color: Any = (10, 20, 30),
    size: tuple[int, int] = (64, 48),
    mode: str = "RGB",
    kind: str = "PNG",
) -> bytes:
    """Return an image file of one color, PNG by default."""
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, kind)
    return buffer.getvalue()


def halves(left: Any, right: Any, size: tuple[int, int] = (64, 48), mode: str = "L") -> bytes:
    """Return a PNG of two colors side by side: a mask, or an image with a transparent half."""
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def b64(data: bytes) -> str:
    """Return the data in base64, as text."""
    return base64.b64encode(data).decode()


def open_base64_image(text: str) -> Image.Image:
    """Return the image in a base64 text."""
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> Any:
    """Return the color of one pixel."""
    return image.convert("RGB").getpixel((x, y))
