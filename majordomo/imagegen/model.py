"""What an image model and its provider promise. Implementations live elsewhere; a program's own fake may stand here as well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol, Self, Unpack

from majordomo.backend_status import Health, ModelInfo
from majordomo.imagegen.events import ImageEvent
from majordomo.imagegen.options import Option
from majordomo.imagegen.request import Overrides, Request
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
    """Where a stream's events come from, in batches."""

    @property
    def result(self) -> Result | None: ...

    async def next_events(self) -> Sequence[ImageEvent]:
        """The next events, at least one; an empty sequence only after `Done`. Raises typed errors."""

    async def aclose(self) -> None:
        """Stop, whether finished or not; calling it twice is fine."""


class Stream(Protocol):
    """An image while it is drawn: iterate it once, inside its `async with`. `result` is None before `Done`."""

    @property
    def result(self) -> Result | None: ...

    def __aiter__(self) -> AsyncIterator[ImageEvent]: ...

    async def __anext__(self) -> ImageEvent: ...


class SyncStream(Protocol):
    """The same, blocking."""

    @property
    def result(self) -> Result | None: ...

    def __iter__(self) -> Iterator[ImageEvent]: ...

    def __next__(self) -> ImageEvent: ...


class Model(ABC):
    """A model that draws: text to image, image to image (`images`) and inpainting (`mask`) through one method.

    Precedence: options given when the model was made < fields of the request < options of the call < keywords; None unsets.
    What the backend cannot honor is a warning in the result, or UnsupportedError under `strict=True`. Every method raises
    MajordomoError's kinds; a misspelled keyword is a TypeError.
    """

    id: str
    provider: str

    @property
    def provider_instance(self) -> Provider | None:
        """Who serves this model, where that is known: for the questions that are free (`models`, `health`)."""
        return None

    @abstractmethod
    async def generate(
        self, prompt: str | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> Result:
        """The image, or several. Options and keywords set fields of the request: `generate(prompt, steps=20)`."""

    @abstractmethod
    def stream(
        self, prompt: str | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> AbstractAsyncContextManager[Stream]:
        """The image while it is drawn: `async with model.stream(prompt) as stream`, then `async for event in stream`.

        Leaving it stops the call.
        """

    @abstractmethod
    def generate_sync(
        self, prompt: str | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> Result:
        """The same as `generate`, blocking."""

    @abstractmethod
    def stream_sync(
        self, prompt: str | Request, *options: Option, **overrides: Unpack[Overrides]
    ) -> AbstractContextManager[SyncStream]:
        """The same as `stream`, blocking: `with model.stream_sync(prompt) as stream: for event in stream`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the provider if this model was made by name and so owns it; else nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


class Provider(ABC):
    """Who serves image models."""

    name: str

    @abstractmethod
    def image_model(self, id: str, *options: Option) -> Model:
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
