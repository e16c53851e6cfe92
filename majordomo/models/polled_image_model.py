"""Images from a backend that answers at the end, and beside it can be asked how far it is (A1111)."""

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
from majordomo.models.client import BackendClient
from majordomo.models.image_model import Emit, HTTPImageModel, ImageCodec
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import Deadline, HTTPRequest, HTTPStream

POLL_TIMEOUT = Timeout(connect=5, queue=5, first_byte=5, idle=5, total=10)
POLL_INTERVAL = (
    0.25  # seconds between looks; live previews of A1111 change no more often than a step
)


class PolledImageCodec(ImageCodec, Protocol):
    """A dialect with a second route that tells of progress."""

    def encode_task(self, model: str, request: imagegen.Request, task: str) -> HTTPRequest: ...

    def encode_progress(self, *, preview: bool) -> HTTPRequest: ...

    def encode_interrupt(self) -> HTTPRequest: ...

    def decode_progress(self, body: bytes, limits: Limits) -> JobProgress: ...

    def is_other(self, model: str, told: str) -> bool: ...

    def reply_decoder(self, limits: Limits) -> Any: ...

    def decode_reply(
        self, reply: Any, request: imagegen.Request, limits: Limits
    ) -> imagegen.Result: ...


class PolledImageModel(HTTPImageModel):
    """The looks end with the call. A job is interrupted only when the backend says that it is ours that runs, or, where it does not say,
    when nobody else uses it (`exclusive`)."""

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

    async def _run(
        self, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        task = self._new_task()
        wire = self._codec.encode_task(self.id, request, task)

        async def read(reply: HTTPStream) -> imagegen.Result:
            decoder = self._codec.reply_decoder(self._limits)
            while piece := await reply.read():
                decoder.feed(piece)
            return self._codec.decode_reply(decoder, request, self._limits)

        async def withdraw() -> None:
            found = await self._poll(False)
            if found.task == task or (self._exclusive and found.task is None and found.busy):
                await self._client.read_body(
                    self._codec.encode_interrupt(),
                    self._client.deadline(POLL_TIMEOUT),
                    self._limits.max_reply_bytes,
                )

        async def drawn() -> imagegen.Result:
            result = await self._send_job(wire, read, deadline, emit)
            warnings = [*result.warnings, *await self._interrupt()]
            if self._codec.is_other(self.id, result.model):
                warnings.append(
                    CallWarning(
                        "MODEL_DIFFERS", f"{self.id} was asked for, {result.model} drew", "model"
                    )
                )
            return replace(result, model="", warnings=tuple(warnings))

        if emit is None:
            return await run_or_withdraw(drawn, withdraw)
        watch = _ProgressPoller(self._poll, emit, task, request.previews)
        await watch.before()
        return await run_or_withdraw(lambda: run_with_companion(drawn, watch.follow), withdraw)

    async def _interrupt(self) -> list[CallWarning]:
        """A job that somebody interrupts still answers 200, with what was drawn so far; only the progress tells."""
        with suppress(MajordomoError):
            found = await self._poll(False)
            if found.interrupted and not found.busy:
                return [
                    CallWarning(
                        "INTERRUPTED",
                        "somebody interrupted the server while it drew: the image is unfinished",
                    )
                ]
        return []

    async def _poll(self, preview: bool) -> JobProgress:
        request = self._codec.encode_progress(preview=preview)
        limit = self._limits.max_image_reply_bytes if preview else self._limits.max_reply_bytes
        return self._codec.decode_progress(
            await self._client.read_body(request, self._client.deadline(POLL_TIMEOUT), limit),
            self._limits,
        )


class _ProgressPoller:
    """Turns looks into events. A failed look is no news: the call itself tells what is wrong."""

    def __init__(self, look: Callable[[bool], Any], emit: Emit, task: str, previews: int) -> None:
        self._look = look
        self._emit = emit
        self._task = task
        self._previews = previews
        self._alone = False
        self._shown = 0
        self._last: imagegen.Image | None = None

    async def before(self) -> None:
        """Whether the server is idle: only then can the job that runs next be taken for ours where jobs have no names."""
        with suppress(MajordomoError):
            self._alone = not (await self._look(False)).busy

    async def follow(self) -> None:
        while True:
            with suppress(MajordomoError):
                self._saw(await self._look(self._shown < self._previews))
            await sleep(POLL_INTERVAL)

    def _saw(self, found: JobProgress) -> None:
        if not found.busy:
            return
        ours = found.task == self._task if found.task is not None else self._alone
        if not ours:
            self._emit(Queued(None))
            return
        if found.step and found.steps:
            self._emit(imagegen.Step(min(found.step, found.steps), found.steps))
        # at most `previews` of them, spread over the steps
        due = found.steps and found.step * (self._previews + 1) >= found.steps * (self._shown + 1)
        if (
            found.preview is not None
            and found.preview != self._last
            and due
            and self._shown < self._previews
        ):
            self._shown += 1
            self._last = found.preview
            self._emit(imagegen.Preview(found.preview, found.image))
