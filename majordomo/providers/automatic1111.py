"""AUTOMATIC1111's web UI and its forks (Forge, reForge, SD.Next), started with `--api`. Facts: webui 1.6 to 1.10 `modules/api`."""

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
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_object
from majordomo.media.image_limits import check_sendable
from majordomo.media.image_part import ImagePart
from majordomo.models.polled_image_model import PolledImageModel
from majordomo.providers.base import CommonSettings, HTTPProvider, with_secret_headers
from majordomo.redaction import Secret, as_secret
from majordomo.settings import Limits
from majordomo.validation import check_number, check_text


class Automatic1111(HTTPProvider):
    """The web API of AUTOMATIC1111's web UI, and of its forks: images.

    One image at a time (`max_concurrency` is 1 unless you say otherwise). A model id is a checkpoint's title or name; "current" is
    the one that is loaded.

    Prompts are A1111's own little language (`(word:1.2)`, `<lora:name:0.8>`), untouched. `api_key` is "user:password" of `--api-auth`, else
    from AUTOMATIC1111_API_KEY. A cancelled call interrupts the job when the server says that it is ours that runs (`current_task`,
    which forks tell and A1111 up to 1.10 does not); `exclusive=True` says that nobody else uses the server, and then any job is
    interrupted; else the server draws to its end. Raises ConfigurationError for an address or key that cannot be one.
    """

    name = "automatic1111"
    default_max_concurrency: int | None = 1
    basic_auth = True
    default_models: ClassVar[Mapping[str, str]] = {"image": "current"}

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
        self._known: SamplerCatalog | None = None
        super().__init__(base_url, api_key, **common)

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {"Authorization": key.basic()}

    def image_model(self, id: str, *options: imagegen.Option) -> PolledImageModel:
        return self._make_image_model(
            PolledImageModel, self._codec, id, options, lists=self._lists, exclusive=self._exclusive
        )

    async def models(self) -> list[ModelInfo]:
        """The checkpoints on the server's disk; `loaded` is True for the one in memory."""
        titles, _ = await self._query_decoded(
            "/sdapi/v1/sd-models", lambda body, limits: decode_names(body, limits, "title")
        )
        loaded = (await self.options()).get("sd_model_checkpoint")
        return [ModelInfo(title, frozenset({"image", "edit"}), title == loaded) for title in titles]

    async def samplers(self) -> list[str]:
        return list((await self._lists()).samplers or ())

    async def schedulers(self) -> list[str]:
        """Empty for a server before 1.9, where the sampler's name carries the scheduler."""
        return list((await self._lists()).schedulers or ())

    async def loras(self) -> list[str]:
        """Names for `<lora:name:weight>` in a prompt."""
        return (await self._query_decoded("/sdapi/v1/loras", decode_names))[0]

    async def upscalers(self) -> list[str]:
        return (await self._query_decoded("/sdapi/v1/upscalers", decode_names))[0]

    async def options(self) -> dict[str, Any]:
        """The server's settings, which all its users share."""
        return await self._query_decoded(
            "/sdapi/v1/options", lambda body, limits: decode_object(body, limits.max_json_depth)
        )

    async def set_options(self, **options: Any) -> None:
        """Change settings of the server, for all its users and for good."""
        deadline = self._client.deadline(self._image_timeout)
        await self._client.read_body(
            json_request("/sdapi/v1/options", options, {}, Splices()),
            deadline,
            self._client.limits.max_reply_bytes,
        )

    async def upscale(
        self, image: ImagePart, scale: float = 2, upscaler: str = "R-ESRGAN 4x+"
    ) -> ImagePart:
        """The image, `scale` times as wide and high (1 to 8). Takes a place in the line like an image."""
        limits = self._client.limits
        if not isinstance(image, ImagePart):
            raise InvalidRequestError(
                f"image is an ImagePart, not {type(image).__name__}", field="image"
            )
        check_sendable(image, limits, "image")
        check_number("scale", scale, 1, 8)
        check_text(upscaler, "upscaler", 200)
        splices = Splices()
        body = {"image": splices.base64(image), "upscaling_resize": scale, "upscaler_1": upscaler}
        deadline = self._client.deadline(self._image_timeout)
        async with self._client.admission.admitted(deadline):
            request = json_request("/sdapi/v1/extra-single-image", body, {}, splices)
            try:
                return _upscaled(
                    await self._client.read_body(request, deadline, limits.max_image_reply_bytes),
                    limits,
                )
            except MajordomoError as error:
                raise self._client.with_context(error).with_traceback(None) from None

    async def health(self) -> Health:
        """Whether `GET /sdapi/v1/cmd-flags` answers, as it does only with `--api`."""
        return await self._check_health("/sdapi/v1/cmd-flags")

    def samplers_sync(self) -> list[str]:
        return portal.run(self.samplers)

    def schedulers_sync(self) -> list[str]:
        return portal.run(self.schedulers)

    def loras_sync(self) -> list[str]:
        return portal.run(self.loras)

    def upscalers_sync(self) -> list[str]:
        return portal.run(self.upscalers)

    def options_sync(self) -> dict[str, Any]:
        return portal.run(self.options)

    def set_options_sync(self, **options: Any) -> None:
        return portal.run(lambda: self.set_options(**options))

    def upscale_sync(
        self, image: ImagePart, scale: float = 2, upscaler: str = "R-ESRGAN 4x+"
    ) -> ImagePart:
        return portal.run(lambda: self.upscale(image, scale, upscaler))

    async def _lists(
        self, model: str = "", request: imagegen.Request | None = None
    ) -> SamplerCatalog:
        if self._known is None:
            samplers, aliases = await self._query_decoded("/sdapi/v1/samplers", decode_names)
            try:
                schedulers, labels = await self._query_decoded(
                    "/sdapi/v1/schedulers", lambda body, limits: decode_names(body, limits, "label")
                )
            except NotFoundError:
                schedulers, labels = [], {}  # before 1.9
            self._known = SamplerCatalog(tuple(samplers), tuple(schedulers), aliases, labels)
        return self._known


def _upscaled(body: bytes, limits: Limits) -> ImagePart:
    answer = decode_object(body, limits.max_json_depth)
    if not isinstance(answer.get("image"), str):
        raise BadResponseError("the answer holds no image")
    return parse_base64_image(answer["image"], limits)
