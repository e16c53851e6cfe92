"""The OpenAI images test server behaves as described in openai-images.md."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.hashed_images import fingerprint
from tests.servers.openai_images import OpenAIImages, color
from tests.servers.plain_client import (
    Field,
    Response,
    b64,
    halves,
    open_base64_image,
    pixel,
    png,
    send_form,
    send_request,
)
from tests.support.loopback import Handler, Loopback

Serve = Callable[[Handler], Loopback]
KEY = {"Authorization": "Bearer k"}
DATA = "data:image/png;base64,"


@pytest.fixture
def server() -> OpenAIImages:
    return OpenAIImages()


@pytest.fixture
def url(server: OpenAIImages, serve: Serve) -> str:
    return serve(server).url


def generate(url: str, model: str = "gpt-image-1.5", **body: Any) -> Response:
    return send_request(
        url, "POST", "/v1/images/generations", {"model": model, "prompt": "a red fox", **body}, KEY
    )


def edit(url: str, *fields: Field, model: str = "gpt-image-1.5") -> Response:
    return send_form(url, "/v1/images/edits", [("model", model), ("prompt", "a hat"), *fields], KEY)


def edit_json(url: str, **body: Any) -> Response:
    return send_request(
        url, "POST", "/v1/images/edits", {"model": "gpt-image-1.5", "prompt": "a hat", **body}, KEY
    )


def error_of(reply: Response) -> tuple[int, str | None, str | None]:
    return reply.status, reply.json["error"]["code"], reply.json["error"]["param"]


class TestGenerations:
    def test_images_have_the_requested_settings(self, url: str, server: OpenAIImages) -> None:
        reply = generate(url, n=2, quality="low", size="1536x1024")
        assert list(reply.json) == [
            "created",
            "data",
            "background",
            "output_format",
            "size",
            "quality",
            "usage",
        ]
        images = [open_base64_image(item["b64_json"]) for item in reply.json["data"]]
        assert [image.size for image in images] == [(1536, 1024)] * 2
        settings = {
            "model": "gpt-image-1.5",
            "prompt": "a red fox",
            "quality": "low",
            "size": "1536x1024",
        }
        assert [pixel(image) for image in images] == [color(settings), color(settings, 1)]
        assert reply.json["usage"]["total_tokens"] == 103
        assert reply.headers["x-request-id"].startswith("req_")
        assert server.jobs[0]["n"] == 2

    def test_the_server_resolves_auto(self, url: str) -> None:
        reply = generate(url, size="auto", quality="auto", background="auto")
        assert [reply.json[name] for name in ("size", "quality", "background")] == [
            "1024x1024",
            "high",
            "opaque",
        ]
        assert pixel(open_base64_image(reply.json["data"][0]["b64_json"])) == color(
            {"model": "gpt-image-1.5", "prompt": "a red fox"}
        )

    @pytest.mark.parametrize(
        ("model", "name", "value"),
        [
            ("gpt-image-1", "response_format", "b64_json"),
            ("gpt-image-2", "style", "vivid"),
            ("gpt-image-1", "seed", 5),
            ("gpt-image-1", "negative_prompt", "x"),
            ("gpt-image-1", "input_fidelity", "high"),
            ("gpt-image-1", "mask", "x"),
            ("dall-e-2", "style", "vivid"),
            ("dall-e-2", "output_format", "png"),
            ("dall-e-3", "background", "opaque"),
            ("dall-e-3", "stream", True),
            ("dall-e-3", "moderation", "low"),
        ],
    )
    def test_unknown_parameters_are_refused(
        self, url: str, server: OpenAIImages, model: str, name: str, value: Any
    ) -> None:
        reply = generate(url, model, **{name: value})
        assert error_of(reply) == (400, "unknown_parameter", name)
        assert reply.json["error"]["message"] == f"Unknown parameter: '{name}'."
        assert reply.json["error"]["type"] == "invalid_request_error"
        assert server.jobs == []

    @pytest.mark.parametrize(
        ("model", "name", "value"),
        [
            ("dall-e-2", "size", "1792x1024"),
            ("dall-e-3", "size", "512x512"),
            ("gpt-image-1", "size", "512x512"),
            ("gpt-image-2", "size", "1000x1000"),
            ("gpt-image-2", "size", "1600x512"),
            ("gpt-image-2", "size", "4096x2048"),
            ("dall-e-2", "quality", "hd"),
            ("gpt-image-1", "quality", "standard"),
            ("dall-e-3", "style", "bold"),
            ("dall-e-3", "n", 2),
            ("gpt-image-1", "n", 11),
            ("gpt-image-1", "n", 0),
            ("gpt-image-1", "partial_images", 4),
            ("gpt-image-1", "output_format", "jpg"),
            ("gpt-image-1", "output_compression", 50),
            ("gpt-image-1", "moderation", "high"),
        ],
    )
    def test_invalid_values_are_refused(self, url: str, model: str, name: str, value: Any) -> None:
        assert error_of(generate(url, model, **{name: value})) == (400, "invalid_value", name)

    @pytest.mark.parametrize("size", ["1600x544", "3840x2160", "2160x3840", "256x256", "1024x1536"])
    def test_gpt_image_2_accepts_free_sizes(self, url: str, size: str) -> None:
        assert generate(url, "gpt-image-2", size=size).json["size"] == size

    def test_types_and_lengths_are_checked(self, url: str) -> None:
        assert error_of(generate(url, n="2")) == (400, "invalid_type", "n")
        assert error_of(generate(url, stream="yes")) == (400, "invalid_type", "stream")
        assert error_of(generate(url, prompt="")) == (400, "missing_required_parameter", "prompt")
        assert error_of(generate(url, "dall-e-2", prompt="x" * 1001)) == (
            400,
            "string_above_max_length",
            "prompt",
        )
        assert generate(url, "dall-e-3", prompt="x" * 1001).status == 200
        assert send_request(url, "POST", "/v1/images/generations", b"{", KEY).status == 400

    def test_format_compression_and_transparency(self, url: str) -> None:
        reply = generate(url, output_format="webp", output_compression=50, background="transparent")
        image = open_base64_image(reply.json["data"][0]["b64_json"])
        assert (image.format, image.mode) == ("WEBP", "RGBA")
        assert (
            image.getchannel("A").getpixel((0, 0)) == 0
            and image.getchannel("A").getpixel((512, 512)) == 255
        )
        assert error_of(generate(url, output_format="jpeg", background="transparent")) == (
            400,
            "invalid_value",
            "background",
        )

    def test_dall_e_returns_urls_that_expire(self, url: str, server: OpenAIImages) -> None:
        [item] = generate(url, "dall-e-2", size="256x256").json["data"]
        assert list(item) == ["url"]
        path = item["url"].removeprefix(url)
        image = send_request(url, "GET", path)
        assert (image.status, image.content_type) == (200, "image/png")
        assert pixel(open_base64_image(b64(image.body))) == color(
            {"model": "dall-e-2", "prompt": "a red fox", "size": "256x256"}
        )
        assert send_request(url, "GET", path, headers=KEY).status == 403
        server.expire_urls()
        assert send_request(url, "GET", path).status == 404
        assert len(server.downloads) == 3
        reply = generate(url, "dall-e-3", response_format="b64_json", quality="hd")
        assert list(reply.json) == ["created", "data"]
        assert set(reply.json["data"][0]) == {"b64_json", "revised_prompt"}

    def test_the_default_model_depends_on_the_parameters(
        self, url: str, server: OpenAIImages
    ) -> None:
        send_request(url, "POST", "/v1/images/generations", {"prompt": "x"}, KEY)
        send_request(
            url, "POST", "/v1/images/generations", {"prompt": "x", "background": "opaque"}, KEY
        )
        edit_json(url, images=[{"image_url": DATA + b64(png())}], model=None)
        assert [job["model"] for job in server.jobs] == [
            "dall-e-2",
            "gpt-image-1",
            "gpt-image-1.5",
        ]

    def test_keys_models_and_routes_are_checked(self, url: str) -> None:
        reply = send_request(
            url,
            "POST",
            "/v1/images/generations",
            {"prompt": "x"},
            {"Authorization": "Bearer wrong"},
        )
        assert error_of(reply) == (401, "invalid_api_key", None)
        assert send_request(url, "POST", "/v1/images/generations", {"prompt": "x"}).status == 401
        assert error_of(generate(url, "gpt-image-9")) == (404, "model_not_found", "model")
        assert send_request(url, "POST", "/v1/images/variations", {}, KEY).status == 404
        assert "gpt-image-2" in [
            item["id"] for item in send_request(url, "GET", "/v1/models", headers=KEY).json["data"]
        ]

    def test_refused_prompts_and_configured_failures(self, url: str, server: OpenAIImages) -> None:
        reply = generate(url, prompt="something forbidden")
        assert (reply.status, reply.json["error"]["code"]) == (400, "moderation_blocked")
        assert reply.json["error"]["type"] == "image_generation_user_error"
        assert reply.json["error"]["moderation_details"]["moderation_stage"] == "input"
        assert (
            generate(url, "dall-e-3", prompt="forbidden").json["error"]["code"]
            == "content_policy_violation"
        )
        server.failures = [
            (429, "rate_limit_exceeded"),
            (429, "insufficient_quota"),
            (500, "server_error"),
        ]
        replies = [generate(url) for _ in range(4)]
        assert [item.status for item in replies] == [429, 429, 500, 200]
        assert [item.headers["retry-after"] for item in replies[:2]] == ["1", None]

    def test_responses_can_lack_keys_and_images(self, url: str, server: OpenAIImages) -> None:
        server.without = {"usage", "data"}
        assert "usage" not in generate(url).json and "data" not in generate(url).json
        server.without, server.empty_data = set(), True
        assert generate(url).json["data"] == []


class TestEdits:
    def test_one_image_and_several_images(self, url: str, server: OpenAIImages) -> None:
        first, second = png("red"), png("blue", kind="JPEG")
        reply = edit(url, ("image", first, "image/png"), ("input_fidelity", "high"), ("n", "2"))
        job = server.jobs[0]
        assert job["images"] == [fingerprint(first)]
        assert [pixel(open_base64_image(item["b64_json"])) for item in reply.json["data"]] == [
            color(job),
            color(job, 1),
        ]
        assert reply.json["usage"]["input_tokens_details"] == {"text_tokens": 2, "image_tokens": 40}
        edit(
            url,
            ("image[]", first, "image/png"),
            ("image[]", second, "image/jpeg"),
            ("size", "auto"),
        )
        assert server.jobs[1]["images"] == [fingerprint(first), fingerprint(second)]
        assert server.jobs[1]["size"] == "1536x1024"

    def test_transparent_mask_areas_are_repainted(self, url: str, server: OpenAIImages) -> None:
        mask = halves((0, 0, 0, 255), (0, 0, 0, 0), mode="RGBA")
        image = open_base64_image(
            edit(url, ("image", png("red"), "image/png"), ("mask", mask, "image/png")).json["data"][
                0
            ]["b64_json"]
        )
        assert (pixel(image, 0), pixel(image, 1023)) == ((255, 0, 0), color(server.jobs[0]))

    @pytest.mark.parametrize(
        "mask",
        [
            halves(0, 255),
            png(mode="RGB"),
            halves((0, 0, 0, 255), (0, 0, 0, 0), (32, 32), "RGBA"),
            png(kind="JPEG"),
            b"x",
        ],
    )
    def test_invalid_masks_are_refused(self, url: str, mask: bytes) -> None:
        reply = edit(url, ("image", png("red"), "image/png"), ("mask", mask, "image/png"))
        assert error_of(reply) == (400, "invalid_mask_image_format", "mask")

    def test_invalid_files_are_refused(self, url: str) -> None:
        valid = ("image", png(), "image/png")
        assert error_of(edit(url, ("image", png(), "application/octet-stream"))) == (
            400,
            "unsupported_file_mimetype",
            "image",
        )
        assert error_of(edit(url, ("image", "text"))) == (
            400,
            "unsupported_file_mimetype",
            "image",
        )
        assert error_of(edit(url, valid, valid)) == (400, "duplicate_parameter", "image")
        assert error_of(edit(url)) == (400, "invalid_value", "image")
        assert error_of(edit(url, *[("image[]", png(), "image/png")] * 17)) == (
            400,
            "invalid_value",
            "image",
        )
        assert error_of(edit(url, ("image", b"x", "image/png"))) == (
            400,
            "invalid_image_file",
            "image",
        )
        assert error_of(edit(url, valid, ("moderation", "low"))) == (
            400,
            "unknown_parameter",
            "moderation",
        )
        assert error_of(edit(url, valid, ("n", "two"))) == (400, "invalid_type", "n")
        assert error_of(edit(url, valid, ("input_fidelity", "low"), model="gpt-image-1-mini")) == (
            400,
            "unknown_parameter",
            "input_fidelity",
        )

    def test_dall_e_edits_square_png_images(self, url: str, server: OpenAIImages) -> None:
        square = ("image", png(size=(64, 64)), "image/png")
        assert (
            edit(
                url, square, ("size", "256x256"), ("response_format", "b64_json"), model="dall-e-2"
            ).status
            == 200
        )
        assert error_of(edit(url, ("image", png(), "image/png"), model="dall-e-2")) == (
            400,
            "invalid_image_file",
            "image",
        )
        assert (
            error_of(
                edit(
                    url,
                    ("image[]", png(), "image/png"),
                    ("image[]", png(), "image/png"),
                    model="dall-e-2",
                )
            )[0]
            == 400
        )
        assert error_of(edit(url, square, model="dall-e-3")) == (400, "invalid_value", "model")
        masked = halves((255, 0, 0, 255), (255, 0, 0, 0), (64, 64), "RGBA")
        fields = [
            ("image", masked, "image/png"),
            ("size", "256x256"),
            ("response_format", "b64_json"),
        ]
        image = open_base64_image(edit(url, *fields, model="dall-e-2").json["data"][0]["b64_json"])
        assert (pixel(image, 0), pixel(image, 255)) == ((255, 0, 0), color(server.jobs[1]))

    def test_json_edits(self, url: str, server: OpenAIImages) -> None:
        server.files["file-1"] = halves((0, 0, 0, 255), (0, 0, 0, 0), mode="RGBA")
        red = DATA + b64(png("red"))
        reply = edit_json(
            url, images=[{"image_url": red}], mask={"file_id": "file-1"}, moderation="low"
        )
        image = open_base64_image(reply.json["data"][0]["b64_json"])
        assert (pixel(image, 0), pixel(image, 1023)) == ((255, 0, 0), color(server.jobs[0]))
        assert error_of(edit_json(url, image=red)) == (400, "unknown_parameter", "image")
        assert error_of(edit_json(url, images=[{"image_url": red, "file_id": "file-1"}])) == (
            400,
            "invalid_value",
            "images",
        )
        assert error_of(edit_json(url, images=[{"image_url": b64(png())}])) == (
            400,
            "invalid_image_url",
            "images",
        )
        assert edit_json(url, images=[{"image_url": red}], model="dall-e-2").status == 400


class TestStreams:
    def test_the_events_of_a_stream(self, url: str) -> None:
        reply = generate(url, stream=True, partial_images=2)
        assert reply.content_type == "text/event-stream"
        assert reply.body.startswith(
            b"event: image_generation.partial_image\n"
            b'data: {"type":"image_generation.partial_image","b64_json":"'
        )
        assert [name for name, _ in reply.events] == ["image_generation.partial_image"] * 2 + [
            "image_generation.completed"
        ]
        assert all(name == data["type"] for name, data in reply.events)
        partial, last = reply.events[0][1], reply.events[2][1]
        settings = ["size", "quality", "background", "output_format"]
        assert list(partial) == ["type", "b64_json", "partial_image_index", "created_at", *settings]
        assert list(last) == ["type", "b64_json", "created_at", *settings, "usage"]
        assert last["usage"]["output_tokens"] == 250
        expected = {"model": "gpt-image-1.5", "prompt": "a red fox"}
        assert pixel(open_base64_image(last["b64_json"])) == color(expected)
        assert (
            pixel(open_base64_image(reply.events[1][1]["b64_json"]))
            == color(expected, partial=1)
            != color(expected)
        )

    def test_edit_streams_have_their_own_event_names(self, url: str) -> None:
        reply = edit(
            url, ("image", png(), "image/png"), ("stream", "true"), ("partial_images", "1")
        )
        assert [name for name, _ in reply.events] == [
            "image_edit.partial_image",
            "image_edit.completed",
        ]

    def test_fewer_or_no_partial_images_and_a_plain_response(
        self, url: str, server: OpenAIImages
    ) -> None:
        server.partials = 1
        assert len(generate(url, stream=True, partial_images=3).events) == 2
        assert len(generate(url, stream=True, partial_images=0).events) == 1
        server.ignore_stream = True
        assert "data" in generate(url, stream=True).json

    def test_streams_can_fail(self, url: str, server: OpenAIImages) -> None:
        [first, (name, last)] = generate(
            url, stream=True, partial_images=1, prompt="refused midway"
        ).events
        assert first[0] == "image_generation.partial_image"
        assert (name, last["type"], last["error"]["code"]) == (
            "error",
            "error",
            "moderation_blocked",
        )
        assert generate(url, stream=True, prompt="forbidden").status == 400
        server.cut_stream = True
        assert [name for name, _ in generate(url, stream=True, partial_images=1).events] == [
            "image_generation.partial_image"
        ]
        server.cut_stream, server.sentinel = False, True
        assert generate(url, stream=True).body.endswith(b"\n\ndata: [DONE]\n\n")

    def test_a_held_stream_sends_partial_images_and_detects_a_disconnect(
        self, url: str, server: OpenAIImages
    ) -> None:
        server.hold()
        connection = http.client.HTTPConnection(
            "127.0.0.1", int(url.rpartition(":")[2]), timeout=10
        )
        body = json.dumps(
            {"model": "gpt-image-1", "prompt": "x", "stream": True, "partial_images": 1}
        )
        connection.request(
            "POST", "/v1/images/generations", body, {"Content-Type": "application/json", **KEY}
        )
        reply = connection.getresponse()
        assert reply.readline() == b"event: image_generation.partial_image\n"
        assert server.holding()
        reply.close()
        connection.close()
        assert server.left()
