"""Anthropic's provider against the strict server: every request of a conversation is valid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

import majordomo as md
from majordomo import llm
from majordomo.llm import TextDelta, ThinkingPart
from tests.servers.anthropic import Anthropic, Turn
from tests.servers.anthropic_request import NEW, OLD
from tests.support.loopback import Handler, Loopback

MODELS = ("claude-sonnet-4-5", "claude-opus-4-8")
both = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def server() -> Anthropic:
    return Anthropic()


@pytest.fixture
def claude(server: Anthropic, serve: Callable[[Handler], Loopback]) -> md.Anthropic:
    return md.Anthropic("k", base_url=serve(server).url + "/v1", retries=md.Retries(attempts=1))


class Mood(BaseModel):
    word: str
    score: int


@both
async def test_thinking_tools_and_images_in_one_conversation(
    name: str, claude: md.Anthropic, server: Anthropic, image: Callable[..., md.ImagePart]
) -> None:
    def weather(city: str) -> list[Any]:
        return [f"sun in {city}", image()]

    server.redacted = True
    model = claude.model(name, md.with_reasoning("low"))
    history = [md.system("be brief"), md.user('weather {"city": "Ulm"}', image(color="red"))]
    reply = await md.run_tools(model, history, tools=[weather])
    assert [message.role for message in reply.new_messages] == ["assistant", "tool", "assistant"]
    assert reply.images == (image(),)
    assert any(
        "signature" in part.opaque
        for part in reply.new_messages[0].parts
        if isinstance(part, ThinkingPart)
    )
    assert any(
        "block" in part.opaque
        for part in reply.new_messages[0].parts
        if isinstance(part, ThinkingPart)
    )
    history += [*reply.new_messages, md.user("and now?")]
    # The tools are no longer offered.
    async with model.stream(history) as stream:
        async for _ in stream:
            pass
    assert "and now?" in stream.reply.text
    assert stream.reply.thinking


@both
async def test_a_history_from_other_providers_is_accepted(
    name: str, claude: md.Anthropic, image: Callable[..., md.ImagePart]
) -> None:
    calls = [md.ToolCallPart("a:b/c", "draw", '{"x":1}'), md.ToolCallPart("a:b/c", "draw", "")]
    history = [
        llm.assistant(ThinkingPart("private", "gemini", {"signature": "s3cret"}), "sure", *calls),
        md.system("be brief"),
        md.tool_result(calls[0], image()),
        md.tool_result(calls[1], "no", is_error=True),
        llm.assistant("here", image(color="red"), ""),
        md.user("thanks", md.FilePart(b"%PDF-1.4 x", "application/pdf", "a.pdf")),
    ]
    reply = await claude.model(name).generate(history)
    assert "thanks" in reply.text
    assert "HISTORY_CHANGED" in [warning.code for warning in reply.warnings]


@both
async def test_structured_output_and_usage(name: str, claude: md.Anthropic) -> None:
    reply = await claude.model(name).generate("mood?", output=Mood)
    assert isinstance(reply.output, Mood)
    assert reply.usage.input_tokens
    assert reply.usage.output_tokens


@pytest.mark.parametrize("version", [OLD, NEW])
async def test_both_api_versions_are_accepted(
    version: Any, server: Anthropic, serve: Callable[[Handler], Loopback]
) -> None:
    running_server = serve(server)
    model = md.Anthropic(
        "k", base_url=running_server.url + "/v1", version=version, cache="1h"
    ).model("claude-sonnet-4-5")
    reply = await model.generate("hi", temperature=0.5)
    assert [warning.field for warning in reply.warnings] == (
        [] if version == OLD else ["temperature"]
    )
    assert running_server.requests[0].headers["anthropic-version"] == version
    assert server.received_bodies[0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


async def test_models_and_health(claude: md.Anthropic) -> None:
    assert set(MODELS) <= {model.id for model in await claude.models()}
    assert (await claude.health()).ok


@pytest.mark.parametrize(
    ("failure", "kind", "retryable"),
    [
        (429, md.RateLimitError, True),
        (529, md.OverloadedError, True),
        (413, md.InvalidRequestError, False),
    ],
)
async def test_failures_are_typed(
    claude: md.Anthropic, server: Anthropic, failure: Any, kind: Any, retryable: bool
) -> None:
    server.failures = [failure]
    with pytest.raises(kind) as caught:
        await claude.model(MODELS[0]).generate("hi")
    assert caught.value.retryable is retryable


@pytest.mark.parametrize("how", ["error", "cut", "drop"])
async def test_a_broken_stream_keeps_the_prefix(
    how: str, claude: md.Anthropic, server: Anthropic
) -> None:
    server.script = [Turn([{"type": "text", "text": "one two three four five"}])]
    server.break_stream, server.break_after = how, 1
    received_text = ""
    with pytest.raises(md.StreamBrokenError) as caught:
        async with claude.model(MODELS[0]).stream("hi") as stream:
            async for event in stream:
                received_text += event.text if isinstance(event, TextDelta) else ""
    assert received_text
    assert caught.value.partial.text == received_text
    assert "one two three four five".startswith(received_text)


async def test_unusual_streams_are_decoded(claude: md.Anthropic, server: Anthropic) -> None:
    server.pings = server.padding = server.strange = True
    async with claude.model(MODELS[0]).stream("hello there") as stream:
        async for _ in stream:
            pass
    assert "hello there" in stream.reply.text


@pytest.mark.parametrize("settings", [{"version": "2020-01-01"}, {"cache": "2d"}])
def test_invalid_settings_are_refused(settings: Any) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        md.Anthropic("k", **settings)
    assert caught.value.details["field"] in settings


def test_a_missing_key_raises_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(md.ConfigurationError):
        md.Anthropic()
