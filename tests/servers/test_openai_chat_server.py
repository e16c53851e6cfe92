"""The chat completions test server: what it accepts and refuses, and the bytes it sends."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.openai_account import Turn, calls, refuses, says, thinks
from tests.servers.openai_chat import OpenAIChat
from tests.servers.plain_client import Response, b64, png, send_request
from tests.support.loopback import Handler, Loopback

PLAIN, REASONING = "gpt-4.1", "o3"
OBJECT = {
    "type": "object",
    "properties": {"at": {"type": "string"}},
    "required": ["at"],
    "additionalProperties": False,
}
LOOK_TOOL = {"type": "function", "function": {"name": "look", "parameters": OBJECT}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + b64(png())}}
PDF = {
    "type": "file",
    "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + b64(b"%PDF-1.4 x")},
}


@pytest.fixture
def server() -> OpenAIChat:
    return OpenAIChat()


@pytest.fixture
def url(server: OpenAIChat, serve: Callable[[Handler], Loopback]) -> str:
    return serve(server).url


def post(url: str, *messages: Any, key: str = "k", **fields: Any) -> Response:
    body = {"model": PLAIN, "messages": list(messages) or [user("Hi")]} | fields
    return send_request(
        url, "POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {key}"}
    )


def user(*content: Any) -> dict[str, Any]:
    if len(content) == 1 and isinstance(content[0], str):
        return {"role": "user", "content": content[0]}
    return {
        "role": "user",
        "content": [
            {"type": "text", "text": part} if isinstance(part, str) else part for part in content
        ],
    }


def assistant(content: Any = None, *calls: Any) -> dict[str, Any]:
    message = {"role": "assistant"} | ({"content": content} if content is not None else {})
    return message | ({"tool_calls": list(calls)} if calls else {})


def call(call_id: str = "c1", name: str = "look", arguments: Any = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_result(call_id: str = "c1", content: Any = "x") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def assert_error(
    reply: Response,
    message: str,
    code: str | None = None,
    parameter: str | None = None,
    status: int = 400,
) -> None:
    assert reply.status == status, reply.body
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert message in error["message"]
    assert (code is None or error["code"] == code) and (
        parameter is None or error["param"] == parameter
    )


@pytest.mark.parametrize(
    ("fields", "message", "code", "parameter"),
    [
        ({"top_k": 3}, "Unknown parameter: 'top_k'.", "unknown_parameter", "top_k"),
        ({"temperature": None}, "got null instead", "invalid_type", "temperature"),
        ({"temperature": 2.5}, "decimal above maximum", "decimal_above_max_value", "temperature"),
        ({"max_tokens": 0}, "integer below minimum", "integer_below_min_value", "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "at the same time", None, "max_tokens"),
        ({"stop": ["a"] * 5}, "too long", "array_above_max_length", "stop"),
        (
            {"stream_options": {"include_usage": True}},
            "only allowed when 'stream'",
            None,
            "stream_options",
        ),
        ({"tool_choice": "auto"}, "only allowed when 'tools'", None, "tool_choice"),
        ({"parallel_tool_calls": False}, "only allowed when 'tools'", None, "parallel_tool_calls"),
        ({"tools": []}, "empty array", "empty_array", "tools"),
        (
            {"tools": [LOOK_TOOL], "tool_choice": "any"},
            "'required'",
            "invalid_value",
            "tool_choice",
        ),
        (
            {"tools": [LOOK_TOOL], "tool_choice": {"type": "function", "function": {"name": "no"}}},
            "no function named 'no'",
            None,
            "tool_choice",
        ),
        ({"tools": [LOOK_TOOL | {"name": "x"}]}, "tools[0].name", "unknown_parameter", None),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "does not match pattern",
            None,
            "tools[0].function.name",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a" * 65}}]},
            "does not match pattern",
            None,
            "tools[0].function.name",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {}}}]},
            "'type: \"object\"'",
            "invalid_function_parameters",
            None,
        ),
        (
            {"reasoning_effort": "low"},
            "not supported with this model",
            "unsupported_parameter",
            "reasoning_effort",
        ),
        (
            {"model": REASONING, "reasoning_effort": "none"},
            "Supported values are: 'low'",
            "unsupported_value",
            "reasoning_effort",
        ),
        (
            {"model": REASONING, "max_tokens": 9},
            "Use 'max_completion_tokens'",
            "unsupported_parameter",
            "max_tokens",
        ),
        (
            {"model": REASONING, "temperature": 1},
            "not supported",
            "unsupported_parameter",
            "temperature",
        ),
        ({"model": REASONING, "stop": "x"}, "not supported", "unsupported_parameter", "stop"),
        (
            {"web_search_options": {}},
            "not supported",
            "unsupported_parameter",
            "web_search_options",
        ),
        ({"response_format": {"type": "json_object"}}, "the word 'json'", None, "messages"),
        (
            {"response_format": {"type": "json_schema", "name": "x", "schema": OBJECT}},
            "json_schema'",
            "missing_required_parameter",
            None,
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "array"}},
                }
            },
            'got \'type: "array"',
            None,
            None,
        ),
    ],
)
def test_invalid_settings_are_refused(
    url: str, fields: Any, message: str, code: str | None, parameter: str | None
) -> None:
    assert_error(post(url, **fields), message, code, parameter)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {}, "required": []}, "'additionalProperties' is required"),
        ({"properties": {"a": {"type": "string"}}, "additionalProperties": False}, "Missing 'a'"),
        (
            {"properties": {"a": {"oneOf": []}}, "required": ["a"], "additionalProperties": False},
            "'oneOf' is not permitted",
        ),
        (
            {
                "properties": {"a": {"$ref": "#", "title": "x"}},
                "required": ["a"],
                "additionalProperties": False,
            },
            "$ref cannot have keywords",
        ),
        (
            {
                "properties": {"a": {"type": "array"}},
                "required": ["a"],
                "additionalProperties": False,
            },
            "array schema missing items",
        ),
        (
            {
                "properties": {"a": {"format": "uri"}},
                "required": ["a"],
                "additionalProperties": False,
            },
            "'uri' is not a valid format",
        ),
    ],
)
def test_strict_mode_refuses_unsupported_schemas(
    url: str, schema: dict[str, Any], message: str
) -> None:
    json_schema = {"name": "x", "schema": {"type": "object"} | schema, "strict": True}
    assert_error(
        post(url, response_format={"type": "json_schema", "json_schema": json_schema}), message
    )
    function = {"name": "x", "parameters": json_schema["schema"], "strict": True}
    assert_error(
        post(url, tools=[{"type": "function", "function": function}]),
        message,
        "invalid_function_parameters",
    )


@pytest.mark.parametrize(
    ("messages", "message", "parameter"),
    [
        (
            [{"role": "model", "content": "x"}],
            "Supported values are: 'developer'",
            "messages[0].role",
        ),
        ([user({"type": "input_text", "text": "x"})], "'text', 'image_url'", "messages[0]"),
        (
            [{"role": "system", "content": [IMAGE]}],
            "Supported values are: 'text'",
            "messages[0].content[0].type",
        ),
        ([user("x"), assistant([IMAGE])], "'text', 'refusal'", "messages[1].content[0].type"),
        ([user()], "empty array", "messages[0].content"),
        (
            [{"role": "user", "content": None}],
            "expected an array, but got null",
            "messages[0].content",
        ),
        ([user("x"), assistant()], "expected a string, got null", "messages[1].content"),
        ([user("x"), assistant("", call()), user("y")], "did not have response messages: c1", None),
        ([user("x"), assistant("", call())], "did not have response messages: c1", None),
        (
            [
                user("x"),
                assistant("", call(), call("c2")),
                tool_result(),
                user("y"),
                tool_result("c2"),
            ],
            "did not have response messages: c2",
            None,
        ),
        ([user("x"), tool_result()], "must be a response to a preceeding message", None),
        (
            [user("x"), assistant("", call()), tool_result(), tool_result()],
            "must be a response to a preceeding message",
            None,
        ),
        ([user("x"), assistant("", call(), call()), tool_result()], "Duplicate", None),
        (
            [user("x"), assistant("", call()), tool_result(content=[IMAGE])],
            "Supported values are: 'text'",
            "messages[2].content[0].type",
        ),
        (
            [user("x"), assistant("", call("c" * 41)), tool_result("c" * 41)],
            "maximum length 40",
            "messages[1].tool_calls[0].id",
        ),
        (
            [user("x"), assistant("", call(name="a.b")), tool_result()],
            "does not match pattern",
            "messages[1].tool_calls[0].function.name",
        ),
        (
            [user("x"), assistant("", call(arguments={})), tool_result()],
            "expected a string",
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            [user({"type": "image_url", "image_url": IMAGE["image_url"] | {"detail": None}})],
            "'high'",
            None,
        ),
        (
            [user({"type": "image_url", "image_url": {"url": b64(png())}})],
            "Expected a base64-encoded data URL",
            None,
        ),
        (
            [user({"type": "image_url", "image_url": {"url": "data:image/png;base64,A"}})],
            "no base64",
            None,
        ),
        (
            [
                user(
                    {
                        "type": "image_url",
                        "image_url": {"url": "data:image/png;base64," + b64(png()[:60])},
                    }
                )
            ],
            "unsupported image",
            None,
        ),
        (
            [
                user(
                    {
                        "type": "image_url",
                        "image_url": {"url": "data:image/bmp;base64," + b64(png())},
                    }
                )
            ],
            "image MIME type",
            None,
        ),
        ([user({"type": "file", "file": {"file_data": "x"}})], "content[0].file.filename", None),
        (
            [
                user(
                    {"type": "file", "file": {"filename": "x", "file_data": "https://x.test/a.pdf"}}
                )
            ],
            "without one",
            None,
        ),
        (
            [
                user(
                    {
                        "type": "file",
                        "file": {"filename": "x", "file_data": "data:application/pdf;base64,AAAA"},
                    }
                )
            ],
            "not a valid PDF",
            None,
        ),
        ([user({"type": "file", "file": {"file_id": "no"}})], "No such File", None),
    ],
)
def test_invalid_messages_are_refused(
    url: str, messages: list[Any], message: str, parameter: str | None
) -> None:
    reply = post(url, *messages)
    assert_error(reply, message, parameter=parameter, status=404 if "No such" in message else 400)


def test_some_models_refuse_system_messages(url: str) -> None:
    for role in ("system", "developer"):
        assert_error(
            post(url, {"role": role, "content": "x"}, model="o1-mini"),
            "Supported values",
            "unsupported_value",
            "messages[0].role",
        )
        assert post(url, {"role": role, "content": "x"}, user("Hi"), model="o3").status == 200


class TestHTTP:
    def test_keys_routes_and_bodies_are_checked(self, url: str, server: OpenAIChat) -> None:
        assert_error(post(url, key="no"), "Incorrect API key", "invalid_api_key", status=401)
        assert_error(post(url, model="no"), "does not exist", "model_not_found", status=404)
        headers = {"Authorization": "Bearer k"}
        assert_error(
            send_request(url, "POST", "/v1/completions", {}, headers), "Invalid URL", status=404
        )
        assert_error(
            send_request(url, "POST", "/v1/chat/completions", b"{", headers),
            "could not parse the JSON body",
        )
        assert PLAIN in [
            item["id"]
            for item in send_request(url, "GET", "/v1/models", None, headers).json["data"]
        ]
        server.largest = 100
        assert_error(post(url, user("x" * 100)), "too large", status=413)

    def test_configured_failures_are_returned_in_order(self, url: str, server: OpenAIChat) -> None:
        server.failures = [(429, "insufficient_quota"), (503, "server_error", {"retry-after": "2"})]
        assert_error(post(url), "insufficient_quota", "insufficient_quota", status=429)
        busy = post(url)
        assert (busy.status, busy.headers["retry-after"], busy.headers["x-request-id"][:4]) == (
            503,
            "2",
            "req_",
        )


class TestAnswers:
    def test_the_answer_describes_the_input_for_every_choice(self, url: str) -> None:
        body = post(url, user("see", IMAGE, PDF), n=2).json
        assert [choice["message"]["content"] for choice in body["choices"]] == [
            "see\n64x48 #0a141e\na.pdf: application/pdf of 10 bytes"
        ] * 2
        assert (body["object"], body["model"], body["choices"][1]["index"]) == (
            "chat.completion",
            "gpt-4.1-2026-08-01",
            1,
        )

    def test_limits_stop_sequences_schemas_and_reasoning_shape_the_answer(self, url: str) -> None:
        limited = post(url, user("one two three"), max_tokens=2).json["choices"][0]
        assert (limited["message"]["content"], limited["finish_reason"]) == ("one two", "length")
        assert (
            post(url, user("one two three"), stop=["two", "three"]).json["choices"][0]["message"][
                "content"
            ]
            == "one "
        )
        response_format = {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": OBJECT, "strict": True},
        }
        assert json.loads(
            post(url, response_format=response_format).json["choices"][0]["message"]["content"]
        ) == {"at": "text"}
        body = post(url, model=REASONING).json
        assert (
            body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
            and "reasoning" not in body["choices"][0]["message"]
        )

    def test_tools_named_in_the_text_are_called(self, url: str) -> None:
        tools = [LOOK_TOOL, {"type": "function", "function": {"name": "find"}}]
        message = post(url, user('look and find {"at": "x"} {"at": "y"}'), tools=tools).json[
            "choices"
        ][0]["message"]
        assert message["content"] is None
        assert [tool_call["function"]["arguments"] for tool_call in message["tool_calls"]] == [
            '{"at": "x"}',
            '{"at": "y"}',
        ]
        single = post(url, user("look and find"), tools=tools, parallel_tool_calls=False).json[
            "choices"
        ][0]
        assert (len(single["message"]["tool_calls"]), single["finish_reason"]) == (1, "tool_calls")
        allowed = {
            "type": "allowed_tools",
            "allowed_tools": {
                "mode": "required",
                "tools": [{"type": "function", "function": {"name": "find"}}],
            },
        }
        chosen = post(url, tools=tools, tool_choice=allowed).json["choices"][0]["message"][
            "tool_calls"
        ]
        assert chosen[0]["function"]["name"] == "find"
        after = post(
            url,
            user("look"),
            assistant("", *message["tool_calls"]),
            *(tool_result(tool_call["id"]) for tool_call in message["tool_calls"]),
            tools=tools,
        )
        assert after.json["choices"][0]["finish_reason"] == "stop"


class TestStreams:
    def chunks(self, reply: Response) -> list[Any]:
        *lines, last = [
            line.removeprefix("data: ") for line in reply.body.decode().split("\n\n") if line
        ]
        assert last == "[DONE]"
        return [json.loads(line) for line in lines]

    def test_the_chunks_of_a_stream(self, url: str, server: OpenAIChat) -> None:
        server.script = [
            Turn([thinks("hm"), says("a b"), calls("look", {"at": "x"}), calls("find")])
        ] * 2
        chunks = self.chunks(post(url, stream=True, stream_options={"include_usage": True}))
        assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
        assert (
            deltas[0] == {"role": "assistant", "refusal": None, "content": ""} and deltas[-1] == {}
        )
        assert [delta["content"] for delta in deltas if "content" in delta] == ["", "a", " b"]
        pieces = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
        assert [piece["index"] for piece in pieces] == sorted(piece["index"] for piece in pieces)
        assert [piece["function"]["name"] for piece in pieces if "id" in piece] == ["look", "find"]
        assert (
            "".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == 0)
            == '{"at": "x"}'
        )
        assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 6
        assert all(chunk["usage"] is None and chunk["obfuscation"] for chunk in chunks[:-1])
        assert not any(
            "usage" in chunk or "obfuscation" in chunk
            for chunk in self.chunks(
                post(url, stream=True, stream_options={"include_obfuscation": False})
            )
        )

    def test_choices_alternate_and_calls_may_open_the_stream(
        self, url: str, server: OpenAIChat
    ) -> None:
        chunks = self.chunks(post(url, user("a b"), stream=True, n=2))
        assert [chunk["choices"][0]["index"] for chunk in chunks] == [0, 1] * 4
        server.opening, server.script = (
            True,
            [Turn([calls("look")]), Turn([refuses("I will not.")])],
        )
        assert (
            self.chunks(post(url, stream=True))[0]["choices"][0]["delta"]["tool_calls"][0][
                "function"
            ]["name"]
            == "look"
        )
        refusal = self.chunks(post(url, stream=True))
        assert (
            "".join(chunk["choices"][0]["delta"].get("refusal") or "" for chunk in refusal)
            == "I will not."
        )
        assert refusal[-1]["choices"][0]["finish_reason"] == "stop"

    def test_streams_can_break(self, url: str, server: OpenAIChat) -> None:
        server.break_stream = "error"
        last = post(url, user("a b"), stream=True).body.decode().split("\n\n")[-2]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_error"
        server.break_stream = "cut"
        assert b"[DONE]" not in post(url, user("a b"), stream=True).body
        server.break_stream = "drop"
        with pytest.raises(http.client.IncompleteRead):
            post(url, stream=True)
