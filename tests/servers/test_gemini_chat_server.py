"""The Gemini chat test server behaves as described in gemini-chat.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.gemini import ENCODED_SENTINEL
from tests.servers.gemini_chat import GeminiChat, Turn
from tests.servers.plain_client import Response, b64, open_base64_image, pixel, png, send_request
from tests.support.loopback import Handler, Loopback

Serve = Callable[[Handler], Loopback]
OLD, NEW, IMAGE_MODEL = "gemini-2.5-flash", "gemini-3-flash-preview", "gemini-3-pro-image-preview"
WEATHER = {
    "functionDeclarations": [
        {
            "name": "weather",
            "parametersJsonSchema": {"type": "object", "properties": {"city": {"type": "string"}}},
        }
    ]
}
IMAGE = {"inlineData": {"mimeType": "image/png", "data": b64(png())}}
CALL = {"functionCall": {"name": "weather", "args": {}}}
RESULT = {"functionResponse": {"name": "weather", "response": {"result": "sun"}}}


@pytest.fixture
def server() -> GeminiChat:
    return GeminiChat()


@pytest.fixture
def url(server: GeminiChat, serve: Serve) -> str:
    return serve(server).url + "/v1beta"


def user(*parts: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "parts": [{"text": part} if isinstance(part, str) else part for part in parts],
    }


def model(*parts: Any) -> dict[str, Any]:
    return user(*parts) | {"role": "model"}


def post(
    url: str,
    *contents: Any,
    to: str = OLD,
    call: str = "generateContent",
    key: str = "k",
    **fields: Any,
) -> Response:
    path = url[url.index("/v1beta") :] + f"/models/{to}:{call}"
    return send_request(
        url, "POST", path, {"contents": list(contents), **fields}, {"x-goog-api-key": key}
    )


def parts(reply: Response) -> Any:
    return reply.json["candidates"][0]["content"]["parts"]


def stream(url: str, *contents: Any, **fields: Any) -> list[str]:
    """Return the frames of a stream as received, and what follows the last of them."""
    reply = post(url, *contents, call="streamGenerateContent?alt=sse", **fields)
    assert (reply.status, reply.content_type) == (200, "text/event-stream")
    return reply.body.decode().split("\r\n\r\n")


def chunks(frames: list[str]) -> list[Any]:
    assert frames[-1] == ""
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]


class TestAnswers:
    def test_the_answer_describes_text_and_images(self, url: str, server: GeminiChat) -> None:
        snake = {"inline_data": {"mime_type": "image/png", "data": b64(png("red", (8, 6)))}}
        reply = post(url, user("look here", IMAGE, snake))
        assert reply.json == {
            "candidates": [
                {
                    "content": {
                        "role": "model",
                        "parts": [{"text": "You said: look here 64x48 #0a141e 8x6 #ff0000"}],
                    },
                    "finishReason": "STOP",
                }
            ],
            "usageMetadata": {
                "promptTokenCount": 518,
                "candidatesTokenCount": 8,
                "totalTokenCount": 526,
            },
            "modelVersion": OLD,
            "responseId": "r1",
        }
        assert server.received_bodies[0]["contents"][0]["parts"][2] == snake

    def test_tools_named_in_the_text_are_called(self, url: str) -> None:
        reply = post(url, user('weather {"city": "Rome"}'), tools=[WEATHER])
        assert parts(reply) == [{"functionCall": {"name": "weather", "args": {"city": "Rome"}}}]
        assert reply.json["candidates"][0]["finishReason"] == "STOP"
        assert post(url, user("weather"), model(CALL), user(RESULT), tools=[WEATHER]).json[
            "candidates"
        ][0]["content"]["parts"] == [{"text": 'You said: weather weather={"result": "sun"}'}]
        disabled, forced = ({"functionCallingConfig": {"mode": mode}} for mode in ("NONE", "ANY"))
        assert "text" in parts(post(url, user("weather"), tools=[WEATHER], toolConfig=disabled))[0]
        assert parts(post(url, user("hi"), tools=[WEATHER], toolConfig=forced)) == [
            {"functionCall": {"name": "weather", "args": {"city": "x"}}}
        ]

    def test_answers_match_the_schema(self, url: str) -> None:
        plain = {
            "type": "object",
            "properties": {"n": {"$ref": "#/$defs/n"}, "yes": {"type": "boolean"}},
            "$defs": {"n": {"type": "integer"}},
        }
        config = {"responseMimeType": "application/json", "responseJsonSchema": plain}
        assert json.loads(parts(post(url, user("x"), generationConfig=config))[0]["text"]) == {
            "n": 1,
            "yes": True,
        }
        config = {
            "responseMimeType": "application/json",
            "responseSchema": {"type": "ARRAY", "items": {"type": "STRING", "enum": ["a"]}},
        }
        assert json.loads(parts(post(url, user("x"), generationConfig=config))[0]["text"]) == ["a"]

    def test_thoughts_and_output_limits(self, url: str) -> None:
        reply = post(
            url,
            user("a b c"),
            generationConfig={"thinkingConfig": {"includeThoughts": True}, "maxOutputTokens": 3},
        )
        assert parts(reply) == [{"text": "I think.", "thought": True}, {"text": "You said: a"}]
        assert reply.json["candidates"][0]["finishReason"] == "MAX_TOKENS"
        assert reply.json["usageMetadata"]["thoughtsTokenCount"] == 2

    def test_images_and_drafts_are_signed(self, url: str, server: GeminiChat) -> None:
        server.drafts = 1
        config = {"responseModalities": ["TEXT", "IMAGE"]}
        image_parts = parts(post(url, user("a fox"), to=IMAGE_MODEL, generationConfig=config))
        assert [
            ("inlineData" in part, "thoughtSignature" in part, part.get("thought"))
            for part in image_parts
        ] == [
            (True, True, True),
            (False, False, None),
            (True, True, None),
        ]
        draft, image = (
            open_base64_image(image_parts[index]["inlineData"]["data"]) for index in (0, 2)
        )
        assert pixel(draft) != pixel(image)
        assert (
            post(url, user("a fox"), model(*image_parts), user("a hat"), to=IMAGE_MODEL).status
            == 200
        )
        del image_parts[2]["thoughtSignature"]
        assert (
            post(url, user("a fox"), model(*image_parts), user("a hat"), to=IMAGE_MODEL).status
            == 400
        )

    def test_embeddings_and_their_models(self, url: str) -> None:
        request = {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 4}
        base = "/v1beta/models/gemini-embedding-001"
        key = {"x-goog-api-key": "k"}
        vector = send_request(url, "POST", base + ":embedContent", request, key).json["embedding"][
            "values"
        ]
        assert len(vector) == 4
        batch = {
            "requests": [
                request | {"model": "models/gemini-embedding-001"},
                request | {"model": "models/gemini-embedding-001"},
            ]
        }
        assert send_request(url, "POST", base + ":batchEmbedContents", batch, key).json == {
            "embeddings": [{"values": vector}] * 2
        }
        assert (
            send_request(
                url, "POST", base + ":batchEmbedContents", {"requests": [request]}, key
            ).status
            == 400
        )
        assert (
            send_request(url, "POST", base + ":embedContent", request | {"n": 1}, key).status == 400
        )
        assert post(url, user("x"), to="gemini-embedding-001").status == 404
        listed = send_request(url, "GET", "/v1beta/models", headers=key).json["models"]
        assert listed[-1]["supportedGenerationMethods"] == ["embedContent", "batchEmbedContents"]


class TestStreams:
    def test_stream_parts_usage_and_last_signature(self, url: str, server: GeminiChat) -> None:
        server.lone_usage = True
        frames = chunks(stream(url, user("hello there"), to=NEW))
        usages = [chunk["usageMetadata"]["promptTokenCount"] for chunk in frames]
        assert usages == [92, 92, 92, 2] and "candidates" not in frames[1]
        text_parts = [
            chunk["candidates"][0]["content"]["parts"][0]
            for chunk in frames
            if "candidates" in chunk
        ]
        assert "".join(part["text"] for part in text_parts) == "You said: hello there"
        assert text_parts[-1]["text"] == "" and "thoughtSignature" in text_parts[-1]
        assert [chunk.get("candidates", [{}])[0].get("finishReason") for chunk in frames] == [
            None,
            None,
            None,
            "STOP",
        ]
        assert (
            post(url, user("hello there"), model(*text_parts), user("again"), to=NEW).status == 200
        )
        merged = {
            "text": "You said: hello there",
            "thoughtSignature": text_parts[-1]["thoughtSignature"],
        }
        assert (
            "Corrupted"
            in post(url, user("x"), model(merged), user("again"), to=NEW).json["error"]["message"]
        )

    def test_a_streamed_call_is_signed(self, url: str) -> None:
        frames = chunks(stream(url, user("weather"), to=NEW, tools=[WEATHER]))
        assert "thoughtSignature" in frames[0]["candidates"][0]["content"]["parts"][0]
        assert frames[-1]["candidates"][0]["content"]["parts"] == [{"text": ""}]

    def test_a_stream_without_alt_is_an_array(self, url: str) -> None:
        reply = post(url, user("x"), call="streamGenerateContent")
        assert (
            isinstance(reply.json, list)
            and reply.json[-1]["candidates"][0]["finishReason"] == "STOP"
        )

    def test_streams_can_break(self, url: str, server: GeminiChat) -> None:
        for broken in ("error", "bare", "array", "cut"):
            server.script.append(Turn([{"text": "Hello."}], broken=broken))
        assert chunks(stream(url, user("x")))[-1]["error"]["status"] == "INTERNAL"
        assert json.loads(stream(url, user("x"))[-1])["error"]["code"] == 500
        assert json.loads(stream(url, user("x"))[-1])[0]["error"]["code"] == 500
        assert not any(
            "finishReason" in json.dumps(chunk) for chunk in chunks(stream(url, user("x")))
        )
        server.script = [Turn([{"text": "Hello."}], broken="drop")]
        with pytest.raises(Exception, match="IncompleteRead"):
            stream(url, user("x"))

    def test_blocked_responses_have_no_candidates(self, url: str, server: GeminiChat) -> None:
        server.script = [Turn(blocked="SAFETY"), Turn(blocked="SAFETY")]
        [chunk] = chunks(stream(url, user("x")))
        assert chunk["promptFeedback"] == {"blockReason": "SAFETY"} and "candidates" not in chunk
        assert "candidates" not in post(url, user("x")).json


class TestScripts:
    @pytest.mark.parametrize("call", ["generateContent", "streamGenerateContent?alt=sse"])
    def test_a_held_request_detects_a_disconnect(
        self, url: str, server: GeminiChat, call: str
    ) -> None:
        server.hold()
        with pytest.raises(TimeoutError):
            send_request(
                url,
                "POST",
                f"/v1beta/models/{OLD}:{call}",
                {"contents": [user("x")]},
                {"x-goog-api-key": "k"},
                seconds=0.2,
            )
        assert server.left()

    def test_call_ids_and_scripted_signatures(self, url: str, server: GeminiChat) -> None:
        server.call_ids = True
        [call] = parts(post(url, user("weather"), tools=[WEATHER]))
        assert call["functionCall"]["id"] == "call1-0"
        assert post(url, user("weather"), model(call), user(RESULT), tools=[WEATHER]).status == 400
        server.script = [
            Turn([{"text": "a", "thoughtSignature": b64(b"mine")}]),
            Turn([CALL], signed=False),
        ]
        assert parts(post(url, user("x"), to=NEW)) == [
            {"text": "a", "thoughtSignature": b64(b"mine")}
        ]
        assert parts(post(url, user("x"), to=NEW)) == [CALL]

    @pytest.mark.parametrize("finish", ["SAFETY", "RECITATION", "MALFORMED_FUNCTION_CALL"])
    def test_answers_can_be_empty(self, url: str, server: GeminiChat, finish: str) -> None:
        server.script = [Turn(finish=finish, message="m"), Turn(finish=finish)]
        assert post(url, user("x")).json["candidates"] == [
            {"content": {}, "finishReason": finish, "finishMessage": "m"}
        ]
        assert chunks(stream(url, user("x")))[0]["candidates"] == [
            {"content": {}, "finishReason": finish}
        ]

    def test_configured_failures_are_returned_in_order(self, url: str, server: GeminiChat) -> None:
        server.failures = ["RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"]
        server.retry_delay, server.wrapped = "34.4s", True
        for call in ("generateContent", "streamGenerateContent?alt=sse"):
            reply = post(url, user("x"), call=call)
            assert (reply.status, reply.json[0]["error"]["details"][1]["retryDelay"]) == (
                429,
                "34.4s",
            )
        server.wrapped = False
        assert post(url, user("x")).json["error"]["code"] == 503

    def test_scripted_parts_and_usage(self, url: str, server: GeminiChat) -> None:
        server.script = [Turn([CALL, CALL], usage={"totalTokenCount": 9})]
        reply = post(url, user("x"), to=NEW)
        assert ["thoughtSignature" in part for part in parts(reply)] == [True, False]
        assert reply.json["usageMetadata"] == {"totalTokenCount": 9}


class TestSignatures:
    def test_calls_must_come_back_with_their_signature(self, url: str) -> None:
        first = user("weather")
        [call] = parts(post(url, first, to=NEW, tools=[WEATHER]))
        bare = {"functionCall": call["functionCall"]}

        def error_message(part: Any, *later: Any, to: str = NEW) -> Any:
            return (
                post(url, first, model(part), user(RESULT), *later, to=to, tools=[WEATHER])
                .json.get("error", {})
                .get("message", "fine")
            )

        assert (
            error_message(call)
            == error_message(bare | {"thoughtSignature": ENCODED_SENTINEL})
            == "fine"
        )
        assert (
            error_message(bare | {"thoughtSignature": "skip_thought_signature_validator"}) == "fine"
        )
        assert "missing a thought_signature" in error_message(bare)
        assert error_message(bare, model("sun"), user("thanks")) == "fine"
        assert error_message(bare | {"thoughtSignature": "AAAA"}) == "Corrupted thought signature."
        assert error_message(call, to="gemini-3-pro-preview") == "Corrupted thought signature."
        assert error_message(bare, to=OLD) == "fine"


JSON_MIME = {"responseMimeType": "application/json"}
INVALID_PARAMETERS = [
    {
        "functionDeclarations": [
            {"name": "f", "parameters": {"type": "OBJECT", "additionalProperties": False}}
        ]
    }
]
HOSTED_TOOLS = [{"functionDeclarations": [{"name": "f"}]}, {"googleSearch": {}}]


class TestValidation:
    @pytest.mark.parametrize(
        ("contents", "message"),
        [
            ([], "contents is not specified"),
            ([user()], "must not be empty"),
            ([user("x") | {"role": "system"}], "valid role"),
            (
                [user({"text": "x", "image": "y"})],
                "Unknown name \"image\" at 'contents[0].parts[0]'",
            ),
            ([user({"text": "x", **IMAGE})], "oneof"),
            (
                [user({"inlineData": {"mimeType": "image/png", "data": b64(b"x")}})],
                "Unable to process",
            ),
            (
                [user("x"), model({"functionCall": {"name": "f", "args": "{}"}}), user(RESULT)],
                "Struct",
            ),
            (
                [
                    user("x"),
                    model(CALL),
                    user({"functionResponse": {"name": "weather", "response": "x"}}),
                ],
                "Struct",
            ),
            (
                [user("x"), model("y"), model(CALL), user(RESULT)],
                "comes immediately after a user turn",
            ),
            ([user("x"), model(CALL, CALL), user(RESULT), user(RESULT)], "equal to the number"),
            ([user("x"), model(CALL), user("y")], "equal to the number"),
            ([user("x"), model(CALL)], "followed by a function response"),
            ([user("x"), user(RESULT)], "after a function call turn"),
            ([user("x", CALL)], "come from the model"),
            (
                [
                    user("x"),
                    model(CALL),
                    user({"functionResponse": RESULT["functionResponse"] | {"parts": [IMAGE]}}),
                ],
                "not supported",
            ),
        ],
    )
    def test_invalid_contents_are_refused(self, url: str, contents: Any, message: str) -> None:
        error = post(url, *contents).json["error"]
        assert error["status"] == "INVALID_ARGUMENT" and message in error["message"]

    @pytest.mark.parametrize(
        ("fields", "to"),
        [
            ({"n": 2}, OLD),
            (
                {
                    "generationConfig": JSON_MIME
                    | {"responseSchema": {"type": "STRING"}, "responseJsonSchema": {}}
                },
                OLD,
            ),
            ({"generationConfig": {"responseJsonSchema": {"type": "string"}}}, OLD),
            ({"generationConfig": JSON_MIME | {"responseSchema": {"type": "string"}}}, OLD),
            (
                {
                    "generationConfig": {
                        "thinkingConfig": {"thinkingBudget": 1, "thinkingLevel": "LOW"}
                    }
                },
                NEW,
            ),
            ({"generationConfig": {"thinkingConfig": {"thinkingBudget": 1}}}, NEW),
            ({"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}, OLD),
            ({"generationConfig": {"stopSequences": list("abcdef")}}, OLD),
            ({"generationConfig": {"responseModalities": ["IMAGE"]}}, OLD),
            ({"generationConfig": JSON_MIME, "tools": [WEATHER]}, OLD),
            ({"tools": INVALID_PARAMETERS}, NEW),
            ({"tools": HOSTED_TOOLS}, OLD),
            (
                {
                    "toolConfig": {
                        "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}
                    }
                },
                OLD,
            ),
            (
                {
                    "cachedContent": "cachedContents/1",
                    "systemInstruction": {"parts": [{"text": "x"}]},
                },
                OLD,
            ),
            ({"systemInstruction": {"parts": []}}, OLD),
        ],
    )
    def test_invalid_settings_are_refused(self, url: str, fields: Any, to: str) -> None:
        assert post(url, user("x"), to=to, **fields).json["error"]["status"] == "INVALID_ARGUMENT"

    def test_valid_requests_are_accepted(self, url: str) -> None:
        assert (
            post(
                url,
                user("x"),
                to=NEW,
                tools=HOSTED_TOOLS,
                generationConfig={"thinking_config": {"thinking_level": "LOW"}},
            ).status
            == 200
        )
        assert (
            post(url, user("x"), generation_config={"thinkingConfig": {"thinkingBudget": 0}}).status
            == 200
        )
        signed = CALL | {"thoughtSignature": ENCODED_SENTINEL}
        result_with_image = {
            "functionResponse": {"name": "weather", "response": {}, "parts": [IMAGE]}
        }
        assert (
            "64x48 #0a141e"
            in parts(
                post(
                    url,
                    user("x"),
                    model(signed, CALL),
                    user(result_with_image, result_with_image),
                    to=NEW,
                )
            )[0]["text"]
        )
        parts_with_id = (
            {kind: part[kind] | {"id": "c1"}}
            for kind, part in (("functionCall", CALL), ("functionResponse", RESULT))
        )
        assert (
            post(
                url, user("x"), model(next(parts_with_id)), user(next(parts_with_id), IMAGE)
            ).status
            == 200
        )

    def test_keys_and_models_are_checked(self, url: str) -> None:
        error = post(url, user("x"), key="wrong").json["error"]
        assert (error["code"], error["details"][0]["reason"]) == (400, "API_KEY_INVALID")
        error = post(url, user("x"), to="gemini-9").json["error"]
        assert (error["code"], error["status"]) == (404, "NOT_FOUND")
        assert error["message"].startswith("models/gemini-9 is not found for API version v1beta")
