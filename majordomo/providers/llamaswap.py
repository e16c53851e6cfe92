"""llama-swap: one address for many local models, which are loaded on demand.

Source: llama-swap at 0bdb372.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, Unpack
from urllib.parse import quote

from majordomo import env, imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream
from majordomo.dialects.openai.image_families import compatible_family
from majordomo.dialects.openai.images import OpenAIImagesCodec
from majordomo.dialects.openai.models import (
    decode_aliases,
    decode_change,
    decode_models,
    decode_running,
)
from majordomo.dialects.samplers import SDCPP, SamplerCatalog
from majordomo.errors import BadResponseError, ConfigurationError, NotFoundError
from majordomo.framing.json import decode_object
from majordomo.models.client import BackendCall, LoadCheck
from majordomo.models.embedding_model import HTTPEmbeddingModel
from majordomo.models.image_model import ReplyImageCodec, ReplyImageModel
from majordomo.models.load_watch import LoadWatch
from majordomo.models.model_aliases import ModelAliases
from majordomo.models.sse_feed import SSEFeed
from majordomo.providers.base import (
    QUERY_TIMEOUT,
    CommonSettings,
    HTTPProvider,
    with_secret_headers,
)
from majordomo.redaction import Secret, as_secret
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_name

if TYPE_CHECKING:
    from majordomo.models.chat_model import HTTPChatModel

MAX_STATE_BYTES = 1 << 20


class LlamaSwap(HTTPProvider):
    """llama-swap: chat, images and embeddings from local models that are loaded in turn.

    A call for a model that is not loaded waits for it, up to `timeout.load`.

    Args:
        base_url: Address of llama-swap.
        api_key: Default: the environment variable LLAMA_SWAP_API_KEY; without one no key is sent.
        images: How images are requested. "openai+tag" (default): from a stable-diffusion.cpp
            server, which reads settings only from a tag in the prompt; they are sent as fields too.
            "openai": from any other server. "sdapi": from a stable-diffusion.cpp server through
            `/sdapi/v1` (llama-swap since March 2026), where settings are plain fields.
        **common: See `CommonSettings`.

    Raises:
        ConfigurationError: For an invalid images, address or key.
    """

    name = "llamaswap"
    can_unload = True

    def __init__(
        self,
        base_url: str = "http://localhost:8080",
        *,
        api_key: str | Secret | None = None,
        images: Literal["openai+tag", "openai", "sdapi"] = "openai+tag",
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key or env.variable("LLAMA_SWAP_API_KEY"))
        if images not in ("openai+tag", "openai", "sdapi"):
            raise ConfigurationError(
                f'images must be "openai+tag", "openai" or "sdapi"; got {images!r}',
                provider=self.name,
                details={"field": "images"},
            )
        self._images: ReplyImageCodec
        if images == "sdapi":
            # Imported here because few users need it, and imports should stay fast.
            from majordomo.dialects.automatic1111.sdapi import SDAPICodec

            self._images = SDAPICodec(sdcpp=True, names_model=True)
        else:
            self._images = (
                OpenAIImagesCodec(tag=True)
                if images == "openai+tag"
                else OpenAIImagesCodec(compatible_family, tag=False)
            )
        self._has_sampler_catalog = images != "openai"
        self._cached_catalogs: dict[str, SamplerCatalog] = {}
        self._aliases = ModelAliases(self._query_aliases)
        super().__init__(base_url, api_key, **common)
        self._client.find_process = self._aliases.find

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:
        """Return a chat model. `options` are defaults of its requests."""
        # Imported here so that a program for images does not load the chat modules.
        from majordomo.dialects.openai.chat import OpenAIChatCodec
        from majordomo.models.chat_model import HTTPChatModel

        codec = OpenAIChatCodec(
            provider=self.name, path="/v1/chat/completions", loading_chunks=True
        )
        return self._make_chat_model(HTTPChatModel, codec, id, options)

    def image_model(self, id: str, *options: imagegen.Option) -> ReplyImageModel:
        """Return an image model. `options` are defaults of its requests."""
        return self._make_image_model(
            ReplyImageModel,
            self._images,
            id,
            options,
            sampler_catalog=self._sampler_catalog if self._has_sampler_catalog else None,
        )

    async def _sampler_catalog(
        self, model: str, request: imagegen.Request, call: BackendCall
    ) -> SamplerCatalog:
        """Return the samplers of the server behind this model, queried once.

        The query loads the model, which the image needs anyway.
        """
        if not SDCPP.needs_catalog(request):
            return SamplerCatalog()
        if model not in self._cached_catalogs:
            from majordomo.dialects.stable_diffusion_cpp.jobs import decode_capabilities

            path = f"/upstream/{quote(model, safe='/:')}/sdcpp/v1/capabilities"
            try:
                body = await call.parallel(call.emit).read_body(
                    HTTPRequest("GET", path), self._client.limits.max_reply_bytes
                )
                self._cached_catalogs[model] = decode_capabilities(body, self._client.limits)[0]
            except (NotFoundError, BadResponseError):
                # An older build, or no sd-server: use the built-in table.
                self._cached_catalogs[model] = SamplerCatalog()
        return self._cached_catalogs[model]

    def embedding_model(self, id: str) -> HTTPEmbeddingModel:
        """Return an embedding model."""
        from majordomo.dialects.openai.embeddings import OpenAIEmbeddingsCodec

        return self._make_embedding_model(OpenAIEmbeddingsCodec("/v1/embeddings"), id)

    async def server(self) -> str:
        """Return the name and version, from `GET /api/version`.

        An empty text for builds before 2026, which do not have it.
        """
        try:
            version = (
                await self._query_decoded(
                    "/api/version", lambda body, limits: decode_object(body, limits.max_json_depth)
                )
            ).get("version")
        except NotFoundError:
            return ""
        return f"llama-swap {version}" if isinstance(version, str) and version else "llama-swap"

    async def models(self) -> list[ModelInfo]:
        """Return all configured models, with their current states. Loads nothing."""
        running = await self._running()
        return await self._query_decoded(
            "/v1/models", lambda body, limits: decode_models(body, limits, running)
        )

    async def running(self) -> list[ModelInfo]:
        """Return the models in memory.

        `state` is starting, ready or stopping; `loaded` is True when ready.
        """
        return [
            ModelInfo(name, loaded=state == "ready", state=state)
            for name, state in (await self._running()).items()
        ]

    async def unload(self, id: str | None = None) -> None:
        """Stop one model, or all of them.

        What they are generating, for any user, is lost.
        """
        path = (
            "/api/models/unload"
            if id is None
            else f"/api/models/unload/{quote(check_name(id, 'model'), safe='/:')}"
        )
        await self._query(path, method="POST")

    def changes(self) -> EventStream[list[ModelInfo], None]:
        """Stream all models with their states, now and after each change.

        The stream has no end of its own. Raises StreamBrokenError when llama-swap ends it.

        Example:
            ```python
            async with provider.changes() as changes:
                async for models in changes:
                    print(models)
            ```
        """
        return EventStream(self._feed)

    def changes_sync(self) -> SyncEventStream[list[ModelInfo], None]:
        """Stream all models with their states (blocking). See `changes`."""
        return SyncEventStream(self._feed)

    def _feed(self) -> SSEFeed[list[ModelInfo]]:
        return SSEFeed(
            self._client, "/api/events", lambda data: decode_change(data, self._client.limits)
        )

    async def _unload_model(self, model: str) -> None:
        await self.unload(model)

    def running_sync(self) -> list[ModelInfo]:
        """Return the models in memory (blocking). See `running`."""
        return portal.run(self.running)

    def unload_sync(self, id: str | None = None) -> None:
        """Stop one model, or all of them (blocking). See `unload`."""
        return portal.run(lambda: self.unload(id))

    async def health(self) -> Health:
        """Return whether `GET /health` is answered; it needs no key and loads nothing."""
        return await self._check_health("/health")

    async def _running(self) -> dict[str, str]:
        return await self._query_decoded("/running", decode_running)

    async def _query_aliases(self, call: BackendCall) -> dict[str, str]:
        body = await call.read_body(
            HTTPRequest("GET", "/v1/models"), self._client.limits.max_reply_bytes
        )
        return decode_aliases(body, self._client.limits)

    def _load_check(self) -> LoadCheck:
        """Return a load check: `/running` lists the states of models."""

        async def query(call: BackendCall) -> dict[str, str]:
            body = await call.child(QUERY_TIMEOUT).read_body(
                HTTPRequest("GET", "/running"), MAX_STATE_BYTES
            )
            return decode_running(body, self._client.limits)

        def describe_loading(states: dict[str, str], model: str) -> str | None:
            state = states.get(self._aliases.known(model))
            # An alias is not listed. Without a resource group its model is unknown: then the call
            # waits if any model is starting or stopping.
            is_loading = (
                state != "ready"
                if state is not None
                else any(other in ("starting", "stopping") for other in states.values())
            )
            return (state or "") if is_loading else None

        return LoadWatch(query, describe_loading, time.monotonic)
