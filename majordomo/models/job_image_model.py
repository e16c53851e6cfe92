"""Images from a backend with a queue: order, come back until they are ready, withdraw the order when nobody wants them any more."""

from __future__ import annotations

from typing import Any, Protocol

from anyio import sleep

from majordomo import imagegen
from majordomo.backend_status import Queued
from majordomo.concurrency.companion_task import run_or_withdraw
from majordomo.dialects.image_jobs import JobStatus
from majordomo.errors import JobLostError, NotFoundError, Phase
from majordomo.models.client import BackendClient, RetryState, read_all
from majordomo.models.image_model import Emit, HTTPImageModel, ImageCodec
from majordomo.observability.observed_call import current_emit
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream

FIRST_POLL_INTERVAL, MAX_POLL_INTERVAL = 0.1, 1.0
POLL_TIMEOUT = Timeout(connect=5, queue=30, first_byte=60, idle=60)


class JobImageCodec(ImageCodec, Protocol):
    """A dialect of jobs."""

    def decode_job_id(self, body: bytes, limits: Limits) -> str: ...

    def encode_poll(self, job: str) -> HTTPRequest: ...

    def encode_cancel(self, job: str) -> HTTPRequest: ...

    def reply_decoder(self, limits: Limits) -> Any: ...

    def decode_status(self, reply: Any, request: imagegen.Request, limits: Limits) -> JobStatus: ...


class JobImageModel(HTTPImageModel):
    """The order is sent once; visits are free and repeated like any question."""

    def __init__(
        self, client: BackendClient, codec: JobImageCodec, *args: Any, **settings: Any
    ) -> None:
        super().__init__(client, codec, *args, **settings)
        self._codec = codec

    async def _run(
        self, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        async def read(reply: HTTPStream) -> str:
            return self._codec.decode_job_id(
                await read_all(reply, self._limits.max_reply_bytes), self._limits
            )

        job = await self._send_job(
            self._codec.encode_request(self.id, request), read, deadline, emit
        )

        async def withdraw() -> None:
            await self._client.read_body(
                self._codec.encode_cancel(job),
                self._client.deadline(POLL_TIMEOUT),
                self._limits.max_image_reply_bytes,
            )

        return await run_or_withdraw(
            lambda: self._wait_for_result(job, request, deadline, emit), withdraw
        )

    async def _wait_for_result(
        self, job: str, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        pause = FIRST_POLL_INTERVAL
        emit = emit or current_emit()
        while True:
            seen = await self._poll(job, request, deadline)
            if seen.result is not None:
                return seen.result
            # Waiting in the backend's line is waiting for a place; being drawn is waiting for the first byte of an image
            phase: Phase = "queue" if seen.position is not None else "first_byte"
            if deadline.phase != phase:
                deadline.start_phase(phase)
            if seen.position is not None and emit is not None:
                emit(Queued(seen.position))
            left = deadline.remaining()
            if left <= 0:
                raise deadline.exceeded()
            await sleep(min(pause, left))
            pause = min(pause * 1.3, MAX_POLL_INTERVAL)

    async def _poll(self, job: str, request: imagegen.Request, deadline: Deadline) -> JobStatus:
        visit = deadline.child(POLL_TIMEOUT)

        async def once() -> JobStatus:
            reply = await self._client.open(self._codec.encode_poll(job), visit)
            try:
                decoder = self._codec.reply_decoder(self._limits)
                while piece := await reply.read():
                    decoder.feed(piece)
            finally:
                await reply.aclose()
            return self._codec.decode_status(decoder, request, self._limits)

        try:
            return await self._client.retry(once, RetryState(self._client, visit, self.id))
        except NotFoundError as error:
            raise JobLostError(
                f"the backend does not know the job any more: {error.message}", status=error.status
            ) from None
