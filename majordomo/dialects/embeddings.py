"""Embeddings as OpenAI, Ollama and Gemini have them.

Sources: openai-openapi at f85dbe2, ollama/ollama at fb30760, Google's public REST reference, llama-cpp-python 0.3.36 as run.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any
from urllib.parse import quote

from majordomo.dialects.chat_accumulator import as_objects, as_text, as_token_count
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.ollama.chat import usage_of
from majordomo.dialects.request_body import json_request
from majordomo.errors import BadResponseError
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_object
from majordomo.json_budget import MAX_BYTES
from majordomo.llm.embeddings import Embeddings
from majordomo.llm.reply import Usage
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from majordomo.validation import is_number

LONGEST = 8192  # numbers of a vector, twice those of the largest models
NUMBER = 56  # bytes that each takes until the answer is read
MOST_NUMBERS = 512 << 20  # two thousand texts of four thousand numbers each are an ordinary answer


@dataclass(frozen=True, slots=True)
class OpenAIEmbeddingsCodec:
    path: str = "/embeddings"

    def encode_request(
        self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]
    ) -> HTTPRequest:
        body: dict[str, Any] = {"model": model, "input": list(texts)}
        if dimensions is not None:
            body["dimensions"] = dimensions
        return json_request(self.path, body, extra, Splices())

    def decode_reply(self, body: bytes, asked: int, limits: Limits) -> Embeddings:
        document = _document(body, asked, limits)
        items = as_objects(document.get("data"))
        places = [item.get("index") for item in items]
        if sorted(place for place in places if isinstance(place, int)) == list(range(len(items))):
            items.sort(key=lambda item: item["index"])
        usage = document.get("usage")
        tokens = as_token_count(usage.get("prompt_tokens")) if isinstance(usage, dict) else None
        vectors = _vectors([item.pop("embedding", None) for item in items], asked)
        return Embeddings(vectors, Usage(tokens), as_text(document.get("model")) or "")


@dataclass(frozen=True, slots=True)
class OllamaEmbeddingsCodec:
    def encode_request(
        self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]
    ) -> HTTPRequest:
        body: dict[str, Any] = {"model": model, "input": list(texts)}
        if dimensions is not None:
            body["dimensions"] = dimensions
        return json_request("/api/embed", body, extra, Splices())

    def decode_reply(self, body: bytes, asked: int, limits: Limits) -> Embeddings:
        document = _document(body, asked, limits)
        vectors = _vectors(document.get("embeddings"), asked)
        return Embeddings(vectors, usage_of(document), as_text(document.get("model")) or "")


@dataclass(frozen=True, slots=True)
class GeminiEmbeddingsCodec:
    def encode_request(
        self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]
    ) -> HTTPRequest:
        """`extra` goes into each of the requests, as `{"taskType": "RETRIEVAL_QUERY"}`."""
        more = {"outputDimensionality": dimensions} if dimensions is not None else {}
        one = {"model": f"models/{model}", **more, **extra}
        body = {"requests": [{**one, "content": {"parts": [{"text": text}]}} for text in texts]}
        return json_request(
            f"/models/{quote(model, safe='')}:batchEmbedContents", body, {}, Splices()
        )

    def decode_reply(self, body: bytes, asked: int, limits: Limits) -> Embeddings:
        items = as_objects(_document(body, asked, limits).get("embeddings"))
        return Embeddings(_vectors([item.pop("values", None) for item in items], asked))


def _most(body: bytes, asked: int) -> int:
    """Bytes that an answer for so many texts may take: numbers that nobody asked for have no room."""
    return max(MAX_BYTES, min(asked * LONGEST * NUMBER + 2 * len(body), MOST_NUMBERS))


def _document(body: bytes, asked: int, limits: Limits) -> dict[str, Any]:
    document = decode_object(body, limits.max_json_depth, _most(body, asked))
    if document.get("error"):
        raise build_error(200, error_value(document), {})
    return document


def _vectors(found: Any, asked: int) -> tuple[tuple[float, ...], ...]:
    """As many vectors as there were texts, all of one length, of finite numbers. Empties `found`, so that nothing is there twice."""
    if not isinstance(found, list) or len(found) != asked:
        got = len(found) if isinstance(found, list) else "no"
        raise BadResponseError(f"the answer holds {got} vectors for {asked} texts")
    most = max(MAX_BYTES, asked * LONGEST * NUMBER)
    if sum(len(item) for item in found if isinstance(item, str)) * NUMBER * 3 // 16 > most:
        raise BadResponseError(
            "the answer holds more numbers than any has reason to", code="TOO_MANY_VALUES"
        )
    found.reverse()
    vectors = tuple(_vector(found.pop()) for _ in range(asked))
    if len({len(vector) for vector in vectors}) != 1:
        raise BadResponseError("the answer's vectors differ in length")
    return vectors


def _vector(item: Any) -> tuple[float, ...]:
    if isinstance(item, str):
        return _unpacked(item)
    if isinstance(item, list) and item and isinstance(item[0], list):
        # llama-cpp-python with a model file that names no pooling: a vector for each token
        if len(item) != 1:
            raise BadResponseError(
                "the server gives a vector per token: the model has no pooling", code="NOT_POOLED"
            )
        item = item[0]
    if not isinstance(item, list) or not item:
        raise BadResponseError("the answer's vector is no list of numbers")
    for place, number in enumerate(item):
        if type(number) is not float or not isfinite(number):
            if not is_number(number):
                raise BadResponseError("the answer's vector holds something that is no number")
            item[place] = float(number)  # in its place: a million whole numbers are not there twice
    return tuple(item)


def _unpacked(text: str) -> tuple[float, ...]:
    """The numbers in base64 of little-endian float32."""
    try:
        data = base64.b64decode(text, validate=True)
        vector = struct.unpack(f"<{len(data) // 4}f", data)
    except (binascii.Error, struct.error, ValueError):
        raise BadResponseError(
            "the answer's vector is neither numbers nor base64 of them"
        ) from None
    if not vector:
        raise BadResponseError("the answer's vector is no list of numbers")
    if not all(map(isfinite, vector)):
        raise BadResponseError("the answer's vector holds something that is no number")
    return vector
