"""Embeddings: texts in, vectors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from majordomo.concurrency import portal
from majordomo.dialects.request_body import check_extra, own_extra
from majordomo.errors import MajordomoError
from majordomo.llm.embeddings import EmbeddingModel, Embeddings, check_texts
from majordomo.models.client import Caller, Tries
from majordomo.observability.observed_call import Observed
from majordomo.settings import Limits, Timeout
from majordomo.transport_types import WireRequest
from majordomo.validation import check_caller

VECTOR = 256 << 10  # bytes of one in JSON, at most: what nobody asked for is not read


class EmbeddingDoor(Protocol):
    """A dialect's client side."""

    def encode(self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]) -> WireRequest: ...

    def decode(self, body: bytes, asked: int, limits: Limits) -> Embeddings: ...


class HTTPEmbeddingModel(EmbeddingModel):
    """An embedding model behind a door and a wire. Asking again changes nothing, so what fails in passing is asked again."""

    def __init__(self, caller: Caller, door: EmbeddingDoor, id: str, *, timeout: Timeout) -> None:  # noqa: A002 (the word of the design)
        self.provider: str = caller.provider
        self.id = id
        self._caller = caller
        self._door = door
        self._timeout = timeout
        self._owner: Any = None

    async def embed(
        self, texts: str | Sequence[str], *, dimensions: int | None = None, extra: Mapping[str, Any] | None = None, caller: str = ""
    ) -> Embeddings:
        ways = self._caller
        try:
            given = check_texts(texts, dimensions, extra, ways.limits)
            check_extra(extra or {})
            check_caller(caller)
        except MajordomoError as error:
            error.about(self.provider, self.id)
            raise
        if not ways.observers:
            return await self._embedded(given, dimensions, extra or {}, caller)
        settings = {"texts": len(given), **({} if dimensions is None else {"dimensions": dimensions})}
        observed = Observed(ways.observers, "embed", self.provider, self.id, given, caller=caller, address=ways.address, settings=settings)
        observed.start()
        return await observed.run(lambda: self._embedded(given, dimensions, extra or {}, caller))

    async def _embedded(self, given: Sequence[str], dimensions: int | None, extra: Mapping[str, Any], whose: str) -> Embeddings:
        caller = self._caller
        try:
            wire = self._door.encode(self.id, given, dimensions, own_extra(extra, self.provider, caller.peers))
            deadline = caller.deadline(self._timeout, self.id)
            most = min(max(caller.limits.reply, len(given) * VECTOR), max(caller.limits.reply, caller.limits.picture_reply))

            async def once() -> Embeddings:
                try:
                    return self._door.decode(await caller.fetch(wire, deadline, most), len(given), caller.limits)
                except MajordomoError as error:
                    raise error.with_traceback(None) from error.__cause__  # its frames hold the answer, which may quote a key

            place = await caller.enter(deadline, self.id, whose)
            try:
                made = await caller.repeat(once, Tries(caller, deadline, self.id))
                place.leave(made.usage.input_tokens)
            finally:
                place.leave()
        except MajordomoError as error:
            error.about(self.provider, self.id)
            raise
        return replace(made, provider=self.provider, model=made.model or self.id)

    def embed_sync(
        self, texts: str | Sequence[str], *, dimensions: int | None = None, extra: Mapping[str, Any] | None = None, caller: str = ""
    ) -> Embeddings:
        return portal.run(lambda: self.embed(texts, dimensions=dimensions, extra=extra, caller=caller))

    async def aclose(self) -> None:
        """Close the provider if this model was made by name; else it is the caller's."""
        if self._owner is not None:
            await self._owner.aclose()

    def __repr__(self) -> str:
        return f"<embedding model {self.provider}/{self.id}>"
