"""Any server that speaks OpenAI's chat completions: llama.cpp, vLLM, LM Studio, OpenRouter, Groq, DeepSeek, Mistral and many more."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal, Unpack, get_args

from majordomo import env, imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.dialects.conversation import SystemRole
from majordomo.dialects.openai.embeddings import OpenAIEmbeddingsCodec
from majordomo.dialects.openai.image_families import compatible_family
from majordomo.dialects.openai.images import OpenAIImagesCodec
from majordomo.dialects.openai.models import decode_models
from majordomo.dialects.openai.presets import PRESETS, Preset
from majordomo.errors import ConfigurationError
from majordomo.models.chat_model import HTTPChatModel
from majordomo.models.client import LoadCheck
from majordomo.models.embedding_model import HTTPEmbeddingModel
from majordomo.models.load_watch import LoadWatch
from majordomo.models.streamed_image_model import StreamedImageModel
from majordomo.providers.base import (
    QUERY_TIMEOUT,
    CommonSettings,
    HTTPProvider,
    with_secret_headers,
)
from majordomo.redaction import Secret, as_secret
from majordomo.transport_types import Deadline, HTTPRequest
from majordomo.validation import check_name

ANY = Preset("http://localhost:8080/v1", "OPENAI_COMPATIBLE_API_KEY", local=True)


class OpenAICompatible(HTTPProvider):
    """Any server or service that speaks OpenAI's API: chat, images, embeddings.

    `base_url` includes the version path: `http://localhost:8000/v1`.

    `preset` names a server whose address, key variable and habits are known: "openrouter", "groq", "mistral", "deepseek", "xai",
    "together", "vllm", "llamacpp" or "lmstudio"; a `base_url` beside it is another address of such a server. The key comes from
    `api_key`, else from the preset's variable (GROQ_API_KEY), else from OPENAI_COMPATIBLE_API_KEY where there is no preset; the hosted ones
    need one, else none is sent. `json_output` says how a structured answer is asked for: "json_schema" is OpenAI's form, "json_object" the
    one llama-cpp-python knows. `system_role` is what system turns go as: "developer", or "user" for models that know no "system". Waits for
    models to load, as local servers need; see Common for the other keywords. Raises ConfigurationError for an address or key that cannot be
    one, an unknown preset, and a hosted one without a key.
    """

    name = "openaicompatible"
    version_path = "/v1"

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        *,
        preset: str | None = None,
        json_output: Literal["json_schema", "json_object"] | None = None,
        system_role: SystemRole = "system",
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key)
        row = _row(preset)
        api_key = api_key or as_secret(env.variable(row.key_variable))
        if api_key is None and not row.local:
            raise ConfigurationError(
                f"{preset} needs a key: api_key, or {row.key_variable}",
                provider=self.name,
                details={"field": "api_key"},
            )
        if system_role not in get_args(SystemRole):
            raise ConfigurationError(
                'system_role is "system", "developer" or "user"',
                provider=self.name,
                details={"field": "system_role"},
            )
        self.local: bool = row.local
        self._tells_loading = preset == "llamacpp"
        # Thoughts belong to the server behind the dialect: what DeepSeek thought is nothing for Groq
        self._chat = replace(
            row.codec,
            provider=preset or self.name,
            schema_form=json_output or row.codec.schema_form,
            system_role=system_role,
        )
        self._images = OpenAIImagesCodec(compatible_family, path="/images", tag=False)
        super().__init__(base_url or row.base_url, api_key, **common)

    def _load_check(self) -> LoadCheck | None:
        """llama.cpp's router says of each model listed whether it is loaded; one with a single model answers 503 until it is."""
        if not self._tells_loading:
            return None

        async def look(deadline: Deadline) -> dict[str, str]:
            body = await self._client.read_body(
                HTTPRequest("GET", "/models"),
                deadline.child(QUERY_TIMEOUT),
                self._client.limits.max_reply_bytes,
            )
            return {model.id: model.state for model in decode_models(body, self._client.limits)}

        def loading(states: dict[str, str], model: str) -> str | None:
            state = states.get(model, "")
            return state if state and state != "loaded" else None

        return LoadWatch(look, loading, time.monotonic)

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
        """What `GET /models` lists; what a model can do where the server tells (OpenRouter, Mistral, Together, llama.cpp)."""
        return await self._query_decoded("/models", decode_models)

    async def health(self) -> Health:
        """Whether `GET /models` answers."""
        return await self._check_health("/models")


def _row(preset: str | None) -> Preset:
    if preset is None:
        return ANY
    row = PRESETS.get(preset)
    if row is None:
        raise ConfigurationError(
            f"preset is one of {', '.join(PRESETS)}, not {preset!r}", details={"field": "preset"}
        )
    return row
