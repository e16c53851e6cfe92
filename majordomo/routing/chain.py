"""Several models as one: the next is asked when one fails, never when one refuses."""

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
from majordomo.imagegen.request import check_request as check_picture
from majordomo.llm.messages import as_messages
from majordomo.llm.model import Messages
from majordomo.llm.reply import empty_reply
from majordomo.llm.request import check_request as check_chat
from majordomo.media.image_part import ImagePart
from majordomo.models.image_model import ImageTaskSource
from majordomo.routing import registry
from majordomo.routing.capabilities import chat_need, image_need
from majordomo.routing.chain_request import ChainRequest, chat_chain_request, image_chain_request
from majordomo.routing.failover import ChainBase, Emit, MemberEvents

_CHAT: Any = llm.Model  # mypy takes no abstract class for a type
_IMAGES: Any = imagegen.Model


class Chain(ChainBase[llm.Model, llm.Option], llm.Model):
    """An ordinary chat model made of several. `members` are models, chains among them, or model strings; they are asked in order.

    The next is asked after an error that is `retryable`, while a member rests, and where it was known before anything was sent that a
    member cannot do this: an UnsupportedError, or an image for a model that is listed without "vision" (by its provider, or in
    `capabilities`, which maps "provider/model" to what it can do). A refusal, a bad request or a wrong key is raised as it is, unless
    `on` names its class or code. Once a part of the answer was handed out nobody else is asked: StreamBrokenError then, with that part.

    A member's own retries come first: one whose provider was made with `Retries(attempts=1)` is left at once. One that fails again and
    again rests `cooldown` seconds (default 30) and longer each time; ChainHealth says how, and `health` may be shared by chains. When all
    rest, the one whose rest ends first is asked anyway, by one call at a time.

    The reply says who answered in `provider` and `model`, and in `tried` who did not. Options: a member's own < the chain's < the fields
    of the request < those of the call < keywords. Members made from strings are closed with the chain, the others are not.

    Raises ChainExhaustedError, with every member's error in `failures`, when nobody answered; ConfigurationError for no members, members
    of another kind, a chain within itself, and settings that cannot be.
    """

    operation = "chat"
    _kind = _CHAT

    def _resolve_model(self, model_string: str) -> llm.Model:
        return registry.model(model_string)

    def _build_request(
        self,
        messages: Messages | llm.Request,
        options: Sequence[llm.Option],
        overrides: llm.Overrides,
    ) -> ChainRequest[llm.Request]:
        try:
            given = (
                messages
                if isinstance(messages, llm.Request)
                else llm.Request(as_messages(messages))
            )
            asking = chat_chain_request(given, self._options, options, overrides)
            check_chat(asking.request, self._limits)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return asking

    async def _generate(
        self, asking: ChainRequest[llm.Request], emit: Emit | None, now: _CurrentStream
    ) -> llm.Reply:
        async def ask(model: llm.Model, hearing: MemberEvents) -> llm.Reply:
            if not hearing.wants_events:
                return await model.generate(asking.request, **asking.unset)
            async with model.stream(asking.request, **asking.unset) as stream:
                now.stream = stream
                try:
                    return cast(
                        "llm.Reply", (await _forward_stream(model, stream, llm.Done, hearing)).reply
                    )
                except MajordomoError as error:
                    failure = error  # raised outside: a program's own stream may hold a task group, which would wrap it
                    hearing.partial = stream.reply
            raise failure

        reply, model, tried = await self._failover(chat_need(asking.request), ask, emit)
        return replace(
            reply,
            provider=reply.provider or model.provider,
            model=reply.model or model.id,
            failed_attempts=tried + reply.failed_attempts,
        )

    async def generate(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> llm.Reply:
        return await self._generate(
            self._build_request(messages, options, overrides), None, _CurrentStream()
        )

    def stream(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> AbstractAsyncContextManager[llm.Stream]:
        asking = self._build_request(messages, options, overrides)
        return cast(
            "AbstractAsyncContextManager[llm.Stream]",
            EventStream(lambda: _ChatSource(self, asking)),
        )

    def generate_sync(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> llm.Reply:
        asking = self._build_request(messages, options, overrides)
        return portal.run(lambda: self._generate(asking, None, _CurrentStream()))

    def stream_sync(
        self,
        messages: Messages | llm.Request,
        *options: llm.Option,
        **overrides: Unpack[llm.Overrides],
    ) -> AbstractContextManager[llm.SyncStream]:
        asking = self._build_request(messages, options, overrides)
        return cast(
            "AbstractContextManager[llm.SyncStream]",
            SyncEventStream(lambda: _ChatSource(self, asking)),
        )


class ImageChain(ChainBase[imagegen.Model, imagegen.Option], imagegen.Model):
    """The same of image models. What is said of Chain holds, with "edit" for "vision": requests with `images` pass over models that are
    listed without it. A step or an unfinished image is a part of the answer; `partial` of the StreamBrokenError is then a result
    of the last unfinished images, with the warning `UNFINISHED`, or None when none was shown.
    """

    operation = "image"
    _kind = _IMAGES

    def _resolve_model(self, model_string: str) -> imagegen.Model:
        return registry.image_model(model_string)

    def _build_request(
        self,
        prompt: str | imagegen.Request,
        options: Sequence[imagegen.Option],
        overrides: imagegen.Overrides,
    ) -> ChainRequest[imagegen.Request]:
        try:
            given = prompt if isinstance(prompt, imagegen.Request) else imagegen.Request(prompt)
            asking = image_chain_request(given, self._options, options, overrides)
            check_picture(asking.request, self._limits)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return asking

    async def _generate(
        self, asking: ChainRequest[imagegen.Request], emit: Emit | None
    ) -> imagegen.Result:
        async def ask(model: imagegen.Model, hearing: MemberEvents) -> imagegen.Result:
            if not hearing.wants_events:
                return await model.generate(asking.request, **asking.unset)
            shown = _DeliveredParts(hearing)
            async with model.stream(asking.request, **asking.unset) as stream:
                try:
                    return cast(
                        "imagegen.Result",
                        (await _forward_stream(model, stream, imagegen.Done, shown)).result,
                    )
                except MajordomoError as error:
                    failure = error  # as above
                    hearing.partial = shown.unfinished(model)
            raise failure

        result, model, tried = await self._failover(image_need(asking.request), ask, emit)
        return replace(
            result,
            provider=result.provider or model.provider,
            model=result.model or model.id,
            failed_attempts=tried + result.failed_attempts,
        )

    async def generate(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.Result:
        return await self._generate(self._build_request(prompt, options, overrides), None)

    def stream(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> AbstractAsyncContextManager[imagegen.Stream]:
        asking = self._build_request(prompt, options, overrides)
        return cast(
            "AbstractAsyncContextManager[imagegen.Stream]",
            EventStream(lambda: ImageTaskSource(lambda tell: self._generate(asking, tell))),
        )

    def generate_sync(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> imagegen.Result:
        asking = self._build_request(prompt, options, overrides)
        return portal.run(lambda: self._generate(asking, None))

    def stream_sync(
        self,
        prompt: str | imagegen.Request,
        *options: imagegen.Option,
        **overrides: Unpack[imagegen.Overrides],
    ) -> AbstractContextManager[imagegen.SyncStream]:
        asking = self._build_request(prompt, options, overrides)
        return cast(
            "AbstractContextManager[imagegen.SyncStream]",
            SyncEventStream(lambda: ImageTaskSource(lambda tell: self._generate(asking, tell))),
        )


class _CurrentStream:
    """The stream of the member that is being asked just now."""

    stream: llm.Stream | None = None


class _ChatSource:
    """A walk in a task of its own, told while it happens."""

    def __init__(self, chain: Chain, asking: ChainRequest[llm.Request]) -> None:
        self._chain = chain
        self._now = _CurrentStream()
        self._whole: llm.Reply | None = None

        async def work(emit: Callable[[llm.ChatEvent], None]) -> llm.Reply:
            reply = self._whole = await chain._generate(asking, emit, self._now)
            emit(llm.Done(reply))
            return reply

        self._telling: TaskStream[llm.ChatEvent, llm.Reply] = TaskStream(work)

    @property
    def reply(self) -> llm.Reply:
        if self._whole is not None:
            return self._whole
        return (
            self._now.stream.reply
            if self._now.stream is not None
            else empty_reply(self._chain.id, self._chain.provider)
        )

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        events = await self._telling.next_events()
        if not events:
            _ = self._telling.result  # raises what the walk raised
        return events

    async def aclose(self) -> None:
        await self._telling.aclose()


class _DeliveredParts:
    """Remembers the last unfinished image of each place, for when no finished one comes."""

    def __init__(self, hearing: MemberEvents) -> None:
        self._hearing = hearing
        self._previews: dict[int, ImagePart] = {}

    def __call__(self, event: imagegen.ImageEvent) -> None:
        if isinstance(event, imagegen.Preview):
            self._previews[event.index] = event.image
        self._hearing(event)

    def unfinished(self, model: imagegen.Model) -> imagegen.Result | None:
        if not self._previews:
            return None
        warning = CallWarning("UNFINISHED", "the drawing broke off; these images are unfinished")
        images = tuple(self._previews[index] for index in sorted(self._previews))
        return imagegen.Result(images, warnings=(warning,), model=model.id, provider=model.provider)


async def _forward_stream(
    model: llm.Model | imagegen.Model, stream: Any, end: type[Any], hear: Callable[[Any], None]
) -> Any:
    """A member's stream up to its Done, which is returned."""
    async for event in stream:
        if isinstance(event, end):
            return event
        hear(event)
    raise BadResponseError(
        "the stream ended without Done", code="NO_END", provider=model.provider, model=model.id
    )
