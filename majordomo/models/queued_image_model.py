"""Images from a backend with a queue: upload files, submit a graph, poll, download the images.

Theory of operation:

The job id is chosen here, so that a job can be cancelled before the reply to its submission
arrives; older servers choose another one. The graph is submitted once; all other requests are
retried, as queries are. The history alone decides how a job ended: polls look for it there, then
in the queue, and once more in the history, because the server moves an ended job from one to the
other.

With a listener, a websocket is opened before the submission, so that no event is missed. It
emits steps and previews and shortens the wait for the next poll; everything works without it. It
is closed before the files are downloaded. A cancelled call deletes the job from the queue, or
interrupts it when it is the one that runs.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Protocol

from anyio import Event, move_on_after, sleep

from majordomo import imagegen
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
)
from majordomo.media.image_part import ImagePart
from majordomo.models.call_context import Emit
from majordomo.models.client import BackendCall, BackendClient, read_all
from majordomo.models.image_model import HTTPImageModel, ImageCodec
from majordomo.models.job_image_model import (
    FIRST_POLL_SECONDS,
    MAX_POLL_SECONDS,
    POLL_GROWTH,
    POLL_TIMEOUT,
    wait_for_next_poll,
)
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import (
    HTTPRequest,
    HTTPStream,
    MessageStream,
    websocket_connector,
)

# A job may be queued for hours without a message; polls detect a dead server.
WEBSOCKET_TIMEOUT = Timeout(connect=5, queue=5, first_byte=5, idle=math.inf)
NO_WEBSOCKET = CallWarning(
    "UNSUPPORTED_FIELD",
    "previews have no effect: the server's websocket cannot be used",
    "previews",
)


class EventParser(Protocol):
    """Parses the websocket's messages about one job. Messages about other jobs give no events."""

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
    def mask_in_image(self) -> bool:
        """Whether the mask is stored in the alpha channel of the image."""

    def encode_request(
        self, model: str, request: imagegen.Request, uploads: UploadedInputs = ..., id: str = ""
    ) -> HTTPRequest:
        """Return the request that submits the graph, under the job id `id`."""

    def encode_upload(self, image: ImagePart) -> HTTPRequest:
        """Return the request that uploads an image."""

    def encode_mask(self, mask: ImagePart, original: UploadedFile) -> HTTPRequest:
        """Return the request that uploads a mask for an uploaded image."""

    def decode_upload(self, body: bytes, limits: Limits) -> UploadedFile:
        """Return the name under which the server stored an upload."""

    def decode_submitted(self, body: bytes, limits: Limits) -> SubmittedJob:
        """Return the id of the submitted job, and warnings."""

    def encode_history(self, job: str) -> HTTPRequest:
        """Return the request for the history of a job."""

    def decode_history(self, body: bytes, job: str, limits: Limits) -> JobOutputs | None:
        """Return the outputs of an ended job; None while it has not ended."""

    def encode_queue(self) -> HTTPRequest:
        """Return the request for the queue."""

    def decode_queue_position(self, body: bytes, job: str, limits: Limits) -> QueueEntry | None:
        """Return the entry of a job in the queue; None when it is not there."""

    def encode_delete(self, job: str) -> HTTPRequest:
        """Return the request that deletes a job from the queue."""

    def encode_interrupt(self, job: str) -> HTTPRequest:
        """Return the request that interrupts a running job."""

    def encode_view(self, image: StoredFile) -> HTTPRequest:
        """Return the request that downloads an image."""

    def decode_reply(
        self,
        files: Sequence[bytes],
        finished: JobOutputs,
        model: str,
        request: imagegen.Request,
        warnings: Sequence[CallWarning],
        limits: Limits,
    ) -> imagegen.Result:
        """Return the result from the downloaded files."""

    def websocket_path(self, job: str) -> str:
        """Return the path of the websocket for the events of a job."""

    def event_parser(self, job: str, request: imagegen.Request, limits: Limits) -> EventParser:
        """Return a parser for the websocket's messages about a job."""


class QueuedImageModel(HTTPImageModel):
    """An image model of a backend with file uploads, a queue and a history.

    `resolve_model` returns the backend's name for a model id.
    """

    def __init__(
        self,
        client: BackendClient,
        codec: QueuedImageCodec,
        *args: Any,
        resolve_model: Callable[[str, BackendCall], Awaitable[str]],
        new_job: Callable[[], str] = lambda: str(uuid.uuid4()),
        **settings: Any,
    ) -> None:
        super().__init__(client, codec, *args, **settings)
        self._codec = codec
        self._model_resolver = resolve_model
        self._new_job = new_job

    async def _resolve_model(self, call: BackendCall) -> str:
        return await self._model_resolver(self.id, call)

    async def _generate_batch(
        self, request: imagegen.Request, call: BackendCall
    ) -> imagegen.Result:
        emit = call.emit if call.streamed else None
        model = await self._resolve_model(call)
        uploads = await self._upload_inputs(request, call)
        job = self._new_job()
        http_request = self._codec.encode_request(model, request, uploads, job)
        websocket = await self._connect_websocket(job, call) if emit is not None else None
        # A newer server takes this id, so that the job can be cancelled before the reply arrives.
        queued_job = _QueuedJob(SubmittedJob(job))

        async def read(reply: HTTPStream) -> SubmittedJob:
            return self._codec.decode_submitted(
                await read_all(reply, self._limits.max_reply_bytes), self._limits
            )

        async def generate() -> JobOutputs:
            queued_job.submitted = await self._send_job(http_request, read, call)
            if websocket is None or emit is None:
                return await self._wait_for_result(queued_job, call)
            parser = self._codec.event_parser(queued_job.submitted.job, request, self._limits)
            return await run_with_companion(
                lambda: self._wait_for_result(queued_job, call),
                lambda: _forward_events(websocket, parser, emit, queued_job),
            )

        try:
            outputs = await run_or_withdraw(
                generate, lambda: self._cancel_job(queued_job.submitted.job, job)
            )
        finally:
            if websocket is not None:
                await websocket.aclose()
        warnings = list(queued_job.submitted.warnings)
        if emit is not None and request.previews and websocket is None:
            warnings.append(NO_WEBSOCKET)
        kept = outputs.images[: self._limits.max_images]
        if len(kept) < len(outputs.images):
            message = (
                f"{len(outputs.images)} images were generated; the first {len(kept)} were fetched"
            )
            warnings.append(CallWarning("IMAGES_NOT_FETCHED", message, "n"))
        files = [await self._download(self._codec.encode_view(image), call) for image in kept]
        return self._codec.decode_reply(files, outputs, model, request, warnings, self._limits)

    async def _upload_inputs(self, request: imagegen.Request, call: BackendCall) -> UploadedInputs:
        images = [
            await self._upload(self._codec.encode_upload(image), call) for image in request.images
        ]
        if request.mask is None:
            return UploadedInputs(tuple(images))
        codec = self._codec
        http_request = (
            codec.encode_mask(request.mask, images[0])
            if codec.mask_in_image
            else codec.encode_upload(request.mask)
        )
        return UploadedInputs(tuple(images), await self._upload(http_request, call))

    async def _upload(self, http_request: HTTPRequest, call: BackendCall) -> UploadedFile:
        """Upload a file. Repeated when it fails: a duplicate on the server's disk does no harm."""

        async def attempt() -> UploadedFile:
            return self._codec.decode_upload(
                await call.read_body(http_request, self._limits.max_reply_bytes), self._limits
            )

        return await call.retry(attempt)

    async def _wait_for_result(self, queued_job: _QueuedJob, call: BackendCall) -> JobOutputs:
        job = queued_job.submitted.job
        delay = FIRST_POLL_SECONDS
        while True:
            outputs = await self._history(job, call)
            if outputs is not None:
                return outputs
            position = await self._queue_position(job, call)
            if position is None:
                # It may have ended between the two polls; the server moves it under one lock.
                outputs = await self._history(job, call)
                if outputs is not None:
                    return outputs
                raise JobLostError(
                    "the job is neither in the server's queue nor in its history; "
                    "it was deleted, or the server was restarted"
                )
            await wait_for_next_poll(call, position or None, delay, queued_job.wait)
            delay = min(delay * POLL_GROWTH, MAX_POLL_SECONDS)

    async def _history(self, job: str, call: BackendCall) -> JobOutputs | None:
        body = await self._query(self._codec.encode_history(job), call)
        return self._codec.decode_history(body, job, self._limits)

    async def _queue_position(self, job: str, call: BackendCall) -> int | None:
        """Return the position in the queue: 0 when the job runs, None when it is not there.

        Also 0 when the queue is too large or too deep to be decoded: it contains the graphs of all
        users, and the job may well be in it.
        """
        try:
            entry = self._codec.decode_queue_position(
                await self._query(self._codec.encode_queue(), call), job, self._limits
            )
        except BadResponseError as error:
            if error.code in ("TOO_LARGE", "TOO_DEEP"):
                return 0
            raise
        return entry.position if entry is not None else None

    async def _query(self, http_request: HTTPRequest, call: BackendCall) -> bytes:
        return await call.query(http_request, POLL_TIMEOUT, self._limits.max_reply_bytes)

    async def _download(self, http_request: HTTPRequest, call: BackendCall) -> bytes:
        try:
            return await call.query(http_request, POLL_TIMEOUT, self._limits.max_image_bytes)
        except NotFoundError as error:
            raise NoImageError(
                "the finished image is no longer on the server's disk", status=error.status
            ) from None

    async def _cancel_job(self, job: str, client_id: str) -> None:
        """Delete the job from the queue; interrupt it if it is running.

        An older server interrupts whatever runs, so the queue is read first. A server that chose an
        id of its own, which has not arrived yet, knows the job by `client_id`.
        """
        call, limit = self._client.call(POLL_TIMEOUT), self._limits.max_reply_bytes
        await call.read_body(self._codec.encode_delete(job), limit)
        for _ in range(2):
            queue = await call.read_body(self._codec.encode_queue(), limit)
            entry = self._codec.decode_queue_position(queue, client_id, self._limits)
            if entry is None:
                return
            if entry.position == 0:
                await call.read_body(self._codec.encode_interrupt(entry.job), limit)
                return
            await call.read_body(self._codec.encode_delete(entry.job), limit)

    async def _connect_websocket(self, job: str, call: BackendCall) -> MessageStream | None:
        """Return the websocket for the events of a job; None where there is none."""
        connect = websocket_connector(self._client.transport)
        if connect is None:
            return None
        try:
            websocket = await connect(
                self._codec.websocket_path(job),
                call.deadline.child(WEBSOCKET_TIMEOUT),
                self._limits.max_image_bytes,
            )
        except MajordomoError:
            return None
        try:
            await websocket.send(self._codec.greeting)
        except BaseException as error:
            await websocket.aclose()
            if isinstance(error, MajordomoError):
                return None
            raise
        return websocket


class _QueuedJob:
    """A job under way. `ended` is set when its history should be polled."""

    def __init__(self, submitted: SubmittedJob) -> None:
        self.submitted = submitted
        self.ended = Event()

    async def wait(self, seconds: float) -> None:
        """Wait, but not longer than until `ended` is set."""
        if self.ended.is_set():
            # The event arrives a moment before the job is in the history.
            await sleep(min(FIRST_POLL_SECONDS, seconds))
            return
        with move_on_after(seconds):
            await self.ended.wait()


async def _forward_events(
    websocket: MessageStream, parser: EventParser, emit: Emit, queued_job: _QueuedJob
) -> None:
    """Emit the websocket's events until the job or the websocket ends; polling continues."""
    try:
        while not parser.ended and (message := await websocket.receive()) is not None:
            for event in parser.feed(message):
                emit(event)
    except MajordomoError:
        return
    if parser.ended:
        queued_job.ended.set()
