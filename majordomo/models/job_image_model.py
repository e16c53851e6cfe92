"""Pictures from a backend with a queue: order, come back until they are ready, withdraw the order when nobody wants them any more."""

from __future__ import annotations

from typing import Any, Protocol

from anyio import sleep

from majordomo import imagegen
from majordomo.backend_status import Queued
from majordomo.concurrency.companion_task import withdrawing
from majordomo.dialects.image_jobs import JobStatus
from majordomo.errors import JobLostError, NotFoundError, Phase
from majordomo.models.client import Caller, Tries, read_all
from majordomo.models.image_model import HTTPImageModel, ImageDoor, Tell
from majordomo.observability.observed_call import hearing
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import Deadline, WireRequest, WireStream

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
VISIT = Timeout(connect=5, queue=30, first_byte=60, idle=60)


class JobDoor(ImageDoor, Protocol):
    """A dialect of jobs."""

    def decode_ticket(self, body: bytes, limits: Limits) -> str: ...

    def encode_visit(self, job: str) -> WireRequest: ...

    def encode_withdrawal(self, job: str) -> WireRequest: ...

    def reply_decoder(self, limits: Limits) -> Any: ...

    def decode_visit(self, reply: Any, request: imagegen.Request, limits: Limits) -> JobStatus: ...


class JobImageModel(HTTPImageModel):
    """The order is sent once; visits are free and repeated like any question."""

    def __init__(self, caller: Caller, door: JobDoor, *args: Any, **settings: Any) -> None:
        super().__init__(caller, door, *args, **settings)
        self._door = door

    async def work(self, request: imagegen.Request, deadline: Deadline, tell: Tell | None) -> imagegen.Result:
        async def read(reply: WireStream) -> str:
            return self._door.decode_ticket(await read_all(reply, self._limits.reply), self._limits)

        job = await self.exchange(self._door.encode(self.id, request), read, deadline, tell)

        async def withdraw() -> None:
            await self._caller.fetch(self._door.encode_withdrawal(job), self._caller.deadline(VISIT), self._limits.picture_reply)

        return await withdrawing(lambda: self._awaited(job, request, deadline, tell), withdraw)

    async def _awaited(self, job: str, request: imagegen.Request, deadline: Deadline, tell: Tell | None) -> imagegen.Result:
        pause = FIRST_PAUSE
        tell = tell or hearing()
        while True:
            seen = await self._visit(job, request, deadline)
            if seen.result is not None:
                return seen.result
            # Waiting in the backend's line is waiting for a place; being drawn is waiting for the first byte of a picture
            phase: Phase = "queue" if seen.position is not None else "first_byte"
            if deadline.phase != phase:
                deadline.enter(phase)
            if seen.position is not None and tell is not None:
                tell(Queued(seen.position))
            left = deadline.left()
            if left <= 0:
                raise deadline.exceeded()
            await sleep(min(pause, left))
            pause = min(pause * 1.3, LONGEST_PAUSE)

    async def _visit(self, job: str, request: imagegen.Request, deadline: Deadline) -> JobStatus:
        visit = deadline.beside(VISIT)

        async def once() -> JobStatus:
            reply = await self._caller.open(self._door.encode_visit(job), visit)
            try:
                decoder = self._door.reply_decoder(self._limits)
                while piece := await reply.read():
                    decoder.feed(piece)
            finally:
                await reply.aclose()
            return self._door.decode_visit(decoder, request, self._limits)

        try:
            return await self._caller.repeat(once, Tries(self._caller, visit, self.id))
        except NotFoundError as error:
            raise JobLostError(f"the backend does not know the job any more: {error.message}", status=error.status) from None
