"""Faults of networks and backends, for injection with `Faults`."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel

from majordomo.errors import ConfigurationError, ConnectionFailedError
from majordomo.testing.fake_transports import FakeReply
from majordomo.testing.pause import Pause
from majordomo.transport_types import Deadline, HTTPStream

JSON = "application/json"
SendRequest = Callable[[], Awaitable[HTTPStream]]
"""Sends the request and returns the real response."""


@dataclass(frozen=True, kw_only=True)
class Fault(ABC):
    """Base class of faults. A subclass overrides `open`.

    Raises:
        ConfigurationError: `times` is not an integer from 1.
    """

    times: int = 1
    """How many requests in a row get this fault."""

    def __post_init__(self) -> None:
        if isinstance(self.times, bool) or not isinstance(self.times, int) or self.times < 1:
            raise ConfigurationError(
                f"times must be an integer from 1; got {self.times!r}", details={"field": "times"}
            )

    @abstractmethod
    async def open(self, send_request: SendRequest, deadline: Deadline) -> HTTPStream:
        """Return or raise what the program gets instead of `await send_request()`.

        Args:
            send_request: Sends the request and returns the real response.
            deadline: The time limits of the call.
        """


@dataclass(frozen=True)
class Refused(Fault):
    """The connection is refused, as if no server listened at the address."""

    async def open(self, send_request: SendRequest, deadline: Deadline) -> HTTPStream:
        """Raise `ConnectionFailedError` without sending the request."""
        raise ConnectionFailedError(
            "cannot connect: Connection refused",
            details={"reused": False, "sent": False, "replied": False},
        )


@dataclass(frozen=True)
class Slow(Fault):
    """The response starts late: once `until` is released and `seconds` have passed.

    The time limits of the call apply meanwhile, and a provider that checks whether the model is
    loading still does so.
    """

    seconds: float = 0.0
    """Delay in seconds."""
    until: Pause | None = None
    """A pause to wait for before the delay."""
    sleep: Callable[[float], Awaitable[Any]] = anyio.sleep
    """Waits for a number of seconds. A test may pass its own clock."""

    async def open(self, send_request: SendRequest, deadline: Deadline) -> HTTPStream:
        """Wait, then send the request."""
        deadline.start_phase("first_byte")
        finished = False
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                nonlocal finished
                if self.until is not None:
                    await self.until.pass_through()
                if self.seconds:
                    await self.sleep(self.seconds)
                finished = True
                group.cancel_scope.cancel()

            group.start_soon(wait)
            while True:
                limit, watch = deadline.next_timeout(), deadline.watch
                with anyio.move_on_after(limit if watch is None else min(limit, deadline.tick)):
                    await anyio.sleep_forever()
                if watch is not None:
                    await watch()
                if watch is None or deadline.remaining() <= 0:
                    break
            group.cancel_scope.cancel()
        if not finished:
            raise deadline.exceeded()
        return await send_request()


@dataclass(frozen=True)
class CutAfter(Fault):
    """The connection is lost in the middle of the real response."""

    size: int = 0
    """Number of bytes after which the connection is lost. A shorter response is complete."""

    async def open(self, send_request: SendRequest, deadline: Deadline) -> HTTPStream:
        """Send the request and return its truncated response."""
        return _TruncatedStream(await send_request(), self.size)


class _TruncatedStream:
    def __init__(self, reply: HTTPStream, remaining: int) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self._reply = reply
        self._remaining = remaining

    async def read(self) -> bytes:
        if self._remaining > 0:
            chunk = await self._reply.read()
            chunk, self._remaining = chunk[: self._remaining], self._remaining - len(chunk)
            return chunk
        await self._reply.aclose()
        raise ConnectionFailedError(
            "the connection was lost in the middle of the response",
            code="REPLY_CUT",
            details={"replied": True},
        )

    async def finish(self) -> None:
        await self._reply.finish()

    async def aclose(self) -> None:
        await self._reply.aclose()


@dataclass(frozen=True)
class Status(Fault):
    """A response of your own. The request is not sent to the backend."""

    status: int = 200
    """HTTP status."""
    body: bytes | str = b""
    """Body; text is encoded as UTF-8."""
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": JSON})
    """Headers, with lower-case names. "content-length" is added."""

    async def open(self, send_request: SendRequest, deadline: Deadline) -> HTTPStream:
        """Return the response without sending the request."""
        deadline.start_phase("first_byte")
        await anyio.lowlevel.checkpoint()
        deadline.start_phase("idle")
        body = self.body.encode() if isinstance(self.body, str) else self.body
        return FakeReply(self.status, {**self.headers, "content-length": str(len(body))}, [body])


@dataclass(frozen=True)
class ModelLoading(Status):
    """The response of llama.cpp while it loads a model: 503."""

    status: int = 503
    """HTTP status."""
    body: bytes | str = (
        '{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
    )
    """Body; the default is that of llama.cpp."""


@dataclass(frozen=True)
class BadGateway(Status):
    """The response of a proxy whose backend has died: 502 with an empty body."""

    status: int = 502
    """HTTP status."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers; none by default."""


@dataclass(frozen=True)
class RateLimited(Status):
    """A rate limit was reached: 429."""

    status: int = 429
    """HTTP status."""
    body: bytes | str = (
        '{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}'
    )
    """Body; the default is that of OpenAI."""
    retry_after: float | None = 1.0
    """Value of the Retry-After header in seconds; None for no header."""

    async def open(self, send_request: SendRequest, deadline: Deadline) -> HTTPStream:
        """Return the response without sending the request."""
        retry_headers = {} if self.retry_after is None else {"retry-after": f"{self.retry_after:g}"}
        return await Status(self.status, self.body, {**self.headers, **retry_headers}).open(
            send_request, deadline
        )


@dataclass(frozen=True)
class BadJSON(Status):
    """A successful status with truncated JSON."""

    body: bytes | str = '{"choices": [{"message": {"role": "assistant", "content": "Good eve'
    """The truncated body."""


@dataclass(frozen=True)
class WrongContentType(Status):
    """A successful status with a web page, as from a captive portal or another program."""

    body: bytes | str = "<!doctype html><title>Welcome</title>"
    """The web page."""
    headers: Mapping[str, str] = field(
        default_factory=lambda: {"content-type": "text/html; charset=utf-8"}
    )
    """Headers; the default is HTML."""


@dataclass(frozen=True)
class Garbage(Status):
    """A successful status with random bytes."""

    size: int = 1024
    """Number of bytes."""
    seed: int = 0
    """Seed of the bytes; equal seeds give equal bytes."""

    async def open(self, send_request: SendRequest, deadline: Deadline) -> HTTPStream:
        """Return the response without sending the request."""
        return await Status(
            self.status, random.Random(self.seed).randbytes(self.size), self.headers
        ).open(send_request, deadline)
