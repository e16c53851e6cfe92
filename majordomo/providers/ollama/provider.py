"""Ollama: chat, images, embeddings and administration.

Sources: ollama/ollama, tags v0.14.0 to v0.32.5 (which generate images), and fb30760, where image
generation has been removed.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Protocol, Unpack

from majordomo import env, imagegen, llm
from majordomo.backend_status import Health, ModelInfo
from majordomo.dialects.ollama.admin import encode_unload
from majordomo.dialects.ollama.chat import OllamaChatCodec
from majordomo.dialects.ollama.embeddings import OllamaEmbeddingsCodec
from majordomo.dialects.ollama.images import (
    CAPABILITIES_LISTED_SINCE,
    OllamaImagesCodec,
    OllamaServer,
    Version,
    decode_loaded,
    decode_show,
    decode_tags,
    decode_version,
    encode_show,
    model_info,
    model_name,
)
from majordomo.errors import (
    CallWarning,
    InvalidRequestError,
    MajordomoError,
    NotFoundError,
    UnsupportedError,
)
from majordomo.models.client import BackendCall, LoadCheck
from majordomo.models.embedding_model import HTTPEmbeddingModel
from majordomo.models.load_watch import LoadWatch
from majordomo.models.streamed_image_model import StreamedImageModel
from majordomo.providers.base import (
    QUERY_TIMEOUT,
    CommonSettings,
    HTTPProvider,
    with_secret_headers,
)
from majordomo.providers.ollama.admin import OllamaAdmin
from majordomo.providers.ollama.chat_model import OllamaChatModel
from majordomo.redaction import Secret, as_secret
from majordomo.transport_types import HTTPRequest

HOSTED_HOST = "ollama.com"
MAX_STATE_BYTES = 1 << 20


class EnsureSupported(Protocol):
    """Raises UnsupportedError or NotFoundError for a server or model that generates no images.

    The answer is cached; with `again`, the server is queried again.
    """

    async def __call__(self, model: str, call: BackendCall, *, again: bool = False) -> OllamaServer:
        """Return what is known about the server and the model."""


class OllamaImageModel(StreamedImageModel):
    """An image model that first queries whether this server and model generate images.

    It queries again when an image is refused, because the server may have been replaced.
    """

    always = True

    def __init__(self, *args: Any, ensure_supported: EnsureSupported, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._ensure_supported = ensure_supported

    async def _adapt_request(
        self, request: imagegen.Request, call: BackendCall
    ) -> tuple[imagegen.Request, list[CallWarning]]:
        await self._ensure_supported(self.id, call)
        return await super()._adapt_request(request, call)

    async def _generate_batch(
        self, request: imagegen.Request, call: BackendCall
    ) -> imagegen.Result:
        try:
            return await super()._generate_batch(request, call)
        except (InvalidRequestError, NotFoundError) as error:
            raise await self._explain(error, call) from None

    async def _explain(self, error: MajordomoError, call: BackendCall) -> MajordomoError:
        """Return the reason why an image was refused, from a new query of the server."""
        # Without a status, nothing was sent.
        if error.status is None:
            return error
        try:
            server = await self._ensure_supported(self.id, call, again=True)
        except (UnsupportedError, NotFoundError) as reason:
            return reason
        except MajordomoError:
            return error
        return server.unsupported_error(error) or error


class Ollama(HTTPProvider):
    """Ollama's API: chat, embeddings, and images with Ollama 0.14.3 to 0.32.5.

    One call at a time: `max_concurrency` is 1 by default.

    Before the first image of a model, the server's version and the model's capabilities are
    queried: UnsupportedError where there is no image generation, NotFoundError for an unknown
    model. Only 0.15.0 to 0.15.4 accept input images. Steps are reported as events; cancelling a
    call stops the generation between two steps.

    Args:
        base_url: Address of the server.
        api_key: Ollama has no keys; one is sent for a proxy in front of it, and for
            https://ollama.com. Default: the environment variable OLLAMA_API_KEY.
        **common: See `CommonSettings`.

    Raises:
        ConfigurationError: For an invalid address or key.
    """

    name = "ollama"
    can_unload = True
    default_max_concurrency: int | None = 1

    def __init__(
        self,
        base_url: str = "http://localhost:11434",
        *,
        api_key: str | Secret | None = None,
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key or env.variable("OLLAMA_API_KEY"))
        self._servers: dict[str, OllamaServer] = {}
        self._vision_models: set[str] = set()
        self._chat = OllamaChatCodec(self.name)
        self._images = OllamaImagesCodec(lambda model: self._servers.get(model, OllamaServer()))
        super().__init__(base_url, api_key, **common)
        self._client.find_process = _find_process
        # Queries before an image are part of its call, so they share its total limit.
        total = self._image_timeout.total
        self._query_timeout = (
            QUERY_TIMEOUT
            if total is None
            else replace(QUERY_TIMEOUT, total=min(total, QUERY_TIMEOUT.total or total))
        )

    @property
    def admin(self) -> OllamaAdmin:
        """The administration of the server: models, blobs, `/api/generate`, the hosted service."""
        return OllamaAdmin(
            self._client,
            self._query,
            self._timeout,
            ensure_vision=self._ensure_vision,
            hosted=self.address.host == HOSTED_HOST,
        )

    def model(self, id: str, *options: llm.Option) -> OllamaChatModel:
        """Return a chat model. `options` are defaults of its requests."""
        return self._make_chat_model(
            OllamaChatModel, self._chat, id, options, ensure_vision=self._ensure_vision
        )

    def image_model(self, id: str, *options: imagegen.Option) -> OllamaImageModel:
        """Return an image model. `options` are defaults of its requests."""
        return self._make_image_model(
            OllamaImageModel, self._images, id, options, ensure_supported=self._ensure_supported
        )

    def embedding_model(self, id: str) -> HTTPEmbeddingModel:
        """Return an embedding model."""
        return self._make_embedding_model(OllamaEmbeddingsCodec(), id)

    async def server(self) -> str:
        """Return the name and version of the server."""
        return f"Ollama {await self.admin.version()}".strip()

    async def models(self) -> list[ModelInfo]:
        """Return the models on the server's disk. Loads nothing.

        "image" is only listed where this version generates images, "edit" only where it accepts
        input images. Before 0.30.0 the list has no capabilities, so each model is queried.
        """
        version = await self._version()
        items = await self._query_decoded("/api/tags", decode_tags)
        try:
            loaded = await self._query_decoded("/api/ps", decode_loaded)
        except NotFoundError:
            loaded = None
        models: list[ModelInfo] = []
        for item in items:
            server = OllamaServer(version)
            if (
                version is not None
                and version < CAPABILITIES_LISTED_SINCE
                and "capabilities" not in item
            ):
                try:
                    server = await self._query_server(model_name(item), version)
                except NotFoundError:
                    # It was deleted after it was listed.
                    continue
            models.append(model_info(item, server, loaded))
        return models

    async def health(self) -> Health:
        """Return whether `GET /api/version` is answered."""
        return await self._check_health("/api/version")

    def _load_check(self) -> LoadCheck:
        """Return a load check: `/api/ps` lists the models in memory.

        A model that is not in memory while its reply is awaited is loading.
        """

        async def query(call: BackendCall) -> frozenset[str]:
            body = await call.child(QUERY_TIMEOUT).read_body(
                HTTPRequest("GET", "/api/ps"), MAX_STATE_BYTES
            )
            return decode_loaded(body, self._client.limits)

        def describe_loading(loaded: frozenset[str], model: str) -> str | None:
            # These run on the hosted service, never in the memory of this server.
            if model.endswith(("-cloud", ":cloud")):
                return None
            return None if {model, f"{model}:latest"} & loaded else "not in memory yet"

        return LoadWatch(query, describe_loading, time.monotonic)

    async def _unload_model(self, model: str) -> None:
        # Without a slot: the call that needs the memory already holds one.
        await self._client.query(encode_unload(model), QUERY_TIMEOUT)

    async def _ensure_supported(
        self, model: str, call: BackendCall, *, again: bool = False
    ) -> OllamaServer:
        if again:
            self._servers.pop(model, None)
        if model not in self._servers:
            version = await self._version(call)
            # Checked before the model is queried: an older server lists no image models.
            OllamaServer(version).check_version()
            server = await self._query_server(model, version, call)
            server.check_model(model)
            self._servers[model] = server
        return self._servers[model]

    async def _ensure_vision(self, model: str, call: BackendCall | None = None) -> None:
        """Raise UnsupportedError for a chat model that is known to have no vision.

        Older servers list no capabilities; then nothing is known.
        """
        if model in self._vision_models:
            return
        try:
            capabilities = (await self._query_server(model, None, call)).capabilities
        except MajordomoError:
            # The call itself will report what is wrong.
            return
        if "completion" in capabilities and "vision" not in capabilities:
            raise UnsupportedError(
                f"{model} has no vision; the server would leave out the images without an error",
                field="messages",
            )
        self._vision_models.add(model)

    async def _version(self, call: BackendCall | None = None) -> Version | None:
        try:
            return await self._client.query_decoded(
                HTTPRequest("GET", "/api/version"), self._query_timeout, decode_version, call
            )
        except NotFoundError:
            # A proxy may hide this route.
            return None

    async def _query_server(
        self, model: str, version: Version | None, call: BackendCall | None = None
    ) -> OllamaServer:
        return OllamaServer(
            version,
            await self._client.query_decoded(
                encode_show(model), self._query_timeout, decode_show, call
            ),
        )


async def _find_process(call: BackendCall) -> str:
    """Return the id of a model with its tag: without one, Ollama takes `latest`."""
    return call.model if ":" in call.model.rpartition("/")[2] else f"{call.model}:latest"
