"""The transport interface: requests, response streams, websockets and deadlines.

Nothing here depends on an HTTP library, and a fake transport takes six lines.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from majordomo.errors import DeadlineExceededError, Phase
from majordomo.settings import Timeout

# Seconds by which a call may end after its deadline.
GRACE_SECONDS = 0.15


class StreamingBody(Protocol):
    """A replayable request body, generated while it is sent."""

    length: int
    """Length in bytes, known beforehand."""

    def chunks(self) -> Iterator[bytes]:
        """Return an iterator over the body. Each call starts from the beginning."""
        ...


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """One HTTP request, relative to the base URL of the provider."""

    method: str
    """The HTTP method, in upper case."""
    path: str
    """Path and query. Begins with `/` and is already percent-encoded."""
    body: bytes | StreamingBody = b""
    """The body. Empty by default."""
    content_type: str = ""
    """The Content-Type header. Empty sends none."""
    accept: str = "application/json"
    """The Accept header."""
    stream: bool = False
    """True when the response is read chunk by chunk. No content coding is requested then."""
    from_origin: bool = False
    """True when `path` is relative to the origin instead of the path of the base URL."""
    origin: str = ""
    """Another origin to send the request to, `scheme://host[:port]`; "" for the provider's own.
    Only a GET to an origin that the provider declares is accepted. The provider's headers, with its
    key, are never sent there (see `majordomo.transport.multi_origin`)."""


class HTTPStream(Protocol):
    """A response whose head has arrived."""

    status: int
    """HTTP status code."""
    headers: Mapping[str, str]
    """Response headers. Names are lower-case."""

    async def read(self) -> bytes:
        """Return the next decoded chunk, or b"" at the end of the message.

        A chunk is never empty otherwise. Raises typed errors.
        """
        ...

    async def finish(self) -> None:
        """End a response whose content is complete.

        Reads the little that may still arrive, so that the connection can be reused.
        """
        ...

    async def aclose(self) -> None:
        """Close the stream at any point. Calling it twice is allowed."""
        ...


class Transport(Protocol):
    """Sends requests; the only interface between a call and the network.

    A transport never retries a request by itself.
    """

    def open(self, request: HTTPRequest, deadline: Deadline) -> Awaitable[HTTPStream]:
        """Send the request and wait for the head of the response, whatever its status.

        `details` of a `ConnectionFailedError` has what a decision to retry needs: `reused` (whether
        the connection had served a request before), `sent` (whether bytes of the request were
        sent) and `replied` (whether bytes of the response arrived).
        """
        ...

    async def aclose(self) -> None:
        """Refuse further requests and close idle connections."""
        ...


class TransportWrapper(Protocol):
    """A layer around a transport, passed as `transport=`.

    Examples are a recorder, fault injection, or a log of the bytes.
    """

    inner: Any
    """What is wrapped, in any form that a provider accepts as `transport=`: another wrapper, a
    Transport, an httpx client, or None for our own transport."""

    def wrap(self, transport: Transport, base_path: str, redact: Callable[[str], str]) -> Transport:
        """Return the transport to use instead of `transport`. Called once for each provider.

        Args:
            transport: The transport to wrap. The wrapper closes it when it is closed itself.
            base_path: The path that precedes the path of a request unless that is `from_origin`.
            redact: A function that removes the secrets of this provider from a text.
        """
        ...


class MessageStream(Protocol):
    """A websocket that sends and receives complete messages."""

    async def send(self, message: str) -> None:
        """Send a text message."""
        ...

    async def receive(self) -> str | bytes | None:
        """Return the next message, or None after the server has closed the websocket.

        Raises typed errors, among them DeadlineExceededError (phase idle).
        """
        ...

    async def aclose(self) -> None:
        """Close the websocket at any point. Calling it twice is allowed."""
        ...


Connect = Callable[[str, "Deadline", int], Awaitable[MessageStream]]
"""A function `connect(path, deadline, limit)` that opens a websocket."""


def websocket_connector(transport: Transport) -> Connect | None:
    """Return the transport's function that opens a websocket, or None if it has none.

    The function is `connect(path, deadline, limit)`; messages have at most `limit` bytes. It raises
    typed errors when no websocket can be opened; callers must then work without one.
    """
    connect: Connect | None = getattr(transport, "connect", None)
    return connect


@dataclass(slots=True)
class Deadline:
    """The time limits of one call, as points in time.

    Call `next_timeout()` before each wait; no cancel scope spans a call. The total limit counts
    from the construction of the deadline. first_byte and load are points in time too, so a server
    that sends its headers byte by byte does not extend them; idle starts anew with each wait.
    """

    timeout: Timeout
    """The limits in seconds. None means no limit here: defaults are filled in before."""
    clock: Callable[[], float] = time.monotonic
    """Returns the current time in seconds."""
    watch: Callable[[], Awaitable[None]] | None = None
    """Called every `tick` seconds while the first byte is awaited. It may distinguish loading from
    hanging with `start_phase("load")` and `start_phase("first_byte")`."""
    tick: float = 1.0
    """Seconds between two calls of `watch`."""
    phase: Phase = "total"
    """The current phase."""
    started_at: float = field(init=False)
    """When the call began, by `clock`."""
    _total_end: float = field(init=False)
    _phase_end: float = field(init=False, default=math.inf)
    _elapsed_in_phase: dict[str, float] = field(init=False, default_factory=dict)
    _phase_started_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_at = self._phase_started_at = self.clock()
        self._total_end = self.started_at + _seconds(self.timeout.total)

    def sibling(self) -> Deadline:
        """Return a deadline for a parallel request: same start and total limit, own phases."""
        sibling = Deadline(self.timeout, self.clock)
        sibling.started_at, sibling._total_end = self.started_at, self._total_end
        return sibling

    def child(self, timeout: Timeout) -> Deadline:
        """Return a deadline for a query within this call, with other limits per phase.

        It never exceeds the remaining time of this call, or GRACE_SECONDS if that is longer: the
        query may be about whether the limit that has just passed was the right one. The idle limit
        of this call does not count, because it is a limit for one wait.
        """
        child = Deadline(timeout, self.clock)
        now = self.clock()
        remaining = self._total_end - now if self.phase == "idle" else self.remaining()
        child._total_end = min(child._total_end, now + max(remaining, GRACE_SECONDS))
        return child

    def start_phase(self, phase: Phase) -> None:
        """Start a phase.

        Time already spent in the same phase of this call counts, for example in an earlier attempt
        or during an earlier load.
        """
        now = self.clock()
        if phase == self.phase and phase in ("load", "queue"):
            return
        if self.phase in ("load", "queue"):
            self._elapsed_in_phase[self.phase] = (
                self._elapsed_in_phase.get(self.phase, 0.0) + now - self._phase_started_at
            )
        self.phase, self._phase_started_at = phase, now
        self._phase_end = (
            now + _seconds(getattr(self.timeout, phase)) - self._elapsed_in_phase.get(phase, 0.0)
        )

    def next_timeout(self) -> float:
        """Return how many seconds the next wait may take; 0 when the limit has passed."""
        now = self.clock()
        if self.phase == "idle":
            self._phase_end = now + _seconds(self.timeout.idle)
        end = self._phase_end if self._phase_end < self._total_end else self._total_end
        return end - now if end > now else 0.0

    def remaining(self) -> float:
        """Return the remaining seconds without restarting the idle limit."""
        return max(0.0, min(self._phase_end, self._total_end) - self.clock())

    def elapsed(self) -> float:
        """Return the seconds since the call began."""
        return self.clock() - self.started_at

    def exceeded(self) -> DeadlineExceededError:
        """Return the error for the limit that has passed."""
        phase: Phase = "total" if self._total_end <= self._phase_end else self.phase
        limit = _seconds(getattr(self.timeout, phase))
        return DeadlineExceededError(
            f"{_ACTIVITIES[phase]} took longer than the limit of {limit:g} s", phase=phase
        )


_ACTIVITIES: dict[Phase, str] = {
    "connect": "connecting",
    "queue": "waiting for a free slot",
    "load": "loading the model",
    "first_byte": "waiting for the response to begin",
    "idle": "waiting for the next chunk of the response",
    "total": "the call",
}


def _seconds(value: float | None) -> float:
    return math.inf if value is None else value
