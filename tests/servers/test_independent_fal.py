"""fal's own Python client against the test server.

The server accepts what the client sends, and the client understands what the server returns.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from tests.servers.fal import Fal, color
from tests.servers.plain_client import pixel, png, send_request
from tests.servers.vendor_sdks import require
from tests.support.loopback import Handler, Loopback

fal_client: Any = require("fal_client")

KEY = "key-id:secret"
FLUX = "fal-ai/flux/dev"


@pytest.fixture
def server() -> Fal:
    return Fal(keys=(KEY,), positions=(1, 0))


@pytest.fixture
def client(
    server: Fal, serve: Callable[[Handler], Loopback], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    server.queue_url = serve(server).url
    # The client takes its hosts from the environment when it is imported, and only with TLS.
    monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"{server.queue_url}/")
    sdk_client = fal_client.SyncClient(key=KEY)
    yield sdk_client
    sdk_client._client.close()


def test_a_request_is_submitted_and_its_result_read(client: Any, server: Fal) -> None:
    updates: list[Any] = []
    arguments = {
        "prompt": "a red fox",
        "image_size": {"width": 64, "height": 48},
        "seed": 7,
        "output_format": "png",
    }
    result = client.subscribe(
        FLUX, arguments=arguments, with_logs=True, on_queue_update=updates.append
    )
    assert [update.position for update in updates if isinstance(update, fal_client.Queued)] == [
        1,
        0,
    ]
    assert isinstance(updates[-1], fal_client.Completed)
    assert updates[-1].metrics == {"inference_time": 0.25}
    assert updates[-1].logs[0]["message"] == "step 1"
    assert (result["seed"], result["has_nsfw_concepts"]) == (7, [False])
    [file] = result["images"]
    assert (file["width"], file["height"], file["content_type"]) == (64, 48, "image/png")
    path = file["url"].removeprefix(server.queue_url)
    image = Image.open(io.BytesIO(send_request(server.queue_url, "GET", path).body))
    assert pixel(image) == color(arguments)
    assert server.requests[0].input == arguments


def test_a_request_is_continued_by_its_id(client: Any, server: Fal) -> None:
    handle = client.submit("fal-ai/flux/dev", arguments={"prompt": "a red fox"})
    assert client.status(FLUX, handle.request_id) == fal_client.Queued(position=1)
    assert client.result(FLUX, handle.request_id)["prompt"] == "a red fox"


@pytest.mark.parametrize("status", ["IN_QUEUE", "IN_PROGRESS"])
def test_a_request_is_cancelled(client: Any, server: Fal, status: str) -> None:
    server.hold(status)
    handle = client.submit(FLUX, arguments={"prompt": "a red fox"})
    while server.requests[0].status != status:
        handle.status()
    handle.cancel()
    server.release()
    status_after = handle.status()
    assert status_after.error_type == "client_cancelled"
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        handle.get()
    assert caught.value.error_type == "client_cancelled"
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        handle.cancel()
    assert caught.value.status_code == 400


def test_a_progress_report_has_logs(client: Any, server: Fal) -> None:
    server.positions = ()
    server.hold("IN_PROGRESS")
    handle = client.submit(FLUX, arguments={"prompt": "a red fox"})
    assert isinstance(handle.status(with_logs=True), fal_client.InProgress)
    server.release()


def test_edits_take_data_urls(client: Any, server: Fal) -> None:
    url = fal_client.encode(png(), "image/png")
    arguments = {"prompt": "a", "image_urls": [url, url], "aspect_ratio": "1:1"}
    result = client.subscribe("fal-ai/nano-banana/edit", arguments=arguments)
    assert len(result["images"]) == 1


@pytest.mark.parametrize(
    ("arguments", "name", "kind"),
    [
        ({}, "prompt", "missing"),
        ({"prompt": "a", "num_inference_steps": 0}, "num_inference_steps", "greater_than_equal"),
        ({"prompt": "a", "output_format": "webp"}, "output_format", "one_of"),
        ({"prompt": "a", "sampler": "euler"}, "sampler", "extra_forbidden"),
        ({"prompt": "forbidden"}, "prompt", "content_policy_violation"),
    ],
)
def test_errors_of_a_model_are_in_the_result(
    client: Any, arguments: dict[str, Any], name: str, kind: str
) -> None:
    handle = client.submit(FLUX, arguments=arguments)
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        handle.get()
    assert caught.value.status_code == 422
    [error] = caught.value.message
    assert (error["loc"], error["type"]) == (["body", name], kind)


def test_errors_of_a_submission(client: Any, server: Fal) -> None:
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        client.submit("fal-ai/unknown", arguments={"prompt": "a"})
    assert caught.value.status_code == 404
    other = fal_client.SyncClient(key="another-key")
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        other.submit(FLUX, arguments={"prompt": "a"})
    other._client.close()
    assert caught.value.status_code == 401
    assert server.requests == []
