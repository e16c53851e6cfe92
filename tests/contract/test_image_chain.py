"""Failover of image models."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import majordomo as md
from tests.contract.backend import Backend, Reply, images_reply, png

ONE_ATTEMPT = md.Retries(attempts=1)
REFUSAL = {"error": {"message": "blocked", "code": "moderation_blocked"}}


@pytest.fixture
async def healthy(backend: Backend) -> AsyncIterator[md.LlamaSwap]:
    async with md.LlamaSwap(backend.url, retries=ONE_ATTEMPT) as provider:
        yield provider


async def test_a_connection_failure_moves_to_the_next_model(
    backend: Backend, healthy: md.LlamaSwap
) -> None:
    backend.on("POST /v1/images/generations", images_reply(png()))
    async with md.LlamaSwap("http://127.0.0.1:9", retries=ONE_ATTEMPT) as unreachable:
        chain = md.ImageChain([unreachable.image_model("a"), healthy.image_model("b")])
        assert (await chain.generate("a cat")).model == "b"


async def test_a_refusal_does_not_move_to_the_next_model(
    backend: Backend, healthy: md.LlamaSwap
) -> None:
    backend.on("POST /v1/images/generations", Reply(400, REFUSAL))
    base_url = f"{backend.url}/v1"
    async with md.OpenAI(api_key="k", base_url=base_url, retries=ONE_ATTEMPT) as refusing:
        chain = md.ImageChain([refusing.image_model("gpt-image-1"), healthy.image_model("b")])
        with pytest.raises(md.ContentRefusedError):
            await chain.generate("a cat")
    assert len(backend.requests) == 1
