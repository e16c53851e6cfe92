"""OpenAI, or a server at another address that behaves in the same way.

Source: openai-openapi at f85dbe2.
"""

from __future__ import annotations

from typing import Literal, Unpack, get_args

from majordomo import env, imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.dialects.conversation import SystemRole
from majordomo.dialects.openai.chat import OpenAIChatCodec
from majordomo.dialects.openai.embeddings import OpenAIEmbeddingsCodec
from majordomo.dialects.openai.image_families import compatible_family, hosted_family
from majordomo.dialects.openai.images import OpenAIImagesCodec
from majordomo.dialects.openai.models import decode_models, openai_capabilities
from majordomo.dialects.openai.responses import OpenAIResponsesCodec
from majordomo.errors import ConfigurationError
from majordomo.media.image_limits import COMMON_FORMATS
from majordomo.models.chat_model import HTTPChatModel
from majordomo.models.embedding_model import HTTPEmbeddingModel
from majordomo.models.streamed_image_model import StreamedImageModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret
from majordomo.transport import BaseURL

BASE_URL = "https://api.openai.com/v1"


class OpenAI(HTTPProvider):
    """OpenAI's API: chat (Responses, or chat completions), images and embeddings.

    A setting that an image model does not accept is never sent.

    Args:
        api_key: Default: the environment variable OPENAI_API_KEY. There must be one.
        base_url: Address with the version path.
        api: API for chat: "responses" (default for api.openai.com) or "chat" (default elsewhere).
        edits: How images to edit are sent: "multipart" files, or "json" with data URLs (gpt-image
            models only).
        system_role: Role of system messages: "system", "developer", or "user" for the few models
            that have no system role.
        **common: See `CommonSettings`.

    Raises:
        ConfigurationError: Without a key, and for an invalid api, edits, system_role, address or
            key.
    """

    name = "openai"
    version_path = "/v1"
    local = False

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str = BASE_URL,
        api: Literal["responses", "chat"] | None = None,
        edits: Literal["multipart", "json"] = "multipart",
        system_role: SystemRole = "system",
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key or env.variable("OPENAI_API_KEY"))
        if api_key is None:
            raise ConfigurationError(
                "OpenAI needs a key: pass api_key or set OPENAI_API_KEY",
                provider=self.name,
                details={"field": "api_key"},
            )
        if edits not in ("multipart", "json"):
            raise ConfigurationError(
                f'edits must be "multipart" or "json"; got {edits!r}',
                provider=self.name,
                details={"field": "edits"},
            )
        if api not in (None, "responses", "chat"):
            raise ConfigurationError(
                f'api must be "responses", "chat" or None; got {api!r}',
                provider=self.name,
                details={"field": "api"},
            )
        if system_role not in get_args(SystemRole):
            raise ConfigurationError(
                f'system_role must be "system", "developer" or "user"; got {system_role!r}',
                provider=self.name,
                details={"field": "system_role"},
            )
        hosted = BaseURL.parse(base_url).host == BaseURL.parse(BASE_URL).host
        self._chat: OpenAIResponsesCodec | OpenAIChatCodec
        if (api or ("responses" if hosted else "chat")) == "responses":
            self._chat = OpenAIResponsesCodec(self.name, system_role=system_role)
        else:
            # "reasoning models reject max_tokens" (openai-openapi)
            self._chat = OpenAIChatCodec(
                "max_completion_tokens",
                provider=self.name,
                extensions=False,
                object_root=True,
                image_support=COMMON_FORMATS,
                system_role=system_role,
            )
        family = hosted_family if hosted else compatible_family
        self._images = OpenAIImagesCodec(family, path="/images", tag=False, edits=edits)
        super().__init__(base_url, api_key, **common)

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:
        """Return a chat model. `options` are defaults of its requests."""
        return self._make_chat_model(HTTPChatModel, self._chat, id, options)

    def image_model(self, id: str, *options: imagegen.Option) -> StreamedImageModel:
        """Return an image model. `options` are defaults of its requests."""
        return self._make_image_model(StreamedImageModel, self._images, id, options)

    def embedding_model(self, id: str) -> HTTPEmbeddingModel:
        """Return an embedding model."""
        return self._make_embedding_model(OpenAIEmbeddingsCodec(), id)

    async def models(self) -> list[ModelInfo]:
        """Return the models that `GET /models` lists for this key.

        The list has ids only; capabilities are derived from well-known names.
        """
        return await self._query_decoded(
            "/models",
            lambda body, limits: decode_models(
                body, limits, capabilities_by_name=openai_capabilities
            ),
        )

    async def health(self) -> Health:
        """Return whether `GET /models` is answered, which also shows that the key is valid."""
        return await self._check_health("/models")
