"""Interfaces of chat models and their providers.

Implementations are in other packages. A program may implement these interfaces too, for example
with a fake for tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol, Self, Unpack

from majordomo.backend_status import Health, ModelInfo
from majordomo.llm.events import ChatEvent
from majordomo.llm.messages import Message
from majordomo.llm.options import Option, Overrides
from majordomo.llm.reply import Reply
from majordomo.llm.request import Request

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
    """The source of a stream's events.

    Events arrive in batches, one per network read, so that there is no overhead per event.
    """

    @property
    def reply(self) -> Reply:
        """The reply so far; complete after `Done`."""

    async def next_events(self) -> Sequence[ChatEvent]:
        """Wait for the next events.

        Returns:
            At least one event; an empty sequence only after `Done`.

        Raises:
            MajordomoError: The call failed.
        """

    async def aclose(self) -> None:
        """Stop the call, whether or not it has finished. May be called more than once."""


class Stream(Protocol):
    """The events of a reply in progress.

    Iterate it once, inside its `async with` block.
    """

    @property
    def reply(self) -> Reply:
        """The reply so far; complete after `Done`."""

    def __aiter__(self) -> AsyncIterator[ChatEvent]: ...

    async def __anext__(self) -> ChatEvent: ...


class SyncStream(Protocol):
    """The blocking version of `Stream`: iterate it once, inside its `with` block."""

    @property
    def reply(self) -> Reply:
        """The reply so far; complete after `Done`."""

    def __iter__(self) -> Iterator[ChatEvent]: ...

    def __next__(self) -> ChatEvent: ...


class Model(ABC):
    """A chat model.

    Settings come from four places; later ones override earlier ones: the options passed when the
    model was created, the fields of the request, the options of the call, the keyword arguments.
    None unsets a field.

    Example:
        ```python
        reply = await model.generate("Name three colors.", temperature=0)
        print(reply.text)
        ```
    """

    id: str
    """The model's id at its provider."""
    provider: str
    """Name of the provider."""

    @property
    def provider_instance(self) -> Provider | None:
        """The provider of this model, or None if it is not known.

        Use it for calls that generate nothing: `models` and `health`.
        """
        return None

    @abstractmethod
    async def generate(
        self, messages: Messages | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> Reply:
        """Generate a reply.

        Args:
            messages: A str (one user message), a Message, several messages, or a complete request.
            *options: Changes to the request, applied in order.
            **overrides: Fields of the request by keyword: `generate(messages, temperature=0)`.

        Returns:
            The complete reply.

        Raises:
            InvalidRequestError: The request is not valid; nothing has been sent.
            MajordomoError: The call failed.
            TypeError: A keyword is not a field of the request.
        """

    @abstractmethod
    def stream(
        self, messages: Messages | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> AbstractAsyncContextManager[Stream]:
        """Generate a reply and emit it while it arrives. Leaving the block stops the call.

        Args:
            messages: A str (one user message), a Message, several messages, or a complete request.
            *options: Changes to the request, applied in order.
            **overrides: Fields of the request by keyword.

        Returns:
            A context manager whose value is the stream.

        Raises:
            InvalidRequestError: The request is not valid; nothing has been sent.
            MajordomoError: The call failed.
            TypeError: A keyword is not a field of the request.

        Example:
            ```python
            async with model.stream("Tell me a story.") as stream:
                async for event in stream:
                    if isinstance(event, TextDelta):
                        print(event.text, end="")
            ```
        """

    @abstractmethod
    def generate_sync(
        self, messages: Messages | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> Reply:
        """Generate a reply: the blocking version of `generate`.

        Args:
            messages: A str (one user message), a Message, several messages, or a complete request.
            *options: Changes to the request, applied in order.
            **overrides: Fields of the request by keyword.

        Returns:
            The complete reply.

        Raises:
            MajordomoError: See `generate`.
        """

    @abstractmethod
    def stream_sync(
        self, messages: Messages | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> AbstractContextManager[SyncStream]:
        """Generate a reply and emit it while it arrives: the blocking version of `stream`.

        Args:
            messages: A str (one user message), a Message, several messages, or a complete request.
            *options: Changes to the request, applied in order.
            **overrides: Fields of the request by keyword.

        Returns:
            A context manager whose value is the stream.

        Raises:
            MajordomoError: See `stream`.

        Example:
            ```python
            with model.stream_sync("Tell me a story.") as stream:
                for event in stream:
                    if isinstance(event, TextDelta):
                        print(event.text, end="")
            ```
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the provider if this model owns it.

        A model owns its provider if it was created from a model string. Otherwise nothing happens.
        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class Provider(ABC):
    """A backend that serves chat models."""

    name: str
    """Name of the provider."""

    @abstractmethod
    def model(self, id: str, *options: Option) -> Model:
        """Return the chat model with this id. Sends nothing.

        Args:
            id: The model's id at the backend.
            *options: Defaults for all calls of the model.

        Raises:
            InvalidRequestError: The id is not valid.
        """

    @abstractmethod
    async def models(self) -> list[ModelInfo]:
        """Return the models that the backend lists. Generates nothing and is free of charge.

        Raises:
            MajordomoError: The call failed.
        """

    @abstractmethod
    async def health(self) -> Health:
        """Check whether the backend responds. Never generates and never loads a model."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close all connections. May be called more than once."""
