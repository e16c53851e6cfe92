"""The embedded default: no network, no key, no model. A renderer that draws and a clerk that looks, behind the same interfaces."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar, checkpoint

from majordomo import imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.dialects.image_fields import resolve_size
from majordomo.dialects.request_body import UNSUPPORTED, own_extra, refuse_unsupported
from majordomo.errors import CallWarning, ConfigurationError, MajordomoError
from majordomo.imagegen.geometry import Geometry
from majordomo.llm.reply import empty_reply
from majordomo.llm.tools import read_output
from majordomo.media.image_containers import png_text
from majordomo.models.chat_model import ChatModel
from majordomo.models.image_model import Emit, ImageModel
from majordomo.observability import Observer
from majordomo.observability.observed_call import checked_observers, current_emit
from majordomo.offline import rule_chat as clerk
from majordomo.offline.renderer.renderer import DEFAULT_SIZE, DEFAULT_STEPS, Renderer
from majordomo.providers.base import BaseProvider, make_admission, provider_names
from majordomo.queueing.admission import AdmissionControl
from majordomo.queueing.resource_group import ModelLease, ResourceGroup
from majordomo.settings import LOCAL, Limits, Rate, Timeout
from majordomo.transport_types import Deadline
from majordomo.validation import check_name

T = TypeVar("T")
PROCESSORS = os.cpu_count() or 1
GEOMETRY = Geometry(pixels=512 * 512)
_workers: RunVar[anyio.CapacityLimiter] = RunVar("majordomo-offline-workers")


class Offline(BaseProvider):
    """Draws and answers on this machine. Any model id is accepted: there is one renderer ("renderer") and one clerk ("rules").

    `timeout.total`, `limits`, `strict`, `max_concurrency` (images drawn at once, default: the number of processors), `max_queue`,
    `rate` and `gpu` (of images too) mean what they mean everywhere. Drawing is deterministic in every field of the request but
    `previews`; an unset seed is 0.
    """

    name = "offline"
    default_models: ClassVar[Mapping[str, str]] = {"chat": "rules", "image": "renderer"}

    def __init__(
        self,
        *,
        timeout: Timeout | float | None = None,
        max_concurrency: int | None = None,
        max_queue: int | None = None,
        rate: Rate | None = None,
        gpu: ResourceGroup | str | None = None,
        strict: bool = False,
        limits: Limits | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        if timeout is not None and not isinstance(timeout, Timeout):
            timeout = Timeout(total=timeout)
        self._timeout = (timeout or Timeout()).with_defaults(LOCAL)
        self.admission: AdmissionControl = make_admission(
            max_concurrency if max_concurrency is not None else PROCESSORS, max_queue, rate, gpu
        )
        self._strict = strict
        self._limits = limits or Limits()
        self._observers = checked_observers(observers)
        self._closed = False

    def model(self, id: str, *options: llm.Option) -> OfflineChatModel:
        return OfflineChatModel(self, check_name(id, "model"), options)

    def image_model(self, id: str, *options: imagegen.Option) -> OfflineImageModel:
        return OfflineImageModel(self, check_name(id, "model"), options)

    async def models(self) -> list[ModelInfo]:
        return [
            ModelInfo(
                "rules",
                frozenset({"chat", "vision", "tools"}),
                True,
                "ready",
                "rule-based chat that looks at images",
            ),
            ModelInfo(
                "renderer",
                frozenset({"image", "edit"}),
                True,
                "ready",
                "renderer without a neural network",
            ),
        ]

    async def health(self) -> Health:
        return Health(True, "always here", 0.0)

    async def aclose(self) -> None:
        """Refuse further calls; there is nothing to close."""
        self._closed = True

    def close(self) -> None:
        self._closed = True

    def __repr__(self) -> str:
        return "<Offline>"

    async def run_in_thread(self, job: Callable[[], T], deadline: Deadline) -> T:
        """One piece of work in a worker thread, which a cancellation does not wait for."""
        if self._closed:
            raise ConfigurationError("the provider is closed", code="CLOSED")
        try:
            limiter = _workers.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(PROCESSORS)
            _workers.set(limiter)
        deadline.start_phase("idle")
        with anyio.move_on_after(deadline.next_timeout()):
            return await to_thread.run_sync(job, abandon_on_cancel=True, limiter=limiter)
        raise deadline.exceeded()


class OfflineImageModel(ImageModel):
    def __init__(self, owner: Offline, id: str, options: Sequence[imagegen.Option]) -> None:
        super().__init__(owner.name, id, options, limits=owner._limits, observers=owner._observers)
        self._offline = owner

    @property
    def provider_instance(self) -> Offline:
        return self._offline

    async def _generate(self, request: imagegen.Request, emit: Emit | None) -> imagegen.Result:
        """n images, one after the other. Image i is drawn from seed + i, as other backends count."""
        offline = self._offline
        emit = emit or current_emit()
        try:
            fitted, warnings = _adapt_request(request, self.id, self.provider)
            refuse_unsupported(warnings, offline._strict)
            painting = _ImageJob(fitted)
            deadline = Deadline(offline._timeout)
            heard = None if emit is None else lambda position: emit(imagegen.Queued(position))
            holder = ModelLease(id(offline), self.id)
            async with offline.admission.admitted(
                deadline, heard, user_id=request.user_id, lease=holder
            ):
                while not painting.finished:
                    for event in await offline.run_in_thread(painting.step, deadline):
                        if emit is not None:
                            emit(event)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return painting.result(request, warnings, self.id, self.provider)


def _adapt_request(
    request: imagegen.Request, model: str, provider: str
) -> tuple[imagegen.Request, list[CallWarning]]:
    """All of a request, but what no renderer has."""
    warnings = []
    if own_extra(request.extra, provider, provider_names):
        warnings.append(
            CallWarning(
                UNSUPPORTED, "extra has no effect: the renderer has no other settings", "extra"
            )
        )
    if request.background == "transparent" and request.output_format == "jpeg":
        warnings.append(
            CallWarning(
                UNSUPPORTED, "background has no effect: a JPEG cannot be transparent", "background"
            )
        )
    request, more = resolve_size(request, GEOMETRY, exactly=False)
    return request, warnings + more


class _ImageJob:
    """The images of one request, step by step, in a worker thread."""

    def __init__(self, request: imagegen.Request) -> None:
        self._request = request
        self._seed = request.seed if request.seed is not None else 0
        self._count = max(request.n, 1)
        first = request.images[0] if request.images else None
        self._size = request.pixels or ((first.width, first.height) if first else DEFAULT_SIZE)
        self._steps = request.steps or DEFAULT_STEPS
        self._sketch: Renderer | None = None
        self._done = 0
        self._images: list[imagegen.Image] = []

    @property
    def finished(self) -> bool:
        return len(self._images) == self._count

    def step(self) -> list[imagegen.ImageEvent]:
        index = len(self._images)
        if self._sketch is None:
            self._sketch = Renderer(
                self._request, seed=self._seed + index, size=self._size, steps=self._steps
            )
        step = self._sketch.step()
        self._done += 1
        events: list[imagegen.ImageEvent] = [imagegen.Step(self._done, self._steps * self._count)]
        if step < self._steps and _shows(step, self._steps, self._request.previews):
            events.append(imagegen.Preview(self._sketch.preview(), index))
        if step >= self._steps:
            if self._request.previews and self._steps == 1:
                events.append(imagegen.Preview(self._sketch.preview(), index))
            self._images.append(self._sketch.finish())
            self._sketch = None
        return events

    def result(
        self, asked: imagegen.Request, warnings: Sequence[CallWarning], model: str, provider: str
    ) -> imagegen.Result:
        details = [
            imagegen.ImageDetails(
                seed=self._seed + index,
                size_asked=asked.pixels,
                size_sent=self._size,
                size_got=(image.width, image.height),
                settings=dict(png_text(image.data)),
            )
            for index, image in enumerate(self._images)
        ]
        note = {
            "engine": "majordomo offline sketch",
            "neural_network": False,
            "note": "drawn by rules; no neural network drew this",
        }
        usage = imagegen.Usage().with_image_counts(self._images)
        return imagegen.Result(
            tuple(self._images),
            tuple(details),
            tuple(warnings),
            usage,
            model=model,
            provider=provider,
            raw=note,
        )


def _shows(step: int, steps: int, previews: int) -> bool:
    """Whether a preview belongs after this step: `previews` of them, spread evenly before the last step."""
    wanted = min(previews, steps - 1)
    return wanted > 0 and step * (wanted + 1) // steps > (step - 1) * (wanted + 1) // steps


class OfflineChatModel(ChatModel):
    def __init__(self, owner: Offline, id: str, options: Sequence[llm.Option]) -> None:
        super().__init__(owner.name, id, options, limits=owner._limits, observers=owner._observers)
        self._offline = owner

    @property
    def provider_instance(self) -> Offline:
        return self._offline

    async def _generate(self, request: llm.Request) -> llm.Reply:
        source = self._stream(request)
        while await source.next_events():
            pass
        return source.reply

    def _stream(self, request: llm.Request) -> llm.ChatSource:
        names = [
            name
            for name in ("temperature", "top_p", "top_k", "reasoning")
            if getattr(request, name) is not None
        ]
        names += ["extra"] if request.extra else []
        warnings = [
            CallWarning(UNSUPPORTED, f"{name} has no effect: the clerk answers by rules", name)
            for name in names
        ]
        if any(
            isinstance(part, llm.FilePart) for message in request.messages for part in message.parts
        ):
            warnings.append(
                CallWarning(
                    UNSUPPORTED, "files are not read: the clerk looks at images only", "messages"
                )
            )
        try:
            refuse_unsupported(warnings, self._offline._strict)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return _ReplySource(self._offline, self.id, request, warnings)


class _ReplySource:
    """An answer word by word; a word counts as a token for `max_tokens`."""

    def __init__(
        self, offline: Offline, model: str, request: llm.Request, warnings: Sequence[CallWarning]
    ) -> None:
        self._offline = offline
        self._model = model
        self._request = request
        self._warnings = tuple(warnings)
        self._deadline = Deadline(offline._timeout)
        self._said: list[str] = []
        self._words: Iterator[str] | None = None
        self._reason: llm.FinishReason = "stop"
        self._whole: llm.Reply | None = None

    @property
    def reply(self) -> llm.Reply:
        if self._whole is not None:
            return self._whole
        empty = empty_reply(self._model, self._offline.name)
        return self._reply(llm.assistant("".join(self._said)), "unknown") if self._said else empty

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        if self._whole is not None:
            return ()
        try:
            if self._words is None:
                answer = await self._offline.run_in_thread(
                    lambda: clerk.answer(self._request), self._deadline
                )
                if answer.call is not None:
                    return self._called(answer.call)
                self._words = iter(self._cut(answer.text))
            else:
                await checkpoint()  # every other backend waits for a network here, which lets others run and cancellations in
        except MajordomoError as error:
            error.with_context(self._offline.name, self._model)
            raise
        word = next(self._words, None)
        if word is not None:
            self._said.append(word)
            return [llm.TextDelta(word)]
        text = "".join(self._said)
        output = (
            read_output(self._request.output, text) if self._request.output is not None else None
        )
        return [self._done(llm.assistant(text), self._reason, output)]

    def _cut(self, text: str) -> list[str]:
        """The text in words, up to a stop text or max_tokens."""
        ends = [at for stop in self._request.stop if (at := text.find(stop)) >= 0]
        words = re.findall(r"\S+\s*|\s+", text[: min(ends)] if ends else text)
        most = self._request.max_tokens
        if most is not None and len(words) > most:
            self._reason = "length"
            return words[:most]
        return words

    def _called(self, call: llm.ToolCallPart) -> list[llm.ChatEvent]:
        return [
            llm.ToolCallStarted(0, call.id, call.name),
            llm.ToolCallDelta(0, call.arguments_json),
            llm.ToolCall(0, call),
            self._done(llm.assistant(call), "tool_calls"),
        ]

    def _done(self, message: llm.Message, reason: llm.FinishReason, output: Any = None) -> llm.Done:
        self._whole = self._reply(message, reason, output)
        return llm.Done(self._whole)

    def _reply(
        self, message: llm.Message, reason: llm.FinishReason, output: Any = None
    ) -> llm.Reply:
        note = {"engine": "majordomo offline clerk", "neural_network": False, "note": clerk.NOTE}
        return llm.Reply(
            message,
            reason,
            model=self._model,
            provider=self._offline.name,
            output=output,
            warnings=self._warnings,
            raw=note,
        )

    async def aclose(self) -> None:
        """Nothing is open between two batches."""
