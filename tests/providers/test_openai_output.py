"""Structured output from OpenAI: every schema is sent in a valid form, strict where possible."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

import majordomo as md
from tests.servers.openai_account import OpenAIServer, Turn, says
from tests.servers.openai_chat import OpenAIChat
from tests.servers.openai_responses import OpenAIResponses
from tests.support.loopback import Handler, Loopback


class Mood(BaseModel):
    word: str
    score: int


class Day(BaseModel):
    others: list[Mood]
    when: date | None


class Usual(BaseModel):
    word: str = "well"


class Described(BaseModel):
    mood: Mood = Field(description="How it is.")


class Odd(BaseModel):
    """Names that are keywords of schemas."""

    properties: Mood
    required: int
    type: Literal["object"]
    default: str


class Tree(BaseModel):
    word: str
    below: list[Tree] | None


class Nothing(BaseModel):
    pass


STRICT: list[Any] = [Mood, Day, Odd, Nothing, list[Mood], list[int], Mood | int, Tree]
LOOSE: list[Any] = [Usual, Described, dict[str, int], dict[str, Mood], list[dict[str, int]]]


@pytest.fixture(params=["responses", "chat"])
def server(request: pytest.FixtureRequest) -> OpenAIServer:
    return OpenAIResponses() if request.param == "responses" else OpenAIChat()


@pytest.fixture
def model(server: OpenAIServer, serve: Callable[[Handler], Loopback]) -> Any:
    api: Any = "responses" if isinstance(server, OpenAIResponses) else "chat"
    return md.OpenAI(
        "k", base_url=serve(server).url + "/v1", api=api, retries=md.Retries(attempts=1)
    ).model("gpt-5.4")


ANSWERS = {
    Day: '{"others": [], "when": "2026-01-01"}',
    Tree: '{"value": {"word": "a", "below": [{"word": "b", "below": null}]}}',
}


def is_strict(body: Any) -> Any:
    return (
        body["text"]["format"]["strict"]
        if "text" in body
        else body["response_format"]["json_schema"].get("strict", False)
    )


def output_id(output: Any) -> str:
    return getattr(output, "__name__", str(output)) if isinstance(output, type) else str(output)


@pytest.mark.parametrize("output", [*STRICT, *LOOSE], ids=output_id)
async def test_every_output_type_is_requested_validly_and_parsed(
    output: Any, model: Any, server: OpenAIServer
) -> None:
    if output in (Day, Tree):
        server.script = [Turn([says(ANSWERS[output])])] * 2
    reply = await model.generate("mood?", output=output)
    async with model.stream("mood?", output=output) as stream:
        async for _ in stream:
            pass
    assert reply.output is not None
    assert stream.reply.output == reply.output
    if isinstance(server, OpenAIResponses):
        assert is_strict(server.received_bodies[0]) is (output in STRICT)


async def test_a_streamed_list_is_a_list_at_every_point(model: Any, server: OpenAIServer) -> None:
    server.script = [Turn([says('{"value": [1, 2, 3]}')]), Turn([says('{"other": 1}')])]
    outputs: list[Any] = []
    async with model.stream("numbers?", output=list[int]) as stream:
        async for _ in stream:
            outputs.append(stream.reply.output)
    assert outputs[-1] == stream.reply.output == [1, 2, 3]
    assert all(output in (None, [], [1], [1, 2], [1, 2, 3]) for output in outputs), (
        "the network decides how much arrives at once"
    )
    with pytest.raises(md.BadResponseError, match="no field 'value'"):
        await model.generate("numbers?", output=list[int])


async def test_a_custom_schema_is_sent_unchanged(model: Any, server: OpenAIServer) -> None:
    schema = {
        "type": "object",
        "properties": {"any": {"type": "object", "additionalProperties": True}},
        "required": ["any"],
    }
    assert (await model.generate("x", output=schema)).output == {"any": {}}
    sent = (
        server.received_bodies[0].get("text", {}).get("format")
        or server.received_bodies[0]["response_format"]["json_schema"]
    )
    assert sent["schema"] == schema


async def test_a_reply_that_does_not_match_is_requested_again(
    model: Any, server: OpenAIServer
) -> None:
    server.script = [Turn([says("no JSON")]), Turn([says('{"word": "well", "score": 1}')])]
    assert (await model.generate("mood?", output=Mood, output_retries=1)).output == Mood(
        word="well", score=1
    )
