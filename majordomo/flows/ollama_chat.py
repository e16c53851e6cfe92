"""Chat with Ollama: a picture is sent only to a model that sees.

A server gives a model without sight the words "[img-0]" in the picture's place and says nothing (seen with 0.24.0).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from majordomo import llm
from majordomo.errors import MajordomoError
from majordomo.flows.chat import HTTPChatModel
from majordomo.llm import ImagePart, ToolResultPart

Look = Callable[[str], Awaitable[None]]


class OllamaChatModel(HTTPChatModel):
    """`look` is asked about the model before each call with pictures; it raises UnsupportedError for one that cannot see them."""

    def __init__(self, *args: Any, look: Look, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._look = look

    async def ask(self, request: llm.Request) -> llm.Reply:
        if _has_pictures(request):
            await self._looked()
        return await super().ask(request)

    def listen(self, request: llm.Request) -> llm.ChatSource:
        source = super().listen(request)
        return _LookingSource(source, self._looked) if _has_pictures(request) else source

    async def _looked(self) -> None:
        try:
            await self._look(self.id)
        except MajordomoError as error:
            raise error.about(self.provider, self.id) from None


class _LookingSource:
    """The events of `source`, after one look."""

    def __init__(self, source: llm.ChatSource, look: Callable[[], Awaitable[None]]) -> None:
        self._source = source
        self._look: Callable[[], Awaitable[None]] | None = look

    @property
    def reply(self) -> llm.Reply:
        return self._source.reply

    async def next_events(self) -> Sequence[llm.ChatEvent]:
        if self._look is not None:
            await self._look()
            self._look = None
        return await self._source.next_events()

    async def aclose(self) -> None:
        await self._source.aclose()


def _has_pictures(request: llm.Request) -> bool:
    return any(
        isinstance(part, ImagePart) or (isinstance(part, ToolResultPart) and any(isinstance(held, ImagePart) for held in part.parts))
        for message in request.messages
        for part in message.parts
    )
