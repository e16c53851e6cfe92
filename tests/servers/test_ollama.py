"""The Ollama images test server behaves as described in ollama-images.md."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.hashed_images import fingerprint
from tests.servers.ollama import BUSY, CRASHED, MEMORY, REMOVED, Ollama, color
from tests.servers.plain_client import (
    Response,
    b64,
    open_base64_image,
    pixel,
    png,
    send_form,
    send_request,
)
from tests.support.loopback import Handler, Loopback

Serve = Callable[[Handler], Loopback]
MODEL = "x/z-image-turbo"
FLUX = "x/flux2-klein"
SMALL_IMAGE = {"width": 64, "height": 48, "steps": 2, "options": {"seed": 7}}
SETTINGS = {"prompt": "a red fox", "width": 64, "height": 48, "steps": 2, "seed": 7}


@pytest.fixture
def server() -> Ollama:
    return Ollama()


@pytest.fixture
def url(server: Ollama, serve: Serve) -> str:
    return serve(server).url


def generate(url: str, model: str = MODEL, **body: Any) -> Response:
    return send_request(
        url, "POST", "/api/generate", {"model": model, "prompt": "a red fox", **SMALL_IMAGE, **body}
    )


def frames(reply: Response) -> list[Any]:
    return [json.loads(line) for line in reply.body.splitlines()]


def openai(url: str, route: str = "generations", **body: Any) -> Response:
    return send_request(
        url,
        "POST",
        f"/v1/images/{route}",
        {"model": MODEL, "prompt": "a red fox", "size": "64x48", "seed": 7, **body},
    )


class TestNative:
    def test_the_frames_of_a_stream(self, url: str) -> None:
        reply = generate(url)
        head = (
            '{"model":"x/z-image-turbo","created_at":"2026-02-01T10:00:00.1Z","response":"","done":'
        )
        lines = reply.body.decode().splitlines()
        assert (reply.status, reply.content_type) == (200, "application/x-ndjson")
        assert lines[:3] == [
            head + 'false,"total":2}',
            head + 'false,"completed":1,"total":2}',
            head + 'false,"completed":2,"total":2}',
        ]
        assert lines[3].startswith(
            head + 'true,"done_reason":"stop","total_duration":15000000000,'
            '"load_duration":2000000000,"image":"iVBOR'
        )
        assert len(lines) == 4
        assert pixel(open_base64_image(json.loads(lines[3])["image"])) == color(SETTINGS)

    def test_a_response_without_a_stream(self, url: str) -> None:
        reply = generate(url, stream=False)
        assert reply.content_type == "application/json; charset=utf-8"
        assert (reply.json["done"], open_base64_image(reply.json["image"]).size) == (True, (64, 48))

    def test_defaults_and_ignored_settings(self, url: str, server: Ollama) -> None:
        generate(
            url,
            width=0,
            height=-5,
            steps=0,
            options={"steps": 3, "seed": "7"},
            negative_prompt="x",
            n=3,
            images=[b64(png())],
        )
        job = server.jobs[0]
        assert (job["width"], job["height"], job["steps"], job["images"]) == (
            1024,
            1024,
            9,
            [],
        )
        assert job["seed"] != 7
        generate(url, FLUX, steps=0, width=100, height=100)
        assert (server.jobs[1]["steps"], server.jobs[1]["width"]) == (4, 96)
        generate(url, options={"seed": 2**53 + 1})
        assert server.jobs[2]["seed"] == 2**53
        generate(url, options={"seed": -1})
        assert server.jobs[3]["seed"] > 0

    def test_flux_limits_the_area(self, url: str, server: Ollama) -> None:
        image = open_base64_image(
            generate(url, FLUX, width=4096, height=2048, stream=False).json["image"]
        )
        assert image.size == (2896, 1440)

    def test_an_empty_prompt_loads_or_unloads_the_model(self, url: str, server: Ollama) -> None:
        assert generate(url, prompt="").json["done_reason"] == "load"
        assert generate(url, prompt="", keep_alive=0).json["done_reason"] == "unload"
        assert server.jobs == []

    @pytest.mark.parametrize("outcome", ["no_image", "crash", "cut", "dropped"])
    def test_failures_after_the_response_has_started(
        self, url: str, server: Ollama, outcome: str
    ) -> None:
        server.outcome = outcome
        if outcome == "dropped":
            with pytest.raises(http.client.IncompleteRead):
                generate(url)
            return
        reply = generate(url)
        assert reply.status == 200
        last = frames(reply)[-1]
        if outcome == "no_image":
            assert (last["done"], last["done_reason"], "image" in last, "error" in last) == (
                True,
                "stop",
                False,
                False,
            )
        else:
            assert last == {"error": CRASHED} if outcome == "crash" else last["completed"] == 1

    def test_invalid_requests_are_refused(self, url: str, server: Ollama) -> None:
        def status_and_body(reply: Response) -> tuple[int, Any]:
            return reply.status, reply.json

        assert status_and_body(generate(url, width=4097)) == (
            400,
            {"error": "width and height must be <= 4096"},
        )
        assert status_and_body(generate(url, "none")) == (404, {"error": "model 'none' not found"})
        assert status_and_body(send_request(url, "POST", "/api/generate", b"")) == (
            400,
            {"error": "missing request body"},
        )
        assert generate(url, width="64").status == 400
        assert generate(url, images=["data:image/png;base64,AAAA"]).status == 400
        assert send_request(url, "GET", "/api/generate").status == 405
        server.busy = True
        assert status_and_body(generate(url)) == (503, {"error": BUSY})
        assert "  " in BUSY
        server.busy, server.outcome = False, "memory"
        assert status_and_body(generate(url)) == (500, {"error": MEMORY})

    def test_a_text_model_ignores_image_fields(self, url: str) -> None:
        assert generate(url, "llama3.2", stream=False).json["response"] == "hello"

    def test_a_disconnect_between_steps_cancels(self, url: str, server: Ollama) -> None:
        server.hold()
        connection = http.client.HTTPConnection(
            "127.0.0.1", int(url.rpartition(":")[2]), timeout=10
        )
        connection.request(
            "POST", "/api/generate", json.dumps({"model": MODEL, "prompt": "x", **SMALL_IMAGE})
        )
        reply = connection.getresponse()
        assert json.loads(reply.readline())["total"] == 2
        reply.close()
        connection.close()
        assert server.left()
        server.release()
        assert generate(url).status == 200


class TestVersions:
    def test_some_versions_honor_input_images(self, serve: Serve) -> None:
        for version, honored in (
            ("0.14.3", False),
            ("0.15.0", True),
            ("0.15.4", True),
            ("0.15.5", False),
            ("0.32.5", False),
        ):
            server = Ollama(version)
            reply = generate(serve(server).url, images=[b64(png(size=(96, 32)))], stream=False)
            image = open_base64_image(reply.json["image"])
            assert server.jobs[0]["images"] == (
                [fingerprint(png(size=(96, 32)))] if honored else []
            )
            assert image.size == ((96, 32) if honored else (64, 48))
            assert pixel(image) == color(server.jobs[0])

    def test_current_versions_do_not_generate_images(self, serve: Serve) -> None:
        url = serve(Ollama("0.32.6")).url
        assert send_request(url, "GET", "/api/version").json == {"version": "0.32.6"}
        assert send_request(url, "POST", "/api/show", {"model": MODEL}).json["capabilities"] == [
            "image"
        ]
        assert (generate(url).status, generate(url).json) == (400, {"error": REMOVED})
        for name in ("generations", "edits"):
            reply = openai(url, name)
            assert (reply.status, reply.content_type, reply.body) == (
                404,
                "text/plain",
                b"404 page not found",
            )

    def test_versions_without_image_routes(self, serve: Serve) -> None:
        url = serve(Ollama("0.13.9")).url
        assert generate(url).status == 404
        assert openai(url).body == b"404 page not found"
        assert openai(serve(Ollama("0.14.3")).url, "edits").status == 404

    def test_version_0_14_1_streams_steps_as_text(self, serve: Serve) -> None:
        server = Ollama("0.14.1")
        url = serve(server).url
        first_frames = frames(generate(url))
        assert first_frames[1]["response"] == "\rGenerating: step 1/9"
        assert first_frames[-1]["response"].startswith("IMAGE_BASE64:iVBOR")
        reply = openai(url, stream=True)
        assert reply.content_type == "text/event-stream"
        assert reply.body.startswith(b'event:progress\ndata:{"step":1,"total":9}\n\n')
        assert b'event:done\ndata:{"created":' in reply.body
        assert list(openai(url).json["data"][0]) == ["b64_json"]
        server.outcome = "no_image"
        assert openai(url).json["data"] == [{}]
        assert openai(url, stream=True).body.endswith(
            b'event:error\ndata:{"error":"' + CRASHED.encode() + b'"}\n\n'
        )

    def test_tags_list_capabilities_since_0_30(self, serve: Serve) -> None:
        models = {MODEL: ("image",), "old": ()}
        listed_models = send_request(serve(Ollama("0.30.0", models)).url, "GET", "/api/tags").json[
            "models"
        ]
        assert listed_models[0]["name"] == f"{MODEL}:latest"
        assert [item.get("capabilities") for item in listed_models] == [["image"], None]
        listed_models = send_request(serve(Ollama("0.29.9", models)).url, "GET", "/api/tags").json[
            "models"
        ]
        assert "capabilities" not in listed_models[0]


class TestOpenAI:
    def test_the_response_is_one_object_with_the_ndjson_content_type(
        self, url: str, server: Ollama
    ) -> None:
        reply = openai(url, n=3, stream=True, steps=2, response_format="url")
        assert (reply.content_type, list(reply.json), len(reply.json["data"])) == (
            "application/x-ndjson",
            ["created", "data"],
            1,
        )
        assert pixel(open_base64_image(reply.json["data"][0]["b64_json"])) == color(
            {**SETTINGS, "steps": 9}
        )

    def test_sizes_are_read_leniently(self, url: str, server: Ollama) -> None:
        for size in ("auto", "64x48 or so"):
            openai(url, size=size)
        assert [(job["width"], job["height"]) for job in server.jobs] == [
            (1024, 1024),
            (64, 48),
        ]

    @pytest.mark.parametrize("outcome", ["no_image", "crash", "cut"])
    def test_a_failure_is_an_empty_200_response(
        self, url: str, server: Ollama, outcome: str
    ) -> None:
        server.outcome = outcome
        reply = openai(url)
        assert (reply.status, reply.body) == (200, b"")

    def test_a_text_model_is_an_empty_200_response(self, url: str) -> None:
        reply = openai(url, model="llama3.2")
        assert (reply.status, reply.body) == (200, b"")

    def test_invalid_requests_are_refused(self, url: str, server: Ollama) -> None:
        error = {
            "message": "prompt is required",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        assert (openai(url, prompt="").status, openai(url, prompt="").json) == (
            400,
            {"error": error},
        )
        assert openai(url, model="").json["error"]["message"] == "model is required"
        assert openai(url, model="none").json["error"]["type"] == "not_found_error"
        server.outcome = "memory"
        assert (openai(url).status, openai(url).json["error"]["type"]) == (500, "api_error")

    def test_edits_accept_one_data_url(self, serve: Serve) -> None:
        server = Ollama("0.15.2")
        url = serve(server).url
        image = b64(png(size=(96, 32)))
        for prefix in ("data:image/png;base64,", "data:;base64,"):
            assert openai(url, "edits", image=prefix + image).status == 200
        assert [job["images"] for job in server.jobs] == [[fingerprint(png(size=(96, 32)))]] * 2
        assert (
            openai(url, "edits", image=image).json["error"]["message"]
            == "invalid image: invalid image input"
        )
        assert (
            "URLs are not currently supported"
            in openai(url, "edits", image="https://x/y.png").json["error"]["message"]
        )
        reply = send_form(
            url,
            "/v1/images/edits",
            [("model", MODEL), ("prompt", "x"), ("image", png(), "image/png")],
        )
        assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
