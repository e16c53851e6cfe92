"""Embedding models: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from majordomo.concurrency import portal
from majordomo.dialects.request_body import check_extra, own_extra
from majordomo.errors import MajordomoError
from majordomo.llm.embeddings import EmbeddingModel, Embeddings, check_texts
from majordomo.models.client import BackendClient
from majordomo.observability.observed_call import ObservedCall
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_user_id

# The largest size of one vector in JSON: it bounds how much of a reply is read.
MAX_VECTOR_BYTES = 256 << 10


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


class HTTPEmbeddingModel(EmbeddingModel):
    """An embedding model of an HTTP backend.

    Embedding has no side effects, so transient failures are retried.
    """

    def __init__(
        self, client: BackendClient, codec: EmbeddingCodec, id: str, *, timeout: Timeout
    ) -> None:
        self.provider: str = client.provider
        self.id = id
        self._client = client
        self._codec = codec
        self._timeout = timeout
        self._owned_provider: Any = None

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        extra: Mapping[str, Any] | None = None,
        user_id: str = "",
    ) -> Embeddings:
        """Return one vector per text. See `llm.EmbeddingModel.embed`."""
        client = self._client
        try:
            checked_texts = check_texts(texts, dimensions, extra, client.limits)
            check_extra(extra or {})
            check_user_id(user_id)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        if not client.observers:
            return await self._embed_admitted(checked_texts, dimensions, extra or {}, user_id)
        settings = {
            "texts": len(checked_texts),
            **({} if dimensions is None else {"dimensions": dimensions}),
        }
        observed = ObservedCall(
            client.observers,
            "embed",
            self.provider,
            self.id,
            checked_texts,
            user_id=user_id,
            address=client.address,
            settings=settings,
        )
        observed.start()
        return await observed.run(
            lambda: self._embed_admitted(checked_texts, dimensions, extra or {}, user_id)
        )

    async def _embed_admitted(
        self, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any], user_id: str
    ) -> Embeddings:
        client = self._client
        try:
            http_request = self._codec.encode_request(
                self.id, texts, dimensions, own_extra(extra, self.provider, client.provider_names)
            )
            deadline = client.deadline(self._timeout, self.id)
            limit = min(
                max(client.limits.max_reply_bytes, len(texts) * MAX_VECTOR_BYTES),
                max(client.limits.max_reply_bytes, client.limits.max_image_reply_bytes),
            )

            async def attempt() -> Embeddings:
                try:
                    return self._codec.decode_reply(
                        await client.read_body(http_request, deadline, limit),
                        len(texts),
                        client.limits,
                    )
                except MajordomoError as error:
                    # The frames of the traceback hold the body, which may quote a key.
                    raise error.with_traceback(None) from error.__cause__

            admission = await client.admit(deadline, self.id, user_id)
            try:
                embeddings = await client.retry(attempt, client.retry_state(deadline, self.id))
                admission.release(embeddings.usage.input_tokens)
            finally:
                admission.release()
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return replace(embeddings, provider=self.provider, model=embeddings.model or self.id)

    def embed_sync(
        self,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        extra: Mapping[str, Any] | None = None,
        user_id: str = "",
    ) -> Embeddings:
        """Return one vector per text (blocking)."""
        return portal.run(
            lambda: self.embed(texts, dimensions=dimensions, extra=extra, user_id=user_id)
        )

    async def aclose(self) -> None:
        """Close the provider if this model was created from a model string; else do nothing."""
        if self._owned_provider is not None:
            await self._owned_provider.aclose()

    def __repr__(self) -> str:
        return f"<embedding model {self.provider}/{self.id}>"
