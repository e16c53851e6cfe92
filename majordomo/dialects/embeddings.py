"""Embeddings as OpenAI, Ollama and Gemini have them.

Sources: openai-openapi at f85dbe2, ollama/ollama at fb30760, Google's public REST reference, llama-cpp-python 0.3.36 as run.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from majordomo.dialects.answer import count, objects, word_of
from majordomo.dialects.bodies import json_request
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.ollama_chat import usage_of
from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_object
from majordomo.framing.splice import Splices
from majordomo.llm.embeddings import Embeddings
from majordomo.llm.reply import Usage
from majordomo.settings import Limits
from majordomo.wire import WireRequest
from majordomo.words import is_number

MOST_NUMBERS = 256 << 20  # two thousand texts of three thousand numbers each are an ordinary answer


@dataclass(frozen=True, slots=True)
class OpenAIEmbeddings:
    path: str = "/embeddings"

    def encode(self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]) -> WireRequest:
        body: dict[str, Any] = {"model": model, "input": list(texts)}
        if dimensions is not None:
            body["dimensions"] = dimensions
        return json_request(self.path, body, extra, Splices())

    def decode(self, body: bytes, asked: int, limits: Limits) -> Embeddings:
        document = _document(body, limits)
        items = objects(document.get("data"))
        places = [item.get("index") for item in items]
        if sorted(place for place in places if isinstance(place, int)) == list(range(len(items))):
            items.sort(key=lambda item: item["index"])
        usage = document.get("usage")
        tokens = count(usage.get("prompt_tokens")) if isinstance(usage, dict) else None
        vectors = _vectors([item.get("embedding") for item in items], asked)
        return Embeddings(vectors, Usage(tokens), word_of(document.get("model")) or "")


@dataclass(frozen=True, slots=True)
class OllamaEmbeddings:
    def encode(self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]) -> WireRequest:
        body: dict[str, Any] = {"model": model, "input": list(texts)}
        if dimensions is not None:
            body["dimensions"] = dimensions
        return json_request("/api/embed", body, extra, Splices())

    def decode(self, body: bytes, asked: int, limits: Limits) -> Embeddings:
        document = _document(body, limits)
        vectors = _vectors(document.get("embeddings"), asked)
        return Embeddings(vectors, usage_of(document), word_of(document.get("model")) or "")


@dataclass(frozen=True, slots=True)
class GeminiEmbeddings:
    def encode(self, model: str, texts: Sequence[str], dimensions: int | None, extra: Mapping[str, Any]) -> WireRequest:
        """`extra` goes into each of the requests, as `{"taskType": "RETRIEVAL_QUERY"}`."""
        more = {"outputDimensionality": dimensions} if dimensions is not None else {}
        one = {"model": f"models/{model}", **more, **extra}
        body = {"requests": [{**one, "content": {"parts": [{"text": text}]}} for text in texts]}
        return json_request(f"/models/{quote(model, safe='')}:batchEmbedContents", body, {}, Splices())

    def decode(self, body: bytes, asked: int, limits: Limits) -> Embeddings:
        items = objects(_document(body, limits).get("embeddings"))
        return Embeddings(_vectors([item.get("values") for item in items], asked))


def _document(body: bytes, limits: Limits) -> dict[str, Any]:
    document = decode_object(body, limits.depth, MOST_NUMBERS)
    if document.get("error"):
        raise build_error(200, error_value(document), {})
    return document


def _vectors(found: Any, asked: int) -> tuple[tuple[float, ...], ...]:
    """As many vectors as there were texts, all of one length, of finite numbers."""
    if not isinstance(found, list) or len(found) != asked:
        got = len(found) if isinstance(found, list) else "no"
        raise BadResponseError(f"the answer holds {got} vectors for {asked} texts")
    vectors = tuple(_vector(item) for item in found)
    if len({len(vector) for vector in vectors}) != 1:
        raise BadResponseError("the answer's vectors differ in length")
    return vectors


def _vector(item: Any) -> tuple[float, ...]:
    if isinstance(item, str):  # base64 of little-endian float32
        try:
            data = base64.b64decode(item, validate=True)
            item = list(struct.unpack(f"<{len(data) // 4}f", data))
        except (binascii.Error, struct.error, ValueError):
            raise BadResponseError("the answer's vector is neither numbers nor base64 of them") from None
    if isinstance(item, list) and item and isinstance(item[0], list):
        # llama-cpp-python with a model file that names no pooling: a vector for each token
        if len(item) != 1:
            raise BadResponseError("the server gives a vector per token: the model has no pooling", code="NOT_POOLED")
        item = item[0]
    if not isinstance(item, list) or not item:
        raise BadResponseError("the answer's vector is no list of numbers")
    if not all(is_number(number) for number in item):
        raise BadResponseError("the answer's vector holds something that is no number")
    return tuple(map(float, item))
