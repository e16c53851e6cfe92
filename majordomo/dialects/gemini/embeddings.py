"""Gemini's `POST /models/{model}:batchEmbedContents`.

Source: Google's public REST reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from majordomo.dialects.chat_accumulator import as_objects
from majordomo.dialects.embeddings import decode_document, decode_vectors
from majordomo.dialects.request_body import json_request
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.llm.embeddings import Embeddings
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest


@dataclass(frozen=True, slots=True)
class GeminiEmbeddingsCodec:
    """Client-side codec for Gemini embeddings."""

    def encode_request(
        self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]
    ) -> HTTPRequest:
        """Encode a batch with one request per text, for vectors of the length `dimensions` if set.

        `extra` is merged into each request of the batch, for example
        `{"taskType": "RETRIEVAL_QUERY"}`.
        """
        settings = {"outputDimensionality": dimensions} if dimensions is not None else {}
        common = {"model": f"models/{model}", **settings, **extra}
        body = {"requests": [{**common, "content": {"parts": [{"text": text}]}} for text in texts]}
        return json_request(
            f"/models/{quote(model, safe='')}:batchEmbedContents", body, {}, Base64Placeholders()
        )

    def decode_reply(self, body: bytes, count: int, limits: Limits) -> Embeddings:
        """Decode the vectors for `count` texts, in the order of the texts.

        Raises BadResponseError, or the error that a 200 carries.
        """
        items = as_objects(decode_document(body, count, limits).get("embeddings"))
        return Embeddings(decode_vectors([item.pop("values", None) for item in items], count))
