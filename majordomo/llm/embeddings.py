"""Embeddings: the interface of an embedding model and its result."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from majordomo.concurrency.lifecycle import Closeable
from majordomo.errors import InvalidRequestError
from majordomo.llm.reply import Usage
from majordomo.settings import Limits
from majordomo.validation import as_extra, as_tuple, check_number, check_text


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The embeddings of one or more texts."""

    vectors: tuple[tuple[float, ...], ...]
    """One vector per text, in the order of the texts; all have the same length."""
    usage: Usage = field(default_factory=Usage)
    """The tokens used; `input_tokens` is None if the backend does not count them."""
    model: str = ""
    """Id of the model."""
    provider: str = ""
    """Name of the provider."""
    raw: Any = field(default=None, repr=False, compare=False)
    """The backend's own reply."""

    @property
    def vector(self) -> tuple[float, ...]:
        """The first vector."""
        return self.vectors[0]

    def __repr__(self) -> str:
        return (
            f"<Embeddings of {self.provider}/{self.model}:"
            f" {len(self.vectors)} vectors of {len(self.vectors[0])} numbers>"
        )


class EmbeddingModel(Closeable):
    """A model that turns texts into vectors.

    A model that was created from a model string owns its provider: close it with `async with`,
    `with`, `aclose` or `close`. For any other model these do nothing.

    Example:
        ```python
        embeddings = await model.embed(["a fox", "a dog"])
        print(len(embeddings.vector))
        ```
    """

    id: str
    """The model's id at its provider."""
    provider: str
    """Name of the provider."""

    @abstractmethod
    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        extra: Mapping[str, Any] | None = None,
        user_id: str = "",
    ) -> Embeddings:
        """Return a vector for each text.

        Args:
            texts: One text or several, none of them empty, each up to
                `Limits.max_prompt_characters` (1,000,000 by default) characters.
            dimensions: Length of the vectors, 1 to 1,000,000, if the model can shorten them; None
                for the model's own length.
            extra: Values merged into the request body of the backend.
            user_id: End-user id for fair queueing, rate limits and accounting. Never sent.

        Raises:
            InvalidRequestError: Field `texts`: there are no texts, or one is empty; nothing has
                been sent.
            MajordomoError: The call failed.
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
        """Return a vector for each text: the blocking version of `embed`.

        Args:
            texts: One text or several.
            dimensions: Length of the vectors.
            extra: Values merged into the request body of the backend.
            user_id: End-user id; never sent.

        Raises:
            MajordomoError: See `embed`.
        """


def check_texts(
    texts: str | Sequence[str],
    dimensions: int | None,
    extra: Mapping[str, Any] | None,
    limits: Limits,
) -> tuple[str, ...]:
    """Return the texts as a tuple; raise InvalidRequestError if no backend can accept the call."""
    checked = (texts,) if isinstance(texts, str) else as_tuple(texts, "texts")
    if not checked:
        raise InvalidRequestError("texts must not be empty", field="texts")
    for index, text in enumerate(checked):
        check_text(text, "texts", limits.max_prompt_characters)
        if not text:
            raise InvalidRequestError(
                f"texts must not contain empty texts; number {index + 1} is empty", field="texts"
            )
    check_number("dimensions", dimensions, 1, 1_000_000, integer=True)
    as_extra(extra or {})
    return checked
