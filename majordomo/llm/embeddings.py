"""Texts as vectors: what an embedding model promises, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from majordomo.errors import InvalidRequestError
from majordomo.llm.reply import Usage
from majordomo.settings import Limits
from majordomo.validation import as_extra, as_tuple, check_number, check_text


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per text, in the order of the texts; all of one length. `usage.input_tokens` is None where the backend does not count."""

    vectors: tuple[tuple[float, ...], ...]
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    provider: str = ""
    raw: Any = field(default=None, repr=False, compare=False)

    @property
    def vector(self) -> tuple[float, ...]:
        """The first one."""
        return self.vectors[0]

    def __repr__(self) -> str:
        return f"<Embeddings of {self.provider}/{self.model}: {len(self.vectors)} vectors of {len(self.vectors[0])} numbers>"


class EmbeddingModel(ABC):
    """A model that turns texts into vectors."""

    id: str
    provider: str

    @abstractmethod
    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        extra: Mapping[str, Any] | None = None,
        user_id: str = "",
    ) -> Embeddings:
        """A vector for each text. `dimensions` shortens them where the model can; `extra` is merged into the backend's body;
        `caller` is for whom it is done, never sent.

        Raises InvalidRequestError (field `texts`) for none at all or an empty one, before anything is sent, and MajordomoError's kinds.
        """

    @abstractmethod
    def embed_sync(
        self,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        extra: Mapping[str, Any] | None = None,
        user_id: str = "",
    ) -> Embeddings:
        """The same, blocking."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the provider if this model was made by name and so owns it; else nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()


def check_texts(
    texts: str | Sequence[str],
    dimensions: int | None,
    extra: Mapping[str, Any] | None,
    limits: Limits,
) -> tuple[str, ...]:
    """The texts as a tuple. Raises InvalidRequestError for what no backend can take."""
    given = (texts,) if isinstance(texts, str) else as_tuple(texts, "texts")
    if not given:
        raise InvalidRequestError("texts is empty", field="texts")
    for text in given:
        check_text(text, "texts", limits.max_prompt_characters)
        if not text:
            raise InvalidRequestError("one of the texts is empty", field="texts")
    check_number("dimensions", dimensions, 1, 1_000_000, whole=True)
    as_extra(extra or {})
    return given
