"""The Gemini images test server behaves as described in gemini-images.md."""

from __future__ import annotations

import http.client
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.gemini import ENCODED_SENTINEL, Gemini, color, pixels
from tests.servers.hashed_images import fingerprint
from tests.servers.plain_client import Response, b64, open_base64_image, pixel, png, send_request
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


def post(url: str, payload: Any, model: str = FLASH, call: str = "generateContent") -> Response:
    return send_request(url, "POST", f"/v1beta/models/{model}:{call}", payload, KEY)


def inline(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {"inlineData": {"mimeType": kind, "data": b64(data)}}


def images(response: Any) -> list[Any]:
    parts = response["candidates"][0]["content"]["parts"]
    return [open_base64_image(part["inlineData"]["data"]) for part in parts if "inlineData" in part]


def error_of(reply: Response) -> tuple[int, str]:
    assert reply.json["error"]["code"] == reply.status
    return reply.status, reply.json["error"]["status"]


class TestImages:
    def test_an_image_has_the_requested_ratio_and_usage(self, url: str) -> None:
        reply = post(url, body(imageConfig={"aspectRatio": "1:1"}))
        [candidate] = reply.json["candidates"]
        assert (candidate["finishReason"], candidate["content"]["role"]) == ("STOP", "model")
        [part] = candidate["content"]["parts"]
        assert part["inlineData"]["mimeType"] == "image/png" and "thoughtSignature" not in part
        [image] = images(reply.json)
        assert (image.size, pixel(image)) == (
            (1024, 1024),
            color({"prompt": "a red fox", "seed": 7}),
        )
        assert reply.json["usageMetadata"] == {
            "promptTokenCount": 3,
            "candidatesTokenCount": 1290,
            "totalTokenCount": 1293,
        }

    def test_images_have_the_requested_size(self, url: str) -> None:
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
    def test_unsupported_sizes_are_refused(self, url: str, model: str, config: Any) -> None:
        assert error_of(post(url, body(imageConfig=config), model)) == (400, "INVALID_ARGUMENT")

    def test_input_images_count_and_set_the_ratio(self, url: str, server: Gemini) -> None:
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
        assert pixel(images(reply.json)[0]) == color(server.jobs[0])
        assert reply.json["usageMetadata"]["promptTokenCount"] == 3 + 2 * 258

    def test_unreadable_images_are_refused(self, url: str) -> None:
        for part in (
            inline(b"x"),
            inline(png(), "image/*"),
            {"inlineData": {"mimeType": "image/png", "data": "a b"}},
        ):
            assert error_of(post(url, body(part))) == (400, "INVALID_ARGUMENT")
        assert error_of(post(url, body({"fileData": {"fileUri": "files/2"}}))) == (
            403,
            "PERMISSION_DENIED",
        )

    def test_text_drafts_and_no_modality(self, url: str, server: Gemini) -> None:
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
        assert pixel(images(reply)[0]) == color(server.jobs[2], draft=True)
        assert pixel(images(reply)[1]) == color(server.jobs[2])
        assert reply["usageMetadata"]["thoughtsTokenCount"] == 1292

    def test_images_without_a_seed_differ(self, url: str, server: Gemini) -> None:
        colors = [pixel(images(post(url, body(seed=None)).json)[0]) for _ in range(2)]
        assert colors[0] != colors[1]
        assert [color(settings) for settings in server.jobs] == colors

    def test_images_must_come_back_with_their_signature(self, url: str) -> None:
        first = post(url, body(), PRO).json["candidates"][0]["content"]
        part = first["parts"][0]

        def post_again(**changes: Any) -> Response:
            changed_part = {
                name: value for name, value in (part | changes).items() if value is not None
            }
            turns = [
                *body()["contents"],
                {"role": "model", "parts": [changed_part]},
                {"role": "user", "parts": [{"text": "a hat"}]},
            ]
            return post(url, body() | {"contents": turns}, PRO)

        assert post_again().status == 200
        assert "thought_signature" in post_again(thoughtSignature=None).json["error"]["message"]
        assert post_again(thoughtSignature="AAAA").status == 400
        assert post_again(**inline(png())).status == 400
        assert post_again(**inline(png()), thoughtSignature=ENCODED_SENTINEL).status == 200


class TestValidation:
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
    def test_invalid_fields_are_refused(self, url: str, change: Any, message: str) -> None:
        reply = post(url, body() | change)
        assert error_of(reply) == (400, "INVALID_ARGUMENT")
        assert message in reply.json["error"]["message"]

    def test_both_spellings_null_and_numbers_as_text_are_accepted(
        self, url: str, server: Gemini
    ) -> None:
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

    def test_keys_and_models_are_checked(self, url: str) -> None:
        path = f"/v1beta/models/{FLASH}:generateContent"
        wrong = send_request(url, "POST", path, body(), {"x-goog-api-key": "wrong"})
        assert error_of(wrong) == (400, "INVALID_ARGUMENT")
        assert wrong.json["error"]["details"][0]["reason"] == "API_KEY_INVALID"
        assert error_of(send_request(url, "POST", path, body())) == (403, "PERMISSION_DENIED")
        for model in ("imagen-4.0-generate-001", "gemini-9"):
            assert error_of(post(url, body(), model)) == (404, "NOT_FOUND")
        assert error_of(post(url, body(), "gemini-2.5-flash")) == (400, "INVALID_ARGUMENT")
        assert error_of(post(url, body(), call="predict")) == (404, "NOT_FOUND")

    def test_models_are_listed_in_pages(self, url: str) -> None:
        models = send_request(url, "GET", "/v1beta/models", headers=KEY).json
        assert models["models"][0]["name"] == f"models/{FLASH}" and "nextPageToken" not in models
        page = send_request(url, "GET", "/v1beta/models?pageSize=3", headers=KEY).json
        rest = send_request(
            url, "GET", f"/v1beta/models?pageSize=3&pageToken={page['nextPageToken']}", headers=KEY
        ).json
        assert page["models"] + rest["models"] == models["models"]
        assert (
            send_request(url, "GET", f"/v1beta/models/{FLASH}", headers=KEY).json
            == models["models"][0]
        )


class TestRefusals:
    def test_refusals_have_status_200(self, url: str, server: Gemini) -> None:
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

    def test_configured_failures_have_the_error_format(self, url: str, server: Gemini) -> None:
        server.failures = ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "FAILED_PRECONDITION"]
        limited = post(url, body())
        assert error_of(limited) == (429, "RESOURCE_EXHAUSTED")
        assert limited.headers["retry-after"] is None
        assert limited.json["error"]["details"][1] == {
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": "34s",
        }
        assert error_of(post(url, body())) == (503, "UNAVAILABLE")
        assert error_of(post(url, body())) == (400, "FAILED_PRECONDITION")


class TestStreams:
    CALL = "streamGenerateContent?alt=sse"

    def test_the_frames_of_a_stream(self, url: str) -> None:
        reply = post(url, body(modalities=("TEXT", "IMAGE")), call=self.CALL)
        assert reply.content_type == "text/event-stream"
        lines = reply.body.decode().split("\r\n\r\n")
        assert lines.pop() == ""
        assert all(line.startswith("data: {") for line in lines)
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert len(chunks) == 3
        assert pixel(images(chunks[1])[0]) == color({"prompt": "a red fox", "seed": 7})
        assert [item["candidates"][0].get("finishReason") for item in chunks] == [
            None,
            None,
            "STOP",
        ]
        assert chunks[2]["usageMetadata"]["totalTokenCount"] == 3 + 4 + 1290

    def test_a_stream_without_alt_is_an_array(self, url: str) -> None:
        reply = post(url, body(), call="streamGenerateContent")
        assert (reply.content_type, len(reply.json)) == ("application/json; charset=UTF-8", 2)

    def test_streams_can_fail(self, url: str, server: Gemini) -> None:
        server.break_stream = "error"
        reply = post(url, body(), call=self.CALL)
        assert (
            json.loads(reply.body.decode().removeprefix("data: "))["error"]["status"] == "INTERNAL"
        )
        server.break_stream = "drop"
        with pytest.raises(http.client.IncompleteRead):
            post(url, body(), call=self.CALL)
        assert error_of(post(url, {"n": 1}, call=self.CALL)) == (400, "INVALID_ARGUMENT")
        server.wrapped = True
        assert post(url, {"n": 1}, call=self.CALL).json[0]["error"]["code"] == 400
        server.wrapped, server.blocked = False, "SAFETY"
        assert b"promptFeedback" in post(url, body(), call=self.CALL).body

    def test_a_held_stream_detects_a_disconnect(self, url: str, server: Gemini) -> None:
        server.hold()
        connection = http.client.HTTPConnection(
            "127.0.0.1", int(url.rpartition(":")[2]), timeout=10
        )
        payload = json.dumps(body(modalities=("TEXT", "IMAGE")))
        connection.request("POST", f"/v1beta/models/{FLASH}:{self.CALL}", payload, KEY)
        reply = connection.getresponse()
        assert b"Here is your image" in reply.readline()
        reply.close()
        connection.close()
        assert server.left()
