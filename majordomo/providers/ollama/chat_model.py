"""Chat with Ollama: images are only sent to vision models.

For a model without vision, the server silently replaces an image by the text "[img-0]" (seen with
0.24.0).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from majordomo import llm
from majordomo.errors import CallWarning, MajordomoError
from majordomo.models.chat_model import HTTPChatModel
from majordomo.models.client import BackendCall
from majordomo.models.image_conversion import images_in

EnsureVision = Callable[[str, BackendCall], Awaitable[None]]


class OllamaChatModel(HTTPChatModel):
    """A chat model that checks for vision before a call with images.

    `ensure_vision` raises UnsupportedError for a model without vision.
    """

    def __init__(self, *args: Any, ensure_vision: EnsureVision, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._ensure_vision = ensure_vision

    def _needs_no_conversion(self, request: llm.Request) -> bool:
        return not any(images_in(request))

    async def _with_converted_images(
        self, request: llm.Request, call: BackendCall
    ) -> tuple[llm.Request, list[CallWarning]]:
        if any(images_in(request)):
            try:
                await self._ensure_vision(self.id, call)
            except MajordomoError as error:
                raise error.with_context(self.provider, self.id) from None
        return await super()._with_converted_images(request, call)
