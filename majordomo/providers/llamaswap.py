"""llama-swap: one address for many local models, chat and images, loaded when asked for. Facts: llama-swap at 0bdb372."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Literal, Unpack, cast
from urllib.parse import quote

from majordomo import env, imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.concurrency import portal
from majordomo.concurrency.event_stream import EventStream, SyncEventStream
from majordomo.dialects.openai.image_families import compatible_family
from majordomo.dialects.openai.images import OpenAIImagesCodec
from majordomo.dialects.openai.models import decode_change, decode_models, decode_running
from majordomo.dialects.samplers import SDCPP, SamplerCatalog
from majordomo.errors import BadResponseError, ConfigurationError, NotFoundError
from majordomo.framing.json import decode_object
from majordomo.models.client import LoadCheck
from majordomo.models.embedding_model import HTTPEmbeddingModel
from majordomo.models.image_model import ReplyImageCodec, ReplyImageModel
from majordomo.models.load_watch import LoadWatch
from majordomo.models.sse_feed import SSEFeed
from majordomo.providers.base import (
    QUERY_TIMEOUT,
    CommonSettings,
    HTTPProvider,
    with_secret_headers,
)
from majordomo.redaction import Secret, as_secret
from majordomo.transport_types import Deadline, HTTPRequest
from majordomo.validation import check_name

if TYPE_CHECKING:
    from majordomo.models.chat_model import HTTPChatModel


class LlamaSwap(HTTPProvider):
    """Models that take turns on one machine. A call for one that is not loaded waits for it: `timeout.load` says how long.

    The key comes from `api_key`, else from LLAMA_SWAP_API_KEY; without one none is sent. `images` says how images are asked for:
    "openai+tag" of a stable-diffusion.cpp server, which reads settings only from a tag in the prompt (they are sent both ways);
    "openai" of any other; "sdapi" of such a server through `/sdapi/v1` (llama-swap since March 2026), where settings are plain
    fields. Raises ConfigurationError for an address or key that cannot be one.
    """

    name = "llamaswap"
    releases = True

    def __init__(
        self,
        base_url: str = "http://localhost:8080",
        api_key: str | Secret | None = None,
        *,
        images: Literal["openai+tag", "openai", "sdapi"] = "openai+tag",
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key or env.variable("LLAMA_SWAP_API_KEY"))
        if images not in ("openai+tag", "openai", "sdapi"):
            raise ConfigurationError(
                'images is "openai+tag", "openai" or "sdapi"',
                provider=self.name,
                details={"field": "images"},
            )
        self._images: ReplyImageCodec
        if images == "sdapi":
            from majordomo.dialects.automatic1111.sdapi import (
                SDAPICodec,  # few want it, and a model should be made soon
            )

            self._images = SDAPICodec(sdcpp=True, names_model=True)
        else:
            self._images = (
                OpenAIImagesCodec(tag=True)
                if images == "openai+tag"
                else OpenAIImagesCodec(compatible_family, tag=False)
            )
        self._asks_lists = images != "openai"
        self._known: dict[str, SamplerCatalog] = {}
        super().__init__(base_url, api_key, **common)

    def model(self, id: str, *options: llm.Option) -> HTTPChatModel:
        from majordomo.dialects.openai.chat import (
            OpenAIChatCodec,  # who wants images need not wait for chat to be loaded
        )
        from majordomo.models.chat_model import HTTPChatModel

        codec = OpenAIChatCodec(
            provider=self.name, path="/v1/chat/completions", loading_chunks=True
        )
        return HTTPChatModel(
            self._client,
            codec,
            check_name(id, "model"),
            options,
            timeout=self._timeout,
            strict=self._strict,
        )

    def image_model(self, id: str, *options: imagegen.Option) -> ReplyImageModel:
        return self._make_image_model(
            ReplyImageModel,
            self._images,
            id,
            options,
            lists=self._lists if self._asks_lists else None,
        )

    async def _lists(self, model: str, request: imagegen.Request) -> SamplerCatalog:
        """What the server behind this model has. Asking loads the model, which the image will need anyway; it is asked once."""
        if not SDCPP.needs_catalog(request):
            return SamplerCatalog()
        if model not in self._known:
            from majordomo.dialects.stable_diffusion_cpp.jobs import decode_capabilities

            path = f"/upstream/{quote(model, safe='/:')}/sdcpp/v1/capabilities"
            deadline = self._client.deadline(self._image_timeout, model)
            try:
                body = await self._client.read_body(
                    HTTPRequest("GET", path), deadline, self._client.limits.max_reply_bytes
                )
                self._known[model] = decode_capabilities(body, self._client.limits)[0]
            except (NotFoundError, BadResponseError):
                self._known[model] = (
                    SamplerCatalog()
                )  # an older build, or no sd-server: our own table must do
        return self._known[model]

    def embedding_model(self, id: str) -> HTTPEmbeddingModel:
        from majordomo.dialects.openai.embeddings import OpenAIEmbeddingsCodec

        return self._make_embedding_model(OpenAIEmbeddingsCodec("/v1/embeddings"), id)

    async def server(self) -> str:
        """`GET /api/version`, which builds before 2026 do not have."""
        try:
            told = (
                await self._query_decoded(
                    "/api/version", lambda body, limits: decode_object(body, limits.max_json_depth)
                )
            ).get("version")
        except NotFoundError:
            return ""
        return f"llama-swap {told}" if isinstance(told, str) and told else "llama-swap"

    async def models(self) -> list[ModelInfo]:
        """Everything configured, with what is in memory now. Loads nothing."""
        running = await self._running()
        return await self._query_decoded(
            "/v1/models", lambda body, limits: decode_models(body, limits, running)
        )

    async def running(self) -> list[ModelInfo]:
        """What is in memory: `state` is starting, ready or stopping, `loaded` is True when ready."""
        return [
            ModelInfo(name, loaded=state == "ready", state=state)
            for name, state in (await self._running()).items()
        ]

    async def unload(self, id: str | None = None) -> None:
        """Stop one model, or all of them. Whatever they are working on, for anybody, is lost."""
        path = (
            "/api/models/unload"
            if id is None
            else f"/api/models/unload/{quote(check_name(id, 'model'), safe='/:')}"
        )
        await self._query(path, method="POST")

    def changes(self) -> AbstractAsyncContextManager[AsyncIterator[list[ModelInfo]]]:
        """All models with their states, now and after each change, for as long as you listen:
        `async with provider.changes() as changes: async for models in changes`. StreamBrokenError when llama-swap ends it."""
        return cast(
            "AbstractAsyncContextManager[AsyncIterator[list[ModelInfo]]]", EventStream(self._feed)
        )

    def changes_sync(self) -> AbstractContextManager[Iterator[list[ModelInfo]]]:
        return cast(
            "AbstractContextManager[Iterator[list[ModelInfo]]]", SyncEventStream(self._feed)
        )

    def _feed(self) -> SSEFeed[list[ModelInfo]]:
        return SSEFeed(
            self._client, "/api/events", lambda data: decode_change(data, self._client.limits)
        )

    async def _unload_model(self, model: str) -> None:
        await self.unload(model)

    def running_sync(self) -> list[ModelInfo]:
        return portal.run(self.running)

    def unload_sync(self, id: str | None = None) -> None:
        return portal.run(lambda: self.unload(id))

    async def health(self) -> Health:
        """Whether `GET /health` answers; it needs no key and loads nothing."""
        return await self._check_health("/health")

    async def _running(self) -> dict[str, str]:
        return await self._query_decoded("/running", decode_running)

    def _load_check(self) -> LoadCheck:
        """`/running` tells loading from work."""

        async def look(deadline: Deadline) -> dict[str, str]:
            body = await self._client.read_body(
                HTTPRequest("GET", "/running"), deadline.child(QUERY_TIMEOUT), 1 << 20
            )
            return decode_running(body, self._client.limits)

        def loading(states: dict[str, str], model: str) -> str | None:
            state = states.get(model)
            # An alias is not listed under its own name: then only a start or stop of something else can be what we wait for
            waits = (
                state != "ready"
                if state is not None
                else any(other in ("starting", "stopping") for other in states.values())
            )
            return (state or "") if waits else None

        return LoadWatch(look, loading, time.monotonic)
