"""Anthropic's Claude models. Facts: anthropic-sdk-python 2.10.0, recorded traffic."""

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
from majordomo.validation import check_name

HOME = "https://api.anthropic.com/v1"
PAGES = 20  # a list that never ends is cut off here


class Anthropic(HTTPProvider):
    """Anthropic's Messages API: chat.

    The key comes from `api_key`, else from ANTHROPIC_API_KEY; there must be one. `base_url` includes the version path.

    `version` is sent as `anthropic-version`; under "2026-10-21" there are no temperature, top_p and top_k, which is then a warning.
    `cache` marks each request for prompt caching, for "5m" or "1h". Raises ConfigurationError without a key, and for a version, an
    address or a key that cannot be one.
    """

    name = "anthropic"
    version_path = "/v1"
    local = False

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str = HOME,
        version: Version = "2023-06-01",
        cache: Literal["5m", "1h"] | None = None,
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key or env.variable("ANTHROPIC_API_KEY"))
        if api_key is None:
            raise ConfigurationError(
                "Anthropic needs a key: api_key, or ANTHROPIC_API_KEY",
                provider=self.name,
                details={"field": "api_key"},
            )
        if version not in ("2023-06-01", "2026-10-21"):
            raise ConfigurationError(
                'version is "2023-06-01" or "2026-10-21"',
                provider=self.name,
                details={"field": "version"},
            )
        if cache not in (None, "5m", "1h"):
            raise ConfigurationError(
                'cache is "5m" or "1h"', provider=self.name, details={"field": "cache"}
            )
        common["headers"] = {"anthropic-version": version, **(common.get("headers") or {})}
        self._chat = AnthropicMessagesCodec(self.name, version, cache)
        super().__init__(base_url, api_key, **common)

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {"x-api-key": key}

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:
        return HTTPChatModel(
            self._client,
            self._chat,
            check_name(id, "model"),
            options,
            timeout=self._timeout,
            strict=self._strict,
        )

    async def models(self) -> list[ModelInfo]:
        """What `GET /models` lists for this key, all pages of it."""
        found: list[ModelInfo] = []
        after = ""
        for _ in range(PAGES):
            page, after = await self._query_decoded(
                "/models?limit=1000" + (f"&after_id={quote(after, safe='')}" if after else ""),
                decode_models,
            )
            found += page
            if not after:
                break
        return found

    async def health(self) -> Health:
        """Whether `GET /models` answers, which also tells whether the key is good."""
        return await self._check_health("/models")
