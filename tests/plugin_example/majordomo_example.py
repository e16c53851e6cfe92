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
    """The provider of Example AI.

    The API key is `api_key`, else the variable EXAMPLE_API_KEY; one of them is required. `region`
    is "eu" or "us".
    """

    # The prefix of model strings: example/some-model.
    name = "example"
    # Added to the address in a model string: example://localhost:9000/some-model.
    version_path = "/v1"
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
                "no API key for Example AI; pass api_key or set EXAMPLE_API_KEY",
                details={"field": "api_key"},
            )
        if region not in ("eu", "us"):
            raise ConfigurationError(
                f'region must be "eu" or "us"; got {region!r}', details={"field": "region"}
            )
        common["headers"] = {"X-Region": region, **(common.get("headers") or {})}
        self._chat = OpenAIChatCodec(provider=self.name)
        super().__init__(base_url, api_key, **common)

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {"X-Example-Key": key}

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:
        """Return the chat model `id`."""
        return HTTPChatModel(
            self._client,
            self._chat,
            check_name(id, "model"),
            options,
            timeout=self._timeout,
            strict=self._strict,
        )

    async def models(self) -> list[ModelInfo]:
        """Return the models that the server lists."""
        return decode_models(await self._query("/models"), self._client.limits)

    async def health(self) -> Health:
        """Return whether the server answers its list of models."""
        return await self._check_health("/models")
