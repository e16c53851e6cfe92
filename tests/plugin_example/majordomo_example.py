"""Example AI: chat completions, plus its own header for the key."""

from __future__ import annotations

from typing import Unpack

from majordomo import env, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.dialects.openai.chat import OpenAIChatCodec
from majordomo.dialects.openai.models import decode_models
from majordomo.errors import ConfigurationError
from majordomo.models.chat_model import HTTPChatModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret
from majordomo.validation import check_name


class ExampleAI(HTTPProvider):
    """The key comes from `api_key`, else from EXAMPLE_API_KEY; there must be one. `region` is "eu" or "us"."""

    name = "example"  # what model strings begin with: example/some-model
    version_path = (
        "/v1"  # what an address in a model string gets: example://localhost:9000/some-model
    )
    local = False

    def __init__(
        self,
        base_url: str = "https://api.example.test/v1",
        api_key: str | Secret | None = None,
        *,
        region: str = "eu",
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key or env.variable("EXAMPLE_API_KEY"))
        if api_key is None:
            raise ConfigurationError(
                "Example AI needs a key: api_key, or EXAMPLE_API_KEY", details={"field": "api_key"}
            )
        if region not in ("eu", "us"):
            raise ConfigurationError('region is "eu" or "us"', details={"field": "region"})
        common["headers"] = {"X-Region": region, **(common.get("headers") or {})}
        self._chat = OpenAIChatCodec(provider=self.name)
        super().__init__(base_url, api_key, **common)

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {"X-Example-Key": key}

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
        return decode_models(await self._query("/models"), self._client.limits)

    async def health(self) -> Health:
        return await self._check_health("/models")
