"""AUTOMATIC1111's web UI and its forks (Forge, reForge, SD.Next), started with `--api`.

Source: `modules/api` of webui 1.6 to 1.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from majordomo import env, imagegen
from majordomo.backend_status import Health, ModelInfo
from majordomo.concurrency import portal
from majordomo.dialects.automatic1111.sdapi import SDAPICodec, decode_names
from majordomo.dialects.image_fields import parse_base64_image
from majordomo.dialects.request_body import json_request
from majordomo.dialects.samplers import SamplerCatalog
from majordomo.errors import BadResponseError, InvalidRequestError, MajordomoError, NotFoundError
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.json import decode_object
from majordomo.media.image_limits import check_sendable
from majordomo.media.image_part import ImagePart
from majordomo.models.client import BackendCall
from majordomo.models.polled_image_model import PolledImageModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret
from majordomo.settings import Limits
from majordomo.validation import check_number, check_text


class Automatic1111(HTTPProvider):
    """The web API of AUTOMATIC1111's web UI and of its forks: images.

    The server makes one image at a time, so `max_concurrency` is 1 by default. A model id is the
    title or name of a checkpoint; "current" is the loaded one. Prompts keep their A1111 syntax
    (`(word:1.2)`, `<lora:name:0.8>`).

    A cancelled call interrupts its job if the server reports that this job is running
    (`current_task`, which forks report and A1111 up to 1.10 does not), or if `exclusive` is set.
    Otherwise the server finishes the image.

    Args:
        base_url: Address of the server.
        api_key: "user:password" of `--api-auth`. Default: the environment variable
            AUTOMATIC1111_API_KEY.
        exclusive: Whether this provider is the only user of the server, so that any running job may
            be interrupted.
        **common: See `CommonSettings`.

    Raises:
        ConfigurationError: For an invalid address or key.
    """

    name = "automatic1111"
    default_max_concurrency: int | None = 1
    basic_auth = True
    default_models: ClassVar[Mapping[str, str]] = {"image": "current"}
    """Model ids, by kind of model, for a model string that names only the provider."""

    def __init__(
        self,
        base_url: str = "http://localhost:7860",
        *,
        api_key: str | Secret | None = None,
        exclusive: bool = False,
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key or env.variable("AUTOMATIC1111_API_KEY"))
        self._codec = SDAPICodec()
        self._exclusive = exclusive
        self._cached_catalog: SamplerCatalog | None = None
        super().__init__(base_url, api_key, **common)

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {"Authorization": key.basic()}

    def image_model(self, id: str, *options: imagegen.Option) -> PolledImageModel:
        """Return an image model. `options` are defaults of its requests."""
        return self._make_image_model(
            PolledImageModel,
            self._codec,
            id,
            options,
            sampler_catalog=self._sampler_catalog,
            exclusive=self._exclusive,
        )

    async def models(self) -> list[ModelInfo]:
        """Return the checkpoints on the server's disk.

        `loaded` is True for the one in memory.
        """
        titles, _ = await self._query_decoded(
            "/sdapi/v1/sd-models", lambda body, limits: decode_names(body, limits, "title")
        )
        loaded = (await self.options()).get("sd_model_checkpoint")
        return [ModelInfo(title, frozenset({"image", "edit"}), title == loaded) for title in titles]

    async def samplers(self) -> list[str]:
        """Return the names of all samplers."""
        return list((await self._query_catalog()).samplers or ())

    async def schedulers(self) -> list[str]:
        """Return the names of all schedulers.

        The list is empty for a server before 1.9, where the name of a sampler includes the
        scheduler.
        """
        return list((await self._query_catalog()).schedulers or ())

    async def loras(self) -> list[str]:
        """Return the names of all LoRAs, for `<lora:name:weight>` in a prompt."""
        return (await self._query_decoded("/sdapi/v1/loras", decode_names))[0]

    async def upscalers(self) -> list[str]:
        """Return the names of all upscalers."""
        return (await self._query_decoded("/sdapi/v1/upscalers", decode_names))[0]

    async def options(self) -> dict[str, Any]:
        """Return the server's settings, which all its users share."""
        return await self._query_decoded(
            "/sdapi/v1/options", lambda body, limits: decode_object(body, limits.max_json_depth)
        )

    async def set_options(self, **options: Any) -> None:
        """Change settings of the server, permanently and for all its users."""
        await self._client.call(self._image_timeout).read_body(
            json_request("/sdapi/v1/options", options, {}, Base64Placeholders()),
            self._client.limits.max_reply_bytes,
        )

    async def upscale(
        self, image: ImagePart, scale: float = 2, upscaler: str = "R-ESRGAN 4x+"
    ) -> ImagePart:
        """Return the image enlarged. Waits for a slot like a generation.

        Args:
            image: The image to enlarge.
            scale: Factor for width and height, 1 to 8.
            upscaler: Name of an upscaler on the server, see `upscalers`.
        """
        limits = self._client.limits
        if not isinstance(image, ImagePart):
            raise InvalidRequestError(
                f"image must be an ImagePart; got {type(image).__name__}", field="image"
            )
        check_sendable(image, limits, "image")
        check_number("scale", scale, 1, 8)
        check_text(upscaler, "upscaler", 200)
        placeholders = Base64Placeholders()
        body = {
            "image": placeholders.base64(image),
            "upscaling_resize": scale,
            "upscaler_1": upscaler,
        }
        request = json_request("/sdapi/v1/extra-single-image", body, {}, placeholders)
        call = self._client.call(self._image_timeout)
        admission = await call.admit()
        try:
            return _decode_upscaled(
                await call.read_body(request, limits.max_image_reply_bytes), limits
            )
        except MajordomoError as error:
            raise self._client.with_context(error).with_traceback(None) from None
        finally:
            admission.release()

    async def health(self) -> Health:
        """Return whether `GET /sdapi/v1/cmd-flags` is answered, which needs `--api`."""
        return await self._check_health("/sdapi/v1/cmd-flags")

    def samplers_sync(self) -> list[str]:
        """Return the names of all samplers (blocking)."""
        return portal.run(self.samplers)

    def schedulers_sync(self) -> list[str]:
        """Return the names of all schedulers (blocking)."""
        return portal.run(self.schedulers)

    def loras_sync(self) -> list[str]:
        """Return the names of all LoRAs (blocking)."""
        return portal.run(self.loras)

    def upscalers_sync(self) -> list[str]:
        """Return the names of all upscalers (blocking)."""
        return portal.run(self.upscalers)

    def options_sync(self) -> dict[str, Any]:
        """Return the server's settings (blocking)."""
        return portal.run(self.options)

    def set_options_sync(self, **options: Any) -> None:
        """Change settings of the server (blocking). See `set_options`."""
        return portal.run(lambda: self.set_options(**options))

    def upscale_sync(
        self, image: ImagePart, scale: float = 2, upscaler: str = "R-ESRGAN 4x+"
    ) -> ImagePart:
        """Return the image enlarged (blocking). See `upscale`."""
        return portal.run(lambda: self.upscale(image, scale, upscaler))

    async def _sampler_catalog(
        self, model: str, request: imagegen.Request, call: BackendCall
    ) -> SamplerCatalog:
        return await self._query_catalog(call)

    async def _query_catalog(self, call: BackendCall | None = None) -> SamplerCatalog:
        if self._cached_catalog is None:
            samplers, aliases = await self._query_decoded(
                "/sdapi/v1/samplers", decode_names, within=call
            )
            try:
                schedulers, labels = await self._query_decoded(
                    "/sdapi/v1/schedulers",
                    lambda body, limits: decode_names(body, limits, "label"),
                    within=call,
                )
            except NotFoundError:
                # A server before 1.9 has no such route.
                schedulers, labels = [], {}
            self._cached_catalog = SamplerCatalog(
                tuple(samplers), tuple(schedulers), aliases, labels
            )
        return self._cached_catalog


def _decode_upscaled(body: bytes, limits: Limits) -> ImagePart:
    reply = decode_object(body, limits.max_json_depth)
    if not isinstance(reply.get("image"), str):
        raise BadResponseError("the response contains no image")
    return parse_base64_image(reply["image"], limits)
