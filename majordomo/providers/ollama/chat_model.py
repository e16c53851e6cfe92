"""Chat with Ollama: a picture is sent only to a model that sees.

A server gives a model without sight the words "[img-0]" in the picture's place and says nothing (seen with 0.24.0).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from majordomo import llm
from majordomo.errors import CallWarning, MajordomoError
from majordomo.models.chat_model import HTTPChatModel
from majordomo.models.image_conversion import pictures

Look = Callable[[str], Awaitable[None]]


class OllamaChatModel(HTTPChatModel):
    """`look` is asked about the model before each call with pictures; it raises UnsupportedError for one that cannot see them."""

    def __init__(self, *args: Any, look: Look, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._look = look

    def _goes_as_it_is(self, request: llm.Request) -> bool:
        return not any(pictures(request))

    async def _shown(self, request: llm.Request) -> tuple[llm.Request, list[CallWarning]]:
        if any(pictures(request)):
            try:
                await self._look(self.id)
            except MajordomoError as error:
                raise error.about(self.provider, self.id) from None
        return await super()._shown(request)
