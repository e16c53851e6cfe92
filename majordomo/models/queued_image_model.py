"""Pictures from ComfyUI's queue: files up, a graph into the queue, looks at history and queue until it has ended, files down.

The history alone says how a job ended. A websocket, where there is one and somebody listens, tells of steps and unfinished pictures on
the way, and that a look is due; everything works without it.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Protocol

from anyio import Event, move_on_after, sleep

from majordomo import imagegen
from majordomo.backend_status import Queued
from majordomo.concurrency.companion_task import beside, withdrawing
from majordomo.dialects.image_jobs import JobOutputs, QueueEntry, StoredFile, SubmittedJob, UploadedFile, UploadedInputs
from majordomo.errors import BadResponseError, CallWarning, JobLostError, MajordomoError, NoImageError, NotFoundError, Phase
from majordomo.media.image_part import ImagePart
from majordomo.models.client import Caller, Tries, read_all
from majordomo.models.image_model import HTTPImageModel, ImageDoor, Tell
from majordomo.models.job_image_model import FIRST_PAUSE, LONGEST_PAUSE, VISIT
from majordomo.observability.observed_call import hearing
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import Deadline, MessageStream, WireRequest, WireStream, connector

# A job may wait for hours in the line, and the socket says nothing about it: what is dead shows in the looks
LISTEN = Timeout(connect=5, queue=5, first_byte=5, idle=math.inf)
NO_SOCKET = CallWarning("UNSUPPORTED_FIELD", "previews have no effect: the server's websocket cannot be used", "previews")


class EventParser(Protocol):
    """A parser of the websocket's messages about one job; messages about other jobs give no events."""

    ended: bool
    """Whether a message said that the job has ended."""

    def hear(self, message: str | bytes) -> list[imagegen.ImageEvent]:
        """Return the events in one message."""
        ...


class QueuedDoor(ImageDoor, Protocol):
    """A codec for a backend with file uploads, a queue and a history."""

    greeting: ClassVar[str]
    """The first message that the client sends on the websocket."""

    @property
    def mask_in_image(self) -> bool: ...

    def encode(self, model: str, request: imagegen.Request, uploads: UploadedInputs = ..., id: str = "") -> WireRequest: ...  # noqa: A002 (a value)

    def encode_upload(self, picture: ImagePart) -> WireRequest: ...

    def encode_mask(self, mask: ImagePart, original: UploadedFile) -> WireRequest: ...

    def decode_upload(self, body: bytes, limits: Limits) -> UploadedFile: ...

    def decode_ticket(self, body: bytes, limits: Limits) -> SubmittedJob: ...

    def encode_history(self, job: str) -> WireRequest: ...

    def decode_history(self, body: bytes, job: str, limits: Limits) -> JobOutputs | None: ...

    def encode_queue(self) -> WireRequest: ...

    def decode_place(self, body: bytes, job: str, limits: Limits) -> QueueEntry | None: ...

    def encode_delete(self, job: str) -> WireRequest: ...

    def encode_interrupt(self, job: str) -> WireRequest: ...

    def encode_view(self, picture: StoredFile) -> WireRequest: ...

    def decode(
        self,
        files: Sequence[bytes],
        finished: JobOutputs,
        model: str,
        request: imagegen.Request,
        warnings: Sequence[CallWarning],
        limits: Limits,
    ) -> imagegen.Result: ...

    def websocket_path(self, job: str) -> str: ...

    def event_parser(self, job: str, request: imagegen.Request, limits: Limits) -> EventParser: ...


class QueuedImageModel(HTTPImageModel):
    """The graph is sent once; looks are free and repeated like any question. `resolve` gives the real name for a model id."""

    def __init__(
        self,
        caller: Caller,
        door: QueuedDoor,
        *args: Any,
        resolve: Callable[[str], Awaitable[str]],
        new_job: Callable[[], str] = lambda: str(uuid.uuid4()),
        **settings: Any,
    ) -> None:
        super().__init__(caller, door, *args, **settings)
        self._door = door
        self._resolve = resolve
        self._new_job = new_job

    async def named(self) -> str:
        return await self._resolve(self.id)

    async def work(self, request: imagegen.Request, deadline: Deadline, tell: Tell | None) -> imagegen.Result:
        model = await self.named()
        uploads = await self._uploaded(request, deadline)
        job = self._new_job()
        wire = self._door.encode(model, request, uploads, job)
        socket = await self._connected(job, deadline) if tell is not None else None
        order = _Order(SubmittedJob(job))  # a newer server takes our id, so that the job can be withdrawn before the answer is there

        async def read(reply: WireStream) -> SubmittedJob:
            return self._door.decode_ticket(await read_all(reply, self._limits.reply), self._limits)

        async def drawn() -> JobOutputs:
            order.ticket = await self.exchange(wire, read, deadline, tell)
            if socket is None or tell is None:
                return await self._awaited(order, deadline, tell)
            hear = self._door.event_parser(order.ticket.job, request, self._limits)
            return await beside(
                lambda: self._awaited(order, deadline, tell),
                lambda: _follow(socket, hear, tell, order),
            )

        try:
            finished = await withdrawing(drawn, lambda: self._withdrawn(order.ticket.job, job))
        finally:
            if socket is not None:
                await socket.aclose()
        warnings = list(order.ticket.warnings)
        if tell is not None and request.previews and socket is None:
            warnings.append(NO_SOCKET)
        kept = finished.pictures[: self._limits.images]
        if len(kept) < len(finished.pictures):
            words = f"{len(finished.pictures)} pictures were drawn; the first {len(kept)} were fetched"
            warnings.append(CallWarning("PICTURES_LEFT", words, "n"))
        files = [await self._fetched(self._door.encode_view(picture), deadline) for picture in kept]
        return self._door.decode(files, finished, model, request, warnings, self._limits)

    async def _uploaded(self, request: imagegen.Request, deadline: Deadline) -> UploadedInputs:
        images = [await self._upload(self._door.encode_upload(image), deadline) for image in request.images]
        if request.mask is None:
            return UploadedInputs(tuple(images))
        door = self._door
        wire = door.encode_mask(request.mask, images[0]) if door.mask_in_image else door.encode_upload(request.mask)
        return UploadedInputs(tuple(images), await self._upload(wire, deadline))

    async def _upload(self, wire: WireRequest, deadline: Deadline) -> UploadedFile:
        """Repeated when it fails: a file twice on the server's disk harms nobody."""

        async def once() -> UploadedFile:
            return self._door.decode_upload(await self._caller.fetch(wire, deadline, self._limits.reply), self._limits)

        return await self._caller.repeat(once, Tries(self._caller, deadline, self.id))

    async def _awaited(self, order: _Order, deadline: Deadline, tell: Tell | None) -> JobOutputs:
        job = order.ticket.job
        pause = FIRST_PAUSE
        tell = tell or hearing()
        while True:
            finished = await self._history(job, deadline)
            if finished is not None:
                return finished
            place = await self._place(job, deadline)
            if place is None:
                # It may have ended between the two looks; the server moves it under one lock
                finished = await self._history(job, deadline)
                if finished is not None:
                    return finished
                raise JobLostError(
                    "the server knows the job neither in its queue nor in its history; it was deleted, or the server was restarted"
                )
            phase: Phase = "queue" if place else "first_byte"
            if deadline.phase != phase:
                deadline.enter(phase)
            if place and tell is not None:
                tell(Queued(place))
            left = deadline.left()
            if left <= 0:
                raise deadline.exceeded()
            if order.ended.is_set():  # told a moment before it stands in the history
                await sleep(min(FIRST_PAUSE, left))
                continue
            with move_on_after(min(pause, left)):
                await order.ended.wait()
            pause = min(pause * 1.3, LONGEST_PAUSE)

    async def _history(self, job: str, deadline: Deadline) -> JobOutputs | None:
        body = await self._looked(self._door.encode_history(job), deadline)
        return self._door.decode_history(body, job, self._limits)

    async def _place(self, job: str, deadline: Deadline) -> int | None:
        """0 when the queue is too long or too deep to be read: it holds everybody's graphs, and the job may well be in it."""
        try:
            place = self._door.decode_place(await self._looked(self._door.encode_queue(), deadline), job, self._limits)
        except BadResponseError as error:
            if error.code in ("TOO_LARGE", "TOO_DEEP"):
                return 0
            raise
        return place.position if place is not None else None

    async def _looked(self, wire: WireRequest, deadline: Deadline) -> bytes:
        look = deadline.beside(VISIT)
        return await self._caller.repeat(lambda: self._caller.fetch(wire, look, self._limits.reply), Tries(self._caller, look, self.id))

    async def _fetched(self, wire: WireRequest, deadline: Deadline) -> bytes:
        look = deadline.beside(VISIT)
        try:
            return await self._caller.repeat(
                lambda: self._caller.fetch(wire, look, self._limits.picture), Tries(self._caller, look, self.id)
            )
        except NotFoundError as error:
            raise NoImageError("the finished picture is not on the server's disk any more", status=error.status) from None

    async def _withdrawn(self, job: str, client: str) -> None:
        """Out of the queue; then, when it runs, interrupted. An older server interrupts whatever runs, so it is asked first. One that gave
        the job an id we have not heard yet knows it by the client's."""
        deadline = self._caller.deadline(VISIT)
        await self._caller.fetch(self._door.encode_delete(job), deadline, self._limits.reply)
        for _ in range(2):
            queue = await self._caller.fetch(self._door.encode_queue(), deadline, self._limits.reply)
            place = self._door.decode_place(queue, client, self._limits)
            if place is None:
                return
            if place.position == 0:
                await self._caller.fetch(self._door.encode_interrupt(place.job), deadline, self._limits.reply)
                return
            await self._caller.fetch(self._door.encode_delete(place.job), deadline, self._limits.reply)

    async def _connected(self, job: str, deadline: Deadline) -> MessageStream | None:
        """The websocket, before the job is sent, so that nothing is missed; None where there is none."""
        connect = connector(self._caller.port)
        if connect is None:
            return None
        try:
            socket = await connect(self._door.websocket_path(job), deadline.beside(LISTEN), self._limits.picture)
        except MajordomoError:
            return None
        try:
            await socket.send(self._door.greeting)
        except BaseException as error:
            await socket.aclose()
            if isinstance(error, MajordomoError):
                return None
            raise
        return socket


class _Order:
    """A job under way. `ended` is set when a look at its history is due."""

    def __init__(self, ticket: SubmittedJob) -> None:
        self.ticket = ticket
        self.ended = Event()


async def _follow(socket: MessageStream, hear: EventParser, tell: Tell, order: _Order) -> None:
    """Tells what the socket says until the job has ended, or the socket: then the looks alone must do."""
    try:
        while not hear.ended and (message := await socket.receive()) is not None:
            for event in hear.hear(message):
                tell(event)
    except MajordomoError:
        return
    if hear.ended:
        order.ended.set()
