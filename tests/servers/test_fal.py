"""The fal test server, with a client that has no habits of its own."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.fal import Fal
from tests.servers.plain_client import Response, png, send_request
from tests.support.loopback import Handler, Loopback

KEY = {"Authorization": "Key id:secret"}
FLUX = "/fal-ai/flux/dev"


@pytest.fixture
def server() -> Fal:
    return Fal(keys=("id:secret",), positions=(1, 0))


@pytest.fixture
def send(server: Fal, serve: Callable[[Handler], Loopback]) -> Callable[..., Response]:
    """Return a function that sends a request, with the key unless it has other headers."""
    url = serve(server).url

    def send(method: str, path: str, body: Any = None, headers: Any = None) -> Response:
        return send_request(url, method, path, body, KEY if headers is None else headers)

    return send


Send = Callable[..., Response]


def submit(send: Send, body: dict[str, Any], path: str = FLUX) -> str:
    """Submit a request and return the path of its routes."""
    reply = send("POST", path, body).json
    assert reply["status"] == "IN_QUEUE"
    return f"/fal-ai/{path.split('/')[2]}/requests/{reply['request_id']}"


def complete(send: Send, job: str) -> Any:
    """Poll until the request has completed, and return its last status."""
    while (status := send("GET", f"{job}/status")).status == 202:
        assert status.json["status"] in ("IN_QUEUE", "IN_PROGRESS")
    assert status.status == 200
    return status.json


def test_a_request_goes_through_the_queue(send: Send) -> None:
    job = submit(send, {"prompt": "a red fox", "seed": 7})
    assert send("GET", job).status == 400, "it is still in progress"
    statuses = [send("GET", f"{job}/status").json for _ in range(2)]
    assert [status["queue_position"] for status in statuses] == [1, 0]
    status = complete(send, job)
    assert (status["status"], status["logs"]) == ("COMPLETED", None)
    assert send("GET", f"{job}/status?logs=1").json["logs"]
    result = send("GET", job).json
    assert (result["seed"], result["prompt"]) == (7, "a red fox")
    assert result["images"][0]["content_type"] == "image/png"


def test_routes_of_a_request_have_no_path_of_the_endpoint(send: Send) -> None:
    job = submit(send, {"prompt": "a"})
    other = job.replace("/flux/", "/flux/dev/")
    assert send("GET", f"{other}/status").status == 405
    assert send("GET", f"{job.replace('/flux/', '/fast-sdxl/')}/status").status == 404
    assert send("GET", f"{job}x/status").status == 404
    assert send("POST", f"{job}/cancel").status == 405


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), ({"Authorization": "Bearer id:secret"}, 401), ({"Authorization": "Key x"}, 401)],
)
def test_only_the_right_key_is_accepted(send: Send, headers: dict[str, str], status: int) -> None:
    assert send("POST", FLUX, {"prompt": "a"}, headers).status == status


def test_a_request_is_cancelled_once(send: Send, server: Fal) -> None:
    job = submit(send, {"prompt": "a"})
    cancelled = send("PUT", f"{job}/cancel")
    assert (cancelled.status, cancelled.json) == (202, {"status": "CANCELLATION_REQUESTED"})
    assert server.requests[0].cancelled
    again = send("PUT", f"{job}/cancel")
    assert (again.status, again.json) == (400, {"status": "ALREADY_COMPLETED"})
    assert send("PUT", f"{job}x/cancel").json == {"status": "NOT_FOUND"}
    assert complete(send, job)["error_type"] == "client_cancelled"
    assert send("GET", job).status == 499


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (FLUX, {}, "missing"),
        (FLUX, {"prompt": 1}, "string_type"),
        (FLUX, {"prompt": "a", "seed": "1"}, "integer_type"),
        (FLUX, {"prompt": "a", "seed": True}, "integer_type"),
        (FLUX, {"prompt": "a", "enable_safety_checker": 1}, "boolean_type"),
        (FLUX, {"prompt": "a", "num_images": 5}, "less_than_equal"),
        (FLUX, {"prompt": "a", "image_size": "huge"}, "one_of"),
        (FLUX, {"prompt": "a", "image_size": {"width": 0}}, "one_of"),
        (FLUX, {"prompt": "a", "steps": 5}, "extra_forbidden"),
        ("/fal-ai/nano-banana/edit", {"prompt": "a", "image_urls": "x"}, "string_type"),
        ("/fal-ai/nano-banana/edit", {"prompt": "a", "image_urls": ["x"]}, "image_load_error"),
    ],
)
def test_inputs_are_checked(send: Send, path: str, body: dict[str, Any], kind: str) -> None:
    job = submit(send, body, path)
    assert complete(send, job)["error"]
    reply = send("GET", job)
    assert (reply.status, reply.headers["x-fal-retryable"]) == (422, "false")
    assert [error["type"] for error in reply.json["detail"]] == [kind]


def test_an_unknown_path_fails_only_in_the_result(send: Send) -> None:
    job = submit(send, {"prompt": "a"}, "/fal-ai/flux/unknown")
    complete(send, job)
    assert (send("GET", job).status, send("POST", "/fal-ai/unknown", {}).status) == (404, 404)


def test_the_cdn_refuses_what_tells_who_asks(send: Send, server: Fal) -> None:
    job = submit(send, {"prompt": "a", "output_format": "jpeg"})
    complete(send, job)
    path = send("GET", job).json["images"][0]["url"].partition("/files/")[2]
    assert send("GET", f"/files/{path}").status == 400
    assert server.foreign_headers == ["authorization"]
    assert send("POST", f"/files/{path}", b"").status == 405
    file = send("GET", f"/files/{path}", headers={})
    assert (file.status, file.content_type, file.body[:2]) == (200, "image/jpeg", b"\xff\xd8")
    assert send("GET", "/files/other.png", headers={}).status == 404


def test_sync_mode_returns_data_urls(send: Send) -> None:
    job = submit(send, {"prompt": "a", "sync_mode": True})
    complete(send, job)
    url = send("GET", job).json["images"][0]["url"]
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")


def test_a_mask_keeps_what_is_black(send: Send) -> None:
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    body = {"prompt": "a", "image_url": url, "mask_url": url, "sync_mode": True}
    job = submit(send, body, "/fal-ai/flux-lora/inpainting")
    complete(send, job)
    assert send("GET", job).json["images"][0]["width"] == 64


def test_the_catalog_has_pages_and_documents(send: Send) -> None:
    ids: list[str] = []
    cursor = ""
    while True:
        page = send("GET", f"/v1/models?limit=3{cursor}", headers={}).json
        ids += [model["endpoint_id"] for model in page["models"]]
        assert page["has_more"] is (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(ids) == len(set(ids)) == 7
    path = "/v1/models?endpoint_id=fal-ai%2Fflux%2Fdev&expand=openapi-3.0"
    [entry] = send("GET", path, headers={}).json["models"]
    assert "FalAiFluxDevInput" in entry["openapi"]["components"]["schemas"]
    assert send("GET", path).status == 400, "the key is not for the catalog"
    assert send("GET", "/v1/models?page=2", headers={}).status == 404
