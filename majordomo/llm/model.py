"""What a chat model and its provider promise. Implementations live elsewhere; a program's own fake may stand here as well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol, Self, Unpack

from majordomo.backend_status import Health, ModelInfo
from majordomo.llm.events import ChatEvent
from majordomo.llm.messages import Message
from majordomo.llm.options import Option
from majordomo.llm.reply import Reply
from majordomo.llm.request import Overrides, Request

__all__ = [
    "ChatSource",
    "Health",
    "Model",
    "ModelInfo",
    "Option",
    "Provider",
    "Stream",
    "SyncStream",
]

Messages = str | Message | Sequence[Message]


class ChatSource(Protocol):
    """Where a stream's events come from: in batches, one per piece of network, so that nothing is paid per event."""

    @property
    def reply(self) -> Reply:
        """What has arrived so far; whole after Done."""

    async def next_events(self) -> Sequence[ChatEvent]:
        """The next events, at least one; an empty sequence only after `Done`. Raises typed errors."""

    async def aclose(self) -> None:
        """Stop, whether finished or not; calling it twice is fine."""


class Stream(Protocol):
    """An answer while it arrives: iterate it once, inside its `async with`."""

    @property
    def reply(self) -> Reply:
        """The whole answer after `Done`; what arrived so far before it."""

    def __aiter__(self) -> AsyncIterator[ChatEvent]: ...

    async def __anext__(self) -> ChatEvent: ...


class SyncStream(Protocol):
    """The same, blocking."""

    @property
    def reply(self) -> Reply: ...

    def __iter__(self) -> Iterator[ChatEvent]: ...

    def __next__(self) -> ChatEvent: ...


class Model(ABC):
    """A chat model. `messages` is a str (one user turn), a Message, or several.

    Precedence: options given when the model was made < fields of the request < options of the call < keywords; None unsets.
    Every method raises MajordomoError's kinds; a misspelled keyword is a TypeError.
    """

    id: str
    provider: str

    @property
    def provider_instance(self) -> Provider | None:
        """Who serves this model, where that is known: for the questions that are free (`models`, `health`)."""
        return None

    @abstractmethod
    async def generate(
        self, messages: Messages | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> Reply:
        """The whole answer. Options and keywords set fields of the request: `generate(messages, temperature=0)`."""

    @abstractmethod
    def stream(
        self, messages: Messages | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> AbstractAsyncContextManager[Stream]:
        """The answer while it arrives: `async with model.stream(messages) as stream`, then `async for event in stream`.

        Leaving it stops the call.
        """

    @abstractmethod
    def generate_sync(
        self, messages: Messages | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> Reply:
        """The same as `generate`, blocking."""

    @abstractmethod
    def stream_sync(
        self, messages: Messages | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> AbstractContextManager[SyncStream]:
        """The same as `stream`, blocking: `with model.stream_sync(messages) as stream: for event in stream`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the provider if this model was made by name and so owns it; else nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class Provider(ABC):
    """Who serves chat models."""

    name: str

    @abstractmethod
    def model(self, id: str, *options: Option) -> Model:
        """The model with this id. Raises InvalidRequestError for an id that cannot be one; does not ask the backend."""

    @abstractmethod
    async def models(self) -> list[ModelInfo]:
        """What it serves, as far as it tells for free."""

    @abstractmethod
    async def health(self) -> Health:
        """Free: never generates, never loads a model."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close its connections; calling it twice is fine."""
