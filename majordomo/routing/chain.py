"""Chains: several models as one; the next one is called when one fails, not when one refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from typing import Any, Unpack, cast

from majordomo import imagegen, llm
from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream
from majordomo.concurrency.task_stream import TaskStream
from majordomo.errors import BadResponseError, CallWarning, MajordomoError
from majordomo.imagegen.request import check_request as check_image_request
from majordomo.llm.messages import as_messages
from majordomo.llm.model import Messages
from majordomo.llm.reply import empty_reply
from majordomo.llm.request import check_request as check_chat_request
from majordomo.media.image_part import ImagePart
from majordomo.models.image_model import ImageTaskSource
from majordomo.routing import registry
from majordomo.routing.capabilities import chat_need, image_need
from majordomo.routing.chain_request import ChainRequest, chat_chain_request, image_chain_request
from majordomo.routing.failover import ChainBase, Emit, MemberEvents

# mypy does not accept an abstract class where a type is expected.
_CHAT_MODEL: Any = llm.Model
_IMAGE_MODEL: Any = imagegen.Model


class Chain(ChainBase[llm.Model, llm.Option], llm.Model):
    """A chat model made of several models, which are called in order until one answers.

    The next model is called after an error that is `retryable`, while a model is cooling down, and
    when it is known before anything is sent that a model cannot handle the request: after an
    UnsupportedError, or for a request with an image when the model is listed without "vision". A
    refusal, an invalid request or a wrong key is raised unchanged, unless `fallback_on` names its
    class or code. Once a part of the answer was delivered, no other model is called; the chain
    raises StreamBrokenError with that part.

    The retries of a model come first: use `Retries(attempts=1)` on its provider for fast failover.
    A model that keeps failing is skipped for a while (circuit breaker, see `ChainHealth`). When all
    models are cooling down, the one whose cooldown ends first is called anyway, by one call at a
    time.

    The reply names the model that answered in `provider` and `model`, and the models that did not
    in `failed_attempts`. Options apply in this order, later ones win: a model's own, the chain's,
    the fields of the request, those of the call, keywords.

    Args:
        models: Models, also chains, or model strings. Models made from strings are closed with the
            chain; the others are left open.
        *options: Options for all models of the chain.
        cooldown: Seconds of the first cooldown; 30 by default. Exclusive with `health`.
        fallback_on: Error classes or error codes after which the next model is called as well.
        health: The health records, to share them between chains. Each chain has its own by default.
        capabilities: Maps "provider/model" to what that model can do; overrides the provider's
            list.
        limits: Limits for the checks of the request.

    Raises:
        ConfigurationError: There are no models, a model is not a chat model, a chain contains
            itself, or a setting is invalid.
        ChainExhaustedError: From a call: no model answered. `failures` holds the error of each.

    Example:
        ```python
        chain = Chain(["ollama/qwen3", "openai/gpt-5-mini"])
        reply = await chain.generate("Hello")
        ```
    """

    operation = "chat"
    _kind = _CHAT_MODEL

    def _resolve_model(self, model_string: str) -> llm.Model:
        return registry.model(model_string)

    def _build_request(
        self,
        messages: Messages | llm.Request,
        options: Sequence[llm.Option],
        overrides: llm.Overrides,
    ) -> ChainRequest[llm.Request]:
        try:
            request = (
                messages
                if isinstance(messages, llm.Request)
                else llm.Request(as_messages(messages))
            )
            chain_request = chat_chain_request(request, self._options, options, overrides)
            check_chat_request(chain_request.request, self._limits)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return chain_request

    async def _generate(
        self,
        chain_request: ChainRequest[llm.Request],
        emit: Emit | None,
        current: _CurrentStream,
    ) -> llm.Reply:
        async def call_member(model: llm.Model, events: MemberEvents) -> llm.Reply:
            if not events.wants_events:
                return await model.generate(chain_request.request, **chain_request.unset)
            async with model.stream(chain_request.request, **chain_request.unset) as stream:
                current.stream = stream
                try:
                    done = await _forward_stream(model, stream, llm.Done, events)
                    return cast("llm.Reply", done.reply)
                except MajordomoError as error:
                    # Raised outside the block: a stream that holds a task group would wrap it.
                    failure = error
                    events.partial = stream.reply
            raise failure

        reply, model, attempts = await self._failover(
            chat_need(chain_request.request), call_member, emit
        )
        return replace(
            reply,
            provider=reply.provider or model.provider,
            model=reply.model or model.id,
            failed_attempts=attempts + reply.failed_attempts,
        )

    async def generate(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> llm.Reply:
        """Return the reply of the first model that answers; see `llm.Model.generate`."""
        return await self._generate(
            self._build_request(messages, options, overrides), None, _CurrentStream()
        )

    def stream(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> AbstractAsyncContextManager[llm.Stream]:
        """Stream the reply of the first model that answers; see `llm.Model.stream`."""
        chain_request = self._build_request(messages, options, overrides)
        return cast(
            "AbstractAsyncContextManager[llm.Stream]",
            EventStream(lambda: _ChatSource(self, chain_request)),
        )

    def generate_sync(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> llm.Reply:
        """Blocking version of `generate`."""
        chain_request = self._build_request(messages, options, overrides)
        return portal.run(lambda: self._generate(chain_request, None, _CurrentStream()))

    def stream_sync(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> AbstractContextManager[llm.SyncStream]:
        """Blocking version of `stream`."""
        chain_request = self._build_request(messages, options, overrides)
        return cast(
            "AbstractContextManager[llm.SyncStream]",
            SyncEventStream(lambda: _ChatSource(self, chain_request)),
        )


class ImageChain(ChainBase[imagegen.Model, imagegen.Option], imagegen.Model):
    """An image model made of several models, which are called in order until one answers.

    It works like `Chain`, with these differences: requests with `images` skip models that are
    listed without "edit". A step or a preview counts as a delivered part of the answer. `partial`
    of the StreamBrokenError is then a result with the last preview of each image and the warning
    `UNFINISHED`, or None when there was no preview.

    Args:
        models: Image models, also image chains, or model strings.
        *options: Options for all models of the chain.
        cooldown: Seconds of the first cooldown; 30 by default. Exclusive with `health`.
        fallback_on: Error classes or error codes after which the next model is called as well.
        health: The health records, to share them between chains. Each chain has its own by default.
        capabilities: Maps "provider/model" to what that model can do; overrides the provider's
            list.
        limits: Limits for the checks of the request.

    Raises:
        ConfigurationError: There are no models, a model is not an image model, a chain contains
            itself, or a setting is invalid.
        ChainExhaustedError: From a call: no model answered. `failures` holds the error of each.
    """

    operation = "image"
    _kind = _IMAGE_MODEL

    def _resolve_model(self, model_string: str) -> imagegen.Model:
        return registry.image_model(model_string)

    def _build_request(
        self,
        prompt: str | imagegen.Request,
        options: Sequence[imagegen.Option],
        overrides: imagegen.Overrides,
    ) -> ChainRequest[imagegen.Request]:
        try:
            request = prompt if isinstance(prompt, imagegen.Request) else imagegen.Request(prompt)
            chain_request = image_chain_request(request, self._options, options, overrides)
            check_image_request(chain_request.request, self._limits)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return chain_request

    async def _generate(
        self, chain_request: ChainRequest[imagegen.Request], emit: Emit | None
    ) -> imagegen.Result:
        async def call_member(model: imagegen.Model, events: MemberEvents) -> imagegen.Result:
            if not events.wants_events:
                return await model.generate(chain_request.request, **chain_request.unset)
            previews = _PreviewRecorder(events)
            async with model.stream(chain_request.request, **chain_request.unset) as stream:
                try:
                    done = await _forward_stream(model, stream, imagegen.Done, previews)
                    return cast("imagegen.Result", done.result)
                except MajordomoError as error:
                    # Raised outside the block: a stream that holds a task group would wrap it.
                    failure = error
                    events.partial = previews.unfinished_result(model)
            raise failure

        result, model, attempts = await self._failover(
            image_need(chain_request.request), call_member, emit
        )
        return replace(
            result,
            provider=result.provider or model.provider,
            model=result.model or model.id,
            failed_attempts=attempts + result.failed_attempts,
        )

    async def generate(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.Result:
        """Return the result of the first model that answers; see `imagegen.Model.generate`."""
        return await self._generate(self._build_request(prompt, options, overrides), None)

    def stream(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> AbstractAsyncContextManager[imagegen.Stream]:
        """Stream the events of the first model that answers; see `imagegen.Model.stream`."""
        chain_request = self._build_request(prompt, options, overrides)
        return cast(
            "AbstractAsyncContextManager[imagegen.Stream]",
            EventStream(lambda: ImageTaskSource(lambda emit: self._generate(chain_request, emit))),
        )

    def generate_sync(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.Result:
        """Blocking version of `generate`."""
        chain_request = self._build_request(prompt, options, overrides)
        return portal.run(lambda: self._generate(chain_request, None))

    def stream_sync(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> AbstractContextManager[imagegen.SyncStream]:
        """Blocking version of `stream`."""
        chain_request = self._build_request(prompt, options, overrides)
        return cast(
            "AbstractContextManager[imagegen.SyncStream]",
            SyncEventStream(
                lambda: ImageTaskSource(lambda emit: self._generate(chain_request, emit))
            ),
        )


class _CurrentStream:
    """Holds the stream of the member that is being called."""

    stream: llm.Stream | None = None


class _ChatSource:
    """The source of a chain's stream: a failover in its own task, whose events are passed on."""

    def __init__(self, chain: Chain, chain_request: ChainRequest[llm.Request]) -> None:
        self._chain = chain
        self._current = _CurrentStream()
        self._final_reply: llm.Reply | None = None

        async def run(emit: Callable[[llm.ChatEvent], None]) -> llm.Reply:
            reply = self._final_reply = await chain._generate(chain_request, emit, self._current)
            emit(llm.Done(reply))
            return reply

        self._task_stream: TaskStream[llm.ChatEvent, llm.Reply] = TaskStream(run)

    @property
    def reply(self) -> llm.Reply:
        """The reply so far."""
        if self._final_reply is not None:
            return self._final_reply
        return (
            self._current.stream.reply
            if self._current.stream is not None
            else empty_reply(self._chain.id, self._chain.provider)
        )

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        """Return the next events; an empty sequence at the end. Raise what the failover raised."""
        events = await self._task_stream.next_events()
        if not events:
            # Reading the result raises the error of the failed task.
            _ = self._task_stream.result
        return events

    async def aclose(self) -> None:
        """Stop the failover and close the member's stream."""
        await self._task_stream.aclose()


class _PreviewRecorder:
    """Passes events on and keeps the last preview of each image, in case no finished one comes."""

    def __init__(self, events: MemberEvents) -> None:
        self._events = events
        self._previews: dict[int, ImagePart] = {}

    def __call__(self, event: imagegen.ImageEvent) -> None:
        if isinstance(event, imagegen.Preview):
            self._previews[event.index] = event.image
        self._events(event)

    def unfinished_result(self, model: imagegen.Model) -> imagegen.Result | None:
        """Return the previews as a result with a warning; None when there are none."""
        if not self._previews:
            return None
        warning = CallWarning(
            "UNFINISHED", "the generation was interrupted; these images are unfinished previews"
        )
        images = tuple(self._previews[index] for index in sorted(self._previews))
        return imagegen.Result(images, warnings=(warning,), model=model.id, provider=model.provider)


async def _forward_stream(
    model: llm.Model | imagegen.Model,
    stream: Any,
    done_type: type[Any],
    on_event: Callable[[Any], None],
) -> Any:
    """Pass a member's events on until its Done, and return that."""
    async for event in stream:
        if isinstance(event, done_type):
            return event
        on_event(event)
    raise BadResponseError(
        "the stream ended without Done", code="NO_END", provider=model.provider, model=model.id
    )
