"""stable-diffusion.cpp's sd-server.

The server has no keys and no TLS: never expose it. Source: stable-diffusion.cpp at 97d2990.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Unpack

from majordomo import imagegen
from majordomo.backend_status import Health, ModelInfo
from majordomo.concurrency import portal
from majordomo.dialects.automatic1111.sdapi import SDAPICodec
from majordomo.dialects.openai.images import OpenAIImagesCodec
from majordomo.dialects.samplers import SDCPP, SamplerCatalog
from majordomo.dialects.stable_diffusion_cpp.jobs import SdcppJobsCodec, decode_capabilities
from majordomo.errors import BadResponseError, ConfigurationError, NotFoundError
from majordomo.models.client import BackendCall
from majordomo.models.image_model import HTTPImageModel, ReplyImageCodec, ReplyImageModel
from majordomo.models.job_image_model import JobImageModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret


class StableDiffusion(HTTPProvider):
    """The server of stable-diffusion.cpp: images.

    The server has one model and makes one image at a time, so `max_concurrency` is 1 by default.
    The model id is only a label in results.

    Args:
        base_url: Address of the server.
        api_key: The server has no keys; one is sent for a proxy in front of it.
        api: "native" (default): jobs with a queue position. Cancelling removes a queued job; a
            running one runs to its end, because the server cannot stop it. "sdapi": A1111's routes.
            "openai": OpenAI's routes, with the settings in a tag in the prompt.
        **common: See `CommonSettings`.

    Raises:
        ConfigurationError: For an invalid api, address or key.
    """

    name = "stablediffusion"
    default_max_concurrency: int | None = 1
    default_models: ClassVar[Mapping[str, str]] = {"image": "current"}
    """Model ids, by kind of model, for a model string that names only the provider."""

    def __init__(
        self,
        base_url: str = "http://localhost:1234",
        *,
        api_key: str | Secret | None = None,
        api: Literal["native", "sdapi", "openai"] = "native",
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key)
        if api not in ("native", "sdapi", "openai"):
            raise ConfigurationError(
                f'api must be "native", "sdapi" or "openai"; got {api!r}',
                provider=self.name,
                details={"field": "api"},
            )
        self._api = api
        self._cached_catalog: SamplerCatalog | None = None
        super().__init__(base_url, api_key, **common)

    def image_model(self, id: str, *options: imagegen.Option) -> HTTPImageModel:
        """Return an image model. `options` are defaults of its requests."""
        if self._api == "native":
            return self._make_image_model(
                JobImageModel, SdcppJobsCodec(), id, options, sampler_catalog=self._sampler_catalog
            )
        codec: ReplyImageCodec = (
            SDAPICodec(sdcpp=True) if self._api == "sdapi" else OpenAIImagesCodec(tag=True)
        )
        return self._make_image_model(
            ReplyImageModel, codec, id, options, sampler_catalog=self._sampler_catalog
        )

    async def models(self) -> list[ModelInfo]:
        """Return the one model that the server has loaded, from `GET /sdcpp/v1/capabilities`.

        Its `raw` lists LoRAs and limits.
        """
        return [(await self._query_decoded("/sdcpp/v1/capabilities", decode_capabilities))[1]]

    async def loras(self) -> list[str]:
        """Return the paths of all LoRAs.

        They are used as `extra={"stablediffusion": {"lora": [{"path": ..., "multiplier": 0.8}]}}`.
        The server only accepts a LoRA on A1111's routes after its list was queried once.
        """
        loras = (await self.models())[0].raw.get("loras")
        items = loras if isinstance(loras, list) else []
        return [
            item["path"]
            for item in items
            if isinstance(item, dict) and isinstance(item.get("path"), str)
        ]

    def loras_sync(self) -> list[str]:
        """Return the paths of all LoRAs (blocking)."""
        return portal.run(self.loras)

    async def health(self) -> Health:
        """Return whether `GET /v1/models` is answered."""
        return await self._check_health("/v1/models")

    async def _sampler_catalog(
        self, model: str, request: imagegen.Request, call: BackendCall
    ) -> SamplerCatalog:
        if not SDCPP.needs_catalog(request):
            return SamplerCatalog()
        if self._cached_catalog is None:
            try:
                self._cached_catalog = (
                    await self._query_decoded(
                        "/sdcpp/v1/capabilities", decode_capabilities, within=call
                    )
                )[0]
            except (NotFoundError, BadResponseError):
                # A build before April 2026: use the built-in table.
                return SamplerCatalog()
        return self._cached_catalog
