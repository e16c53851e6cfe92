"""The llama-swap test server, tested for each fact in llama-swap.md."""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.servers.llamaswap import LlamaSwap
from tests.servers.plain_client import (
    Response,
    open_base64_image,
    pixel,
    png,
    send_form,
    send_request,
)
from tests.servers.stable_diffusion import StableDiffusion, color
from tests.support.loopback import Handler, Loopback

Serve = Callable[[Handler], Loopback]
JSON = {"Accept": "application/json"}
BODY = {"model": "sdxl", "prompt": "x"}


@pytest.fixture
def models() -> Iterator[dict[str, StableDiffusion]]:
    servers = {name: StableDiffusion(size=(64, 64)) for name in ("sdxl", "org/flux")}
    yield servers
    for server in servers.values():
        server.release()


@pytest.fixture
def swap(models: dict[str, StableDiffusion]) -> LlamaSwap:
    return LlamaSwap(models, declared=["sdxl"], aliases={"xl": "sdxl"})


@pytest.fixture
def url(swap: LlamaSwap, serve: Serve) -> str:
    return serve(swap).url


@pytest.fixture
def start_request() -> Iterator[Callable[..., Future[Response]]]:
    """Return a function that sends a request from another thread."""
    with ThreadPoolExecutor() as pool:
        yield lambda *args, **options: pool.submit(send_request, *args, **options)


def generate(
    url: str, model: Any = "sdxl", headers: dict[str, str] | None = None, **body: Any
) -> Response:
    """Post a generation request."""
    return send_request(
        url,
        "POST",
        "/v1/images/generations",
        {"model": model, "prompt": "a fox", **body},
        JSON | (headers or {}),
    )


def test_the_event_stream_reports_each_change_of_state(url: str, swap: LlamaSwap) -> None:
    def states(response: http.client.HTTPResponse) -> dict[str, str]:
        assert response.readline() == b"event:message\n"
        message = json.loads(response.readline().removeprefix(b"data:"))
        assert (message["type"], response.readline()) == ("modelStatus", b"\n")
        return {model["id"]: model["state"] for model in json.loads(message["data"])}

    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    connection.request("GET", "/api/events")
    with connection.getresponse() as response:
        assert states(response) == {"sdxl": "stopped", "org/flux": "stopped"}
        assert generate(url).status == 200
        current = states(response)
        if current["sdxl"] == "starting":
            current = states(response)
        assert current == {"sdxl": "ready", "org/flux": "stopped"}
        swap.unload("sdxl")
        assert states(response)["sdxl"] == "stopped"
    connection.close()


class TestRouting:
    def test_the_model_is_read_from_body_form_or_query(
        self, url: str, models: dict[str, StableDiffusion], swap: LlamaSwap
    ) -> None:
        image = open_base64_image(generate(url).json["data"][0]["b64_json"])
        assert pixel(image) == color({"prompt": "a fox", "width": 64, "height": 64})
        txt2img = send_request(
            url, "POST", "/sdapi/v1/txt2img", {"model": "org/flux", "prompt": "x", "seed": 3}
        )
        assert txt2img.json["parameters"]["model"] == "org/flux"
        fields = [("model", "xl"), ("prompt", "x"), ("image[]", png(), "image/png")]
        assert send_form(url, "/v1/images/edits", fields).status == 200
        assert send_request(url, "GET", "/sdapi/v1/loras?model=sdxl").json == []
        assert [len(models[name].jobs) for name in ("sdxl", "org/flux")] == [2, 1]
        assert swap.loads == ["sdxl", "org/flux", "sdxl"]

    def test_upstream_paths_are_forwarded(
        self, url: str, models: dict[str, StableDiffusion]
    ) -> None:
        accepted = send_request(url, "POST", "/upstream/org/flux/sdcpp/v1/img_gen", {"prompt": "x"})
        assert accepted.status == 202
        assert accepted.json["poll_url"].startswith("/sdcpp/v1/jobs/")
        assert (
            send_request(url, "GET", "/upstream/org/flux" + accepted.json["poll_url"]).status == 200
        )
        assert send_request(url, "GET", accepted.json["poll_url"]).status == 404
        assert send_request(url, "GET", "/upstream/sdxl/sdapi/v1/progress").body == b""
        assert (
            send_request(url, "GET", "/upstream/none/x", headers=JSON).json["error"]["message"]
            == "model not found"
        )
        moved = send_request(url, "GET", "/upstream/sdxl")
        assert (moved.status, moved.headers["location"]) == (301, "/upstream/sdxl/")
        assert send_request(url, "POST", "/upstream/sdxl").status == 308

    @pytest.mark.parametrize(
        "path",
        ["/v1/images/variations", "/sdcpp/v1/img_gen", "/sdapi/v1/samplers", "/sdapi/v1/progress"],
    )
    def test_unknown_routes_are_not_found(self, url: str, path: str) -> None:
        for method in ("GET", "POST"):
            reply = send_request(url, method, path)
            assert (reply.status, reply.body, reply.content_type) == (
                404,
                b"404 page not found\n",
                "text/plain; charset=utf-8",
            )
        assert send_request(url, "GET", "/v1/images/generations").status == 405

    @pytest.mark.parametrize("body", [{"prompt": "x"}, {"model": 5}, [], b"{"])
    def test_a_request_without_a_model_is_not_found(self, url: str, body: Any) -> None:
        reply = send_request(url, "POST", "/v1/images/generations", body, JSON)
        assert (reply.status, reply.json["error"]["message"]) == (
            404,
            "no model id could be identified",
        )

    def test_json_needs_its_content_type(self, url: str) -> None:
        assert (
            send_request(
                url,
                "POST",
                "/sdapi/v1/txt2img",
                b'{"model":"sdxl"}',
                {"Content-Type": "text/plain"},
            ).status
            == 404
        )
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (
            send_request(url, "POST", "/sdapi/v1/txt2img", b"model=sdxl&prompt=x", form).json[
                "error"
            ]
            == "server_error"
        )

    def test_a_static_file_does_not_load_a_model(self, url: str) -> None:
        reply = send_request(url, "GET", "/upstream/sdxl/view.png?x=1", headers=JSON)
        assert (reply.status, reply.json["error"]["code"]) == (409, "conflict")
        generate(url)
        assert send_request(url, "GET", "/upstream/sdxl/view.png").body == b""

    def test_filters_apply_to_json_routes_only(
        self, url: str, swap: LlamaSwap, models: dict[str, StableDiffusion]
    ) -> None:
        swap.set_params, swap.strip_params = {"steps": 3}, {"seed"}
        send_request(
            url,
            "POST",
            "/sdapi/v1/txt2img",
            {"model": "sdxl", "prompt": "x", "steps": 9, "negative_prompt": "y"},
        )
        send_request(url, "POST", "/upstream/sdxl/sdapi/v1/txt2img", {"prompt": "x", "steps": 9})
        assert [settings["steps"] for settings in models["sdxl"].jobs] == [3, 9]

    def test_models_and_running_processes_are_listed(self, url: str) -> None:
        listed = send_request(url, "GET", "/v1/models").json["data"]
        assert listed[0]["capabilities"] == {"image_generation": True, "image_to_image": True}
        assert "capabilities" not in listed[1]
        assert [item["status"]["value"] for item in listed] == ["unloaded", "unloaded"]
        assert send_request(url, "GET", "/running").json == {"running": []}
        generate(url)
        [running] = send_request(url, "GET", "/running").json["running"]
        assert (running["model"], running["state"]) == ("sdxl", "ready")
        assert send_request(url, "GET", "/unload").body == b"OK"
        assert send_request(url, "GET", "/running").json == {"running": []}
        assert send_request(url, "GET", "/health").body == b"OK"


class TestErrors:
    def test_error_bodies_have_the_form_of_their_generation(
        self, url: str, swap: LlamaSwap
    ) -> None:
        current = generate(url, "none").json
        assert current["src"] == "llama-swap"
        assert current["error"] == {
            "message": "no router for requested model",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        }
        swap.generation = "middle"
        assert generate(url, "none").json == {
            "src": "llama-swap",
            "error": "no router for requested model",
        }
        swap.generation = "old"
        assert generate(url, "none").json == {"error": "no local server found for requested model"}

    def test_the_accept_header_selects_the_form_of_errors(self, url: str, swap: LlamaSwap) -> None:
        plain = {"Accept": "text/plain"}
        assert generate(url, "none", plain).body == b"llama-swap: no router for requested model"
        assert (
            generate(url, "none", {"Accept": "text/html"}).content_type
            == "text/html; charset=utf-8"
        )
        assert generate(url, "none", {"Accept": "*/*"}).json["src"] == "llama-swap"
        swap.generation = "old"
        reply = generate(url, "none", {"Accept": "*/*"})
        assert (reply.content_type, reply.body) == (
            "text/plain; charset=utf-8",
            b"no local server found for requested model",
        )

    def test_api_keys_are_checked(self, url: str, swap: LlamaSwap) -> None:
        swap.keys = {"k"}
        reply = generate(url)
        assert (reply.status, reply.headers["www-authenticate"]) == (
            401,
            'Basic realm="llama-swap"',
        )
        assert reply.json["error"]["code"] == "unauthorized"
        basic = base64.b64encode(b"any:k").decode()
        for headers in (
            {"Authorization": "Bearer k"},
            {"Authorization": f"Basic {basic}"},
            {"x-api-key": "k"},
        ):
            assert generate(url, headers=headers).status == 200
        assert (
            generate(url, headers={"Authorization": "Bearer wrong", "x-api-key": "k"}).status == 401
        )
        assert send_request(url, "GET", "/v1/models").status == 401
        assert send_request(url, "GET", "/health").status == 200

    def test_requests_over_the_limit_of_a_model_are_refused(
        self,
        url: str,
        swap: LlamaSwap,
        models: dict[str, StableDiffusion],
        start_request: Callable[..., Future[Response]],
    ) -> None:
        swap.limit = 1
        models["sdxl"].hold()
        first = start_request(
            url, "POST", "/v1/images/generations", {"model": "sdxl", "prompt": "x"}
        )
        assert swap.open("sdxl", 1)
        reply = generate(url)
        assert (reply.status, reply.headers["retry-after"], reply.json["error"]["code"]) == (
            429,
            "1",
            "concurrency_limit",
        )
        models["sdxl"].release()
        assert first.result().status == 200

    def test_a_dead_upstream_gives_an_empty_502(
        self, url: str, models: dict[str, StableDiffusion], swap: LlamaSwap
    ) -> None:
        models["sdxl"].crash = True
        reply = generate(url)
        assert (reply.status, reply.body, reply.content_type) == (502, b"", None)
        assert swap.state("sdxl") == "stopped"
        models["sdxl"].crash = False
        assert generate(url).status == 200

    def test_a_response_can_be_truncated(self, url: str, swap: LlamaSwap) -> None:
        swap.truncate = True
        with pytest.raises(http.client.IncompleteRead):
            generate(url)

    def test_a_model_that_is_not_ready_gives_503(self, url: str, swap: LlamaSwap) -> None:
        swap.not_ready = {"sdxl"}
        assert (generate(url).status, generate(url).json["error"]["code"]) == (
            503,
            "service_unavailable",
        )
        swap.generation = "middle"
        assert generate(url).body == b"llama-swap-error: [sdxl] process is not ready"

    def test_a_model_that_never_loads_gives_500(self, url: str, swap: LlamaSwap) -> None:
        swap.broken = {"sdxl"}
        reply = generate(url)
        assert (reply.status, reply.json["error"]["message"]) == (
            500,
            "unspecific error: upstream command exited prematurely",
        )


class TestLoading:
    def test_a_request_waits_for_its_model(
        self, url: str, swap: LlamaSwap, start_request: Callable[..., Future[Response]]
    ) -> None:
        swap.instant = False
        first = start_request(url, "POST", "/v1/images/generations", BODY)
        assert swap.starting("sdxl")
        assert send_request(url, "GET", "/running").json["running"][0]["state"] == "starting"
        assert send_request(url, "GET", "/v1/models").json["data"][0]["status"] == {
            "value": "loaded"
        }
        assert not first.done()
        swap.loaded("sdxl")
        assert first.result().status == 200

    def test_a_failed_load_fails_the_waiting_request(
        self, url: str, swap: LlamaSwap, start_request: Callable[..., Future[Response]]
    ) -> None:
        swap.instant = False
        first = start_request(url, "POST", "/v1/images/generations", BODY)
        swap.fail("sdxl", "health check timed out after 2m0s")
        assert (
            first.result().json["error"]["message"]
            == "unspecific error: health check timed out after 2m0s"
        )
        second = start_request(url, "POST", "/v1/images/generations", BODY)
        assert swap.starting("sdxl")
        assert send_request(url, "POST", "/api/models/unload/sdxl").status == 200
        assert second.result().json["error"]["message"].endswith("model unloaded")

    def test_an_open_request_keeps_its_model_loaded(
        self,
        url: str,
        swap: LlamaSwap,
        models: dict[str, StableDiffusion],
        start_request: Callable[..., Future[Response]],
    ) -> None:
        models["sdxl"].hold()
        first = start_request(url, "POST", "/v1/images/generations", BODY)
        assert models["sdxl"].reached()
        second = start_request(
            url, "POST", "/v1/images/generations", {"model": "org/flux", "prompt": "x"}
        )
        assert swap.waiting("org/flux", 1)
        assert swap.state("sdxl") == "ready"
        models["sdxl"].release()
        assert (first.result().status, second.result().status) == (200, 200)
        assert swap.state("sdxl") == "stopped"

    def test_a_native_job_does_not_keep_its_model_loaded(
        self, url: str, swap: LlamaSwap, models: dict[str, StableDiffusion]
    ) -> None:
        models["sdxl"].hold()
        accepted = send_request(url, "POST", "/upstream/sdxl/sdcpp/v1/img_gen", {"prompt": "x"})
        assert models["sdxl"].reached()
        assert generate(url, "org/flux").status == 200
        lost = send_request(url, "GET", "/upstream/sdxl" + accepted.json["poll_url"])
        assert (lost.status, lost.json) == (404, {"error": "job not found"})
        assert swap.loads == ["sdxl", "org/flux", "sdxl"]

    def test_an_unload_ends_forwarded_requests(
        self,
        url: str,
        models: dict[str, StableDiffusion],
        start_request: Callable[..., Future[Response]],
    ) -> None:
        models["sdxl"].hold()
        first = start_request(url, "POST", "/v1/images/generations", BODY)
        assert models["sdxl"].reached()
        assert send_request(url, "POST", "/api/models/unload").json == {"msg": "ok"}
        assert (first.result().status, first.result().body) == (502, b"")

    def test_the_request_of_a_disconnected_client_is_dropped(
        self, url: str, swap: LlamaSwap, models: dict[str, StableDiffusion]
    ) -> None:
        body = b'{"model":"sdxl","prompt":"xyz"}'
        head = (
            "POST /v1/images/generations HTTP/1.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode() + body
        swap.instant = False
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.sendall(request)
            assert swap.waiting("sdxl", 1)
        assert swap.waiting("sdxl", 0)
        swap.loaded("sdxl")
        models["sdxl"].hold()
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
            client.sendall(request)
            assert models["sdxl"].reached()
        assert swap.open("sdxl", 0)
        models["sdxl"].release()
        assert len(models["sdxl"].jobs) == 1
