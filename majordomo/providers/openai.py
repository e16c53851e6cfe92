"""OpenAI itself, or a server at another address that behaves as it does. Facts: openai-openapi at f85dbe2."""

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
from majordomo.media.image_part import COMMON_FORMATS
from majordomo.models.chat_model import HTTPChatModel
from majordomo.models.embedding_model import HTTPEmbeddingModel
from majordomo.models.streamed_image_model import StreamedImageModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret
from majordomo.transport import BaseURL
from majordomo.validation import check_name

HOME = "https://api.openai.com/v1"


class OpenAI(HTTPProvider):
    """OpenAI's chat (Responses, or chat completions) and images.

    The key comes from `api_key`, else from OPENAI_API_KEY; there must be one. `base_url` includes the version path.

    `api` is which API chat speaks: "responses", the default for api.openai.com, or "chat", the default elsewhere. `edits` is the form in
    which images to edit travel: "multipart" files, or "json" data URLs (gpt-image models only). `system_role` is what system turns go as:
    "developer", or "user" for the few models that know no "system". What an image model does not take is never sent. Raises
    ConfigurationError without a key, and for an address or key that cannot be one.
    """

    name = "openai"
    version_path = "/v1"
    local = False

    def __init__(
        self,
        api_key: str | Secret | None = None,
        base_url: str = HOME,
        *,
        api: Literal["responses", "chat"] | None = None,
        edits: Literal["multipart", "json"] = "multipart",
        system_role: SystemRole = "system",
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key or env.variable("OPENAI_API_KEY"))
        if api_key is None:
            raise ConfigurationError(
                "OpenAI needs a key: api_key, or OPENAI_API_KEY",
                provider=self.name,
                details={"field": "api_key"},
            )
        if edits not in ("multipart", "json"):
            raise ConfigurationError(
                'edits is "multipart" or "json"', provider=self.name, details={"field": "edits"}
            )
        if api not in (None, "responses", "chat"):
            raise ConfigurationError(
                'api is "responses" or "chat"', provider=self.name, details={"field": "api"}
            )
        if system_role not in get_args(SystemRole):
            raise ConfigurationError(
                'system_role is "system", "developer" or "user"',
                provider=self.name,
                details={"field": "system_role"},
            )
        hosted = BaseURL.parse(base_url).host == BaseURL.parse(HOME).host
        self._chat: OpenAIResponsesCodec | OpenAIChatCodec
        if (api or ("responses" if hosted else "chat")) == "responses":
            self._chat = OpenAIResponsesCodec(self.name, system_role=system_role)
        else:  # "reasoning models reject max_tokens"
            self._chat = OpenAIChatCodec(
                "max_completion_tokens",
                provider=self.name,
                top_k=False,
                object_root=True,
                image_support=COMMON_FORMATS,
                system_role=system_role,
            )
        family = hosted_family if hosted else compatible_family
        self._images = OpenAIImagesCodec(family, path="/images", tag=False, edits=edits)
        super().__init__(base_url, api_key, **common)

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:
        return HTTPChatModel(
            self._client,
            self._chat,
            check_name(id, "model"),
            options,
            timeout=self._timeout,
            strict=self._strict,
        )

    def image_model(self, id: str, *options: imagegen.Option) -> StreamedImageModel:
        return self._make_image_model(StreamedImageModel, self._images, id, options)

    def embedding_model(self, id: str) -> HTTPEmbeddingModel:
        return self._make_embedding_model(OpenAIEmbeddingsCodec(), id)

    async def models(self) -> list[ModelInfo]:
        """What `GET /models` lists for this key: ids alone, so what a model can do is told by its name, where that tells."""
        return await self._query_decoded(
            "/models",
            lambda body, limits: decode_models(
                body, limits, capabilities_by_name=openai_capabilities
            ),
        )

    async def health(self) -> Health:
        """Whether `GET /models` answers, which also tells whether the key is good."""
        return await self._check_health("/models")
