"""Faults between a provider and its backend: which request meets which, and what happened."""

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
    """Request `number` (from 1), and the fault it met; None when it went through."""

    number: int
    method: str
    path: str
    fault: Fault | None


class Faults:
    """`transport=Faults([Refused(), None, CutAfter(20)])`: faults by the number of the request, as it leaves (each repeat counts).

    `plan` is a list (a fault or None for each request; after its end all go through), a mapping from request number (from 1) to fault, or a
    function from the HTTPRequest and its number to a fault or None. A fault with `times=3` stands for three requests, but where a
    function chooses. `inner` is what the others go through. `happened` lists all requests in order.
    """

    def __init__(self, plan: Plan, inner: Any = None) -> None:
        self.inner = inner
        self.happened: list[InjectedFault] = []
        self._choose = plan if callable(plan) else _by_number(plan)
        self._lock = Lock()

    def count(self, kind: type[Fault] | None = None) -> int:
        """How many requests met a fault of this kind; of any kind when None."""
        return sum(isinstance(one.fault, kind or Fault) for one in self.happened)

    @property
    def calls(self) -> int:
        """How many requests went through."""
        return sum(one.fault is None for one in self.happened)

    def wrap(self, transport: Transport, base_path: str, redact: Callable[[str], str]) -> Transport:
        """See Wrapper."""
        return _FaultyTransport(self, transport)

    def next(self, request: HTTPRequest) -> Fault | None:
        """Counts the request, and says what it meets."""
        with self._lock:
            number = len(self.happened) + 1
            fault = self._choose(request, number)
            self.happened.append(InjectedFault(number, request.method, request.path, fault))
            return fault


class _FaultyTransport(WrappingTransport):
    def __init__(self, faults: Faults, transport: Transport) -> None:
        super().__init__(transport)
        self._faults = faults

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        self.check_open()
        fault = self._faults.next(request)
        if fault is None:
            return await self.port.open(request, deadline)
        return await fault.open(lambda: self.port.open(request, deadline), deadline)

    async def connect(self, path: str, deadline: Deadline, limit: int) -> MessageStream:
        """Websockets go through untouched."""
        connect = websocket_connector(self.port)
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
                raise ConfigurationError("requests are counted from 1", details={"field": "plan"})
            table |= dict.fromkeys(range(first, first + _checked(fault).times), fault)
    else:
        for entry in plan:
            times = 1 if entry is None else _checked(entry).times
            table |= dict.fromkeys(range(len(table) + 1, len(table) + 1 + times), entry)
    return lambda request, number: table.get(number)


def _checked(fault: Any) -> Fault:
    if not isinstance(fault, Fault):
        raise ConfigurationError(
            f"a plan holds faults such as Refused(), not {type(fault).__name__}",
            details={"field": "plan"},
        )
    return fault
