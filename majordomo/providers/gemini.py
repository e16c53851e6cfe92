"""Google's Gemini, as the API of AI Studio.

Sources: vercel/ai at ed857f5 and Google's public REST reference.
"""

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

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
# Bounds a list of models that never ends.
MAX_PAGES = 20


class Gemini(HTTPProvider):
    """Google's Gemini API: chat, images and embeddings.

    Args:
        api_key: Default: the environment variable GEMINI_API_KEY, else GOOGLE_API_KEY. There must
            be one.
        base_url: Address with the version path.
        **common: See `CommonSettings`.

    Raises:
        ConfigurationError: Without a key, and for an invalid address or key.
    """

    name = "gemini"
    version_path = "/v1beta"
    local = False

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str = BASE_URL,
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(
            api_key or env.variable("GEMINI_API_KEY") or env.variable("GOOGLE_API_KEY")
        )
        if api_key is None:
            raise ConfigurationError(
                "Gemini needs a key: pass api_key or set GEMINI_API_KEY or GOOGLE_API_KEY",
                provider=self.name,
                details={"field": "api_key"},
            )
        self._images = GeminiImagesCodec()
        super().__init__(base_url, api_key, **common)

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        # Google also accepts the key in the URL, but there it would be logged.
        return {"x-goog-api-key": key}

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:
        """Return a chat model. `options` are defaults of its requests."""
        codec = GeminiChatCodec(check_name(id, "model"), self.name)
        return self._make_chat_model(HTTPChatModel, codec, id, options)

    def image_model(self, id: str, *options: imagegen.Option) -> ReplyImageModel:
        """Return an image model, such as `gemini-2.5-flash-image`.

        One call makes one image; more images are as many calls. `options` are defaults of its
        requests.
        """
        return self._make_image_model(ReplyImageModel, self._images, id, options)

    def embedding_model(self, id: str) -> HTTPEmbeddingModel:
        """Return an embedding model."""
        return self._make_embedding_model(GeminiEmbeddingsCodec(), id)

    async def models(self) -> list[ModelInfo]:
        """Return all models that `GET /models` lists for this key."""
        models: list[ModelInfo] = []
        token = ""
        for _ in range(MAX_PAGES):
            page, token = await self._query_decoded(models_path(token), decode_models)
            models += page
            if not token:
                break
        return models

    async def health(self) -> Health:
        """Return whether `GET /models` is answered, which also shows that the key is valid."""
        return await self._check_health("/models")
