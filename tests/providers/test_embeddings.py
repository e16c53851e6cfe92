from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from tests.servers.gemini_chat import GeminiChat
from tests.servers.ollama_chat import OllamaChat
from tests.support.loopback import Handler, Loopback, Peer, http_response, reply_with

Serve = Callable[[Handler], Loopback]


def answering(body: Any) -> Handler:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.reply(body)

    return handler


def compatible(serve: Serve, *embeddings: Any, **fields: Any) -> tuple[Any, Loopback]:
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(embeddings)
    ]
    server = serve(
        answering(
            {
                "object": "list",
                "data": data,
                "model": "e-1",
                "usage": {"prompt_tokens": 7, "total_tokens": 7},
                **fields,
            }
        )
    )
    return md.OpenAICompatible(server.url + "/v1").embedding_model("e"), server


async def test_the_openai_format(serve: Serve) -> None:
    model, server = compatible(
        serve, [1, 0.5], base64.b64encode(struct.pack("<2f", 0.25, -1)).decode()
    )
    embeddings = await model.embed(["a", "ü"], dimensions=2, extra={"user": "u"})
    assert embeddings.vectors == ((1.0, 0.5), (0.25, -1.0))
    assert (embeddings.usage.input_tokens, embeddings.model, embeddings.provider) == (
        7,
        "e-1",
        "openaicompatible",
    )
    assert server.requests[0].path == "/v1/embeddings"
    assert server.requests[0].json == {
        "model": "e",
        "input": ["a", "ü"],
        "dimensions": 2,
        "user": "u",
    }


async def test_vectors_are_in_the_order_of_the_texts(serve: Serve) -> None:
    data = [{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]}]
    embeddings = (
        await md.OpenAI("k", base_url=serve(answering({"data": data})).url)
        .embedding_model("e")
        .embed(["a", "b"])
    )
    assert embeddings.vectors == ((1.0,), (2.0,))
    assert embeddings.usage.input_tokens is None


def test_sync_methods_work_like_async_ones(serve: Serve) -> None:
    with md.LlamaSwap(serve(answering({"data": [{"embedding": [1, 2]}]})).url) as swap:
        assert swap.embedding_model("e").embed_sync("a").vector == (1.0, 2.0)


async def test_ollama_returns_one_vector_per_text(serve: Serve) -> None:
    server = OllamaChat()
    provider = md.Ollama(serve(server).url)
    embeddings = await provider.embedding_model("nomic-embed-text").embed(["a", "b"])
    again = await provider.embedding_model("nomic-embed-text").embed("a")
    assert len(embeddings.vectors) == 2
    assert embeddings.vectors[0] == again.vector != embeddings.vectors[1]
    with pytest.raises(md.NotFoundError):
        await provider.embedding_model("nothing").embed("a")


async def test_gemini_returns_one_vector_per_text_and_sends_extra(serve: Serve) -> None:
    server = GeminiChat()
    model = md.Gemini("k", base_url=serve(server).url + "/v1beta").embedding_model(
        "gemini-embedding-001"
    )
    embeddings = await model.embed(["a", "b"], extra={"taskType": "RETRIEVAL_QUERY"})
    assert len(embeddings.vectors) == 2
    assert [request["taskType"] for request in server.received_bodies[-1]["requests"]] == [
        "RETRIEVAL_QUERY"
    ] * 2


@pytest.mark.parametrize(
    ("vectors", "code"),
    [
        ([[[1, 2], [3, 4]], [[1, 2]]], "NOT_POOLED"),
        ([[1]], None),
        ([[1], [1, 2]], None),
        ([["x"], [1]], None),
        ([[float("inf")], [1]], None),
        ([[10**400], [1]], None),
        (["%%", [1]], None),
        ([[], []], None),
        ([None, None], None),
    ],
)
async def test_an_invalid_reply_is_a_typed_error(
    serve: Serve, vectors: Any, code: str | None
) -> None:
    model, _ = compatible(serve, *vectors)
    with pytest.raises(md.BadResponseError) as caught:
        await model.embed(["a", "b"])
    assert caught.value.model == "e"
    if code:
        assert caught.value.code == code


@pytest.mark.parametrize("texts", [[], "", ["a", ""], [3], 7, ["a\0"]])
async def test_invalid_texts_are_refused_before_sending(serve: Serve, texts: Any) -> None:
    model, server = compatible(serve)
    with pytest.raises(md.InvalidRequestError) as caught:
        await model.embed(texts)
    assert caught.value.details["field"] == "texts"
    assert server.requests == []


async def test_a_provider_without_embeddings_raises_unsupported_error() -> None:
    with pytest.raises(md.UnsupportedError):
        md.Anthropic("k").embedding_model("e")


async def test_the_user_id_reaches_the_ledger_and_is_not_sent(serve: Serve) -> None:
    ledger = md.Ledger()
    server = serve(
        reply_with(
            http_response(
                {"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 7}}
            )
        )
    )
    async with md.OpenAICompatible(server.url, observers=[ledger]) as provider:
        await provider.embedding_model("e").embed("a", user_id="ann")
        with pytest.raises(md.InvalidRequestError) as caught:
            await provider.embedding_model("e").embed("a", user_id="a" * 300)
    assert caught.value.field == "user_id"
    assert ledger.by_user()["ann"].input_tokens == 7
    assert b"ann" not in server.requests[0].body
