"""OpenAI's `POST /embeddings`, and the servers compatible with it.

Sources: openai-openapi at f85dbe2; for the deviations llama-cpp-python 0.3.36, by its responses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from majordomo.dialects.chat_accumulator import as_objects, as_text, as_token_count
from majordomo.dialects.embeddings import decode_document, decode_vectors
from majordomo.dialects.request_body import json_request
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.llm.embeddings import Embeddings
from majordomo.llm.reply import Usage
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest


@dataclass(frozen=True, slots=True)
class OpenAIEmbeddingsCodec:
    """Client-side codec for OpenAI embeddings."""

    path: str = "/embeddings"
    """Path below the base URL."""

    def encode_request(
        self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]
    ) -> HTTPRequest:
        """Encode a request for one vector per text, of the length `dimensions` if it is set."""
        body: dict[str, Any] = {"model": model, "input": list(texts)}
        if dimensions is not None:
            body["dimensions"] = dimensions
        return json_request(self.path, body, extra, Base64Placeholders())

    def decode_reply(self, body: bytes, count: int, limits: Limits) -> Embeddings:
        """Decode the vectors for `count` texts, in the order of the texts.

        Raises BadResponseError, or the error that a 200 carries.
        """
        document = decode_document(body, count, limits)
        items = as_objects(document.get("data"))
        indexes = [item.get("index") for item in items]
        if sorted(index for index in indexes if isinstance(index, int)) == list(range(len(items))):
            items.sort(key=lambda item: item["index"])
        usage = document.get("usage")
        tokens = as_token_count(usage.get("prompt_tokens")) if isinstance(usage, dict) else None
        vectors = decode_vectors([item.pop("embedding", None) for item in items], count)
        return Embeddings(vectors, Usage(tokens), as_text(document.get("model")) or "")
