"""Anthropic's own SDK against the test server.

The server accepts what the SDK sends, and the SDK understands what the server returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.servers.anthropic import Anthropic, Turn
from tests.servers.plain_client import b64, png
from tests.servers.vendor_sdks import require
from tests.support.loopback import Handler, Loopback

anthropic = require("anthropic")

# The SDK warns about models that will be shut down; the one that still accepts thinking budgets is
# one of them.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The model:DeprecationWarning", "ignore:Using Claude:UserWarning"
)

MODEL = "claude-sonnet-4-5"
LOOK_TOOL = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}
SETTINGS: dict[str, Any] = {"model": MODEL, "max_tokens": 2000}
THINKING = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
def server() -> Anthropic:
    return Anthropic()


@pytest.fixture
def client(server: Anthropic, serve: Callable[[Handler], Loopback]) -> Iterator[Any]:
    with anthropic.Anthropic(api_key="k", base_url=serve(server).url, max_retries=0) as sdk_client:
        yield sdk_client


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_messages_counts_and_models(client: Any) -> None:
    message = client.messages.create(messages=[user("Hi there")], system="Be short.", **SETTINGS)
    assert (
        message.content[0].text,
        message.stop_reason,
        message.usage.cache_read_input_tokens,
    ) == (
        "Hi there",
        "end_turn",
        0,
    )
    assert client.messages.count_tokens(model=MODEL, messages=[user("Hi")]).input_tokens > 0
    assert [model.id for model in client.models.list(limit=1)] == [MODEL, "claude-opus-4-8"]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_stream_is_read_to_its_final_message(client: Any, server: Anthropic) -> None:
    server.pings = server.padding = True
    server.late_input = 1
    with client.messages.stream(messages=[user("Hi there, you")], **SETTINGS) as stream:
        assert "".join(stream.text_stream) == "Hi there, you"
        message = stream.get_final_message()
    assert (
        message.usage.input_tokens
        == client.messages.create(messages=[user("Hi there, you")], **SETTINGS).usage.input_tokens
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_loop_with_thinking(client: Any, server: Anthropic, streamed: bool) -> None:
    server.redacted = True

    def ask(messages: list[Any]) -> Any:
        settings = {"messages": messages, "tools": [LOOK_TOOL], "thinking": THINKING} | SETTINGS
        if not streamed:
            return client.messages.create(**settings)
        with client.messages.stream(**settings) as stream:
            return stream.get_final_message()

    history: list[Any] = [user('Use look with {"at": "a fox"}')]
    message = ask(history)
    assert [block.type for block in message.content] == [
        "thinking",
        "redacted_thinking",
        "tool_use",
    ]
    assert message.content[2].input == {"at": "a fox"} and message.content[0].signature
    result = {"type": "tool_result", "tool_use_id": message.content[2].id, "content": "A red one."}
    history += [{"role": "assistant", "content": message.content}, user([result])]
    assert ask(history).content[-1].text == f"result {message.content[2].id}: A red one."
    message.content[0].thinking = "Something else"
    with pytest.raises(anthropic.BadRequestError, match="Invalid `signature`"):
        ask(history)


def test_an_image_is_received(client: Any) -> None:
    image = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": b64(png())},
    }
    message = client.messages.create(
        messages=[user([{"type": "text", "text": "See"}, image])], **SETTINGS
    )
    assert message.content[0].text == "See\n64x48 #0a141e"


def test_errors_have_the_right_types(client: Any, server: Anthropic) -> None:
    server.failures = [429, 529]
    with pytest.raises(anthropic.RateLimitError) as limited:
        client.messages.create(messages=[user("Hi")], **SETTINGS)
    assert limited.value.response.headers[
        "retry-after"
    ] == "1" and limited.value.request_id.startswith("req_")
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error") as busy:
        client.messages.create(messages=[user("Hi")], **SETTINGS)
    assert busy.value.status_code == 529
    with pytest.raises(anthropic.NotFoundError, match="model: no"):
        client.messages.create(model="no", max_tokens=9, messages=[user("Hi")])
    with pytest.raises(anthropic.AuthenticationError):
        client.with_options(api_key="wrong").messages.create(messages=[user("Hi")], **SETTINGS)


def test_an_error_in_the_middle_of_a_stream(client: Any, server: Anthropic) -> None:
    server.break_stream = "error"
    server.script = [Turn([{"type": "text", "text": "One two three"}])]
    with client.messages.stream(messages=[user("Hi")], **SETTINGS) as stream:
        texts = iter(stream.text_stream)
        assert next(texts) == "One"
        with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
            next(texts)
