"""A provider whose models say and draw what the test wrote down."""

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
    """For code that takes a provider. Every id is a model; all chat models share one script, all image models the other.

    See ScriptedChatModel and ScriptedImageModel for what a script is. Without a script of that kind the provider refuses, as one does that serves
    no such models. `chat_requests` and `image_requests` are all requests asked.
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
        return [] if self._chat is None else self._chat.requests

    @property
    def image_requests(self) -> list[imagegen.Request]:
        return [] if self._images is None else self._images.requests

    def model(self, id: str, *options: llm.Option) -> llm.Model:
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
        """One of each kind that has a script."""
        found = (
            []
            if self._chat is None
            else [ModelInfo("scripted-chat", frozenset({"chat", "vision", "tools"}), True, "ready")]
        )
        return (
            found
            if self._images is None
            else [
                *found,
                ModelInfo("scripted-painter", frozenset({"image", "edit"}), True, "ready"),
            ]
        )

    async def health(self) -> Health:
        return Health(not self.closed, "closed" if self.closed else "scripted", 0.0)

    async def aclose(self) -> None:
        """Refuse to make further models; `closed` tells a test that the program has tidied up."""
        self.closed = True

    def _check_open(self) -> None:
        if self.closed:
            raise ConfigurationError("the provider is closed", code="CLOSED", provider=self.name)

    def __repr__(self) -> str:
        return "<ScriptedProvider>"
