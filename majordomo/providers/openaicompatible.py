"""Any server with OpenAI's API.

For example llama.cpp, vLLM, LM Studio, OpenRouter, Groq, DeepSeek and Mistral.
"""

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
from majordomo.models.client import BackendCall, LoadCheck
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
from majordomo.transport_types import HTTPRequest

DEFAULT_PRESET = Preset("http://localhost:8080/v1", "OPENAI_COMPATIBLE_API_KEY", local=True)


class OpenAICompatible(HTTPProvider):
    """Any server or service with OpenAI's API: chat, images and embeddings.

    Timeouts allow for models that load, unless the preset is a hosted service.

    Args:
        base_url: Address with the version path, for example `http://localhost:8000/v1`. Default:
            the preset's address, else `http://localhost:8080/v1`.
        api_key: Default: the preset's environment variable (for example GROQ_API_KEY), else
            OPENAI_COMPATIBLE_API_KEY without a preset. Hosted presets need a key.
        preset: A server whose address, key variable and deviations are known: "openrouter", "groq",
            "mistral", "deepseek", "xai", "together", "vllm", "llamacpp" or "lmstudio".
        json_output: How structured output is requested: "json_schema" (OpenAI's form) or
            "json_object" (for llama-cpp-python). Default: the preset's form.
        system_role: Role of system messages: "system", "developer", or "user" for models that have
            no system role.
        **common: See `CommonSettings`.

    Raises:
        ConfigurationError: For an unknown preset, a hosted preset without a key, and an invalid
            system_role, address or key.
    """

    name = "openaicompatible"
    version_path = "/v1"

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | Secret | None = None,
        preset: str | None = None,
        json_output: Literal["json_schema", "json_object"] | None = None,
        system_role: SystemRole = "system",
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key)
        preset_settings = _find_preset(preset)
        api_key = api_key or as_secret(env.variable(preset_settings.key_variable))
        if api_key is None and not preset_settings.local:
            raise ConfigurationError(
                f"{preset} needs a key: pass api_key or set {preset_settings.key_variable}",
                provider=self.name,
                details={"field": "api_key"},
            )
        if system_role not in get_args(SystemRole):
            raise ConfigurationError(
                f'system_role must be "system", "developer" or "user"; got {system_role!r}',
                provider=self.name,
                details={"field": "system_role"},
            )
        self.local: bool = preset_settings.local
        self._reports_loading = preset == "llamacpp"
        # Thinking parts are only sent back to the server that they came from.
        self._chat = replace(
            preset_settings.codec,
            provider=preset or self.name,
            schema_form=json_output or preset_settings.codec.schema_form,
            system_role=system_role,
        )
        self._images = OpenAIImagesCodec(compatible_family, path="/images", tag=False)
        super().__init__(base_url or preset_settings.base_url, api_key, **common)

    def _load_check(self) -> LoadCheck | None:
        """Return a load check for llama.cpp.

        Its router lists the state of each model. A server with a single model answers 503 until the
        model is loaded.
        """
        if not self._reports_loading:
            return None

        async def query(call: BackendCall) -> dict[str, str]:
            body = await call.child(QUERY_TIMEOUT).read_body(
                HTTPRequest("GET", "/models"), self._client.limits.max_reply_bytes
            )
            return {model.id: model.state for model in decode_models(body, self._client.limits)}

        def describe_loading(states: dict[str, str], model: str) -> str | None:
            state = states.get(model, "")
            return state if state and state != "loaded" else None

        return LoadWatch(query, describe_loading, time.monotonic)

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
        """Return the models that `GET /models` lists.

        Capabilities are known where the server lists them (OpenRouter, Mistral, Together,
        llama.cpp).
        """
        return await self._query_decoded("/models", decode_models)

    async def health(self) -> Health:
        """Return whether `GET /models` is answered."""
        return await self._check_health("/models")


def _find_preset(preset: str | None) -> Preset:
    if preset is None:
        return DEFAULT_PRESET
    row = PRESETS.get(preset)
    if row is None:
        raise ConfigurationError(
            f"preset must be one of {', '.join(PRESETS)}; got {preset!r}",
            details={"field": "preset"},
        )
    return row
