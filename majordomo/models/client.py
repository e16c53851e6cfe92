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
from majordomo.observability.observed_call import (
    current_call,
    current_emit,
    current_position_callback,
)
from majordomo.queueing.admission import Admission, AdmissionControl
from majordomo.queueing.resource_group import ModelLease
from majordomo.queueing.slot_queue import OnPosition
from majordomo.redaction import redact_details
from majordomo.settings import Limits, Retries, Timeout
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, Transport

T = TypeVar("T")
OnLoading = Callable[[Loading], None] | None
LoadCheck = Callable[[str, Deadline, OnLoading], Awaitable[None]]
LOADING_INTERVAL = 1.0


@dataclass(slots=True)
class RetryBudget:
    """What all calls of a provider may spend on repeats together, so that a dead backend is not stormed."""

    size: float
    remaining: float = field(init=False)

    def __post_init__(self) -> None:
        self.remaining = self.size

    def spend(self) -> bool:
        if self.remaining < 1:
            return False
        self.remaining -= 1
        return True

    def record_success(self) -> None:
        self.remaining = min(self.size, self.remaining + 0.1)


@dataclass(slots=True)
class BackendClient:
    """What every call of one provider shares."""

    provider: str
    transport: Transport
    retries: Retries
    limits: Limits
    redact: Callable[[str], str] = str
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    fraction: Callable[[], float] = random.random
    load_check: LoadCheck | None = None
    peers: Callable[[], Collection[str]] = (
        tuple  # the names under which `extra` may hold what is for others
    )
    admission: AdmissionControl = field(default_factory=lambda: AdmissionControl(None))
    unload: Callable[[str], Awaitable[None]] | None = (
        None  # makes the backend let go of a model's memory
    )
    observers: Sequence[Observer] = ()
    address: str = ""  # scheme, host and port
    provider_instance: Any = field(
        default=None, repr=False
    )  # the provider, for the questions that are free
    budget: RetryBudget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = RetryBudget(self.retries.budget)

    @property
    def may_emit_early(self) -> bool:
        """Whether there may be something to tell before an answer begins: a line to wait in, or a look whether the model loads."""
        return self.load_check is not None or self.admission.waits

    def deadline(
        self,
        timeout: Timeout,
        model: str = "",
        on_loading: OnLoading = None,
        since: Deadline | None = None,
    ) -> Deadline:
        """A deadline that begins now, or began with `since`. While a model's first byte is awaited, the provider may look whether it
        loads, and tell."""
        deadline = Deadline(timeout, self.clock) if since is None else since.sibling()
        if self.load_check is not None and model:
            watch = self.load_check
            on_loading = on_loading or current_emit()
            deadline.watch = lambda: watch(model, deadline, on_loading)
        return deadline

    async def admit(
        self, deadline: Deadline, model: str, user_id: str = "", on_position: OnPosition = None
    ) -> Admission:
        """Wait until a call of this model may go; the place must be left. Raises typed errors, about this provider."""
        holder = None
        if self.admission.shared:
            release = self.unload
            holder = ModelLease(
                id(self), model, None if release is None else lambda: release(model)
            )
        try:
            return await self.admission.acquire(
                deadline, on_position or current_position_callback(), user_id=user_id, lease=holder
            )
        except MajordomoError as error:
            raise error.with_context(self.provider, model) from None

    async def open(self, request: HTTPRequest, deadline: Deadline, model: str = "") -> HTTPStream:
        """An answer with a status of success, not repeated. Raises the typed error of any other."""
        reply = await self.transport.open(request, deadline)
        if 200 <= reply.status < 300:
            return reply
        # Made elsewhere, so that the body, which may quote a key, is no local of a frame in the traceback
        raise await self._error_of(reply)

    async def _error_of(self, reply: HTTPStream) -> MajordomoError:
        try:
            body = await self._error_body(reply)
        finally:
            await reply.aclose()
        return error_from_reply(
            reply.status, reply.headers, body, now=self.wall_clock(), redact=self.redact
        )

    async def _error_body(self, reply: HTTPStream) -> bytes:
        """As much of an error's body as tells the reason; what goes wrong while reading it is not the news."""
        held: list[bytes] = []
        size = 0
        try:
            while size < self.limits.max_error_body_bytes and (piece := await reply.read()):
                held.append(piece)
                size += len(piece)
            if size < self.limits.max_error_body_bytes:
                await reply.finish()
        except MajordomoError:
            pass
        return b"".join(held)[: self.limits.max_error_body_bytes]

    def with_context(self, error: MajordomoError, model: str = "") -> MajordomoError:
        """The error, saying whom the call was for, and nothing secret: an answer with a status of success may quote a key as well."""
        error.args = (self.redact(error.message),)
        error.details = redact_details(error.details, self.redact)
        return error.with_context(self.provider, model)

    async def read_body(self, request: HTTPRequest, deadline: Deadline, limit: int) -> bytes:
        """A whole answer of at most `limit` bytes, not repeated."""
        reply = await self.open(request, deadline)
        try:
            return await read_all(reply, limit)
        finally:
            await reply.aclose()

    async def query(self, request: HTTPRequest, timeout: Timeout) -> bytes:
        """A question about the backend itself: whole, beside the work, repeated like any call."""
        deadline = self.deadline(timeout)
        return await self.retry(
            lambda: self.read_body(request, deadline, self.limits.max_reply_bytes),
            RetryState(self, deadline),
        )

    async def query_decoded(
        self, request: HTTPRequest, timeout: Timeout, decode: Callable[[bytes, Limits], T]
    ) -> T:
        """The same, as `decode` reads it. Errors say whom they are about, and no frame of theirs holds the answer: it may quote a key."""
        try:
            return decode(await self.query(request, timeout), self.limits)
        except MajordomoError as error:
            raise self.with_context(error).with_traceback(None) from None

    async def retry(self, work: Callable[[], Awaitable[T]], tries: RetryState) -> T:
        """`work()`, again while `tries` allows it."""
        while True:
            try:
                result = await work()
            except MajordomoError as error:
                wait = tries.next_delay(self.with_context(error, tries.model))
                if error.code == "MODEL_LOADING" and (emit := current_emit()) is not None:
                    emit(Loading(error.message, tries.deadline.elapsed()))
                if wait > 0:
                    await anyio.sleep(wait)
            else:
                self.budget.record_success()
                return result


@dataclass(slots=True)
class RetryState:
    """How often one call may be repeated. `image`: a job that may have begun is never sent twice."""

    client: BackendClient
    deadline: Deadline
    model: str = ""
    image_job: bool = False
    attempts: int = 0
    reconnected: bool = False
    failed: int = 0

    def next_delay(self, error: MajordomoError) -> float:
        """Seconds until the next try, counting this failure. Raises `error` when it is the last word."""
        if error.code == "MODEL_LOADING" and error.retryable:
            return self._loading_delay(error)
        wait = self._delay(error)
        self.failed += 1
        if (observed := current_call()) is not None:
            observed.record_retry(self.failed, error, wait)
        return wait

    def _delay(self, error: MajordomoError) -> float:
        if self._is_stale_connection(error):
            self.reconnected = True
            return 0.0
        self.attempts += 1
        retries = self.client.retries
        if self.attempts >= retries.attempts or not may_retry(error, image=self.image_job):
            raise error
        if (
            error.code == "UPSTREAM_DIED" and self.attempts > 1
        ):  # most likely out of memory: it would die again
            raise error
        wait = self.client.fraction() * min(
            retries.max_delay, retries.initial_delay * float(1 << (self.attempts - 1))
        )
        if error.retry_after is not None:
            wait = error.retry_after
        timeout = self.deadline.timeout.total
        left = (
            self.deadline.started_at
            + (timeout if timeout is not None else float("inf"))
            - self.client.clock()
        )
        if wait > min(retries.max_retry_after, left) or not self.client.budget.spend():
            raise error
        return wait

    def _loading_delay(self, error: MajordomoError) -> float:
        """Loading is not failing: asked again until the load limit, without counting."""
        self.deadline.start_phase("load")
        left = self.deadline.remaining()
        if left <= 0:
            raise self.deadline.exceeded().with_context(self.client.provider, self.model) from error
        return min(max(error.retry_after or LOADING_INTERVAL, 0.05), left)

    def _is_stale_connection(self, error: MajordomoError) -> bool:
        """Whether a kept connection closed before the first byte: the server had given it up; a fresh one tells the truth."""
        if self.reconnected or self.image_job or not isinstance(error, ConnectionFailedError):
            return False
        return error.details.get("reused") is True and error.details.get("replied") is False


def may_retry(error: MajordomoError, *, image: bool = False) -> bool:
    """Whether the same request may be sent to the same backend once more."""
    if not error.retryable:
        return False
    if isinstance(error, DeadlineExceededError):
        return error.phase == "connect"
    if isinstance(error, ConnectionFailedError):
        return not image or error.details.get("sent") is False
    if isinstance(error, (RateLimitError, OverloadedError)):
        return not image or error.status in (429, 503)  # these two prove that the job was refused
    return isinstance(error, BackendError) and not image


async def read_all(reply: HTTPStream, limit: int) -> bytes:
    """The rest of an answer. Raises BadResponseError beyond `limit` bytes."""
    held: list[bytes] = []
    size = 0
    while piece := await reply.read():
        size += len(piece)
        if size > limit:
            raise BadResponseError(
                f"the answer is larger than the limit of {limit:,} bytes", code="TOO_LARGE"
            )
        held.append(piece)
    return held[0] if len(held) == 1 else b"".join(held)
