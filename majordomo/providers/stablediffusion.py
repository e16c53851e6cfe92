"""stable-diffusion.cpp's sd-server, directly. Facts: stable-diffusion.cpp at 97d2990. It has no keys and no TLS: never expose it."""

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
from majordomo.models.image_model import HTTPImageModel, ReplyImageCodec, ReplyImageModel
from majordomo.models.job_image_model import JobImageModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret


class StableDiffusion(HTTPProvider):
    """The server of stable-diffusion.cpp: images.

    One model, one image at a time (`max_concurrency` is 1 unless you say otherwise); the model's id is for your eyes only.

    `api` says which routes are used. "native", the default: jobs with a place in the line; cancelling withdraws a job that waits, one
    that is drawn runs to its end (the server cannot stop). "sdapi": A1111's routes. "openai": OpenAI's routes with the settings in a
    tag of the prompt. Raises ConfigurationError for an address that cannot be one.
    """

    name = "stablediffusion"
    default_max_concurrency: int | None = 1
    default_models: ClassVar[Mapping[str, str]] = {"image": "current"}

    def __init__(
        self,
        base_url: str = "http://localhost:1234",
        *,
        api_key: str | Secret | None = None,
        api: Literal["native", "sdapi", "openai"] = "native",
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(
            api_key
        )  # it never asks for a key; one is sent for a proxy in front of it
        if api not in ("native", "sdapi", "openai"):
            raise ConfigurationError(
                'api is "native", "sdapi" or "openai"', provider=self.name, details={"field": "api"}
            )
        self._api = api
        self._known: SamplerCatalog | None = None
        super().__init__(base_url, api_key, **common)

    def image_model(self, id: str, *options: imagegen.Option) -> HTTPImageModel:
        if self._api == "native":
            return self._make_image_model(
                JobImageModel, SdcppJobsCodec(), id, options, lists=self._lists
            )
        codec: ReplyImageCodec = (
            SDAPICodec(sdcpp=True) if self._api == "sdapi" else OpenAIImagesCodec(tag=True)
        )
        return self._make_image_model(ReplyImageModel, codec, id, options, lists=self._lists)

    async def models(self) -> list[ModelInfo]:
        """The one model this server has loaded, as `GET /sdcpp/v1/capabilities` tells; its raw answer lists loras and limits."""
        return [(await self._query_decoded("/sdcpp/v1/capabilities", decode_capabilities))[1]]

    async def loras(self) -> list[str]:
        """Paths for `extra={"stablediffusion": {"lora": [{"path": ..., "multiplier": 0.8}]}}`. Asking fills the server's own list, without
        which it refuses them on A1111's routes."""
        found = (await self.models())[0].raw.get("loras")
        items = found if isinstance(found, list) else []
        return [
            item["path"]
            for item in items
            if isinstance(item, dict) and isinstance(item.get("path"), str)
        ]

    def loras_sync(self) -> list[str]:
        return portal.run(self.loras)

    async def health(self) -> Health:
        """Whether `GET /v1/models` answers."""
        return await self._check_health("/v1/models")

    async def _lists(self, model: str, request: imagegen.Request) -> SamplerCatalog:
        if not SDCPP.needs_catalog(request):
            return SamplerCatalog()
        if self._known is None:
            try:
                self._known = (
                    await self._query_decoded("/sdcpp/v1/capabilities", decode_capabilities)
                )[0]
            except (NotFoundError, BadResponseError):
                return SamplerCatalog()  # a build before April 2026: our own table must do
        return self._known
