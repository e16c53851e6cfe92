"""The transport that injects faults between a provider and its backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from majordomo.concurrency.fork_safety import Lock
from majordomo.errors import ConfigurationError, UnsupportedError
from majordomo.testing.fake_transports import WrappingTransport
from majordomo.testing.faults import Fault
from majordomo.transport_types import (
    Deadline,
    HTTPRequest,
    HTTPStream,
    MessageStream,
    Transport,
    websocket_connector,
)

Plan = Sequence[Fault | None] | Mapping[int, Fault] | Callable[[HTTPRequest, int], Fault | None]


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """One request that reached `Faults`."""

    number: int
    """Number of the request, from 1."""
    method: str
    """HTTP method."""
    path: str
    """Path below the provider's base URL."""
    fault: Fault | None
    """The injected fault; None when the request was sent."""


class Faults:
    """A transport that injects faults into some requests and sends the others.

    Requests are counted as they are sent, so each retry counts.

    Args:
        plan: A list with a fault or None for each request (later requests are sent), a mapping
            from request number (from 1) to fault, or a function from the `HTTPRequest` and its
            number to a fault or None. In a list or mapping, a fault with `times=3` covers three
            requests.
        inner: The transport for the other requests; the default transport when None.

    Attributes:
        history: All requests in order, as `InjectedFault`.

    Raises:
        ConfigurationError: `plan` contains something else.

    Example:
        ```pycon
        >>> provider = md.OpenAI(transport=Faults([Refused(), None, CutAfter(20)]))
        ```
    """

    def __init__(self, plan: Plan, inner: Any = None) -> None:
        self.inner = inner
        self.history: list[InjectedFault] = []
        self._choose = plan if callable(plan) else _by_number(plan)
        self._lock = Lock()

    def count(self, kind: type[Fault] | None = None) -> int:
        """Return how many requests got a fault of this class, or any fault when None."""
        return sum(isinstance(request.fault, kind or Fault) for request in self.history)

    @property
    def calls(self) -> int:
        """Number of requests that were sent without a fault."""
        return sum(request.fault is None for request in self.history)

    def wrap(self, transport: Transport, base_path: str, redact: Callable[[str], str]) -> Transport:
        """Return the transport with faults around `transport`; see `TransportWrapper.wrap`."""
        return _FaultyTransport(self, transport)

    def next(self, request: HTTPRequest) -> Fault | None:
        """Count a request and return its fault, if any."""
        with self._lock:
            number = len(self.history) + 1
            fault = self._choose(request, number)
            self.history.append(InjectedFault(number, request.method, request.path, fault))
            return fault


class _FaultyTransport(WrappingTransport):
    def __init__(self, faults: Faults, transport: Transport) -> None:
        super().__init__(transport)
        self._faults = faults

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        """Inject the fault for this request, or send it."""
        self.check_open()
        fault = self._faults.next(request)
        if fault is None:
            return await self.inner.open(request, deadline)
        return await fault.open(lambda: self.inner.open(request, deadline), deadline)

    async def connect(self, path: str, deadline: Deadline, limit: int) -> MessageStream:
        """Open a websocket without a fault."""
        connect = websocket_connector(self.inner)
        if connect is None:
            raise UnsupportedError("this transport has no websockets", code="NO_WEBSOCKET")
        return await connect(path, deadline, limit)


def _by_number(
    plan: Sequence[Fault | None] | Mapping[int, Fault],
) -> Callable[[HTTPRequest, int], Fault | None]:
    table: dict[int, Fault | None] = {}
    if isinstance(plan, Mapping):
        for first, fault in plan.items():
            if isinstance(first, bool) or not isinstance(first, int) or first < 1:
                raise ConfigurationError(
                    f"request numbers in plan must be integers from 1; got {first!r}",
                    details={"field": "plan"},
                )
            table |= dict.fromkeys(range(first, first + _require_fault(fault).times), fault)
    else:
        for entry in plan:
            times = 1 if entry is None else _require_fault(entry).times
            table |= dict.fromkeys(range(len(table) + 1, len(table) + 1 + times), entry)
    return lambda request, number: table.get(number)


def _require_fault(fault: Any) -> Fault:
    if not isinstance(fault, Fault):
        raise ConfigurationError(
            f"plan must contain faults such as Refused(); got {type(fault).__name__}",
            details={"field": "plan"},
        )
    return fault
