"""The client of one backend: deadlines, admission, requests, and errors with their context.

Theory of operation:

One `BackendClient` belongs to a provider and is shared by all its models and by all event loops; it
holds no state of a single call. A call is made of these steps, each of which a model can use alone:

* `deadline` starts the time limits of the call,
* `admit` waits for a slot. The caller has to release the returned `Admission`,
* `open` sends a request once and returns the open reply, or raises the typed error of a status
  other than 2xx. The caller has to close the reply,
* `read_body` is `open`, the whole body, and the close,
* `retry` repeats a step while a `RetryState` allows it (see `majordomo.models.retries`).

`query` and `query_decoded` do all of this for a free question about the backend (its version, its
models). Queries need no slot: they never wait for generations.

Errors leave this module with the provider and the model added and with secrets redacted. Where a
body was read, they leave without the traceback frames that hold it: a body may quote an API key.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio

from majordomo.backend_status import Loading
from majordomo.dialects.errors import error_from_reply
from majordomo.errors import BadResponseError, MajordomoError
from majordomo.models.retries import RetryBudget, RetryState
from majordomo.observability import Observer
from majordomo.observability.observed_call import current_emit, current_position_callback
from majordomo.queueing.admission import Admission, AdmissionControl
from majordomo.queueing.resource_group import ModelLease
from majordomo.queueing.slot_queue import OnPosition
from majordomo.redaction import redact_details
from majordomo.settings import Limits, Retries, Timeout
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream, Transport

T = TypeVar("T")
OnLoading = Callable[[Loading], None] | None
LoadCheck = Callable[[str, Deadline, OnLoading], Awaitable[None]]


@dataclass(slots=True)
class BackendClient:
    """What all calls of one provider share."""

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

    def deadline(
        self,
        timeout: Timeout,
        model: str = "",
        on_loading: OnLoading = None,
        since: Deadline | None = None,
    ) -> Deadline:
        """Return a deadline that starts now, or at the start of `since`.

        With a model, the provider's load check runs while the first byte is awaited and calls
        `on_loading` (default: the event listener of the observed call).
        """
        deadline = Deadline(timeout, self.clock) if since is None else since.sibling()
        if self.load_check is not None and model:
            load_check = self.load_check
            on_loading = on_loading or current_emit()
            deadline.watch = lambda: load_check(model, deadline, on_loading)
        return deadline

    def retry_state(
        self, deadline: Deadline, model: str = "", *, image_job: bool = False
    ) -> RetryState:
        """Return the state of the retries of one new call."""
        return RetryState(
            self.retries,
            self.budget,
            deadline,
            self.provider,
            model,
            image_job,
            self.fraction,
        )

    async def admit(
        self, deadline: Deadline, model: str, user_id: str = "", on_position: OnPosition = None
    ) -> Admission:
        """Wait for a slot for one call of this model. The caller has to release it.

        Raises OverloadedError for a full queue and DeadlineExceededError (phase `queue`).
        """
        lease = None
        if self.admission.shared:
            unload = self.unload
            lease = ModelLease(id(self), model, None if unload is None else lambda: unload(model))
        try:
            return await self.admission.acquire(
                deadline, on_position or current_position_callback(), user_id=user_id, lease=lease
            )
        except MajordomoError as error:
            raise error.with_context(self.provider, model) from None

    async def open(self, request: HTTPRequest, deadline: Deadline) -> HTTPStream:
        """Send a request once and return the open reply, which the caller has to close.

        Raises the typed error of any status other than 2xx.
        """
        reply = await self.transport.open(request, deadline)
        if 200 <= reply.status < 300:
            return reply
        # The body may quote a key, so no local variable of a frame in the traceback may hold it.
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
        """Return up to `limits.max_error_body_bytes` of the body.

        A failure while reading is ignored: the status is the error to report.
        """
        chunks: list[bytes] = []
        size = 0
        try:
            while size < self.limits.max_error_body_bytes and (chunk := await reply.read()):
                chunks.append(chunk)
                size += len(chunk)
            if size < self.limits.max_error_body_bytes:
                await reply.finish()
        except MajordomoError:
            pass
        return b"".join(chunks)[: self.limits.max_error_body_bytes]

    def with_context(self, error: MajordomoError, model: str = "") -> MajordomoError:
        """Add provider and model to the error and redact secrets: a 2xx body can echo a key too."""
        error.args = (self.redact(error.message),)
        error.details = redact_details(error.details, self.redact)
        return error.with_context(self.provider, model)

    async def read_body(self, request: HTTPRequest, deadline: Deadline, limit: int) -> bytes:
        """Send a request once and return the whole body.

        Raises BadResponseError (`TOO_LARGE`) beyond `limit` bytes.
        """
        reply = await self.open(request, deadline)
        try:
            return await read_all(reply, limit)
        finally:
            await reply.aclose()

    async def query(self, request: HTTPRequest, timeout: Timeout) -> bytes:
        """Ask a free question about the backend, without a slot and with retries."""
        deadline = self.deadline(timeout)
        return await self.retry(
            lambda: self.read_body(request, deadline, self.limits.max_reply_bytes),
            self.retry_state(deadline),
        )

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

    async def retry(self, attempt: Callable[[], Awaitable[T]], state: RetryState) -> T:
        """Return the result of `attempt()`, repeated while `state` allows it."""
        while True:
            try:
                result = await attempt()
            except MajordomoError as error:
                delay = state.next_delay(self.with_context(error, state.model))
                if error.code == "MODEL_LOADING" and (emit := current_emit()) is not None:
                    emit(Loading(error.message, state.deadline.elapsed()))
                if delay > 0:
                    await anyio.sleep(delay)
            else:
                self.budget.record_success()
                return result


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
