"""Images from ComfyUI's queue: files up, a graph into the queue, looks at history and queue until it has ended, files down.

The history alone says how a job ended. A websocket, where there is one and somebody listens, tells of steps and unfinished images on
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
from majordomo.concurrency.companion_task import run_or_withdraw, run_with_companion
from majordomo.dialects.image_jobs import (
    JobOutputs,
    QueueEntry,
    StoredFile,
    SubmittedJob,
    UploadedFile,
    UploadedInputs,
)
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    JobLostError,
    MajordomoError,
    NoImageError,
    NotFoundError,
    Phase,
)
from majordomo.media.image_part import ImagePart
from majordomo.models.client import BackendClient, RetryState, read_all
from majordomo.models.image_model import Emit, HTTPImageModel, ImageCodec
from majordomo.models.job_image_model import FIRST_POLL_INTERVAL, MAX_POLL_INTERVAL, POLL_TIMEOUT
from majordomo.observability.observed_call import current_emit
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import (
    Deadline,
    HTTPRequest,
    HTTPStream,
    MessageStream,
    websocket_connector,
)

# A job may wait for hours in the line, and the socket says nothing about it: what is dead shows in the looks
WEBSOCKET_TIMEOUT = Timeout(connect=5, queue=5, first_byte=5, idle=math.inf)
NO_WEBSOCKET = CallWarning(
    "UNSUPPORTED_FIELD",
    "previews have no effect: the server's websocket cannot be used",
    "previews",
)


class EventParser(Protocol):
    """A parser of the websocket's messages about one job; messages about other jobs give no events."""

    ended: bool
    """Whether a message said that the job has ended."""

    def feed(self, message: str | bytes) -> list[imagegen.ImageEvent]:
        """Return the events in one message."""
        ...


class QueuedImageCodec(ImageCodec, Protocol):
    """A codec for a backend with file uploads, a queue and a history."""

    greeting: ClassVar[str]
    """The first message that the client sends on the websocket."""

    @property
    def mask_in_image(self) -> bool: ...

    def encode_request(
        self, model: str, request: imagegen.Request, uploads: UploadedInputs = ..., id: str = ""
    ) -> HTTPRequest: ...

    def encode_upload(self, image: ImagePart) -> HTTPRequest: ...

    def encode_mask(self, mask: ImagePart, original: UploadedFile) -> HTTPRequest: ...

    def decode_upload(self, body: bytes, limits: Limits) -> UploadedFile: ...

    def decode_submitted(self, body: bytes, limits: Limits) -> SubmittedJob: ...

    def encode_history(self, job: str) -> HTTPRequest: ...

    def decode_history(self, body: bytes, job: str, limits: Limits) -> JobOutputs | None: ...

    def encode_queue(self) -> HTTPRequest: ...

    def decode_queue_position(self, body: bytes, job: str, limits: Limits) -> QueueEntry | None: ...

    def encode_delete(self, job: str) -> HTTPRequest: ...

    def encode_interrupt(self, job: str) -> HTTPRequest: ...

    def encode_view(self, image: StoredFile) -> HTTPRequest: ...

    def decode_reply(
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
        client: BackendClient,
        codec: QueuedImageCodec,
        *args: Any,
        resolve: Callable[[str], Awaitable[str]],
        new_job: Callable[[], str] = lambda: str(uuid.uuid4()),
        **settings: Any,
    ) -> None:
        super().__init__(client, codec, *args, **settings)
        self._codec = codec
        self._resolve = resolve
        self._new_job = new_job

    async def _resolve_model(self) -> str:
        return await self._resolve(self.id)

    async def _run(
        self, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        model = await self._resolve_model()
        uploads = await self._upload_inputs(request, deadline)
        job = self._new_job()
        wire = self._codec.encode_request(model, request, uploads, job)
        socket = await self._connect_websocket(job, deadline) if emit is not None else None
        order = _QueuedJob(
            SubmittedJob(job)
        )  # a newer server takes our id, so that the job can be withdrawn before the answer is there

        async def read(reply: HTTPStream) -> SubmittedJob:
            return self._codec.decode_submitted(
                await read_all(reply, self._limits.max_reply_bytes), self._limits
            )

        async def drawn() -> JobOutputs:
            order.ticket = await self._send_job(wire, read, deadline, emit)
            if socket is None or emit is None:
                return await self._wait_for_result(order, deadline, emit)
            hear = self._codec.event_parser(order.ticket.job, request, self._limits)
            return await run_with_companion(
                lambda: self._wait_for_result(order, deadline, emit),
                lambda: _forward_events(socket, hear, emit, order),
            )

        try:
            finished = await run_or_withdraw(drawn, lambda: self._cancel_job(order.ticket.job, job))
        finally:
            if socket is not None:
                await socket.aclose()
        warnings = list(order.ticket.warnings)
        if emit is not None and request.previews and socket is None:
            warnings.append(NO_WEBSOCKET)
        kept = finished.images[: self._limits.max_images]
        if len(kept) < len(finished.images):
            words = f"{len(finished.images)} images were drawn; the first {len(kept)} were fetched"
            warnings.append(CallWarning("IMAGES_NOT_FETCHED", words, "n"))
        files = [await self._download(self._codec.encode_view(image), deadline) for image in kept]
        return self._codec.decode_reply(files, finished, model, request, warnings, self._limits)

    async def _upload_inputs(self, request: imagegen.Request, deadline: Deadline) -> UploadedInputs:
        images = [
            await self._upload(self._codec.encode_upload(image), deadline)
            for image in request.images
        ]
        if request.mask is None:
            return UploadedInputs(tuple(images))
        codec = self._codec
        wire = (
            codec.encode_mask(request.mask, images[0])
            if codec.mask_in_image
            else codec.encode_upload(request.mask)
        )
        return UploadedInputs(tuple(images), await self._upload(wire, deadline))

    async def _upload(self, http_request: HTTPRequest, deadline: Deadline) -> UploadedFile:
        """Repeated when it fails: a file twice on the server's disk harms nobody."""

        async def once() -> UploadedFile:
            return self._codec.decode_upload(
                await self._client.read_body(http_request, deadline, self._limits.max_reply_bytes),
                self._limits,
            )

        return await self._client.retry(once, RetryState(self._client, deadline, self.id))

    async def _wait_for_result(
        self, order: _QueuedJob, deadline: Deadline, emit: Emit | None
    ) -> JobOutputs:
        job = order.ticket.job
        pause = FIRST_POLL_INTERVAL
        emit = emit or current_emit()
        while True:
            finished = await self._history(job, deadline)
            if finished is not None:
                return finished
            place = await self._queue_position(job, deadline)
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
                deadline.start_phase(phase)
            if place and emit is not None:
                emit(Queued(place))
            left = deadline.remaining()
            if left <= 0:
                raise deadline.exceeded()
            if order.ended.is_set():  # told a moment before it stands in the history
                await sleep(min(FIRST_POLL_INTERVAL, left))
                continue
            with move_on_after(min(pause, left)):
                await order.ended.wait()
            pause = min(pause * 1.3, MAX_POLL_INTERVAL)

    async def _history(self, job: str, deadline: Deadline) -> JobOutputs | None:
        body = await self._query(self._codec.encode_history(job), deadline)
        return self._codec.decode_history(body, job, self._limits)

    async def _queue_position(self, job: str, deadline: Deadline) -> int | None:
        """0 when the queue is too long or too deep to be read: it holds everybody's graphs, and the job may well be in it."""
        try:
            place = self._codec.decode_queue_position(
                await self._query(self._codec.encode_queue(), deadline), job, self._limits
            )
        except BadResponseError as error:
            if error.code in ("TOO_LARGE", "TOO_DEEP"):
                return 0
            raise
        return place.position if place is not None else None

    async def _query(self, http_request: HTTPRequest, deadline: Deadline) -> bytes:
        look = deadline.child(POLL_TIMEOUT)
        return await self._client.retry(
            lambda: self._client.read_body(http_request, look, self._limits.max_reply_bytes),
            RetryState(self._client, look, self.id),
        )

    async def _download(self, http_request: HTTPRequest, deadline: Deadline) -> bytes:
        look = deadline.child(POLL_TIMEOUT)
        try:
            return await self._client.retry(
                lambda: self._client.read_body(http_request, look, self._limits.max_image_bytes),
                RetryState(self._client, look, self.id),
            )
        except NotFoundError as error:
            raise NoImageError(
                "the finished image is not on the server's disk any more", status=error.status
            ) from None

    async def _cancel_job(self, job: str, client: str) -> None:
        """Out of the queue; then, when it runs, interrupted. An older server interrupts whatever runs, so it is asked first. One that gave
        the job an id we have not heard yet knows it by the client's."""
        deadline = self._client.deadline(POLL_TIMEOUT)
        await self._client.read_body(
            self._codec.encode_delete(job), deadline, self._limits.max_reply_bytes
        )
        for _ in range(2):
            queue = await self._client.read_body(
                self._codec.encode_queue(), deadline, self._limits.max_reply_bytes
            )
            place = self._codec.decode_queue_position(queue, client, self._limits)
            if place is None:
                return
            if place.position == 0:
                await self._client.read_body(
                    self._codec.encode_interrupt(place.job), deadline, self._limits.max_reply_bytes
                )
                return
            await self._client.read_body(
                self._codec.encode_delete(place.job), deadline, self._limits.max_reply_bytes
            )

    async def _connect_websocket(self, job: str, deadline: Deadline) -> MessageStream | None:
        """The websocket, before the job is sent, so that nothing is missed; None where there is none."""
        connect = websocket_connector(self._client.transport)
        if connect is None:
            return None
        try:
            socket = await connect(
                self._codec.websocket_path(job),
                deadline.child(WEBSOCKET_TIMEOUT),
                self._limits.max_image_bytes,
            )
        except MajordomoError:
            return None
        try:
            await socket.send(self._codec.greeting)
        except BaseException as error:
            await socket.aclose()
            if isinstance(error, MajordomoError):
                return None
            raise
        return socket


class _QueuedJob:
    """A job under way. `ended` is set when a look at its history is due."""

    def __init__(self, ticket: SubmittedJob) -> None:
        self.ticket = ticket
        self.ended = Event()


async def _forward_events(
    socket: MessageStream, hear: EventParser, emit: Emit, order: _QueuedJob
) -> None:
    """Tells what the socket says until the job has ended, or the socket: then the looks alone must do."""
    try:
        while not hear.ended and (message := await socket.receive()) is not None:
            for event in hear.feed(message):
                emit(event)
    except MajordomoError:
        return
    if hear.ended:
        order.ended.set()
