"""Ollama's `POST /api/embed`.

Source: ollama/ollama at fb30760.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from majordomo.dialects.chat_accumulator import as_text
from majordomo.dialects.embeddings import decode_document, decode_vectors
from majordomo.dialects.ollama.chat import usage_of
from majordomo.dialects.request_body import json_request
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.llm.embeddings import Embeddings
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest


@dataclass(frozen=True, slots=True)
class OllamaEmbeddingsCodec:
    """Client-side codec for Ollama embeddings."""

    def encode_request(
        self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]
    ) -> HTTPRequest:
        """Encode a request for one vector per text, of the length `dimensions` if it is set."""
        body: dict[str, Any] = {"model": model, "input": list(texts)}
        if dimensions is not None:
            body["dimensions"] = dimensions
        return json_request("/api/embed", body, extra, Base64Placeholders())

    def decode_reply(self, body: bytes, count: int, limits: Limits) -> Embeddings:
        """Decode the vectors for `count` texts, in the order of the texts.

        Raises BadResponseError, or the error that a 200 carries.
        """
        document = decode_document(body, count, limits)
        vectors = decode_vectors(document.get("embeddings"), count)
        return Embeddings(vectors, usage_of(document), as_text(document.get("model")) or "")
