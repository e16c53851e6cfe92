"""What travels, and the port it travels through. Nothing here knows HTTP libraries; a fake transport is six lines."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from majordomo.errors import DeadlineExceededError, Phase
from majordomo.settings import Timeout

GRACE_SECONDS = 0.15  # seconds by which a call may end after its deadline


class StreamingBody(Protocol):
    """A body that is made while it leaves; it can be sent again."""

    length: int

    def chunks(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """One request, addressed below the provider's base URL. `path` begins with `/` and is already percent-encoded.

    `stream`: the answer comes piece by piece, so no content coding is asked for. `rooted`: the path is below the origin, not below
    the base URL's own path.
    """

    method: str
    path: str
    body: bytes | StreamingBody = b""
    content_type: str = ""
    accept: str = "application/json"
    stream: bool = False
    from_origin: bool = False


class HTTPStream(Protocol):
    """An answer whose head has arrived. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """The next decoded piece, never empty; b"" at the end of the message. Raises typed errors."""
        ...

    async def finish(self) -> None:
        """The dialect has what it wants: read what little may still come, so that the connection can be used again."""
        ...

    async def aclose(self) -> None:
        """Leave, at whatever point; calling it twice is fine."""
        ...


class Transport(Protocol):
    """How bytes travel; the only thing between a flow and a network. It never repeats a request by itself."""

    def open(self, request: HTTPRequest, deadline: Deadline) -> Awaitable[HTTPStream]:
        """Send, and wait for the head of the answer, whatever its status.

        ConnectionFailedError has in `details` what a decision to repeat needs: `reused`, `sent`, `replied`.
        """
        ...

    async def aclose(self) -> None: ...


class TransportWrapper(Protocol):
    """What may stand between a provider and its way to the backend, given as `transport=`: a recorder, made faults, a log of bytes.

    `inner` is what it stands on, given as a provider takes it: another wrapper, a Transport, an httpx client, None for our own sockets.
    """

    inner: Any

    def wrap(self, transport: Transport, base_path: str, redact: Callable[[str], str]) -> Transport:
        """The Transport to use instead of `port`, one for each provider. `base_path` is what goes before the path of a request that is
        not `rooted`; `hide` takes this provider's keys out of a text. The wrapper closes `port` when it is closed itself."""
        ...


class MessageStream(Protocol):
    """A websocket: whole messages, both ways."""

    async def send(self, message: str) -> None: ...

    async def receive(self) -> str | bytes | None:
        """The next message; None once the other side has closed. Raises typed errors, among them DeadlineExceededError (phase idle)."""
        ...

    async def aclose(self) -> None:
        """Leave, at whatever point; calling it twice is fine."""
        ...


Connect = Callable[[str, "Deadline", int], Awaitable[MessageStream]]


def websocket_connector(transport: Transport) -> Connect | None:
    """`connect(path, deadline, limit)` of a Transport that has it: a websocket whose messages have at most `limit` bytes.

    It raises typed errors when there is none to be had; what it is for must then work without.
    """
    found: Connect | None = getattr(transport, "connect", None)
    return found


@dataclass(slots=True)
class Deadline:
    """The time limits of one call, as moments. Whoever waits asks `wait()` how long it may; nobody guards a whole call with a scope.

    `total` counts from the making of this value. first_byte and load are moments too (dripping headers do not move them), idle
    begins anew with each wait. A `watch` is called every `tick` seconds while the first byte is awaited; it may tell loading from
    hanging by `enter("load")` and `enter("first_byte")`.
    """

    timeout: Timeout
    clock: Callable[[], float] = time.monotonic
    watch: Callable[[], Awaitable[None]] | None = None
    tick: float = 1.0
    phase: Phase = "total"
    started_at: float = field(init=False)
    _total: float = field(init=False)
    _end: float = field(init=False, default=math.inf)
    _spent: dict[str, float] = field(init=False, default_factory=dict)
    _entered: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_at = self._entered = self.clock()
        self._total = self.started_at + _seconds(self.timeout.total)

    def sibling(self) -> Deadline:
        """For a call beside this one: its own phases, the same beginning and total."""
        twin = Deadline(self.timeout, self.clock)
        twin.started_at, twin._total = self.started_at, self._total
        return twin

    def child(self, timeout: Timeout) -> Deadline:
        """For a question within this call: other limits per phase, and never longer than this call may still wait, or GRACE: the question
        may be whether a limit that has passed was the right one."""
        question = Deadline(timeout, self.clock)
        question._total = min(question._total, self.clock() + max(self.remaining(), GRACE_SECONDS))
        return question

    def start_phase(self, phase: Phase) -> None:
        """A phase begins. Time already spent in the same phase of this call (an earlier try, a load seen before) counts."""
        now = self.clock()
        if phase == self.phase and phase in ("load", "queue"):
            return
        if self.phase in ("load", "queue"):
            self._spent[self.phase] = self._spent.get(self.phase, 0.0) + now - self._entered
        self.phase, self._entered = phase, now
        self._end = now + _seconds(getattr(self.timeout, phase)) - self._spent.get(phase, 0.0)

    def next_timeout(self) -> float:
        """Seconds the coming wait may take, 0 when the limit has passed."""
        now = self.clock()
        if self.phase == "idle":
            self._end = now + _seconds(self.timeout.idle)
        end = self._end if self._end < self._total else self._total
        return end - now if end > now else 0.0

    def remaining(self) -> float:
        """The same, without beginning a new idle time."""
        return max(0.0, min(self._end, self._total) - self.clock())

    def elapsed(self) -> float:
        return self.clock() - self.started_at

    def exceeded(self) -> DeadlineExceededError:
        """The error for the limit that has passed."""
        phase: Phase = "total" if self._total <= self._end else self.phase
        limit = _seconds(getattr(self.timeout, phase))
        return DeadlineExceededError(
            f"{_WORDS[phase]} took longer than the limit of {limit:g} s", phase=phase
        )


_WORDS: dict[Phase, str] = {
    "connect": "connecting",
    "queue": "waiting for a free place",
    "load": "loading the model",
    "first_byte": "waiting for the answer to begin",
    "idle": "waiting for the next piece of the answer",
    "total": "the call",
}


def _seconds(value: float | None) -> float:
    return math.inf if value is None else value
