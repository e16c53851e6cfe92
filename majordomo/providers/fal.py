"""fal.ai: hundreds of hosted image models behind one queue.

Source: fal's documentation at fal.ai/docs, read in November 2026.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack

from majordomo import env, imagegen
from majordomo.backend_status import Health, ModelInfo
from majordomo.dialects.fal.models import (
    CATEGORIES,
    ModelInput,
    decode_model_input,
    decode_models,
    models_path,
    schema_path,
)
from majordomo.dialects.fal.queue import FalQueueCodec
from majordomo.errors import ConfigurationError
from majordomo.models.cached_query import CachedQuery
from majordomo.models.client import BackendCall
from majordomo.models.fetched_job_image_model import FetchedJobImageModel
from majordomo.providers.base import (
    QUERY_TIMEOUT,
    CommonSettings,
    HTTPProvider,
    with_secret_headers,
)
from majordomo.redaction import Secret, as_secret
from majordomo.transport import BaseURL
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_name

BASE_URL = "https://queue.fal.run"
CATALOG_ORIGIN = "https://api.fal.ai"
RESULT_ORIGINS = ("https://fal.media", "https://*.fal.media")
# Pages of the catalog in one category.
MAX_PAGES = 20
SCHEMA_TIMEOUT = replace(QUERY_TIMEOUT, total=5)
# Seconds without look-ups of a model after one that failed, so that its calls do not wait for a
# catalog that is out of reach.
LOOK_UP_PAUSE_SECONDS = 60.0


class FalImageModel(FetchedJobImageModel):
    """An image model that first looks up in fal's catalog which fields it accepts."""

    def __init__(
        self,
        *args: Any,
        look_up: Callable[[BackendCall], Awaitable[ModelInput | None]],
        make_model: Callable[[ModelInput | None], FetchedJobImageModel],
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self._look_up = look_up
        self._make_model = make_model

    async def _generate(self, request: imagegen.Request, call: BackendCall) -> imagegen.Result:
        """Run a call with one set of fields from its first step to its last."""
        # Refused before anything is sent.
        self._checked(lambda: self._own_extra(request.extra))
        model_input = await self._look_up(call)
        return await self._make_model(model_input)._generate(request, call)


class Fal(HTTPProvider):
    """fal.ai's queue: images from any model of its catalog.

    A model id is "owner/app" or "owner/app/path", such as "fal-ai/flux/dev". Before the first image
    of a model, fal's catalog is asked which fields the model accepts; without an answer all are
    sent. A cancelled call cancels its request at fal.

    Results are files on fal's CDN. They are fetched without the key, from `result_origins` only.

    Args:
        api_key: Default: the environment variable FAL_KEY. There must be one.
        base_url: Address of the queue.
        result_origins: Origins from which results may be fetched, each "https://host" or
            "https://*.host" for every subdomain. Two others are always allowed: the origin of
            `base_url`, and that of the catalog, which is https://api.fal.ai or, for a `base_url`
            at another host, the same. Default: fal's CDN.
        **common: See `CommonSettings`.

    Raises:
        ConfigurationError: Without a key, and for an invalid address, origin or key.
    """

    name = "fal"
    local = False
    basic_auth = True

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str = BASE_URL,
        result_origins: Sequence[str] = RESULT_ORIGINS,
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = _without_scheme(as_secret(api_key or env.variable("FAL_KEY")))
        if api_key is None:
            raise ConfigurationError(
                "Fal needs a key: pass api_key or set FAL_KEY",
                provider=self.name,
                details={"field": "api_key"},
            )
        address = BaseURL.parse(base_url)
        hosted = address.host == BaseURL.parse(BASE_URL).host
        # The catalog is asked without the key, which is only for the queue.
        self._catalog_origin = CATALOG_ORIGIN if hosted else address.origin
        self._model_inputs: dict[str, CachedQuery[ModelInput | None]] = {}
        origins = (
            [*result_origins, self._catalog_origin, address.origin]
            if isinstance(result_origins, Sequence) and not isinstance(result_origins, str)
            else result_origins
        )
        super().__init__(base_url, api_key, other_origins=origins, **common)

    def _key_headers(self, key: Secret) -> dict[str, Secret]:
        return {"Authorization": Secret(f"Key {key.reveal()}")}

    def image_model(self, id: str, *options: imagegen.Option) -> FalImageModel:
        """Return an image model. `options` are defaults of its requests."""
        name = check_name(id, "model")

        def make_model(model_input: ModelInput | None) -> FetchedJobImageModel:
            codec = FalQueueCodec(name, model_input)
            return self._make_image_model(FetchedJobImageModel, codec, name, options)

        return self._make_image_model(
            FalImageModel,
            FalQueueCodec(name),
            name,
            options,
            look_up=self._look_up,
            make_model=make_model,
        )

    async def models(self) -> list[ModelInfo]:
        """Return the active models of fal's public catalog that make or edit images."""
        models: dict[str, ModelInfo] = {}
        for category in CATEGORIES:
            cursor = ""
            for _ in range(MAX_PAGES):
                page, cursor = await self._client.query_decoded(
                    self._catalog_request(models_path(category, cursor)),
                    QUERY_TIMEOUT,
                    decode_models,
                )
                models |= {model.id: model for model in page}
                if not cursor:
                    break
        return list(models.values())

    async def health(self) -> Health:
        """Return whether fal's catalog is answered.

        fal has no free query that checks the key or the queue.
        """
        return await self._check_health("/v1/models?limit=1", origin=self._catalog_origin)

    async def _look_up(self, call: BackendCall) -> ModelInput | None:
        """Return which fields a model accepts, looked up once; None when they are not known."""
        query = self._model_inputs.get(call.model)
        if query is None:
            new_query = CachedQuery(
                self._query_model_input,
                SCHEMA_TIMEOUT,
                refresh_seconds=math.inf,
                retry_seconds=LOOK_UP_PAUSE_SECONDS,
                clock=self._client.clock,
            )
            query = self._model_inputs.setdefault(call.model, new_query)
        return await query.get(call)

    async def _query_model_input(self, call: BackendCall) -> ModelInput | None:
        limits = self._client.limits
        body = await call.read_body(
            self._catalog_request(schema_path(call.model)), limits.max_reply_bytes
        )
        return decode_model_input(body, limits)

    def _catalog_request(self, path: str) -> HTTPRequest:
        return HTTPRequest("GET", path, from_origin=True, origin=self._catalog_origin)


def _without_scheme(key: Secret | None) -> Secret | None:
    """Return a key without the scheme of the Authorization header, with which it may be copied."""
    return None if key is None else as_secret(key.reveal().removeprefix("Key "))
