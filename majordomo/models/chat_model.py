"""Chat: a request in, a reply or its events out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from typing import Any, Unpack, cast

from majordomo import llm
from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream
from majordomo.dialects.request_body import check_extra, own_extra, refuse_unsupported
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    InvalidRequestError,
    MajordomoError,
)
from majordomo.llm.messages import as_messages
from majordomo.llm.model import Messages
from majordomo.llm.request import check_request
from majordomo.models.chat_stream import ChatDoor, HTTPChatSource, tokens_of
from majordomo.models.client import Caller, Tries
from majordomo.models.image_conversion import Sight
from majordomo.observability import Observer
from majordomo.observability.observed_call import Observed, ObservedSource, current
from majordomo.observability.request_settings import chat_settings
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import WireRequest


class ChatModel(llm.Model):
    """Everything about a chat model but the asking: options, checks, both colours. A kind of backend adds `ask` and `listen`."""

    def __init__(
        self,
        provider: str,
        id: str,  # noqa: A002 (the word of the design)
        options: Sequence[llm.Option] = (),
        *,
        limits: Limits,
        owner: Any = None,
        observers: Sequence[Observer] = (),
        address: str = "",
    ) -> None:
        self.provider = provider
        self.id = id
        self._observers = observers
        self._address = address
        self._options = tuple(options)
        self._limits = limits
        self._owner = owner

    @property
    def served_by(self) -> llm.Provider | None:
        return cast("llm.Provider | None", self._owner)

    @abstractmethod
    async def ask(self, request: llm.Request) -> llm.Reply:
        """The answer to a checked request."""

    @abstractmethod
    def listen(self, request: llm.Request) -> llm.ChatSource:
        """The same, while it arrives. Makes the source; does not ask yet."""

    def prepare(self, messages: Messages | llm.Request, options: Sequence[llm.Option], overrides: llm.Overrides) -> llm.Request:
        """The request as it will be asked: all options applied, checked."""
        try:
            given = messages if isinstance(messages, llm.Request) else llm.Request(as_messages(messages))
            request = given.over(self._options).apply(*options).override(**overrides)
            if not request.messages:
                raise InvalidRequestError("messages is empty", field="messages")
            check_request(request, self._limits)
            check_extra(request.extra)
        except MajordomoError as error:
            error.about(self.provider, self.id)
            raise
        return request

    async def _answered(self, request: llm.Request) -> llm.Reply:
        if not self._observers:
            return await self._fitting(request)
        observed = self._observed(request)
        observed.start()
        return await observed.run(lambda: self._fitting(request))

    def _listened(self, request: llm.Request) -> llm.ChatSource:
        if not self._observers:
            return self.listen(request)
        return ObservedSource(self._observed(request, streamed=True), lambda: self.listen(request))

    def _observed(self, request: llm.Request, *, streamed: bool = False) -> Observed:
        about = {"caller": request.caller, "streamed": streamed, "address": self._address, "settings": chat_settings(request)}
        return Observed(self._observers, "chat", self.provider, self.id, request, **about)

    async def _fitting(self, request: llm.Request) -> llm.Reply:
        """The answer; where it does not fit the output asked for, and `reask` allows it, the answer to why."""
        try:
            return await self.ask(request)
        except BadResponseError as error:
            if error.code != "BAD_OUTPUT" or not request.reask:
                raise
            if (observed := current()) is not None:
                observed.attempt(1, error, 0.0)
            said = str(error.details.get("text") or "(nothing)")
            correction = f"That does not fit: {error.message}. Answer again, with the JSON alone."
            return await self.ask(replace(request, messages=(*request.messages, llm.assistant(said), llm.user(correction)), reask=False))

    async def generate(self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]) -> llm.Reply:
        return await self._answered(self.prepare(messages, options, overrides))

    def stream(
        self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]
    ) -> AbstractAsyncContextManager[llm.Stream]:
        request = self.prepare(messages, options, overrides)
        return cast("AbstractAsyncContextManager[llm.Stream]", EventStream(lambda: self._listened(request)))

    def generate_sync(self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]) -> llm.Reply:
        request = self.prepare(messages, options, overrides)
        return portal.run(lambda: self._answered(request))

    def stream_sync(
        self, messages: Messages | llm.Request, *options: llm.Option, **overrides: Unpack[llm.Overrides]
    ) -> AbstractContextManager[llm.SyncStream]:
        request = self.prepare(messages, options, overrides)
        return cast("AbstractContextManager[llm.SyncStream]", SyncEventStream(lambda: self._listened(request)))

    async def aclose(self) -> None:
        if self._owner is not None:
            await self._owner.aclose()

    def __repr__(self) -> str:
        return f"<chat model {self.provider}/{self.id}>"


class HTTPChatModel(ChatModel):
    """A chat model behind a door and a wire."""

    def __init__(
        self,
        caller: Caller,
        door: ChatDoor,
        id: str,  # noqa: A002 (the word of the design)
        options: Sequence[llm.Option] = (),
        *,
        timeout: Timeout,
        strict: bool = False,
        owner: Any = None,
    ) -> None:
        super().__init__(
            caller.provider, id, options, limits=caller.limits, owner=owner, observers=caller.observers, address=caller.address
        )
        self._caller = caller
        self._door = door
        self._timeout = timeout
        self._strict = strict
        self._sight = Sight(door.reads, caller.limits)

    def _goes_as_it_is(self, request: llm.Request) -> bool:
        """Whether nothing has to be awaited before the request is sent."""
        return self._sight.takes(request)

    async def _shown(self, request: llm.Request) -> tuple[llm.Request, list[CallWarning]]:
        try:
            return await self._sight.shown(request)
        except MajordomoError as error:
            raise error.about(self.provider, self.id) from None

    @property
    def served_by(self) -> llm.Provider | None:
        return cast("llm.Provider | None", self._caller.served_by)

    def _encode(self, request: llm.Request, *, stream: bool) -> tuple[WireRequest, list[CallWarning]]:
        try:
            request = replace(request, extra=own_extra(request.extra, self.provider, self._caller.peers)) if request.extra else request
            wire, warnings = self._door.encode(self.id, request, stream=stream)
            refuse_unsupported(warnings, self._strict)
        except MajordomoError as error:
            raise error.about(self.provider, self.id) from None
        return wire, warnings

    def _named(self, reply: llm.Reply, warnings: Sequence[CallWarning]) -> llm.Reply:
        return replace(reply, provider=self.provider, model=reply.model or self.id, warnings=(*warnings, *reply.warnings))

    async def ask(self, request: llm.Request) -> llm.Reply:
        deadline = self._caller.deadline(self._timeout, self.id)
        request, changed = await self._shown(request)
        wire, warnings = self._encode(request, stream=False)
        limit = self._door.reply_limit(request, self._limits)

        async def once() -> llm.Reply:
            try:
                return self._door.decode(await self._caller.fetch(wire, deadline, limit), request, self._limits)
            except MajordomoError as error:
                raise error.with_traceback(None) from error.__cause__  # its frames hold the answer, which may quote a key

        place = await self._caller.enter(deadline, self.id, request.caller)
        try:
            reply = await self._caller.repeat(once, Tries(self._caller, deadline, self.id))
            place.leave(tokens_of(reply))
        finally:
            place.leave()
        return self._named(reply, [*changed, *warnings])

    def listen(self, request: llm.Request) -> llm.ChatSource:
        warnings: list[CallWarning] = []

        def encoded(request: llm.Request, changed: Sequence[CallWarning] = ()) -> WireRequest:
            wire, found = self._encode(request, stream=True)
            warnings.extend([*changed, *found])
            return wire

        async def ready() -> WireRequest:
            return encoded(*await self._shown(request))

        # At once where nothing has to be converted: what is wrong is then said on entering
        wire = encoded(request) if self._goes_as_it_is(request) else ready
        return HTTPChatSource(self._caller, self._door, request, wire, self._timeout, self.id, lambda reply: self._named(reply, warnings))
