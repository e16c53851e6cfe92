"""Images from a backend with jobs: submit, poll until the job is done, or cancel it.

The submit request is sent once. Polls are free queries with limits and retries of their own. A
cancelled call cancels its job on the server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from anyio import sleep

from majordomo import imagegen
from majordomo.backend_status import Queued
from majordomo.concurrency.companion_task import run_or_withdraw
from majordomo.dialects.image_jobs import JobStatus
from majordomo.errors import JobLostError, NotFoundError, Phase
from majordomo.models.client import BackendCall, BackendClient, read_all, read_into
from majordomo.models.image_model import HTTPImageModel, ImageCodec
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest, HTTPStream

FIRST_POLL_SECONDS = 0.1
MAX_POLL_SECONDS = 1.0
# Each delay between two polls is this much longer than the one before.
POLL_GROWTH = 1.3
POLL_TIMEOUT = Timeout(connect=5, queue=30, first_byte=60, idle=60)


class JobImageCodec(ImageCodec, Protocol):
    """The client side of an image dialect with jobs."""

    def decode_job_id(self, body: bytes, limits: Limits) -> str:
        """Return the id of the submitted job."""

    def encode_poll(self, job: str) -> HTTPRequest:
        """Return the request for the status of a job."""

    def encode_cancel(self, job: str) -> HTTPRequest:
        """Return the request that cancels a job."""

    def reply_decoder(self, limits: Limits) -> Any:
        """Return a decoder to feed the body of a status reply to."""

    def decode_status(self, reply: Any, request: imagegen.Request, limits: Limits) -> JobStatus:
        """Return the status in a reply, with the result once the job is done."""


class JobImageModel(HTTPImageModel):
    """An image model of a backend with jobs."""

    def __init__(
        self, client: BackendClient, codec: JobImageCodec, *args: Any, **settings: Any
    ) -> None:
        super().__init__(client, codec, *args, **settings)
        self._codec = codec

    async def _generate_batch(
        self, request: imagegen.Request, call: BackendCall
    ) -> imagegen.Result:
        async def read(reply: HTTPStream) -> str:
            return self._codec.decode_job_id(
                await read_all(reply, self._limits.max_reply_bytes), self._limits
            )

        job = await self._send_job(self._codec.encode_request(self.id, request), read, call)

        async def cancel() -> None:
            await self._client.call(POLL_TIMEOUT).read_body(
                self._codec.encode_cancel(job), self._limits.max_image_reply_bytes
            )

        return await run_or_withdraw(lambda: self._wait_for_result(job, request, call), cancel)

    async def _wait_for_result(
        self, job: str, request: imagegen.Request, call: BackendCall
    ) -> imagegen.Result:
        delay = FIRST_POLL_SECONDS
        while True:
            status = await self._poll(job, request, call)
            if status.result is not None:
                return status.result
            await wait_for_next_poll(call, status.position, delay, sleep)
            delay = min(delay * POLL_GROWTH, MAX_POLL_SECONDS)

    async def _poll(self, job: str, request: imagegen.Request, call: BackendCall) -> JobStatus:
        poll = call.child(POLL_TIMEOUT)

        async def read(reply: HTTPStream) -> JobStatus:
            decoder = await read_into(self._codec.reply_decoder(self._limits), reply)
            return self._codec.decode_status(decoder, request, self._limits)

        try:
            return await poll.retry(lambda: poll.read(self._codec.encode_poll(job), read))
        except NotFoundError as error:
            raise JobLostError(
                f"the backend no longer knows the job: {error.message}", status=error.status
            ) from None


async def wait_for_next_poll(
    call: BackendCall,
    position: int | None,
    delay: float,
    wait: Callable[[float], Awaitable[None]],
) -> None:
    """Wait before the next poll of a job; a queued job's position is reported first.

    A queued job (`position` is not None) counts against the queue limit, a running one against that
    of the first byte. Raises DeadlineExceededError when the limit has passed.
    """
    deadline = call.deadline
    phase: Phase = "queue" if position is not None else "first_byte"
    if deadline.phase != phase:
        deadline.start_phase(phase)
    if position is not None and call.emit is not None:
        call.emit(Queued(position))
    remaining = deadline.remaining()
    if remaining <= 0:
        raise deadline.exceeded()
    await wait(min(delay, remaining))
