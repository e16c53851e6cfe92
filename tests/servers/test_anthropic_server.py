"""The Anthropic test server behaves as the Messages API is documented."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.anthropic import Anthropic, Turn
from tests.servers.anthropic_request import NEW, OLD
from tests.servers.plain_client import Response, b64, png, send_request
from tests.support.loopback import Handler, Loopback

Serve = Callable[[Handler], Loopback]
HEADERS = {"x-api-key": "k", "anthropic-version": OLD}
MODEL = "claude-sonnet-4-5"
NEWER = "claude-opus-4-8"
LOOK_TOOL = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}
THINKING: dict[str, Any] = {
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "max_tokens": 2000,
}


@pytest.fixture
def server() -> Anthropic:
    return Anthropic()


@pytest.fixture
def url(server: Anthropic, serve: Serve) -> str:
    return serve(server).url


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": blocks[0] if isinstance(blocks[0], str) else list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": blocks[0] if isinstance(blocks[0], str) else list(blocks),
    }


def text(content: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": content, **fields}


def call(name: str = "look", call_id: str = "toolu_1") -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {}}


def result(call_id: str = "toolu_1", content: Any = "seen") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def image(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": b64(data)}}


def post(
    url: str,
    *messages: Any,
    version: str = OLD,
    beta: str = "",
    path: str = "/v1/messages",
    **fields: Any,
) -> Response:
    body = {
        "model": MODEL,
        "max_tokens": 100,
        "messages": list(messages) or [user("Hi there")],
    } | fields
    payload = {name: value for name, value in body.items() if value is not ...}
    headers = HEADERS | {"anthropic-version": version} | ({"anthropic-beta": beta} if beta else {})
    return send_request(url, "POST", path, payload, headers)


def words(reply: Response) -> str:
    assert reply.status == 200, reply.body
    return "".join(block.get("text", "") for block in reply.json["content"])


def assert_error(
    reply: Response, message: str, status: int = 400, kind: str = "invalid_request_error"
) -> None:
    assert (reply.status, reply.json["type"], reply.json["error"]["type"]) == (
        status,
        "error",
        kind,
    )
    assert message in reply.json["error"]["message"]
    assert reply.json["request_id"] == reply.headers["request-id"]


class TestAnswers:
    def test_the_answer_repeats_the_text(self, url: str, server: Anthropic) -> None:
        reply = post(url)
        assert words(reply) == "Hi there"
        assert (reply.json["role"], reply.json["stop_reason"], reply.json["model"]) == (
            "assistant",
            "end_turn",
            MODEL,
        )
        assert reply.headers["retry-after"] == "3"
        assert server.received_bodies[0]["messages"] == [user("Hi there")]

    def test_images_and_documents_are_described(self, url: str) -> None:
        pdf = {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": b64(b"%PDF-1.7")},
        }
        reply = post(
            url, user(text("See"), image(png()), pdf, image(png("red", kind="JPEG"), "image/jpeg"))
        )
        assert words(reply) == "See\n64x48 #0a141e\ndocument of 8 bytes\n64x48 #fe0000"

    def test_images_in_tool_results_are_described(self, url: str) -> None:
        history = [
            user("Look"),
            assistant(call()),
            user(result(content=[text("Here"), image(png())])),
        ]
        assert words(post(url, *history, tools=[LOOK_TOOL])) == "result toolu_1: Here 64x48 #0a141e"

    def test_scripted_turns_are_returned_in_order(self, url: str, server: Anthropic) -> None:
        server.script = [
            Turn([text("One")], "refusal", {"output_tokens": 7}, {"stop_details": None}),
            Turn([]),
        ]
        reply = post(url)
        assert (words(reply), reply.json["stop_reason"], reply.json["usage"]["output_tokens"]) == (
            "One",
            "refusal",
            7,
        )
        assert post(url).json["content"] == []
        assert words(post(url)) == "Hi there"

    def test_tools_named_in_the_text_are_called(self, url: str) -> None:
        reply = post(url, user('Use look with {"at": "a fox"}'), tools=[LOOK_TOOL])
        [block] = reply.json["content"]
        assert (block["name"], block["input"], reply.json["stop_reason"]) == (
            "look",
            {"at": "a fox"},
            "tool_use",
        )
        forced = post(url, user("Hi"), tools=[LOOK_TOOL], tool_choice={"type": "any"})
        assert forced.json["content"][0]["input"] == {}
        assert (
            words(post(url, user("Use look"), tools=[LOOK_TOOL], tool_choice={"type": "none"}))
            == "Use look"
        )

    def test_schemas_stop_sequences_and_limits(self, url: str) -> None:
        schema = {
            "type": "object",
            "properties": {"n": {"type": "integer"}, "s": {"enum": ["x"]}},
            "additionalProperties": False,
        }
        output_config = {"format": {"type": "json_schema", "schema": schema}}
        assert json.loads(words(post(url, output_config=output_config))) == {"n": 1, "s": "x"}
        assert_error(
            post(
                url, output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}}
            ),
            "additionalProperties",
        )
        stopped = post(url, user("One STOP two"), stop_sequences=["STOP"]).json
        assert (
            stopped["content"][0]["text"],
            stopped["stop_reason"],
            stopped["stop_sequence"],
        ) == ("One ", "stop_sequence", "STOP")
        assert post(url, max_tokens=1).json["stop_reason"] == "max_tokens"

    def test_models_are_listed_and_tokens_counted(self, url: str) -> None:
        listed = send_request(url, "GET", "/v1/models?limit=1", headers=HEADERS).json
        assert ([model["id"] for model in listed["data"]], listed["has_more"]) == ([MODEL], True)
        assert (
            send_request(url, "GET", f"/v1/models/{NEWER}", headers=HEADERS).json["type"] == "model"
        )
        assert_error(
            send_request(url, "GET", "/v1/models/no", headers=HEADERS),
            "model: no",
            404,
            "not_found_error",
        )
        assert post(url, path="/v1/messages/count_tokens", max_tokens=...).json["input_tokens"] > 0
        assert_error(
            post(url, path="/v1/messages/count_tokens"),
            "max_tokens: Extra inputs are not permitted",
        )


class TestRequests:
    def test_keys_and_versions_are_checked(self, url: str) -> None:
        body = {"model": MODEL, "max_tokens": 9, "messages": [user("Hi")]}
        bearer = {"authorization": "Bearer k", "anthropic-version": NEW}
        assert send_request(url, "POST", "/v1/messages", body, bearer).status == 200
        assert_error(
            send_request(url, "POST", "/v1/messages", body, bearer | {"x-api-key": "no"}),
            "invalid",
            401,
            "authentication_error",
        )
        assert_error(
            send_request(url, "POST", "/v1/messages", body, {"x-api-key": "k"}), "anthropic-version"
        )
        assert_error(post(url, version="2027-01-01"), "not a valid version")

    def test_the_versions_accept_different_requests(self, url: str) -> None:
        assert post(url, temperature=1).status == 200
        assert_error(
            post(url, temperature=1, version=NEW), "temperature: Extra inputs are not permitted"
        )
        document = {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "x"},
        }
        history = [user("Hi"), assistant(document), user("So?")]
        assert post(url, *history).status == 200
        assert_error(post(url, *history, version=NEW), "does not match any of the expected tags")
        assert (
            post(url, user(text("Hi", citations=[]))).status
            == post(url, user(text("Hi", citations=[{}]))).status
            == 200
        )
        assert_error(post(url, user(text("Hi", citations=[{}])), version=NEW), "citations")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"seed": 1}, "seed: Extra inputs are not permitted"),
            ({"max_tokens": ...}, "max_tokens: Field required"),
            ({"temperature": None}, "temperature: Input should be a valid number"),
            ({"temperature": 1.5}, "temperature"),
            ({"mcp_servers": []}, "mcp_servers: Extra inputs are not permitted"),
            ({"system": [text("")]}, "system: text content blocks must be non-empty"),
            ({"model": NEWER, "top_p": 0.5}, "not supported"),
            ({"tool_choice": {"type": "auto"}}, "tool_choice may only be specified"),
            ({"tools": [LOOK_TOOL], "tool_choice": {"type": "tool", "name": "no"}}, "not found"),
            (
                {"tools": [LOOK_TOOL], "tool_choice": {"type": "any"}} | THINKING,
                "Thinking may not be enabled",
            ),
            ({"tools": [LOOK_TOOL, LOOK_TOOL]}, "unique"),
            ({"tools": [{"type": "function", "function": LOOK_TOOL}]}, "Field required"),
            (
                {"tools": [LOOK_TOOL | {"input_schema": {"type": "object", "required": None}}]},
                "JSON schema is invalid",
            ),
            (
                {
                    "tools": [
                        LOOK_TOOL | {"cache_control": {"type": "ephemeral"}, "name": f"l{i}"}
                        for i in range(5)
                    ]
                },
                "Found 5",
            ),
            (
                {"thinking": {"type": "enabled", "budget_tokens": 1000}},
                "greater than or equal to 1024",
            ),
            ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "must be greater than"),
            ({"model": NEWER} | THINKING, "adaptive"),
            ({"temperature": 0.5} | THINKING, "may only be set to 1"),
            ({"output_config": {"effort": "max"}}, "Supported levels: low, medium, high"),
        ],
    )
    def test_invalid_fields_are_refused(
        self, url: str, fields: dict[str, Any], message: str
    ) -> None:
        assert_error(post(url, **fields), message)

    @pytest.mark.parametrize(
        ("messages", "message"),
        [
            ([assistant("Hi")], "first message must use the user role"),
            ([user("")], "non-empty"),
            ([user(text(""))], "text content blocks must be non-empty"),
            ([user("Hi"), assistant("So ")], "trailing whitespace"),
            ([{"role": "system", "content": "Hi"}], "Input should be 'user', 'assistant'"),
            ([user(image(png(), "image/jpeg"))], "appears to be an image/png"),
            (
                [
                    user(
                        {
                            "type": "image",
                            "source": {
                                "type": "base64",
                                "media_type": "image/png",
                                "data": "data:,",
                            },
                        }
                    )
                ],
                "Invalid base64",
            ),
            ([user("Hi"), assistant(image(png())), user("Hi")], "expected tags"),
            (
                [user("Hi"), assistant(call()), user("Hi")],
                "without `tool_result` blocks immediately after: toolu_1",
            ),
            ([user("Hi"), assistant(call()), user(text("Hi"), result())], "must come first"),
            ([user("Hi"), assistant(call()), user(result(), result())], "single result"),
            (
                [user("Hi"), assistant(call()), user(result()), user(result("toolu_2"))],
                "unexpected `tool_use_id`",
            ),
            (
                [user("Hi"), assistant(call(call_id="a.b")), user(result("a.b"))],
                "should match pattern",
            ),
            ([user("Hi"), assistant(call(), call()), user(result())], "unique"),
        ],
    )
    def test_invalid_messages_are_refused(
        self, url: str, messages: list[Any], message: str
    ) -> None:
        assert_error(post(url, *messages, tools=[LOOK_TOOL]), message)

    def test_tool_history_needs_tools(self, url: str) -> None:
        history = [user("Hi"), assistant(call()), user(result()), user("So?")]
        assert words(post(url, *history, tools=[LOOK_TOOL])) == "So?\nresult toolu_1: seen"
        assert_error(post(url, *history), "Requires `tools`")

    def test_configured_failures_have_the_error_format(self, url: str, server: Anthropic) -> None:
        server.failures = [429, 529, "spend_limit", 413]
        limited, busy, spent, large = (post(url) for _ in range(4))
        assert_error(limited, "", 429, "rate_limit_error")
        assert_error(busy, "", 529, "overloaded_error")
        assert limited.headers["retry-after"] == "1" and spent.headers["retry-after"] is None
        assert spent.json["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}
        assert (large.status, large.content_type) == (413, "text/html")
        assert_error(post(url, model="no"), "model: no", 404, "not_found_error")


class TestThinking:
    def test_thinking_must_come_back_unchanged_in_a_tool_loop(
        self, url: str, server: Anthropic
    ) -> None:
        server.redacted = True
        first = post(url, user("Use look"), tools=[LOOK_TOOL], **THINKING).json["content"]
        assert [block["type"] for block in first] == ["thinking", "redacted_thinking", "tool_use"]
        last = user(result(first[2]["id"]))

        def post_again(*blocks: Any, **fields: Any) -> Response:
            return post(
                url,
                user("Use look"),
                assistant(*blocks),
                last,
                tools=[LOOK_TOOL],
                **(fields or THINKING),
            )

        assert post_again(*first).status == 200
        assert_error(post_again(first[2]), "cannot be modified")
        assert_error(post_again(first[1], first[0], first[2]), "cannot be modified")
        assert_error(post_again(first[0] | {"thinking": "else"}, *first[1:]), "Invalid `signature`")
        assert_error(
            post_again({"type": "thinking", "thinking": "x"}, first[2]), "signature: Field required"
        )
        assert post_again(first[2], max_tokens=9).status == 200
        assert (
            post(
                url,
                user("Use look"),
                assistant(first[2]),
                last,
                assistant("So."),
                user("Hi"),
                tools=[LOOK_TOOL],
                **THINKING,
            ).status
            == 200
        )

    def test_thinking_can_be_omitted(self, url: str) -> None:
        first = post(url, model=NEWER, thinking={"type": "adaptive", "display": "omitted"}).json[
            "content"
        ]
        assert first[0]["thinking"] == "" and first[0]["signature"]


class TestStreams:
    def test_the_events_of_a_stream(self, url: str, server: Anthropic) -> None:
        server.script = [
            Turn(
                [
                    {"type": "thinking", "thinking": "Hm"},
                    text("a b"),
                    {"type": "tool_use", "name": "look", "input": {"at": "x"}},
                ]
            )
        ]
        server.late_input = 1
        reply = post(url, user("Hi"), tools=[LOOK_TOOL], stream=True, **THINKING)
        events = reply.events
        assert all(name == data["type"] for name, data in events)
        assert [events[0][0], events[-2][0], events[-1][0]] == [
            "message_start",
            "message_delta",
            "message_stop",
        ]
        deltas = [data["delta"] for name, data in events if name == "content_block_delta"]
        assert [delta["type"] for delta in deltas[:4]] == [
            "thinking_delta",
            "signature_delta",
            "text_delta",
            "text_delta",
        ]
        assert (
            deltas[4]["partial_json"] == ""
            and "".join(delta.get("partial_json", "") for delta in deltas) == '{"at": "x"}'
        )
        start, end = events[0][1]["message"]["usage"], events[-2][1]["usage"]
        assert (
            end["input_tokens"] == start["input_tokens"] + 1
            and events[-2][1]["delta"]["stop_reason"] == "tool_use"
        )

    def test_pings_padding_unknown_events_and_interleaved_blocks(
        self, url: str, server: Anthropic
    ) -> None:
        server.pings = server.padding = server.strange = server.interleaved = server.bare_delta = (
            True
        )
        server.script = [Turn([text("a b"), text("c d")])]
        reply = post(url, stream=True)
        names = {name for name, _ in reply.events}
        assert {"ping", "weather"} <= names and b"   }\n" in reply.body
        indexes = [data["index"] for name, data in reply.events if name == "content_block_start"]
        delta_indexes = [
            data["index"] for name, data in reply.events if name == "content_block_delta"
        ]
        assert indexes == [0, 1] and delta_indexes[:4] == [0, 1, 0, 1]
        assert list(reply.events[-2][1]["usage"]) == ["output_tokens"]

    def test_streams_can_break(self, url: str, server: Anthropic) -> None:
        server.break_stream = "error"
        assert post(url, stream=True).events[-1][1]["error"]["type"] == "overloaded_error"
        server.break_stream = "cut"
        assert post(url, stream=True).events[-1][0] == "content_block_delta"
        server.break_stream = "drop"
        with pytest.raises(http.client.IncompleteRead):
            post(url, stream=True)
