"""One call to a backend: its deadline, its tries, and errors that know whom they are about."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio

from majordomo.backend_status import Loading
from majordomo.dialects.errors import error_from_reply
from majordomo.errors import (
    BackendError,
    BadResponseError,
    ConnectionFailedError,
    DeadlineExceededError,
    MajordomoError,
    OverloadedError,
    RateLimitError,
)
from majordomo.observability import Observer
from majordomo.observability.observed_call import current, hearing, hearing_places
from majordomo.queueing.admission import Gate, Place
from majordomo.queueing.resource_group import Holder
from majordomo.queueing.slot_queue import TellPosition
from majordomo.redaction import hidden
from majordomo.settings import Limits, Retries, Timeout
from majordomo.transport_types import Deadline, Transport, WireRequest, WireStream

T = TypeVar("T")
TellLoading = Callable[[Loading], None] | None
Watch = Callable[[str, Deadline, TellLoading], Awaitable[None]]
LOADING_PAUSE = 1.0


@dataclass(slots=True)
class Budget:
    """What all calls of a provider may spend on repeats together, so that a dead backend is not stormed."""

    size: float
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.size

    def spend(self) -> bool:
        if self.left < 1:
            return False
        self.left -= 1
        return True

    def success(self) -> None:
        self.left = min(self.size, self.left + 0.1)


@dataclass(slots=True)
class Caller:
    """What every call of one provider shares."""

    provider: str
    port: Transport
    retries: Retries
    limits: Limits
    hide: Callable[[str], str] = str
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    fraction: Callable[[], float] = random.random
    watch: Watch | None = None
    peers: Callable[[], Collection[str]] = tuple  # the names under which `extra` may hold what is for others
    gate: Gate = field(default_factory=lambda: Gate(None))
    release: Callable[[str], Awaitable[None]] | None = None  # makes the backend let go of a model's memory
    observers: Sequence[Observer] = ()
    address: str = ""  # scheme, host and port
    served_by: Any = field(default=None, repr=False)  # the provider, for the questions that are free
    budget: Budget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Budget(self.retries.budget)

    @property
    def talks(self) -> bool:
        """Whether there may be something to tell before an answer begins: a line to wait in, or a look whether the model loads."""
        return self.watch is not None or self.gate.waits

    def deadline(self, timeout: Timeout, model: str = "", tell: TellLoading = None, since: Deadline | None = None) -> Deadline:
        """A deadline that begins now, or began with `since`. While a model's first byte is awaited, the provider may look whether it
        loads, and tell."""
        deadline = Deadline(timeout, self.clock) if since is None else since.another()
        if self.watch is not None and model:
            watch = self.watch
            tell = tell or hearing()
            deadline.watch = lambda: watch(model, deadline, tell)
        return deadline

    async def enter(self, deadline: Deadline, model: str, caller: str = "", tell: TellPosition = None) -> Place:
        """Wait until a call of this model may go; the place must be left. Raises typed errors, about this provider."""
        holder = None
        if self.gate.shared:
            release = self.release
            holder = Holder(id(self), model, None if release is None else lambda: release(model))
        try:
            return await self.gate.enter(deadline, tell or hearing_places(), caller=caller, holder=holder)
        except MajordomoError as error:
            raise error.about(self.provider, model) from None

    async def open(self, request: WireRequest, deadline: Deadline, model: str = "") -> WireStream:
        """An answer with a status of success, not repeated. Raises the typed error of any other."""
        reply = await self.port.open(request, deadline)
        if 200 <= reply.status < 300:
            return reply
        # Made elsewhere, so that the body, which may quote a key, is no local of a frame in the traceback
        raise await self._error_of(reply)

    async def _error_of(self, reply: WireStream) -> MajordomoError:
        try:
            body = await self._error_body(reply)
        finally:
            await reply.aclose()
        return error_from_reply(reply.status, reply.headers, body, now=self.wall_clock(), hide=self.hide)

    async def _error_body(self, reply: WireStream) -> bytes:
        """As much of an error's body as tells the reason; what goes wrong while reading it is not the news."""
        held: list[bytes] = []
        size = 0
        try:
            while size < self.limits.error_body and (piece := await reply.read()):
                held.append(piece)
                size += len(piece)
            if size < self.limits.error_body:
                await reply.finish()
        except MajordomoError:
            pass
        return b"".join(held)[: self.limits.error_body]

    def about(self, error: MajordomoError, model: str = "") -> MajordomoError:
        """The error, saying whom the call was for, and nothing secret: an answer with a status of success may quote a key as well."""
        error.args = (self.hide(error.message),)
        error.details = hidden(error.details, self.hide)
        return error.about(self.provider, model)

    async def fetch(self, request: WireRequest, deadline: Deadline, limit: int) -> bytes:
        """A whole answer of at most `limit` bytes, not repeated."""
        reply = await self.open(request, deadline)
        try:
            return await read_all(reply, limit)
        finally:
            await reply.aclose()

    async def ask(self, request: WireRequest, timeout: Timeout) -> bytes:
        """A question about the backend itself: whole, beside the work, repeated like any call."""
        deadline = self.deadline(timeout)
        return await self.repeat(lambda: self.fetch(request, deadline, self.limits.reply), Tries(self, deadline))

    async def told(self, request: WireRequest, timeout: Timeout, decode: Callable[[bytes, Limits], T]) -> T:
        """The same, as `decode` reads it. Errors say whom they are about, and no frame of theirs holds the answer: it may quote a key."""
        try:
            return decode(await self.ask(request, timeout), self.limits)
        except MajordomoError as error:
            raise self.about(error).with_traceback(None) from None

    async def repeat(self, work: Callable[[], Awaitable[T]], tries: Tries) -> T:
        """`work()`, again while `tries` allows it."""
        while True:
            try:
                result = await work()
            except MajordomoError as error:
                wait = tries.decide(self.about(error, tries.model))
                if error.code == "MODEL_LOADING" and (tell := hearing()) is not None:
                    tell(Loading(error.message, tries.deadline.elapsed()))
                if wait > 0:
                    await anyio.sleep(wait)
            else:
                self.budget.success()
                return result


@dataclass(slots=True)
class Tries:
    """How often one call may be repeated. `picture`: a job that may have begun is never sent twice."""

    caller: Caller
    deadline: Deadline
    model: str = ""
    picture: bool = False
    made: int = 0
    renewed: bool = False
    failed: int = 0

    def decide(self, error: MajordomoError) -> float:
        """Seconds until the next try, counting this failure. Raises `error` when it is the last word."""
        if error.code == "MODEL_LOADING" and error.retryable:
            return self._loading(error)
        wait = self._again(error)
        self.failed += 1
        if (observed := current()) is not None:
            observed.attempt(self.failed, error, wait)
        return wait

    def _again(self, error: MajordomoError) -> float:
        if self._was_stale(error):
            self.renewed = True
            return 0.0
        self.made += 1
        retries = self.caller.retries
        if self.made >= retries.attempts or not may_repeat(error, picture=self.picture):
            raise error
        if error.code == "UPSTREAM_DIED" and self.made > 1:  # most likely out of memory: it would die again
            raise error
        wait = self.caller.fraction() * min(retries.cap, retries.base * float(1 << (self.made - 1)))
        if error.retry_after is not None:
            wait = error.retry_after
        timeout = self.deadline.timeout.total
        left = self.deadline.began + (timeout if timeout is not None else float("inf")) - self.caller.clock()
        if wait > min(retries.longest_wait, left) or not self.caller.budget.spend():
            raise error
        return wait

    def _loading(self, error: MajordomoError) -> float:
        """Loading is not failing: asked again until the load limit, without counting."""
        self.deadline.enter("load")
        left = self.deadline.left()
        if left <= 0:
            raise self.deadline.exceeded().about(self.caller.provider, self.model) from error
        return min(max(error.retry_after or LOADING_PAUSE, 0.05), left)

    def _was_stale(self, error: MajordomoError) -> bool:
        """Whether a kept connection closed before the first byte: the server had given it up; a fresh one tells the truth."""
        if self.renewed or self.picture or not isinstance(error, ConnectionFailedError):
            return False
        return error.details.get("reused") is True and error.details.get("replied") is False


def may_repeat(error: MajordomoError, *, picture: bool = False) -> bool:
    """Whether the same request may be sent to the same backend once more."""
    if not error.retryable:
        return False
    if isinstance(error, DeadlineExceededError):
        return error.phase == "connect"
    if isinstance(error, ConnectionFailedError):
        return not picture or error.details.get("sent") is False
    if isinstance(error, (RateLimitError, OverloadedError)):
        return not picture or error.status in (429, 503)  # these two prove that the job was refused
    return isinstance(error, BackendError) and not picture


async def read_all(reply: WireStream, limit: int) -> bytes:
    """The rest of an answer. Raises BadResponseError beyond `limit` bytes."""
    held: list[bytes] = []
    size = 0
    while piece := await reply.read():
        size += len(piece)
        if size > limit:
            raise BadResponseError(f"the answer is larger than the limit of {limit:,} bytes", code="TOO_LARGE")
        held.append(piece)
    return held[0] if len(held) == 1 else b"".join(held)
