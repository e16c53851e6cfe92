"""Interfaces of image models and their providers.

Implementations are in other packages. A program may implement these interfaces too, for example
with a fake for tests.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Unpack

from majordomo.backend_status import Backend, Health, ModelInfo
from majordomo.concurrency.event_stream import EventSource, EventStream, SyncEventStream
from majordomo.concurrency.lifecycle import Closeable
from majordomo.imagegen.events import ImageEvent
from majordomo.imagegen.options import Option, Overrides
from majordomo.imagegen.request import Request
from majordomo.imagegen.result import Result

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


class Stream(EventStream[ImageEvent, Result]):
    """The events of an image generation in progress, and its result after `Done`.

    Iterate it once, inside its `async with` block. Leaving the block stops the call.

    Args:
        open_source: Returns the source of the events. Called when the block is entered.
    """


class SyncStream(SyncEventStream[ImageEvent, Result]):
    """The blocking version of `Stream`: iterate it once, inside its `with` block.

    Args:
        open_source: Returns the source of the events. Called when the block is entered.
    """


class Model(Closeable):
    """An image model: text to image, image to image (`images`) and inpainting (`mask`).

    Settings come from four places; later ones override earlier ones: the options passed when the
    model was created, the fields of the request, the options of the call, the keyword arguments.
    None unsets a field. A setting that the backend cannot honor becomes a warning in the result, or
    raises UnsupportedError with `strict=True`.

    A model that was created from a model string owns its provider: close it with `async with`,
    `with`, `aclose` or `close`. For any other model these do nothing.

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
    ) -> Stream:
        """Generate images and report progress. Leaving the block stops the call.

        Args:
            prompt: The prompt, or a complete request.
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
    ) -> SyncStream:
        """Generate images and report progress: the blocking version of `stream`.

        Args:
            prompt: The prompt, or a complete request.
            *options: Changes to the request, applied in order.
            **overrides: Fields of the request by keyword.

        Returns:
            The stream, to be entered with `with`.

        Raises:
            MajordomoError: See `stream`.

        Example:
            ```python
            with model.stream_sync("a red fox") as stream:
                for event in stream:
                    print(event)
            ```
        """


class Provider(Backend):
    """A backend that serves image models."""

    @abstractmethod
    def image_model(self, id: str, *options: Option) -> Model:
        """Return the image model with this id. Sends nothing.

        Args:
            id: The model's id at the backend.
            *options: Defaults for all calls of the model.

        Raises:
            InvalidRequestError: The id is not valid.
        """
