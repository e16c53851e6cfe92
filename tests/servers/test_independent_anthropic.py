"""Anthropic's own SDK against the test server: what it sends is legal there, and what comes back is what it understands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers.anthropic import Anthropic, Turn
from tests.servers.plain_client import b64, png
from tests.servers.vendor_sdks import require
from tests.support.loopback import Handler, Loopback

anthropic = require("anthropic")

# The SDK warns of models whose end is near; the one that still takes thinking budgets is among them.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The model:DeprecationWarning", "ignore:Using Claude:UserWarning"
)

MODEL = "claude-sonnet-4-5"
LOOK = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 2000}
THINK = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
def server() -> Anthropic:
    return Anthropic()


@pytest.fixture
def client(server: Anthropic, serve: Callable[[Handler], Loopback]) -> Iterator[Any]:
    with anthropic.Anthropic(api_key="k", base_url=serve(server).url, max_retries=0) as held:
        yield held


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_plain(client: Any) -> None:
    found = client.messages.create(messages=[user("Hi there")], system="Be short.", **ASKED)
    assert (found.content[0].text, found.stop_reason, found.usage.cache_read_input_tokens) == (
        "Hi there",
        "end_turn",
        0,
    )
    assert client.messages.count_tokens(model=MODEL, messages=[user("Hi")]).input_tokens > 0
    assert [model.id for model in client.models.list(limit=1)] == [MODEL, "claude-opus-4-8"]
    assert client.models.retrieve(MODEL).id == MODEL


def test_streamed(client: Any, server: Anthropic) -> None:
    server.pings = server.padding = True
    server.late_input = 1
    with client.messages.stream(messages=[user("Hi there, you")], **ASKED) as stream:
        assert "".join(stream.text_stream) == "Hi there, you"
        found = stream.get_final_message()
    assert (
        found.usage.input_tokens
        == client.messages.create(messages=[user("Hi there, you")], **ASKED).usage.input_tokens
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_and_thinking(client: Any, server: Anthropic, streamed: bool) -> None:
    server.redacted = True

    def ask(messages: list[Any]) -> Any:
        settings = {"messages": messages, "tools": [LOOK], "thinking": THINK} | ASKED
        if not streamed:
            return client.messages.create(**settings)
        with client.messages.stream(**settings) as stream:
            return stream.get_final_message()

    history: list[Any] = [user('Use look with {"at": "a fox"}')]
    found = ask(history)
    assert [block.type for block in found.content] == ["thinking", "redacted_thinking", "tool_use"]
    assert found.content[2].input == {"at": "a fox"} and found.content[0].signature
    result = {"type": "tool_result", "tool_use_id": found.content[2].id, "content": "A red one."}
    history += [{"role": "assistant", "content": found.content}, user([result])]
    assert ask(history).content[-1].text == f"result {found.content[2].id}: A red one."
    found.content[0].thinking = "Something else"
    with pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
        ask(history)


def test_images(client: Any) -> None:
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": b64(png())},
    }
    found = client.messages.create(
        messages=[user([{"type": "text", "text": "See"}, image])], **ASKED
    )
    assert found.content[0].text == "See\n64x48 #0a141e"


def test_errors(client: Any, server: Anthropic) -> None:
    server.failures = [429, 529]
    with pytest.raises(anthropic.RateLimitError) as limited:
        client.messages.create(messages=[user("Hi")], **ASKED)
    assert limited.value.response.headers[
        "retry-after"
    ] == "1" and limited.value.request_id.startswith("req_")
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error") as busy:
        client.messages.create(messages=[user("Hi")], **ASKED)
    assert busy.value.status_code == 529
    with pytest.raises(anthropic.NotFoundError, match="model: no"):
        client.messages.create(model="no", max_tokens=9, messages=[user("Hi")])
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(messages=[user("Hi")], **ASKED)


def test_an_error_midway(client: Any, server: Anthropic) -> None:
    server.break_stream = "error"
    server.script = [Turn([{"type": "text", "text": "One two three"}])]
    with client.messages.stream(messages=[user("Hi")], **ASKED) as stream:
        heard = iter(stream.text_stream)
        assert next(heard) == "One"
        with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
            next(heard)
