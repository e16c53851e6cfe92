"""Google's Gemini, the API of AI Studio. Facts: vercel/ai at ed857f5, Google's public REST reference."""

from __future__ import annotations

from typing import Unpack

from majordomo import env, imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.dialects.embeddings import GeminiEmbeddings
from majordomo.dialects.gemini.chat import GeminiChat
from majordomo.dialects.gemini.images import GeminiImages
from majordomo.dialects.gemini.models import decode_models, models_path
from majordomo.errors import ConfigurationError
from majordomo.models.chat_model import HTTPChatModel
from majordomo.models.embedding_model import HTTPEmbeddingModel
from majordomo.models.image_model import AnsweredImageModel
from majordomo.providers.base import Common, HTTPProvider, sealed
from majordomo.redaction import Secret, seal
from majordomo.validation import check_name

HOME = "https://generativelanguage.googleapis.com/v1beta"
PAGES = 20  # a list that never ends is cut off here


class Gemini(HTTPProvider):
    """Chat, and pictures by the models that draw. The key comes from `api_key`, else from GEMINI_API_KEY, else from GOOGLE_API_KEY.

    `base_url` includes the version path. Raises ConfigurationError without a key, and for an address or key that cannot be one.
    """

    name = "gemini"
    version_path = "/v1beta"
    local = False

    def __init__(self, api_key: str | Secret | None = None, base_url: str = HOME, **common: Unpack[Common]) -> None:
        common = sealed(common)
        api_key = seal(api_key or env.variable("GEMINI_API_KEY") or env.variable("GOOGLE_API_KEY"))
        if api_key is None:
            raise ConfigurationError(
                "Gemini needs a key: api_key, or GEMINI_API_KEY, or GOOGLE_API_KEY", provider=self.name, details={"field": "api_key"}
            )
        self._images = GeminiImages()
        super().__init__(base_url, api_key, **common)

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {"x-goog-api-key": key}  # in the URL, as Google also takes it, it would stand in logs

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:  # noqa: A002 (the word of the design)
        door = GeminiChat(check_name(id, "model"), self.name)
        return HTTPChatModel(self._caller, door, id, options, timeout=self._timeout, strict=self._strict)

    def image_model(self, id: str, *options: imagegen.Option) -> AnsweredImageModel:  # noqa: A002
        """A model such as `gemini-2.5-flash-image`. One picture a call: several are as many calls."""
        return self._painter(AnsweredImageModel, self._images, id, options)

    def embedding_model(self, id: str) -> HTTPEmbeddingModel:  # noqa: A002
        return self._embedder(GeminiEmbeddings(), id)

    async def models(self) -> list[ModelInfo]:
        """What `GET /models` lists for this key, all pages of it."""
        found: list[ModelInfo] = []
        token = ""
        for _ in range(PAGES):
            page, token = await self._told(models_path(token), decode_models)
            found += page
            if not token:
                break
        return found

    async def health(self) -> Health:
        """Whether `GET /models` answers, which also tells whether the key is good."""
        return await self._healthy("/models")
