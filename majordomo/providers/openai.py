"""OpenAI itself, or a server at another address that behaves as it does. Facts: openai-openapi at f85dbe2."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

from majordomo import env, imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.dialects.conversation import SystemRole
from majordomo.dialects.embeddings import OpenAIEmbeddings
from majordomo.dialects.openai.chat import OpenAIChat
from majordomo.dialects.openai.image_families import compatible_family, hosted_family
from majordomo.dialects.openai.images import OpenAIImages
from majordomo.dialects.openai.models import decode_models, openai_family
from majordomo.dialects.openai.responses import OpenAIResponses
from majordomo.errors import ConfigurationError
from majordomo.media.image_part import COMMON
from majordomo.models.chat_model import HTTPChatModel
from majordomo.models.embedding_model import HTTPEmbeddingModel
from majordomo.models.streamed_image_model import StreamedImageModel
from majordomo.providers.base import Common, HTTPProvider, sealed
from majordomo.redaction import Secret, seal
from majordomo.transport import Address
from majordomo.validation import check_name

HOME = "https://api.openai.com/v1"


class OpenAI(HTTPProvider):
    """OpenAI's chat (Responses, or chat completions) and pictures.

    The key comes from `api_key`, else from OPENAI_API_KEY; there must be one. `base_url` includes the version path.

    `api` is which API chat speaks: "responses", the default for api.openai.com, or "chat", the default elsewhere. `edits` is the form in
    which pictures to edit travel: "multipart" files, or "json" data URLs (gpt-image models only). `system_role` is what system turns go as:
    "developer", or "user" for the few models that know no "system". What a picture model does not take is never sent. Raises
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
        **common: Unpack[Common],
    ) -> None:
        common = sealed(common)
        api_key = seal(api_key or env.variable("OPENAI_API_KEY"))
        if api_key is None:
            raise ConfigurationError("OpenAI needs a key: api_key, or OPENAI_API_KEY", provider=self.name, details={"field": "api_key"})
        if edits not in ("multipart", "json"):
            raise ConfigurationError('edits is "multipart" or "json"', provider=self.name, details={"field": "edits"})
        if api not in (None, "responses", "chat"):
            raise ConfigurationError('api is "responses" or "chat"', provider=self.name, details={"field": "api"})
        if system_role not in get_args(SystemRole):
            raise ConfigurationError('system_role is "system", "developer" or "user"', provider=self.name, details={"field": "system_role"})
        hosted = Address.parse(base_url).host == Address.parse(HOME).host
        self._chat: OpenAIResponses | OpenAIChat
        if (api or ("responses" if hosted else "chat")) == "responses":
            self._chat = OpenAIResponses(self.name, system_role=system_role)
        else:  # "reasoning models reject max_tokens"
            self._chat = OpenAIChat(
                "max_completion_tokens", owner=self.name, top_k=False, object_root=True, reads=COMMON, system_role=system_role
            )
        family = hosted_family if hosted else compatible_family
        self._images = OpenAIImages(family, path="/images", tag=False, edits=edits)
        super().__init__(base_url, api_key, **common)

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:  # noqa: A002 (the word of the design)
        return HTTPChatModel(self._caller, self._chat, check_name(id, "model"), options, timeout=self._timeout, strict=self._strict)

    def image_model(self, id: str, *options: imagegen.Option) -> StreamedImageModel:  # noqa: A002
        return self._painter(StreamedImageModel, self._images, id, options)

    def embedding_model(self, id: str) -> HTTPEmbeddingModel:  # noqa: A002
        return self._embedder(OpenAIEmbeddings(), id)

    async def models(self) -> list[ModelInfo]:
        """What `GET /models` lists for this key: ids alone, so what a model can do is told by its name, where that tells."""
        return await self._told("/models", lambda body, limits: decode_models(body, limits, named=openai_family))

    async def health(self) -> Health:
        """Whether `GET /models` answers, which also tells whether the key is good."""
        return await self._healthy("/models")
