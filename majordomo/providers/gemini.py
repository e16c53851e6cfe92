"""Google's Gemini, the API of AI Studio. Facts: vercel/ai at ed857f5, Google's public REST reference."""

from __future__ import annotations

from typing import Unpack

from majordomo import env, imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.dialects.gemini.chat import GeminiChatCodec
from majordomo.dialects.gemini.embeddings import GeminiEmbeddingsCodec
from majordomo.dialects.gemini.images import GeminiImagesCodec
from majordomo.dialects.gemini.models import decode_models, models_path
from majordomo.errors import ConfigurationError
from majordomo.models.chat_model import HTTPChatModel
from majordomo.models.embedding_model import HTTPEmbeddingModel
from majordomo.models.image_model import ReplyImageModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret
from majordomo.validation import check_name

HOME = "https://generativelanguage.googleapis.com/v1beta"
PAGES = 20  # a list that never ends is cut off here


class Gemini(HTTPProvider):
    """Chat, and images by the models that draw. The key comes from `api_key`, else from GEMINI_API_KEY, else from GOOGLE_API_KEY.

    `base_url` includes the version path. Raises ConfigurationError without a key, and for an address or key that cannot be one.
    """

    name = "gemini"
    version_path = "/v1beta"
    local = False

    def __init__(
        self,
        api_key: str | Secret | None = None,
        base_url: str = HOME,
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(
            api_key or env.variable("GEMINI_API_KEY") or env.variable("GOOGLE_API_KEY")
        )
        if api_key is None:
            raise ConfigurationError(
                "Gemini needs a key: api_key, or GEMINI_API_KEY, or GOOGLE_API_KEY",
                provider=self.name,
                details={"field": "api_key"},
            )
        self._images = GeminiImagesCodec()
        super().__init__(base_url, api_key, **common)

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {
            "x-goog-api-key": key
        }  # in the URL, as Google also takes it, it would stand in logs

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:
        codec = GeminiChatCodec(check_name(id, "model"), self.name)
        return HTTPChatModel(
            self._client, codec, id, options, timeout=self._timeout, strict=self._strict
        )

    def image_model(self, id: str, *options: imagegen.Option) -> ReplyImageModel:
        """A model such as `gemini-2.5-flash-image`. One image a call: several are as many calls."""
        return self._make_image_model(ReplyImageModel, self._images, id, options)

    def embedding_model(self, id: str) -> HTTPEmbeddingModel:
        return self._make_embedding_model(GeminiEmbeddingsCodec(), id)

    async def models(self) -> list[ModelInfo]:
        """What `GET /models` lists for this key, all pages of it."""
        found: list[ModelInfo] = []
        token = ""
        for _ in range(PAGES):
            page, token = await self._query_decoded(models_path(token), decode_models)
            found += page
            if not token:
                break
        return found

    async def health(self) -> Health:
        """Whether `GET /models` answers, which also tells whether the key is good."""
        return await self._check_health("/models")
