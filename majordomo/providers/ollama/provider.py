"""Ollama, in the versions that draw images. Facts: ollama/ollama, tags v0.14.0 to v0.32.5, and fb30760, where drawing is gone."""

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
from majordomo.models.client import LoadCheck
from majordomo.models.embedding_model import HTTPEmbeddingModel
from majordomo.models.image_model import Emit
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
from majordomo.transport_types import Deadline, HTTPRequest
from majordomo.validation import check_name

HOSTED = "ollama.com"


class EnsureSupported(Protocol):
    """Raises UnsupportedError or NotFoundError for a server or model that draws nothing. Asks once, or `again`."""

    async def __call__(self, model: str, *, again: bool = False) -> OllamaServer: ...


class OllamaImageModel(StreamedImageModel):
    """Asks before its first image whether this server and this model draw at all, and once more when an image is refused."""

    always = True

    def __init__(self, *args: Any, meet: EnsureSupported, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._meet = meet

    async def _adapt_request(
        self, request: imagegen.Request
    ) -> tuple[imagegen.Request, list[CallWarning]]:
        await self._meet(self.id)
        return await super()._adapt_request(request)

    async def _run(
        self, request: imagegen.Request, deadline: Deadline, emit: Emit | None
    ) -> imagegen.Result:
        try:
            return await super()._run(request, deadline, emit)
        except (InvalidRequestError, NotFoundError) as error:
            raise await self._explained(error) from None

    async def _explained(self, error: MajordomoError) -> MajordomoError:
        """Why an image was refused: the server may be another one by now."""
        if error.status is None:  # nothing was sent
            return error
        try:
            server = await self._meet(self.id, again=True)
        except (UnsupportedError, NotFoundError) as reason:
            return reason
        except MajordomoError:
            return error
        return server.unsupported_error(error) or error


class Ollama(HTTPProvider):
    """Chat over Ollama's own API, and images from Ollama 0.14.3 to 0.32.5, one call at a time (`max_concurrency` is 1 unless you say
    otherwise).

    Before a model's first image the server is asked for its version and the model's capabilities: UnsupportedError where it draws
    nothing, NotFoundError where it has no such model. Only 0.15.0 to 0.15.4 begin with images of yours. The steps come as events;
    leaving a call stops the work between two steps. Ollama knows no keys: `api_key`, else OLLAMA_API_KEY, is sent for a proxy in front
    of it. Raises ConfigurationError for an address or key that cannot be one.
    """

    name = "ollama"
    releases = True
    default_max_concurrency: int | None = 1

    def __init__(
        self,
        base_url: str = "http://localhost:11434",
        api_key: str | Secret | None = None,
        **common: Unpack[CommonSettings],
    ) -> None:
        common = with_secret_headers(common)
        api_key = as_secret(api_key or env.variable("OLLAMA_API_KEY"))
        self._met: dict[str, OllamaServer] = {}
        self._sees: set[str] = set()
        self._chat = OllamaChatCodec(self.name)
        self._images = OllamaImagesCodec(lambda model: self._met.get(model, OllamaServer()))
        super().__init__(base_url, api_key, **common)
        # The questions before an image are part of its call: they never take longer than the call may
        longest = self._image_timeout.total
        self._asking = (
            QUERY_TIMEOUT
            if longest is None
            else replace(QUERY_TIMEOUT, total=min(longest, QUERY_TIMEOUT.total or longest))
        )

    @property
    def admin(self) -> OllamaAdmin:
        """Models pulled, made, copied, deleted, loaded and unloaded; blobs; `/api/generate`; the hosted service."""
        return OllamaAdmin(
            self._client,
            self._query,
            self._timeout,
            look=self._ensure_vision,
            hosted=self.address.host == HOSTED,
        )

    def model(self, id: str, *options: llm.Option) -> OllamaChatModel:
        settings: dict[str, Any] = {"timeout": self._timeout, "strict": self._strict}
        return OllamaChatModel(
            self._client,
            self._chat,
            check_name(id, "model"),
            options,
            ensure_vision=self._ensure_vision,
            **settings,
        )

    def image_model(self, id: str, *options: imagegen.Option) -> OllamaImageModel:
        return self._make_image_model(
            OllamaImageModel, self._images, id, options, meet=self._ensure_supported
        )

    def embedding_model(self, id: str) -> HTTPEmbeddingModel:
        return self._make_embedding_model(OllamaEmbeddingsCodec(), id)

    async def server(self) -> str:
        return f"Ollama {await self.admin.version()}".strip()

    async def models(self) -> list[ModelInfo]:
        """The models pulled. "image" stands only where this version draws, "edit" only where it begins with images. Loads nothing.

        Before 0.30.0 the list names no capabilities, so each model is asked for its own.
        """
        version = await self._version()
        items = await self._query_decoded("/api/tags", decode_tags)
        try:
            loaded = await self._query_decoded("/api/ps", decode_loaded)
        except NotFoundError:
            loaded = None
        found: list[ModelInfo] = []
        for item in items:
            server = OllamaServer(version)
            if (
                version is not None
                and version < CAPABILITIES_LISTED_SINCE
                and "capabilities" not in item
            ):
                try:
                    server = await self._shown(model_name(item), version)
                except NotFoundError:
                    continue  # deleted since it was listed
            found.append(model_info(item, server, loaded))
        return found

    async def health(self) -> Health:
        """Whether `GET /api/version` answers."""
        return await self._check_health("/api/version")

    def _load_check(self) -> LoadCheck:
        """`/api/ps` lists what is in memory; what is not there while its answer is awaited is being loaded."""

        async def look(deadline: Deadline) -> frozenset[str]:
            body = await self._client.read_body(
                HTTPRequest("GET", "/api/ps"), deadline.child(QUERY_TIMEOUT), 1 << 20
            )
            return decode_loaded(body, self._client.limits)

        def loading(loaded: frozenset[str], model: str) -> str | None:
            if model.endswith(
                ("-cloud", ":cloud")
            ):  # runs on the hosted service: never in this memory
                return None
            return None if {model, f"{model}:latest"} & loaded else "not in memory yet"

        return LoadWatch(look, loading, time.monotonic)

    async def _unload_model(self, model: str) -> None:
        # past the gate: whoever wants the memory holds its place
        await self._client.query(encode_unload(model), QUERY_TIMEOUT)

    async def _ensure_supported(self, model: str, *, again: bool = False) -> OllamaServer:
        if again:
            self._met.pop(model, None)
        if model not in self._met:
            version = await self._version()
            OllamaServer(
                version
            ).check_version()  # before the model is asked for: an older server lists none that draws
            server = await self._shown(model, version)
            server.check_model(model)
            self._met[model] = server
        return self._met[model]

    async def _ensure_vision(self, model: str) -> None:
        """Raises UnsupportedError for a chat model that is known not to see. Older servers name no capabilities: nothing is known then."""
        if model in self._sees:
            return
        try:
            words = (await self._shown(model, None)).capabilities
        except MajordomoError:
            return  # the call itself will tell
        if "completion" in words and "vision" not in words:
            raise UnsupportedError(
                f"{model} sees no images; the server would leave them out without a word",
                field="messages",
            )
        self._sees.add(model)

    async def _version(self) -> Version | None:
        try:
            return await self._client.query_decoded(
                HTTPRequest("GET", "/api/version"), self._asking, decode_version
            )
        except NotFoundError:
            return None  # a proxy that hides it

    async def _shown(self, model: str, version: Version | None) -> OllamaServer:
        return OllamaServer(
            version, await self._client.query_decoded(encode_show(model), self._asking, decode_show)
        )
