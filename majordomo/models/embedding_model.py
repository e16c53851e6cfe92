"""Embeddings: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from majordomo.concurrency import portal
from majordomo.dialects.request_body import check_extra, own_extra
from majordomo.errors import MajordomoError
from majordomo.llm.embeddings import EmbeddingModel, Embeddings, check_texts
from majordomo.models.client import BackendClient, RetryState
from majordomo.observability.observed_call import ObservedCall
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_user_id

VECTOR = 256 << 10  # bytes of one in JSON, at most: what nobody asked for is not read


class EmbeddingCodec(Protocol):
    """A dialect's client side."""

    def encode_request(
        self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]
    ) -> HTTPRequest: ...

    def decode_reply(self, body: bytes, asked: int, limits: Limits) -> Embeddings: ...


class HTTPEmbeddingModel(EmbeddingModel):
    """An embedding model behind a door and a wire. Asking again changes nothing, so what fails in passing is asked again."""

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
        ways = self._client
        try:
            given = check_texts(texts, dimensions, extra, ways.limits)
            check_extra(extra or {})
            check_user_id(user_id)
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        if not ways.observers:
            return await self._embedded(given, dimensions, extra or {}, user_id)
        settings = {
            "texts": len(given),
            **({} if dimensions is None else {"dimensions": dimensions}),
        }
        observed = ObservedCall(
            ways.observers,
            "embed",
            self.provider,
            self.id,
            given,
            user_id=user_id,
            address=ways.address,
            settings=settings,
        )
        observed.start()
        return await observed.run(lambda: self._embedded(given, dimensions, extra or {}, user_id))

    async def _embedded(
        self, given: Sequence[str], dimensions: int | None, extra: Mapping[str, Any], whose: str
    ) -> Embeddings:
        client = self._client
        try:
            wire = self._codec.encode_request(
                self.id, given, dimensions, own_extra(extra, self.provider, client.peers)
            )
            deadline = client.deadline(self._timeout, self.id)
            most = min(
                max(client.limits.max_reply_bytes, len(given) * VECTOR),
                max(client.limits.max_reply_bytes, client.limits.max_image_reply_bytes),
            )

            async def once() -> Embeddings:
                try:
                    return self._codec.decode_reply(
                        await client.read_body(wire, deadline, most), len(given), client.limits
                    )
                except MajordomoError as error:
                    raise error.with_traceback(
                        None
                    ) from error.__cause__  # its frames hold the answer, which may quote a key

            place = await client.admit(deadline, self.id, whose)
            try:
                made = await client.retry(once, RetryState(client, deadline, self.id))
                place.release(made.usage.input_tokens)
            finally:
                place.release()
        except MajordomoError as error:
            error.with_context(self.provider, self.id)
            raise
        return replace(made, provider=self.provider, model=made.model or self.id)

    def embed_sync(
        self,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        extra: Mapping[str, Any] | None = None,
        user_id: str = "",
    ) -> Embeddings:
        return portal.run(
            lambda: self.embed(texts, dimensions=dimensions, extra=extra, user_id=user_id)
        )

    async def aclose(self) -> None:
        """Close the provider if this model was made by name; else it is the caller's."""
        if self._owned_provider is not None:
            await self._owned_provider.aclose()

    def __repr__(self) -> str:
        return f"<embedding model {self.provider}/{self.id}>"
