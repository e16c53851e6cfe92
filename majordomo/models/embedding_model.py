"""Embedding models: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from majordomo.concurrency import portal
from majordomo.dialects.request_body import check_extra
from majordomo.errors import MajordomoError
from majordomo.llm.embeddings import EmbeddingModel, Embeddings, check_texts
from majordomo.models.base import HTTPModel
from majordomo.models.client import BackendCall, BackendClient
from majordomo.observability.observer import Operation
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_user_id

# The largest size of one vector in JSON: it bounds how much of a reply is read.
MAX_VECTOR_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """The checked arguments of one call of `embed`."""

    texts: tuple[str, ...]
    """The texts, at least one."""
    dimensions: int | None
    """Length of the vectors; None leaves it to the model."""
    extra: Mapping[str, Any]
    """Further fields of the backend's own API."""
    user_id: str
    """The end user; never sent."""


class EmbeddingCodec(Protocol):
    """The client side of an embeddings dialect."""

    def encode_request(
        self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]
    ) -> HTTPRequest:
        """Return the HTTP request for these texts.

        `dimensions` is the length of the vectors; None leaves it to the model.
        """

    def decode_reply(self, body: bytes, expected: int, limits: Limits) -> Embeddings:
        """Return the vectors in a body.

        Raises BadResponseError unless there are `expected` vectors.
        """


class HTTPEmbeddingModel(HTTPModel[EmbeddingRequest, Embeddings], EmbeddingModel):
    """An embedding model of an HTTP backend.

    Embedding has no side effects, so transient failures are retried.
    """

    operation: ClassVar[Operation] = "embed"

    def __init__(
        self, client: BackendClient, codec: EmbeddingCodec, id: str, *, timeout: Timeout
    ) -> None:
        super().__init__(client, id, timeout=timeout)
        self._codec = codec

    def _build_request(
        self,
        texts: str | Sequence[str],
        dimensions: int | None,
        extra: Mapping[str, Any] | None,
        user_id: str,
    ) -> EmbeddingRequest:
        def build() -> EmbeddingRequest:
            checked_texts = check_texts(texts, dimensions, extra, self._limits)
            check_extra(extra or {})
            check_user_id(user_id)
            return EmbeddingRequest(checked_texts, dimensions, extra or {}, user_id)

        return self._checked(build)

    def _settings(self, request: EmbeddingRequest) -> Mapping[str, Any]:
        return {
            "texts": len(request.texts),
            **({} if request.dimensions is None else {"dimensions": request.dimensions}),
        }

    def _content(self, request: EmbeddingRequest) -> tuple[str, ...]:
        return request.texts

    async def _generate(self, request: EmbeddingRequest, call: BackendCall) -> Embeddings:
        limits = self._limits
        try:
            http_request = self._codec.encode_request(
                self.id, request.texts, request.dimensions, self._own_extra(request.extra)
            )
            limit = min(
                max(limits.max_reply_bytes, len(request.texts) * MAX_VECTOR_BYTES),
                max(limits.max_reply_bytes, limits.max_image_reply_bytes),
            )

            async def attempt() -> Embeddings:
                try:
                    return self._codec.decode_reply(
                        await call.read_body(http_request, limit), len(request.texts), limits
                    )
                except MajordomoError as error:
                    # The frames of the traceback hold the body, which may quote a key.
                    raise error.with_traceback(None) from error.__cause__

            embeddings = await self._run_admitted(
                call,
                lambda: call.retry(attempt),
                lambda embeddings: embeddings.usage.input_tokens,
            )
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return replace(embeddings, provider=self.provider, model=embeddings.model or self.id)

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        extra: Mapping[str, Any] | None = None,
        user_id: str = "",
    ) -> Embeddings:
        """Return one vector per text. See `llm.EmbeddingModel.embed`."""
        return await self._run(self._build_request(texts, dimensions, extra, user_id))

    def embed_sync(
        self,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        extra: Mapping[str, Any] | None = None,
        user_id: str = "",
    ) -> Embeddings:
        """Return one vector per text (blocking)."""
        request = self._build_request(texts, dimensions, extra, user_id)
        return portal.run(lambda: self._run(request))
