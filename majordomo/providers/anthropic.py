"""Anthropic's Claude models.

Sources: anthropic-sdk-python 2.10.0 and recorded traffic.
"""

from __future__ import annotations

from typing import Literal, Unpack
from urllib.parse import quote

from majordomo import env, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.dialects.anthropic.messages import AnthropicMessagesCodec, Version, decode_models
from majordomo.errors import ConfigurationError
from majordomo.models.chat_model import HTTPChatModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret

BASE_URL = "https://api.anthropic.com/v1"
# Bounds a list of models that never ends.
MAX_PAGES = 20


class Anthropic(HTTPProvider):
    """Anthropic's Messages API: chat.

    Args:
        api_key: Default: the environment variable ANTHROPIC_API_KEY. There must be one.
        base_url: Address with the version path.
        version: Sent as `anthropic-version`. Under "2026-10-21" there is no temperature, top_p and
            top_k; setting one is a warning.
        cache: Marks each request for prompt caching, for "5m" or "1h". Default: no caching.
        **common: See `CommonSettings`.

    Raises:
        ConfigurationError: Without a key, and for an invalid version, cache, address or key.
    """

    name = "anthropic"
    version_path = "/v1"
    local = False

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str = BASE_URL,
        version: Version = "2023-06-01",
        cache: Literal["5m", "1h"] | None = None,
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key or env.variable("ANTHROPIC_API_KEY"))
        if api_key is None:
            raise ConfigurationError(
                "Anthropic needs a key: pass api_key or set ANTHROPIC_API_KEY",
                provider=self.name,
                details={"field": "api_key"},
            )
        if version not in ("2023-06-01", "2026-10-21"):
            raise ConfigurationError(
                f'version must be "2023-06-01" or "2026-10-21"; got {version!r}',
                provider=self.name,
                details={"field": "version"},
            )
        if cache not in (None, "5m", "1h"):
            raise ConfigurationError(
                f'cache must be "5m", "1h" or None; got {cache!r}',
                provider=self.name,
                details={"field": "cache"},
            )
        common["headers"] = {"anthropic-version": version, **(common.get("headers") or {})}
        self._chat = AnthropicMessagesCodec(self.name, version, cache)
        super().__init__(base_url, api_key, **common)

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {"x-api-key": key}

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:
        """Return a chat model. `options` are defaults of its requests."""
        return self._make_chat_model(HTTPChatModel, self._chat, id, options)

    async def models(self) -> list[ModelInfo]:
        """Return all models that `GET /models` lists for this key."""
        models: list[ModelInfo] = []
        after = ""
        for _ in range(MAX_PAGES):
            page, after = await self._query_decoded(
                "/models?limit=1000" + (f"&after_id={quote(after, safe='')}" if after else ""),
                decode_models,
            )
            models += page
            if not after:
                break
        return models

    async def health(self) -> Health:
        """Return whether `GET /models` is answered, which also shows that the key is valid."""
        return await self._check_health("/models")
