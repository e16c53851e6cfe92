"""The client of one backend, and its calls: deadlines, admission, requests, errors with context.

Theory of operation:

One `BackendClient` belongs to a provider and is shared by all its models and by all event loops; it
holds no state of a single call. `BackendClient.call` starts a `BackendCall`: a `CallContext` with
these steps, each of which a model can use alone:

* `admit` waits for a slot. The caller has to release the returned `Admission`,
* `open` sends a request once and returns the open reply, or raises the typed error of a status
  other than 2xx. The caller has to close the reply,
* `read` is `open`, a function that reads the reply, and the close; `read_body` is `read` of the
  whole body,
* `retry` repeats a step while a `RetryState` allows it (see `majordomo.models.retries`),
* `query` is `read_body` with retries, for a question within the call with limits of its own.

`BackendClient.query` and `query_decoded` do all of this for a free question about the backend (its
version, its models). Queries need no slot: they never wait for generations.

Errors leave this module with the provider and the model added and with secrets redacted. Where a
body was read, they leave without the traceback frames that hold it: a body may quote an API key.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import anyio

from majordomo.backend_status import Loading
from majordomo.dialects.errors import error_from_reply
from majordomo.errors import BadResponseError, MajordomoError
from majordomo.models.call_context import CallContext, Emit
from majordomo.models.retries import RetryBudget, RetryState
from majordomo.observability import Observer
from majordomo.observability.observed_call import ObservedCall
from majordomo.queueing.admission import Admission, AdmissionControl
from majordomo.queueing.resource_group import ModelLease
from majordomo.redaction import redact_details
from majordomo.settings import Limits, Retries, Timeout
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, Transport

T = TypeVar("T")
LoadCheck = Callable[["BackendCall"], Awaitable[None]]
"""Tells whether the model of a call that waits for its first byte is loading."""


@dataclass(slots=True)
class BackendClient:
    """What a backend is: what all calls of one provider share."""

    provider: str
    """Name of the provider, as in errors and results."""
    transport: Transport
    """Sends the requests."""
    retries: Retries
    """How failed requests are retried."""
    limits: Limits
    """Largest sizes of requests and replies."""
    redact: Callable[[str], str] = str
    """Removes secrets from a text."""
    clock: Callable[[], float] = time.monotonic
    """Seconds of a clock that is never set, for deadlines."""
    wall_clock: Callable[[], float] = time.time
    """Seconds since the epoch, to read the dates in `Retry-After` headers."""
    fraction: Callable[[], float] = random.random
    """Returns a number from 0 to 1 by which delays between attempts are multiplied (jitter)."""
    load_check: LoadCheck | None = None
    """Called while a first byte is awaited: checks whether the model is loading."""
    provider_names: Callable[[], Collection[str]] = tuple
    """Names under which `extra` may hold settings for other providers, which are not sent."""
    admission: AdmissionControl = field(default_factory=lambda: AdmissionControl(None))
    """What each call waits for. Default: nothing."""
    unload: Callable[[str], Awaitable[None]] | None = None
    """Makes the backend free the memory of a model; None where it cannot."""
    find_process: Callable[[BackendCall], Awaitable[str | None]] | None = None
    """Returns the id of the process that serves the model of a call, or None if it is not known.
    None where every id is its own."""
    observers: Sequence[Observer] = ()
    """Observers of every call."""
    address: str = ""
    """Scheme, host and port of the backend."""
    provider_instance: Any = field(default=None, repr=False)
    """The provider, for its free queries."""
    budget: RetryBudget = field(init=False)
    """Bounds the retries of all calls together."""

    def __post_init__(self) -> None:
        self.budget = RetryBudget(self.retries.budget)

    @property
    def may_emit_early(self) -> bool:
        """Whether there may be events before a reply begins: queue positions or loading."""
        return self.load_check is not None or self.admission.waits

    def call(
        self,
        timeout: Timeout,
        model: str = "",
        user_id: str = "",
        emit: Emit | None = None,
        *,
        streamed: bool = False,
        observed: ObservedCall | None = None,
    ) -> BackendCall:
        """Start a call: its time limits count from now. See `CallContext` for the arguments."""
        return self._call_until(
            Deadline(timeout, self.clock), model, user_id, emit, streamed, observed
        )

    def _call_until(
        self,
        deadline: Deadline,
        model: str,
        user_id: str,
        emit: Emit | None,
        streamed: bool,
        observed: ObservedCall | None,
    ) -> BackendCall:
        call = BackendCall(deadline, model, user_id, emit, streamed, observed, client=self)
        if self.load_check is not None and model:
            load_check = self.load_check
            deadline.watch = lambda: load_check(call)
        return call

    def with_context(self, error: MajordomoError, model: str = "") -> MajordomoError:
        """Add provider and model to the error and redact secrets: a 2xx body can echo a key too."""
        error.args = (self.redact(error.message),)
        error.details = redact_details(error.details, self.redact)
        return error.with_context(self.provider, model)

    async def query(self, request: HTTPRequest, timeout: Timeout) -> bytes:
        """Ask a free question about the backend, without a slot and with retries."""
        call = self.call(timeout)
        return await call.retry(lambda: call.read_body(request, self.limits.max_reply_bytes))

    async def query_decoded(
        self, request: HTTPRequest, timeout: Timeout, decode: Callable[[bytes, Limits], T]
    ) -> T:
        """Ask a free question about the backend and return its decoded reply.

        Errors of `decode` get their context; no frame of their traceback holds the body.
        """
        try:
            return decode(await self.query(request, timeout), self.limits)
        except MajordomoError as error:
            raise self.with_context(error).with_traceback(None) from None


@dataclass(slots=True)
class BackendCall(CallContext):
    """One call of a backend: its context, and the steps that it is made of."""

    client: BackendClient = field(kw_only=True, repr=False)
    """The backend."""

    def parallel(self, emit: Emit | None) -> BackendCall:
        """Return the context of a parallel request of this call, with a listener of its own.

        It has the same start and total limit, and phases of its own.
        """
        return self.client._call_until(
            self.deadline.sibling(), self.model, self.user_id, emit, self.streamed, self.observed
        )

    def child(self, timeout: Timeout) -> BackendCall:
        """Return the context of a question within this call, with other limits per phase.

        It never exceeds the remaining time of this call by more than GRACE_SECONDS.
        """
        return BackendCall(
            self.deadline.child(timeout),
            self.model,
            self.user_id,
            self.emit,
            self.streamed,
            self.observed,
            client=self.client,
        )

    def retry_state(self, *, image_job: bool = False) -> RetryState:
        """Return the state of the retries of one request."""
        client = self.client
        return RetryState(
            client.retries,
            client.budget,
            self.deadline,
            client.provider,
            self.model,
            image_job,
            client.fraction,
            self.report_retry,
        )

    async def admit(self) -> Admission:
        """Wait for a slot. The caller has to release it.

        Raises OverloadedError for a full queue and DeadlineExceededError (phase `queue`).
        """
        client = self.client
        lease = None
        # A call without a model, such as upscaling, loads none.
        if client.admission.shared and self.model:
            find, unload = client.find_process, client.unload
            known = self.model if find is None else await find(self)
            process = self.model if known is None else known
            lease = ModelLease(
                client.address or client.provider,
                process,
                None if unload is None else lambda: unload(process),
                verified=known is not None,
            )
        try:
            return await client.admission.acquire(
                self.deadline, self.on_position, user_id=self.user_id, lease=lease
            )
        except MajordomoError as error:
            raise error.with_context(client.provider, self.model) from None

    async def open(self, request: HTTPRequest) -> HTTPStream:
        """Send a request once and return the open reply, which the caller has to close.

        Raises the typed error of any status other than 2xx.
        """
        reply = await self.client.transport.open(request, self.deadline)
        if 200 <= reply.status < 300:
            return reply
        # The body may quote a key, so no local variable of a frame in the traceback may hold it.
        raise await self._error_of(reply)

    async def _error_of(self, reply: HTTPStream) -> MajordomoError:
        try:
            body = await self._error_body(reply)
        finally:
            await reply.aclose()
        client = self.client
        return error_from_reply(
            reply.status, reply.headers, body, now=client.wall_clock(), redact=client.redact
        )

    async def _error_body(self, reply: HTTPStream) -> bytes:
        """Return up to `limits.max_error_body_bytes` of the body.

        A failure while reading is ignored: the status is the error to report.
        """
        limit = self.client.limits.max_error_body_bytes
        chunks: list[bytes] = []
        size = 0
        try:
            while size < limit and (chunk := await reply.read()):
                chunks.append(chunk)
                size += len(chunk)
            if size < limit:
                await reply.finish()
        except MajordomoError:
            pass
        return b"".join(chunks)[:limit]

    async def read_body(self, request: HTTPRequest, limit: int) -> bytes:
        """Send a request once and return the whole body.

        Raises BadResponseError (`TOO_LARGE`) beyond `limit` bytes.
        """
        return await self.read(request, lambda reply: read_all(reply, limit))

    async def read(self, request: HTTPRequest, read: Callable[[HTTPStream], Awaitable[T]]) -> T:
        """Send a request once, and return what `read` makes of the open reply."""
        reply = await self.open(request)
        try:
            return await read(reply)
        finally:
            await reply.aclose()

    async def query(self, request: HTTPRequest, timeout: Timeout, limit: int) -> bytes:
        """Ask a question within this call, with limits of its own and with retries."""
        call = self.child(timeout)
        return await call.retry(lambda: call.read_body(request, limit))

    async def retry(self, attempt: Callable[[], Awaitable[T]], *, image_job: bool = False) -> T:
        """Return the result of `attempt()`, repeated while the retries allow it.

        With `image_job`, it is repeated only when the backend has provably not accepted the job, or
        while the model loads.
        """
        state = self.retry_state(image_job=image_job)
        while True:
            try:
                result = await attempt()
            except MajordomoError as error:
                delay = state.next_delay(self.client.with_context(error, self.model))
                if error.code == "MODEL_LOADING" and self.emit is not None:
                    self.emit(Loading(error.message, self.deadline.elapsed()))
                if delay > 0:
                    await anyio.sleep(delay)
            else:
                self.client.budget.record_success()
                return result


class BodyDecoder(Protocol):
    """Decodes a body while it arrives."""

    def feed(self, chunk: bytes) -> object:
        """Take the next bytes of the body."""


D = TypeVar("D", bound=BodyDecoder)


async def read_into(decoder: D, reply: HTTPStream) -> D:
    """Feed the rest of a reply to a decoder, and return the decoder."""
    while chunk := await reply.read():
        decoder.feed(chunk)
    return decoder


async def read_all(reply: HTTPStream, limit: int) -> bytes:
    """Return the rest of a reply. Raises BadResponseError (`TOO_LARGE`) beyond `limit` bytes."""
    chunks: list[bytes] = []
    size = 0
    while chunk := await reply.read():
        size += len(chunk)
        if size > limit:
            raise BadResponseError(
                f"the response is larger than the limit of {limit:,} bytes", code="TOO_LARGE"
            )
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
