"""What backends and networks do wrong, done on purpose."""

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
Onward = Callable[[], Awaitable[HTTPStream]]


@dataclass(frozen=True, kw_only=True)
class Fault(ABC):
    """One thing that goes wrong, `times` requests in a row. A kind of its own overrides `open`."""

    times: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.times, bool) or not isinstance(self.times, int) or self.times < 1:
            raise ConfigurationError("times is a whole number from 1", details={"field": "times"})

    @abstractmethod
    async def open(self, onward: Onward, deadline: Deadline) -> HTTPStream:
        """What the program gets in place of `await onward()`, the real answer."""


@dataclass(frozen=True)
class Refused(Fault):
    """Nobody listens at the address."""

    async def open(self, onward: Onward, deadline: Deadline) -> HTTPStream:
        raise ConnectionFailedError(
            "cannot connect: Connection refused",
            details={"reused": False, "sent": False, "replied": False},
        )


@dataclass(frozen=True)
class Slow(Fault):
    """The answer begins late: after `seconds`, by `sleep` (a test's own clock may stand there), or once `until` is released.

    The time limits of the call hold meanwhile, and a provider that looks whether the model loads does so.
    """

    seconds: float = 0.0
    until: Pause | None = None
    sleep: Callable[[float], Awaitable[Any]] = anyio.sleep

    async def open(self, onward: Onward, deadline: Deadline) -> HTTPStream:
        deadline.start_phase("first_byte")
        over = False
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                nonlocal over
                if self.until is not None:
                    await self.until.pass_through()
                if self.seconds:
                    await self.sleep(self.seconds)
                over = True
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
        if not over:
            raise deadline.exceeded()
        return await onward()


@dataclass(frozen=True)
class CutAfter(Fault):
    """The real answer, whose connection is lost after `size` bytes; one that is shorter is whole."""

    size: int = 0

    async def open(self, onward: Onward, deadline: Deadline) -> HTTPStream:
        return _Cut(await onward(), self.size)


class _Cut:
    def __init__(self, reply: HTTPStream, left: int) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self._reply = reply
        self._left = left

    async def read(self) -> bytes:
        if self._left > 0:
            piece = await self._reply.read()
            piece, self._left = piece[: self._left], self._left - len(piece)
            return piece
        await self._reply.aclose()
        raise ConnectionFailedError(
            "the connection was lost in the middle of the answer",
            code="REPLY_CUT",
            details={"replied": True},
        )

    async def finish(self) -> None:
        await self._reply.finish()

    async def aclose(self) -> None:
        await self._reply.aclose()


@dataclass(frozen=True)
class Status(Fault):
    """An answer that the backend never gave: this status, body and headers (lower-case names). The backend is not asked."""

    status: int = 200
    body: bytes | str = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": JSON})

    async def open(self, onward: Onward, deadline: Deadline) -> HTTPStream:
        deadline.start_phase("first_byte")
        await anyio.lowlevel.checkpoint()
        deadline.start_phase("idle")
        body = self.body.encode() if isinstance(self.body, str) else self.body
        return FakeReply(self.status, {**self.headers, "content-length": str(len(body))}, [body])


@dataclass(frozen=True)
class ModelLoading(Status):
    """llama.cpp while it loads."""

    status: int = 503
    body: bytes | str = (
        '{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
    )


@dataclass(frozen=True)
class BadGateway(Status):
    """A proxy whose backend has died: 502 without a word."""

    status: int = 502
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RateLimited(Status):
    """429; `retry_after` in seconds, None for no Retry-After header."""

    status: int = 429
    body: bytes | str = (
        '{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}'
    )
    retry_after: float | None = 1.0

    async def open(self, onward: Onward, deadline: Deadline) -> HTTPStream:
        asked = {} if self.retry_after is None else {"retry-after": f"{self.retry_after:g}"}
        return await Status(self.status, self.body, {**self.headers, **asked}).open(
            onward, deadline
        )


@dataclass(frozen=True)
class BadJSON(Status):
    """Success, and JSON that ends too early."""

    body: bytes | str = '{"choices": [{"message": {"role": "assistant", "content": "Good eve'


@dataclass(frozen=True)
class WrongContentType(Status):
    """Success, and a web page: a captive portal, a login, another program on the port."""

    body: bytes | str = "<!doctype html><title>Welcome</title>"
    headers: Mapping[str, str] = field(
        default_factory=lambda: {"content-type": "text/html; charset=utf-8"}
    )


@dataclass(frozen=True)
class Garbage(Status):
    """Success, and `size` random bytes, the same ones for the same `seed`."""

    size: int = 1024
    seed: int = 0

    async def open(self, onward: Onward, deadline: Deadline) -> HTTPStream:
        return await Status(
            self.status, random.Random(self.seed).randbytes(self.size), self.headers
        ).open(onward, deadline)
