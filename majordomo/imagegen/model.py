"""Interfaces of image models and their providers.

Implementations are in other packages. A program may implement these interfaces too, for example
with a fake for tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol, Self, Unpack

from majordomo.backend_status import Health, ModelInfo
from majordomo.imagegen.events import ImageEvent
from majordomo.imagegen.options import Option, Overrides
from majordomo.imagegen.request import Request
from majordomo.imagegen.result import Result

__all__ = [
    "Health",
    "ImageSource",
    "Model",
    "ModelInfo",
    "Option",
    "Provider",
    "Stream",
    "SyncStream",
]


class ImageSource(Protocol):
    """The source of a stream's events, which arrive in batches."""

    @property
    def result(self) -> Result | None:
        """The result; None before `Done`."""

    async def next_events(self) -> Sequence[ImageEvent]:
        """Wait for the next events.

        Returns:
            At least one event; an empty sequence only after `Done`.

        Raises:
            MajordomoError: The call failed.
        """

    async def aclose(self) -> None:
        """Stop the call, whether or not it has finished. May be called more than once."""


class Stream(Protocol):
    """The events of an image generation in progress.

    Iterate it once, inside its `async with` block.
    """

    @property
    def result(self) -> Result | None:
        """The result; None before `Done`."""

    def __aiter__(self) -> AsyncIterator[ImageEvent]: ...

    async def __anext__(self) -> ImageEvent: ...


class SyncStream(Protocol):
    """The blocking version of `Stream`: iterate it once, inside its `with` block."""

    @property
    def result(self) -> Result | None:
        """The result; None before `Done`."""

    def __iter__(self) -> Iterator[ImageEvent]: ...

    def __next__(self) -> ImageEvent: ...


class Model(ABC):
    """An image model: text to image, image to image (`images`) and inpainting (`mask`).

    Settings come from four places; later ones override earlier ones: the options passed when the
    model was created, the fields of the request, the options of the call, the keyword arguments.
    None unsets a field. A setting that the backend cannot honor becomes a warning in the result, or
    raises UnsupportedError with `strict=True`.

    Example:
        ```python
        result = await model.generate("a red fox", size="1024x768", steps=20)
        result.image.save("fox")
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
        self, prompt: str | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> Result:
        """Generate one or more images.

        Args:
            prompt: The prompt, or a complete request.
            *options: Changes to the request, applied in order.
            **overrides: Fields of the request by keyword: `generate(prompt, steps=20)`.

        Returns:
            The result, with at least one image.

        Raises:
            InvalidRequestError: The request is not valid; nothing has been sent.
            MajordomoError: The call failed.
            TypeError: A keyword is not a field of the request.
        """

    @abstractmethod
    def stream(
        self, prompt: str | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> AbstractAsyncContextManager[Stream]:
        """Generate images and report progress. Leaving the block stops the call.

        Args:
            prompt: The prompt, or a complete request.
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
            async with model.stream("a red fox") as stream:
                async for event in stream:
                    print(event)
            ```
        """

    @abstractmethod
    def generate_sync(
        self, prompt: str | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> Result:
        """Generate one or more images: the blocking version of `generate`.

        Args:
            prompt: The prompt, or a complete request.
            *options: Changes to the request, applied in order.
            **overrides: Fields of the request by keyword.

        Returns:
            The result, with at least one image.

        Raises:
            MajordomoError: See `generate`.
        """

    @abstractmethod
    def stream_sync(
        self, prompt: str | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> AbstractContextManager[SyncStream]:
        """Generate images and report progress: the blocking version of `stream`.

        Args:
            prompt: The prompt, or a complete request.
            *options: Changes to the request, applied in order.
            **overrides: Fields of the request by keyword.

        Returns:
            A context manager whose value is the stream.

        Raises:
            MajordomoError: See `stream`.

        Example:
            ```python
            with model.stream_sync("a red fox") as stream:
                for event in stream:
                    print(event)
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
    """A backend that serves image models."""

    name: str
    """Name of the provider."""

    @abstractmethod
    def image_model(self, id: str, *options: Option) -> Model:
        """Return the image model with this id. Sends nothing.

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
