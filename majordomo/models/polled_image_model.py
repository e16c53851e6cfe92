"""Images from a backend that replies at the end, with a second route for progress (A1111).

While the request waits for its reply, a companion task polls the progress and emits events. It ends
with the request.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from anyio import sleep

from majordomo import imagegen
from majordomo.backend_status import Queued
from majordomo.concurrency.companion_task import run_or_withdraw, run_with_companion
from majordomo.dialects.image_jobs import JobProgress
from majordomo.errors import CallWarning, MajordomoError
from majordomo.models.call_context import Emit
from majordomo.models.client import BackendCall, BackendClient, read_into
from majordomo.models.image_model import HTTPImageModel, ImageCodec
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest, HTTPStream

POLL_TIMEOUT = Timeout(connect=5, queue=5, first_byte=5, idle=5, total=10)
# The live previews of A1111 change at most once per step.
POLL_SECONDS = 0.25


class PolledImageCodec(ImageCodec, Protocol):
    """The client side of an image dialect with a second route for progress."""

    def encode_task(self, model: str, request: imagegen.Request, task: str) -> HTTPRequest:
        """Return the request that starts a generation under the id `task`."""

    def encode_progress(self, *, preview: bool) -> HTTPRequest:
        """Return the request for the progress, with or without a preview image."""

    def encode_interrupt(self) -> HTTPRequest:
        """Return the request that interrupts the running job."""

    def decode_progress(self, body: bytes, limits: Limits) -> JobProgress:
        """Return the progress in a body."""

    def used_other_model(self, model: str, reported: str) -> bool:
        """Return whether the model that the backend names is not the requested one."""

    def reply_decoder(self, limits: Limits) -> Any:
        """Return a decoder to feed the body of the reply to."""

    def decode_reply(
        self, reply: Any, request: imagegen.Request, limits: Limits
    ) -> imagegen.Result:
        """Return the result from a decoder that has got the whole body."""


class PolledImageModel(HTTPImageModel):
    """An image model of a backend with a second route for progress.

    A cancelled call interrupts the running job only when the backend says that it is the job of
    this call, or, where the backend does not name jobs, when `exclusive` says that there are no
    other users.
    """

    def __init__(
        self,
        client: BackendClient,
        codec: PolledImageCodec,
        *args: Any,
        exclusive: bool = False,
        new_task: Callable[[], str] = lambda: f"task({uuid.uuid4().hex})",
        **settings: Any,
    ) -> None:
        super().__init__(client, codec, *args, **settings)
        self._codec = codec
        self._exclusive = exclusive
        self._new_task = new_task

    async def _generate_batch(
        self, request: imagegen.Request, call: BackendCall
    ) -> imagegen.Result:
        task = self._new_task()
        http_request = self._codec.encode_task(self.id, request, task)

        async def read(reply: HTTPStream) -> imagegen.Result:
            decoder = await read_into(self._codec.reply_decoder(self._limits), reply)
            return self._codec.decode_reply(decoder, request, self._limits)

        async def interrupt() -> None:
            # The time of the call may be over.
            progress = await self._poll(self._client.call(POLL_TIMEOUT))
            if progress.task == task or (
                self._exclusive and progress.task is None and progress.busy
            ):
                await self._client.call(POLL_TIMEOUT).read_body(
                    self._codec.encode_interrupt(), self._limits.max_reply_bytes
                )

        async def generate() -> imagegen.Result:
            result = await self._send_job(http_request, read, call)
            warnings = [*result.warnings, *await self._check_interrupted(call)]
            if self._codec.used_other_model(self.id, result.model):
                warnings.append(
                    CallWarning(
                        "MODEL_DIFFERS",
                        f"{self.id} was requested; the backend used {result.model}",
                        "model",
                    )
                )
            return replace(result, model="", warnings=tuple(warnings))

        if call.emit is None or not call.streamed:
            return await run_or_withdraw(generate, interrupt)

        async def poll(preview: bool) -> JobProgress:
            return await self._poll(call.child(POLL_TIMEOUT), preview)

        poller = _ProgressPoller(poll, call.emit, task, request.previews)
        await poller.check_idle()
        return await run_or_withdraw(lambda: run_with_companion(generate, poller.follow), interrupt)

    async def _check_interrupted(self, call: BackendCall) -> list[CallWarning]:
        """Return a warning if the job was interrupted on the server.

        Such a job is still answered with status 200 and the unfinished image; only the progress
        differs.
        """
        with suppress(MajordomoError):
            progress = await self._poll(call.child(POLL_TIMEOUT))
            if progress.interrupted and not progress.busy:
                return [
                    CallWarning(
                        "INTERRUPTED",
                        "the generation was interrupted on the server: the image is unfinished",
                    )
                ]
        return []

    async def _poll(self, call: BackendCall, preview: bool = False) -> JobProgress:
        request = self._codec.encode_progress(preview=preview)
        limit = self._limits.max_image_reply_bytes if preview else self._limits.max_reply_bytes
        return self._codec.decode_progress(await call.read_body(request, limit), self._limits)


class _ProgressPoller:
    """Turns polls into events.

    A failed poll is ignored: the call itself reports what is wrong.
    """

    def __init__(self, poll: Callable[[bool], Any], emit: Emit, task: str, previews: int) -> None:
        self._poll = poll
        self._emit = emit
        self._task = task
        self._previews = previews
        self._server_was_idle = False
        self._previews_emitted = 0
        self._last_preview: imagegen.Image | None = None

    async def check_idle(self) -> None:
        """Note whether the server is idle before the call.

        Only then can the next job be taken for this one, where the backend does not name jobs.
        """
        with suppress(MajordomoError):
            self._server_was_idle = not (await self._poll(False)).busy

    async def follow(self) -> None:
        """Poll and emit events until cancelled."""
        while True:
            with suppress(MajordomoError):
                self._emit_progress(await self._poll(self._previews_emitted < self._previews))
            await sleep(POLL_SECONDS)

    def _emit_progress(self, progress: JobProgress) -> None:
        if not progress.busy:
            return
        is_own_task = (
            progress.task == self._task if progress.task is not None else self._server_was_idle
        )
        if not is_own_task:
            self._emit(Queued(None))
            return
        if progress.step and progress.steps:
            self._emit(imagegen.Step(min(progress.step, progress.steps), progress.steps))
        # At most `previews` images, spread over the steps.
        due = progress.steps and progress.step * (self._previews + 1) >= progress.steps * (
            self._previews_emitted + 1
        )
        if (
            progress.preview is not None
            and progress.preview != self._last_preview
            and due
            and self._previews_emitted < self._previews
        ):
            self._previews_emitted += 1
            self._last_preview = progress.preview
            self._emit(imagegen.Preview(progress.preview, progress.image))
