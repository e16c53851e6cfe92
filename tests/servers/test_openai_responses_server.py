"""The Responses test server: what it accepts and refuses, and the events it sends."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.openai_account import Turn, calls, generates, refuses, says, searches, thinks
from tests.servers.openai_responses import OpenAIResponses, color
from tests.servers.openai_responses_request import ENCRYPTED
from tests.servers.plain_client import Response, b64, open_base64_image, pixel, png, send_request
from tests.support.loopback import Handler, Loopback

PLAIN, REASONING = "gpt-4.1", "o3"
OBJECT = {
    "type": "object",
    "properties": {"at": {"type": "string"}},
    "required": ["at"],
    "additionalProperties": False,
}
LOOK_TOOL = {"type": "function", "name": "look", "parameters": OBJECT, "strict": True}
IMAGE = {
    "type": "input_image",
    "detail": "auto",
    "image_url": "data:image/png;base64," + b64(png()),
}
HEADERS = {"Authorization": "Bearer k"}
STATELESS = {"model": REASONING, "store": False, "include": [ENCRYPTED], "tools": [LOOK_TOOL]}


@pytest.fixture
def server() -> OpenAIResponses:
    return OpenAIResponses()


@pytest.fixture
def url(server: OpenAIResponses, serve: Callable[[Handler], Loopback]) -> str:
    return serve(server).url


def post(url: str, *items: Any, **fields: Any) -> Response:
    input_items: Any = list(items) if items else "Hi"
    return send_request(
        url, "POST", "/v1/responses", {"model": PLAIN, "input": input_items} | fields, HEADERS
    )


def user(*content: Any) -> dict[str, Any]:
    if len(content) == 1 and isinstance(content[0], str):
        return {"role": "user", "content": content[0]}
    return {
        "role": "user",
        "content": [
            {"type": "input_text", "text": part} if isinstance(part, str) else part
            for part in content
        ],
    }


def call(call_id: str = "c1", **fields: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "look", "arguments": "{}"} | fields


def result(call_id: str = "c1", output: Any = "x") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def without(item: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in names}


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
        ({"messages": []}, "Unknown parameter: 'messages'.", "unknown_parameter", "messages"),
        ({"stop": "x"}, "Unknown parameter: 'stop'.", "unknown_parameter", "stop"),
        ({"temperature": None}, "got null instead", "invalid_type", "temperature"),
        (
            {"max_output_tokens": 5},
            "Expected a value >= 16",
            "integer_below_min_value",
            "max_output_tokens",
        ),
        ({"temperature": -1}, "Expected a value >= 0", "decimal_below_min_value", "temperature"),
        ({"model": "no"}, "does not exist", "model_not_found", "model"),
        ({"model": REASONING, "top_p": 1}, "not supported", "unsupported_parameter", "top_p"),
        (
            {"reasoning": {"effort": "low"}},
            "not supported",
            "unsupported_parameter",
            "reasoning.effort",
        ),
        (
            {"model": REASONING, "reasoning": {"effort": "none"}},
            "Supported values",
            "unsupported_value",
            "reasoning.effort",
        ),
        (
            {"include": [ENCRYPTED]},
            "Encrypted content is not supported with this model.",
            None,
            "include",
        ),
        ({"include": ["all"]}, "Supported values", "invalid_value", "include[0]"),
        ({"stream_options": {}}, "only allowed when 'stream'", None, "stream_options"),
        ({"tool_choice": "auto"}, "must be specified with 'tools'", None, "tool_choice"),
        (
            {"tools": [{"type": "function", "function": LOOK_TOOL}]},
            "tools[0].name",
            "missing_required_parameter",
            None,
        ),
        ({"tools": [LOOK_TOOL | {"name": "a b"}]}, "does not match pattern", None, "tools[0].name"),
        (
            {
                "tools": [
                    without(LOOK_TOOL, "strict")
                    | {"parameters": {"type": "object", "properties": {}}}
                ]
            },
            "'additionalProperties'",
            None,
            None,
        ),
        (
            {"tools": [LOOK_TOOL], "tool_choice": {"type": "function", "name": "no"}},
            "'no' not found",
            None,
            "tool_choice",
        ),
        (
            {"tools": [LOOK_TOOL], "tool_choice": {"type": "image_generation"}},
            "not found",
            None,
            "tool_choice",
        ),
        (
            {"tools": [{"type": "image_generation", "partial_images": 4}]},
            "<= 3",
            None,
            "tools[0].partial_images",
        ),
        (
            {"tools": [{"type": "image_generation", "size": "64x64"}]},
            "Supported values",
            None,
            "tools[0].size",
        ),
        (
            {"text": {"format": {"type": "json_schema", "json_schema": {}}}},
            "text.format.name",
            "missing_required_parameter",
            None,
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "array"}}}},
            "got 'type",
            "invalid_json_schema",
            None,
        ),
        ({"text": {"format": {"type": "json_object"}}}, "the word 'json'", None, "input"),
        ({"background": True}, "not supported", "unsupported_parameter", "background"),
        (
            {"previous_response_id": "resp_1"},
            "not found",
            "previous_response_not_found",
            "previous_response_id",
        ),
    ],
)
def test_invalid_settings_are_refused(
    url: str, fields: Any, message: str, code: str | None, parameter: str | None
) -> None:
    assert_error(post(url, **fields), message, code, parameter)


@pytest.mark.parametrize(
    ("items", "message", "parameter"),
    [
        ([{"role": "tool", "content": "x"}], "Supported values", "input[0].role"),
        ([{"type": "tool_call"}], "Supported values", "input[0].type"),
        ([user({"type": "text", "text": "x"})], "'input_text'", "input[0].content[0].type"),
        (
            [user("x"), {"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}],
            "'output_text'",
            "input[1].content[0].type",
        ),
        ([user()], "empty array", "input[0].content"),
        (
            [user(IMAGE | {"image_url": {"url": IMAGE["image_url"]}})],
            "expected a string",
            "input[0].content[0].image_url",
        ),
        (
            [user(IMAGE | {"image_url": "data:image/png;base64," + b64(png()[:60])})],
            "unsupported image",
            None,
        ),
        ([user({"type": "input_image"})], "image_url", "input[0].content[0].image_url"),
        ([user({"type": "input_file", "file_id": "no"})], "was not found", None),
        ([user({"type": "input_audio"})], "Supported values", None),
        ([user("x"), call()], "No tool output found for function call c1.", "input"),
        (
            [user("x"), result()],
            "No tool call found for function call output with call_id c1.",
            "input",
        ),
        ([user("x"), result(), call()], "No tool call found", "input"),
        ([user("x"), call(), result(), result()], "No tool call found", "input"),
        ([user("x"), call(), call(), result(), result()], "Duplicate", "input"),
        ([user("x"), call("c" * 65), result("c" * 65)], "maximum length 64", "input[1].call_id"),
        (
            [user("x"), call(), result(output=[{"type": "output_text", "text": "x"}])],
            "'input_text'",
            "input[2].output[0].type",
        ),
        (
            [
                user("x"),
                call(),
                result(
                    output=[
                        {
                            "type": "input_file",
                            "filename": "x",
                            "file_data": "data:application/zip;base64,AAAA",
                        }
                    ]
                ),
            ],
            "unsupported MIME type",
            "input[2].output[0].file_data",
        ),
        ([user("x"), call(id="fc_1"), result()], "Item with id 'fc_1' not found.", "input"),
        ([{"type": "item_reference", "id": "msg_1"}], "Item with id 'msg_1' not found.", "input"),
        ([{"type": "reasoning", "summary": []}, user("x")], "encrypted_content", "input"),
        (
            [{"type": "reasoning", "summary": [], "encrypted_content": "AAAA"}, user("x")],
            "could not be verified",
            None,
        ),
    ],
)
def test_invalid_items_are_refused(
    url: str, items: list[Any], message: str, parameter: str | None
) -> None:
    status = 404 if "Item with" in message or "was not found" in message else 400
    assert_error(post(url, *items, model=REASONING), message, parameter=parameter, status=status)


class TestReasoning:
    def test_unstored_reasoning_must_come_back_encrypted(self, url: str) -> None:
        reasoning, function_call = post(url, user("look"), **STATELESS).json["output"]
        assert (reasoning["type"], function_call["type"]) == ("reasoning", "function_call")
        output = result(function_call["call_id"])

        def post_again(*items: Any) -> Response:
            return post(url, user("look"), *items, **STATELESS)

        assert post_again(reasoning, function_call, output).status == 200
        assert (
            post_again(without(reasoning, "id"), without(function_call, "id"), output).status == 200
        )
        assert post_again(without(function_call, "id"), output).status == 200
        assert_error(
            post_again(function_call, output), "without its required 'reasoning' item: 'rs_"
        )
        assert_error(
            post_again(reasoning, without(function_call, "id") | {"arguments": "{ }"}, output),
            "without its required following item",
        )
        assert_error(post_again(reasoning, user("x")), "without its required following item")
        assert_error(post_again(reasoning), "without its required following item")
        assert_error(
            post_again(without(reasoning, "encrypted_content"), function_call, output),
            "Items are not persisted",
            status=404,
        )
        assert_error(
            post_again(reasoning | {"id": "rs_" + "9" * 24}, function_call, output),
            "not found",
            status=404,
        )
        other_reasoning = post(url, user("look"), **STATELESS).json["output"][0]
        assert_error(
            post_again(
                reasoning | {"encrypted_content": other_reasoning["encrypted_content"]},
                function_call,
                output,
            ),
            "did not match",
            "invalid_encrypted_content",
        )

    def test_stored_reasoning_comes_back_by_id(self, url: str) -> None:
        settings: dict[str, Any] = {"model": REASONING, "tools": [LOOK_TOOL]}
        first = post(url, user("look"), **settings).json
        reasoning, function_call = first["output"]
        assert "encrypted_content" not in reasoning
        output = result(function_call["call_id"])
        assert post(url, user("look"), reasoning, function_call, output, **settings).status == 200
        assert (
            post(
                url,
                user("look"),
                *(
                    {"type": "item_reference", "id": item["id"]}
                    for item in (reasoning, function_call)
                ),
                output,
                **settings,
            ).status
            == 200
        )
        assert (
            post(url, output, previous_response_id=first["id"], **settings)
            .json["output"][-1]["content"][0]["text"]
            .endswith("x")
        )
        assert_error(
            post(url, user("x"), previous_response_id=first["id"], **settings),
            "No tool output found",
        )

    def test_summaries_are_returned_on_request(self, url: str, server: OpenAIResponses) -> None:
        server.script = [Turn([thinks("one", "two"), says("x")])] * 2
        assert post(url, model=REASONING).json["output"][0]["summary"] == []
        summary = post(url, model=REASONING, reasoning={"summary": "auto"}).json["output"][0][
            "summary"
        ]
        assert summary == [
            {"type": "summary_text", "text": "one"},
            {"type": "summary_text", "text": "two"},
        ]


class TestResponses:
    def test_stored_responses_are_retrieved_and_deleted(self, url: str) -> None:
        stored, unstored = post(url).json["id"], post(url, store=False).json["id"]
        assert (
            send_request(url, "GET", f"/v1/responses/{stored}", None, HEADERS).json["output"][0][
                "content"
            ][0]["text"]
            == "Hi"
        )
        assert_error(
            send_request(url, "GET", f"/v1/responses/{unstored}", None, HEADERS),
            "not found",
            status=404,
        )
        assert (
            send_request(url, "DELETE", f"/v1/responses/{stored}", None, HEADERS).json["deleted"]
            is True
        )
        assert_error(
            send_request(url, "GET", f"/v1/responses/{stored}", None, HEADERS),
            "not found",
            status=404,
        )

    def test_incomplete_failed_and_refused_responses(
        self, url: str, server: OpenAIResponses
    ) -> None:
        limited = post(url, user("word " * 20), max_output_tokens=16).json
        assert (
            limited["status"],
            limited["incomplete_details"],
            limited["output"][0]["status"],
        ) == (
            "incomplete",
            {"reason": "max_output_tokens"},
            "incomplete",
        )
        server.script = [Turn([], "failed"), Turn([refuses("No.")])]
        failed = post(url)
        assert (failed.status, failed.json["status"], failed.json["error"]["code"]) == (
            200,
            "failed",
            "server_error",
        )
        assert post(url).json["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]

    def test_images_are_generated_and_edited(self, url: str) -> None:
        tool = {"type": "image_generation", "output_format": "webp", "size": "1024x1536"}
        generated = post(url, user("a fox"), tools=[tool]).json["output"][0]
        image = open_base64_image(generated["result"])
        assert (image.format, image.size, generated["action"], generated["size"]) == (
            "WEBP",
            (64, 96),
            "generate",
            "1024x1536",
        )
        edited = post(url, user("a hat", IMAGE), tools=[tool | {"output_format": "png"}]).json[
            "output"
        ][0]
        assert edited["action"] == "edit" and pixel(open_base64_image(edited["result"])) != color(
            "a hat"
        )
        assert (
            post(url, user("a hat", IMAGE), tools=[tool], tool_choice="none").json["output"][0][
                "type"
            ]
            == "message"
        )


class TestStreams:
    def test_the_order_of_the_events(self, url: str, server: OpenAIResponses) -> None:
        server.script = [
            Turn([thinks("a b"), says("c d"), calls("look", {"at": "x"}), generates("a fox")])
        ]
        reply = post(
            url,
            stream=True,
            model=REASONING,
            reasoning={"summary": "auto"},
            tools=[{"type": "image_generation", "partial_images": 1}],
        )
        events = reply.events
        assert all(name == data["type"] for name, data in events)
        assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
        names = [str(name).removeprefix("response.") for name, _ in events]
        summary, text, arguments = (
            "reasoning_summary_text",
            "output_text",
            "function_call_arguments",
        )
        assert names == [
            "created",
            "in_progress",
            *(
                "output_item.added",
                "reasoning_summary_part.added",
                f"{summary}.delta",
                f"{summary}.delta",
                f"{summary}.done",
            ),
            *("reasoning_summary_part.done", "output_item.done"),
            *(
                "output_item.added",
                "content_part.added",
                f"{text}.delta",
                f"{text}.delta",
                f"{text}.done",
                "content_part.done",
                "output_item.done",
            ),
            *(
                "output_item.added",
                f"{arguments}.delta",
                f"{arguments}.delta",
                f"{arguments}.done",
                "output_item.done",
            ),
            *(
                "output_item.added",
                "image_generation_call.in_progress",
                "image_generation_call.generating",
            ),
            *(
                "image_generation_call.partial_image",
                "image_generation_call.completed",
                "output_item.done",
            ),
            "completed",
        ]
        added = [data["item"] for name, data in events if name == "response.output_item.added"]
        assert (added[0]["summary"], added[1]["content"], added[2]["arguments"]) == (
            [],
            [],
            "",
        ) and "result" not in added[3]
        done = [data["item"] for name, data in events if name == "response.output_item.done"]
        assert done == events[-1][1]["response"]["output"] and done[3]["result"]
        assert all(("obfuscation" in data) is str(name).endswith(".delta") for name, data in events)
        plain = post(url, stream=True, stream_options={"include_obfuscation": False})
        assert not any("obfuscation" in data for _, data in plain.events)

    def test_the_last_event_has_the_status(self, url: str, server: OpenAIResponses) -> None:
        server.script = [
            Turn([says("a")], "length"),
            Turn([says("a")], "failed"),
            Turn([refuses("No.")]),
        ]
        assert post(url, stream=True).events[-1][0] == "response.incomplete"
        assert post(url, stream=True).events[-1][0] == "response.failed"
        assert "response.refusal.delta" in [name for name, _ in post(url, stream=True).events]

    def test_streams_can_break(self, url: str, server: OpenAIResponses) -> None:
        for failure, name in (
            ("error", "error"),
            ("wrapped", "error"),
            ("failed", "response.failed"),
            ("cut", "response.output_text.delta"),
        ):
            server.break_stream = failure
            last = post(url, user("a b"), stream=True).events[-1]
            assert last[0] == name
            assert (last[1].get("code") == "server_error") is (failure == "error")
        server.break_stream = "drop"
        with pytest.raises(http.client.IncompleteRead):
            post(url, stream=True)

    def test_web_searches_are_streamed_and_accepted_as_input(
        self, url: str, server: OpenAIResponses
    ) -> None:
        server.script = [Turn([searches("a fox")])]
        events = post(url, stream=True, tools=[{"type": "web_search"}]).events
        assert [str(name).rpartition(".")[2] for name, _ in events[2:-1]] == [
            "added",
            "in_progress",
            "searching",
            "completed",
            "done",
        ]
        assert (
            post(url, user("x"), events[-1][1]["response"]["output"][0], user("y")).json["output"][
                0
            ]["content"][0]["text"]
            == "y"
        )

    def test_sentinel_reversed_lines_and_unknown_events(
        self, url: str, server: OpenAIResponses
    ) -> None:
        server.sentinel = server.reversed_lines = server.strange = True
        body = post(url, stream=True).body.decode()
        assert (
            body.startswith("data: ")
            and body.endswith("data: [DONE]\n\n")
            and "response.weather.delta" in body
        )
