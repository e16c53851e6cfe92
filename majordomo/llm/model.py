"""Interfaces of chat models and their providers.

Implementations are in other packages. A program may implement these interfaces too, for example
with a fake for tests.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Self, Unpack

from majordomo.backend_status import Backend, Health, ModelInfo
from majordomo.concurrency.event_stream import EventSource, EventStream, SyncEventStream
from majordomo.concurrency.lifecycle import Closeable
from majordomo.llm.events import ChatEvent, TextDelta
from majordomo.llm.messages import Message
from majordomo.llm.options import Option, Overrides
from majordomo.llm.reply import Reply
from majordomo.llm.request import Request

__all__ = [
    "EventSource",
    "Health",
    "Model",
    "ModelInfo",
    "Option",
    "Provider",
    "Stream",
    "SyncStream",
]

Messages = str | Message | Sequence[Message]


class Stream(EventStream[ChatEvent, Reply]):
    """The events of a reply in progress.

    Iterate it once, inside its `async with` block. Leaving the block stops the call.

    Args:
        open_source: Returns the source of the events. Called when the block is entered. The result
            of the source is the reply so far.
    """

    @property
    def reply(self) -> Reply:
        """The reply so far; complete after `Done`."""
        return self.source.result

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """The texts of the answer as they arrive, instead of the events.

        Example:
            ```python
            async with model.stream("Tell me a story.") as stream:
                async for text in stream.text_stream:
                    print(text, end="")
            ```
        """
        return _Texts(self)


class SyncStream(SyncEventStream[ChatEvent, Reply]):
    """The blocking version of `Stream`: iterate it once, inside its `with` block.

    Args:
        open_source: Returns the source of the events. Called when the block is entered. The result
            of the source is the reply so far.
    """

    @property
    def reply(self) -> Reply:
        """The reply so far; complete after `Done`."""
        return self.source.result

    @property
    def text_stream(self) -> Iterator[str]:
        """The texts of the answer as they arrive, instead of the events."""
        return (event.text for event in self if isinstance(event, TextDelta))


class _Texts:
    """Iterates over the texts of a stream.

    Not an async generator: trio warns of one that is left early.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while True:
            event = await self._stream.__anext__()
            if isinstance(event, TextDelta):
                return event.text


class Model(Closeable):
    """A chat model.

    Settings come from four places; later ones override earlier ones: the options passed when the
    model was created, the fields of the request, the options of the call, the keyword arguments.
    None unsets a field.

    A model that was created from a model string owns its provider: close it with `async with`,
    `with`, `aclose` or `close`. For any other model these do nothing.

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
    ) -> Stream:
        """Generate a reply and emit it while it arrives. Leaving the block stops the call.

        Args:
            messages: A str (one user message), a Message, several messages, or a complete request.
            *options: Changes to the request, applied in order.
            **overrides: Fields of the request by keyword.

        Returns:
            The stream, to be entered with `async with`.

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
    ) -> SyncStream:
        """Generate a reply and emit it while it arrives: the blocking version of `stream`.

        Args:
            messages: A str (one user message), a Message, several messages, or a complete request.
            *options: Changes to the request, applied in order.
            **overrides: Fields of the request by keyword.

        Returns:
            The stream, to be entered with `with`.

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


class Provider(Backend):
    """A backend that serves chat models."""

    @abstractmethod
    def model(self, id: str, *options: Option) -> Model:
        """Return the chat model with this id. Sends nothing.

        Args:
            id: The model's id at the backend.
            *options: Defaults for all calls of the model.

        Raises:
            InvalidRequestError: The id is not valid.
        """
