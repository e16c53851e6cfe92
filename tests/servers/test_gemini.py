"""The facts of gemini-images.md, one by one, against the test server itself."""

from __future__ import annotations

import http.client
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.gemini import ENCODED_SENTINEL, Gemini, color, pixels
from tests.servers.hashed_images import fingerprint
from tests.servers.plain_client import Reply, ask, b64, dot, opened, png
from tests.support.loopback import Handler, Loopback

Serve = Callable[[Handler], Loopback]
KEY = {"x-goog-api-key": "k"}
FLASH = "gemini-2.5-flash-image"
PRO = "gemini-3-pro-image-preview"
NEWEST = "gemini-3.1-flash-image-preview"


@pytest.fixture
def server() -> Gemini:
    return Gemini()


@pytest.fixture
def url(server: Gemini, serve: Serve) -> str:
    return serve(server).url


def body(*parts: Any, modalities: Any = ("IMAGE",), **config: Any) -> dict[str, Any]:
    contents = [{"role": "user", "parts": [{"text": "a red fox"}, *parts]}]
    return {
        "contents": contents,
        "generationConfig": {"responseModalities": list(modalities), "seed": 7, **config},
    }


def post(url: str, sent: Any, model: str = FLASH, call: str = "generateContent") -> Reply:
    return ask(url, "POST", f"/v1beta/models/{model}:{call}", sent, KEY)


def inline(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {"inlineData": {"mimeType": kind, "data": b64(data)}}


def images(answer: Any) -> list[Any]:
    parts = answer["candidates"][0]["content"]["parts"]
    return [opened(part["inlineData"]["data"]) for part in parts if "inlineData" in part]


def complaint(reply: Reply) -> tuple[int, str]:
    assert reply.json["error"]["code"] == reply.status
    return reply.status, reply.json["error"]["status"]


class TestImages:
    def test_an_image(self, url: str) -> None:
        reply = post(url, body(imageConfig={"aspectRatio": "1:1"}))
        [candidate] = reply.json["candidates"]
        assert (candidate["finishReason"], candidate["content"]["role"]) == ("STOP", "model")
        [part] = candidate["content"]["parts"]
        assert part["inlineData"]["mimeType"] == "image/png" and "thoughtSignature" not in part
        [image] = images(reply.json)
        assert (image.size, dot(image)) == ((1024, 1024), color({"prompt": "a red fox", "seed": 7}))
        assert reply.json["usageMetadata"] == {
            "promptTokenCount": 3,
            "candidatesTokenCount": 1290,
            "totalTokenCount": 1293,
        }

    def test_sizes(self, url: str) -> None:
        assert pixels("16:9") == (1360, 768) and pixels("1:4", "512") == (256, 1024)
        [image] = images(
            post(url, body(imageConfig={"aspectRatio": "16:9", "imageSize": "2K"}), PRO).json
        )
        assert image.size == pixels("16:9", "2K")
        [image] = images(
            post(url, body(imageConfig={"aspectRatio": "8:1", "imageSize": "512"}), NEWEST).json
        )
        assert image.size == pixels("8:1", "512")

    @pytest.mark.parametrize(
        ("model", "config"),
        [
            (FLASH, {"imageSize": "1K"}),
            (PRO, {"imageSize": "1k"}),
            (PRO, {"imageSize": "512"}),
            (PRO, {"aspectRatio": "1:4"}),
            (FLASH, {"aspectRatio": "2:1"}),
            (FLASH, {"aspectRatio": "1024x1024"}),
        ],
    )
    def test_sizes_a_model_does_not_know(self, url: str, model: str, config: Any) -> None:
        assert complaint(post(url, body(imageConfig=config), model)) == (400, "INVALID_ARGUMENT")

    def test_images_as_input(self, url: str, server: Gemini) -> None:
        server.files["files/1"] = png("blue")
        wide = png("red", (96, 54))
        urlsafe = {
            "inline_data": {"mime_type": "image/png", "data": urlsafe_b64encode(wide).decode()}
        }
        reply = post(
            url, body(urlsafe, {"fileData": {"fileUri": "files/1", "mimeType": "image/png"}})
        )
        assert server.jobs[0]["images"] == [fingerprint(wide), fingerprint(png("blue"))]
        assert server.jobs[0]["aspectRatio"] == "16:9"
        assert dot(images(reply.json)[0]) == color(server.jobs[0])
        assert reply.json["usageMetadata"]["promptTokenCount"] == 3 + 2 * 258

    def test_images_that_cannot_be_read(self, url: str) -> None:
        for part in (
            inline(b"x"),
            inline(png(), "image/*"),
            {"inlineData": {"mimeType": "image/png", "data": "a b"}},
        ):
            assert complaint(post(url, body(part))) == (400, "INVALID_ARGUMENT")
        assert complaint(post(url, body({"fileData": {"fileUri": "files/2"}}))) == (
            403,
            "PERMISSION_DENIED",
        )

    def test_words_drafts_and_no_modality(self, url: str, server: Gemini) -> None:
        parts = post(url, body(modalities=("TEXT", "IMAGE"))).json["candidates"][0]["content"][
            "parts"
        ]
        assert parts[0] == {"text": "Here is your image."} and "inlineData" in parts[1]
        assert list(
            post(url, body(modalities=())).json["candidates"][0]["content"]["parts"][0]
        ) == ["text"]
        server.drafts = 1
        reply = post(url, body(), PRO).json
        parts = reply["candidates"][0]["content"]["parts"]
        assert [part.get("thought", False) for part in parts] == [True, True, False]
        assert dot(images(reply)[0]) == color(server.jobs[2], draft=True)
        assert dot(images(reply)[1]) == color(server.jobs[2])
        assert reply["usageMetadata"]["thoughtsTokenCount"] == 1292

    def test_without_a_seed_each_one_differs(self, url: str, server: Gemini) -> None:
        found = [dot(images(post(url, body(seed=None)).json)[0]) for _ in range(2)]
        assert found[0] != found[1]
        assert [color(settings) for settings in server.jobs] == found

    def test_signatures_come_back(self, url: str) -> None:
        first = post(url, body(), PRO).json["candidates"][0]["content"]
        part = first["parts"][0]

        def again(**changes: Any) -> Reply:
            made = {name: value for name, value in (part | changes).items() if value is not None}
            turns = [
                *body()["contents"],
                {"role": "model", "parts": [made]},
                {"role": "user", "parts": [{"text": "a hat"}]},
            ]
            return post(url, body() | {"contents": turns}, PRO)

        assert again().status == 200
        assert "thought_signature" in again(thoughtSignature=None).json["error"]["message"]
        assert again(thoughtSignature="AAAA").status == 400
        assert again(**inline(png())).status == 400
        assert again(**inline(png()), thoughtSignature=ENCODED_SENTINEL).status == 200


class TestStrictness:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"n": 2}, 'Invalid JSON payload received. Unknown name "n": Cannot find field.'),
            (
                {"generationConfig": {"size": "1"}},
                "Unknown name \"size\" at 'generation_config': Cannot find field.",
            ),
            (
                {"generationConfig": {"imageConfig": {"size": "1"}}},
                "at 'generation_config.image_config'",
            ),
            ({"contents": [{"parts": [{"image": "x"}]}]}, "at 'contents[0].parts[0]'"),
            ({"generationConfig": {"seed": "x"}}, "(TYPE_INT32)"),
            ({"contents": "x"}, "Invalid value at 'contents'"),
            ({"contents": []}, "contents is not specified"),
            ({"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
            ({"contents": [{"role": "system", "parts": [{"text": "x"}]}]}, "valid role"),
            ({"contents": [{"parts": [{"text": "x", "inlineData": {}}]}]}, "oneof"),
            ({"generationConfig": {"responseModalities": ["image"]}}, "response_modalities"),
        ],
    )
    def test_fields(self, url: str, change: Any, message: str) -> None:
        reply = post(url, body() | change)
        assert complaint(reply) == (400, "INVALID_ARGUMENT")
        assert message in reply.json["error"]["message"]

    def test_both_spellings_null_and_numbers_as_text(self, url: str, server: Gemini) -> None:
        config = {
            "response_modalities": ["IMAGE"],
            "image_config": {"aspect_ratio": "4:3"},
            "seed": "9",
            "topP": None,
        }
        assert (
            post(url, body() | {"generationConfig": None, "generation_config": config}).status
            == 200
        )
        assert (server.jobs[0]["aspectRatio"], server.jobs[0]["seed"]) == ("4:3", 9)

    def test_keys_and_models(self, url: str) -> None:
        path = f"/v1beta/models/{FLASH}:generateContent"
        wrong = ask(url, "POST", path, body(), {"x-goog-api-key": "wrong"})
        assert complaint(wrong) == (400, "INVALID_ARGUMENT")
        assert wrong.json["error"]["details"][0]["reason"] == "API_KEY_INVALID"
        assert complaint(ask(url, "POST", path, body())) == (403, "PERMISSION_DENIED")
        for model in ("imagen-4.0-generate-001", "gemini-9"):
            assert complaint(post(url, body(), model)) == (404, "NOT_FOUND")
        assert complaint(post(url, body(), "gemini-2.5-flash")) == (400, "INVALID_ARGUMENT")
        assert complaint(post(url, body(), call="predict")) == (404, "NOT_FOUND")

    def test_models(self, url: str) -> None:
        found = ask(url, "GET", "/v1beta/models", headers=KEY).json
        assert found["models"][0]["name"] == f"models/{FLASH}" and "nextPageToken" not in found
        page = ask(url, "GET", "/v1beta/models?pageSize=3", headers=KEY).json
        rest = ask(
            url, "GET", f"/v1beta/models?pageSize=3&pageToken={page['nextPageToken']}", headers=KEY
        ).json
        assert page["models"] + rest["models"] == found["models"]
        assert ask(url, "GET", f"/v1beta/models/{FLASH}", headers=KEY).json == found["models"][0]


class TestRefusals:
    def test_they_are_200(self, url: str, server: Gemini) -> None:
        server.blocked = "PROHIBITED_CONTENT"
        reply = post(url, body())
        assert (reply.status, reply.json["promptFeedback"], "candidates" in reply.json) == (
            200,
            {"blockReason": "PROHIBITED_CONTENT"},
            False,
        )
        server.blocked, server.finish = None, "IMAGE_SAFETY"
        [candidate] = post(url, body()).json["candidates"]
        assert (candidate["finishReason"], candidate["content"]) == ("IMAGE_SAFETY", {})
        assert candidate["finishMessage"]
        server.finish, server.only_words = None, "I would rather not."
        [candidate] = post(url, body()).json["candidates"]
        assert (candidate["finishReason"], candidate["content"]["parts"]) == (
            "STOP",
            [{"text": "I would rather not."}],
        )

    def test_failures(self, url: str, server: Gemini) -> None:
        server.failures = ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "FAILED_PRECONDITION"]
        limited = post(url, body())
        assert complaint(limited) == (429, "RESOURCE_EXHAUSTED")
        assert limited.headers["retry-after"] is None
        assert limited.json["error"]["details"][1] == {
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": "34s",
        }
        assert complaint(post(url, body())) == (503, "UNAVAILABLE")
        assert complaint(post(url, body())) == (400, "FAILED_PRECONDITION")


class TestStreams:
    CALL = "streamGenerateContent?alt=sse"

    def test_the_bytes(self, url: str) -> None:
        reply = post(url, body(modalities=("TEXT", "IMAGE")), call=self.CALL)
        assert reply.kind == "text/event-stream"
        lines = reply.body.decode().split("\r\n\r\n")
        assert lines.pop() == ""
        assert all(line.startswith("data: {") for line in lines)
        found = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert len(found) == 3
        assert dot(images(found[1])[0]) == color({"prompt": "a red fox", "seed": 7})
        assert [item["candidates"][0].get("finishReason") for item in found] == [None, None, "STOP"]
        assert found[2]["usageMetadata"]["totalTokenCount"] == 3 + 4 + 1290

    def test_an_array_without_alt(self, url: str) -> None:
        reply = post(url, body(), call="streamGenerateContent")
        assert (reply.kind, len(reply.json)) == ("application/json; charset=UTF-8", 2)

    def test_streams_that_fail(self, url: str, server: Gemini) -> None:
        server.break_stream = "error"
        reply = post(url, body(), call=self.CALL)
        assert (
            json.loads(reply.body.decode().removeprefix("data: "))["error"]["status"] == "INTERNAL"
        )
        server.break_stream = "drop"
        with pytest.raises(http.client.IncompleteRead):
            post(url, body(), call=self.CALL)
        assert complaint(post(url, {"n": 1}, call=self.CALL)) == (400, "INVALID_ARGUMENT")
        server.wrapped = True
        assert post(url, {"n": 1}, call=self.CALL).json[0]["error"]["code"] == 400
        server.wrapped, server.blocked = False, "SAFETY"
        assert b"promptFeedback" in post(url, body(), call=self.CALL).body

    def test_a_held_stream_sees_who_leaves(self, url: str, server: Gemini) -> None:
        server.hold()
        connection = http.client.HTTPConnection(
            "127.0.0.1", int(url.rpartition(":")[2]), timeout=10
        )
        sent = json.dumps(body(modalities=("TEXT", "IMAGE")))
        connection.request("POST", f"/v1beta/models/{FLASH}:{self.CALL}", sent, KEY)
        reply = connection.getresponse()
        assert b"Here is your image" in reply.readline()
        reply.close()
        connection.close()
        assert server.left()
