"""A provider whose models answer from scripts."""

from __future__ import annotations

from majordomo import imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.errors import ConfigurationError
from majordomo.providers.base import BaseProvider
from majordomo.settings import Limits
from majordomo.testing.scripted_chat_model import ChatScript, ScriptedChatModel, chat_script
from majordomo.testing.scripted_image_model import ImageScript, ScriptedImageModel, image_script
from majordomo.validation import check_name


class ScriptedProvider(BaseProvider):
    """A provider for code under test that takes a provider.

    Every id is a valid model. All chat models share one script, and all image models the other.

    Args:
        chat: Script of the chat models; see `ScriptedChatModel`. Without one, `model` raises
            `UnsupportedError`.
        images: Script of the image models; see `ScriptedImageModel`. Without one, `image_model`
            raises `UnsupportedError`.
        limits: Limits on the size of requests.

    Attributes:
        closed: Whether the provider has been closed.

    Raises:
        ScriptError: A script contains something that is not an answer.

    Example:
        ```pycon
        >>> provider = ScriptedProvider(chat=["Good evening."], images=[plain_image()])
        ```
    """

    name = "scripted"

    def __init__(
        self,
        chat: ChatScript | None = None,
        images: ImageScript | None = None,
        *,
        limits: Limits | None = None,
    ) -> None:
        self._chat = None if chat is None else chat_script(chat)
        self._images = None if images is None else image_script(images)
        self._limits = limits
        self.closed: bool = False

    @property
    def chat_requests(self) -> list[llm.Request]:
        """All requests to chat models, in order."""
        return [] if self._chat is None else self._chat.requests

    @property
    def image_requests(self) -> list[imagegen.Request]:
        """All requests to image models, in order."""
        return [] if self._images is None else self._images.requests

    def model(self, id: str, *options: llm.Option) -> llm.Model:
        """Return a chat model.

        Args:
            id: Any valid model id.
            *options: Defaults for every request.

        Raises:
            UnsupportedError: There is no script for chat models.
            ConfigurationError: The provider is closed (CLOSED).
        """
        self._check_open()
        if self._chat is None:
            return super().model(id, *options)
        return ScriptedChatModel(
            self._chat,
            *options,
            id=check_name(id, "model"),
            provider=self.name,
            limits=self._limits,
        )

    def image_model(self, id: str, *options: imagegen.Option) -> imagegen.Model:
        """Return an image model.

        Args:
            id: Any valid model id.
            *options: Defaults for every request.

        Raises:
            UnsupportedError: There is no script for image models.
            ConfigurationError: The provider is closed (CLOSED).
        """
        self._check_open()
        if self._images is None:
            return super().image_model(id, *options)
        return ScriptedImageModel(
            self._images,
            *options,
            id=check_name(id, "model"),
            provider=self.name,
            limits=self._limits,
        )

    async def models(self) -> list[ModelInfo]:
        """Return one model for each script."""
        models = (
            []
            if self._chat is None
            else [ModelInfo("scripted-chat", frozenset({"chat", "vision", "tools"}), True, "ready")]
        )
        return (
            models
            if self._images is None
            else [
                *models,
                ModelInfo("scripted-image", frozenset({"image", "edit"}), True, "ready"),
            ]
        )

    async def health(self) -> Health:
        """Return that the provider is available unless it is closed."""
        return Health(not self.closed, "closed" if self.closed else "scripted", 0.0)

    async def aclose(self) -> None:
        """Refuse to create further models. A test can check `closed`."""
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise ConfigurationError("the provider is closed", code="CLOSED", provider=self.name)

    def __repr__(self) -> str:
        return "<ScriptedProvider>"
