"""The ComfyUI test server, tested with a plain client."""

from __future__ import annotations

import copy
import io
import json
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from PIL import Image
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Event, Request, TextMessage

from tests.servers.comfyui import ComfyUI, color
from tests.servers.hashed_images import fingerprint
from tests.servers.plain_client import halves, pixel, png, send_form, send_request
from tests.support.loopback import Handler, Loopback

Serve = Callable[[Handler], Loopback]
GRAPH: dict[str, Any] = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "model.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 48, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox", "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["4", 1]}},
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 7,
            "steps": 4,
            "cfg": 5.0,
            "sampler_name": "euler_ancestral",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["4", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "fox", "images": ["8", 0]}},
}
SETTINGS = {
    "positive": "a red fox",
    "negative": "blurry",
    "seed": 7,
    "steps": 4,
    "cfg": 5.0,
    "sampler_name": "euler_ancestral",
    "scheduler": "karras",
    "width": 64,
    "height": 48,
}


def graph(changes: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return GRAPH with changed inputs."""
    changed = copy.deepcopy(GRAPH)
    for node, inputs in (changes or {}).items():
        changed[node]["inputs"].update(inputs)
    return changed


def run(server: ComfyUI, url: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """Run a graph; return its entry of the history."""
    reply = send_request(url, "POST", "/prompt", {"prompt": prompt})
    assert reply.status == 200, reply.body
    assert server.idle()
    entry: dict[str, Any] = send_request(url, "GET", f"/history/{reply.json['prompt_id']}").json[
        reply.json["prompt_id"]
    ]
    return entry


def fetch_image(url: str, entry: dict[str, Any], node: str = "9") -> Image.Image:
    """Return the first image of an output node."""
    reply = send_request(url, "GET", f"/view?{urlencode(entry['outputs'][node]['images'][0])}")
    assert reply.status == 200
    return Image.open(io.BytesIO(reply.body))


def test_a_graph_runs_with_its_settings(serve: Serve) -> None:
    server = ComfyUI()
    url = serve(server).url
    entry = run(server, url, graph())
    assert entry["status"]["status_str"] == "success"
    assert [kind for kind, _ in entry["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    image = fetch_image(url, entry)
    assert image.size == (64, 48)
    assert pixel(image) == color(SETTINGS)
    assert json.loads(image.info["prompt"])["3"]["inputs"]["seed"] == 7  # type: ignore[index]
    assert send_request(url, "GET", "/api/history/unknown").json == {}


def test_an_uploaded_image_and_mask_are_used(serve: Serve) -> None:
    server = ComfyUI()
    url = serve(server).url
    first = send_form(url, "/upload/image", [("image", png((1, 2, 3)), "image/png")]).json
    second = send_form(url, "/upload/image", [("image", halves(0, 255), "image/png")]).json
    assert (first["name"], second["name"]) == ("upload", "upload (1)") or second["name"] != first[
        "name"
    ]
    prompt = graph() | {
        "10": {"class_type": "LoadImage", "inputs": {"image": first["name"]}},
        "11": {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["4", 2]}},
        "12": {
            "class_type": "LoadImageMask",
            "inputs": {"image": second["name"], "channel": "red"},
        },
        "13": {
            "class_type": "SetLatentNoiseMask",
            "inputs": {"samples": ["11", 0], "mask": ["12", 0]},
        },
    }
    prompt["3"]["inputs"] |= {"latent_image": ["13", 0], "denoise": 0.5}
    image = fetch_image(url, run(server, url, prompt))
    assert pixel(image, 2, 2) == (1, 2, 3)
    assert pixel(image, 60, 2) == color(
        SETTINGS | {"denoise": 0.5, "init": fingerprint(png((1, 2, 3)))}
    )


@pytest.mark.parametrize(
    ("changes", "kind", "node"),
    [
        ({"3": {"sampler_name": "x"}}, "value_not_in_list", "3"),
        ({"3": {"seed": -1}}, "value_smaller_than_min", "3"),
        ({"3": {"cfg": 101}}, "value_bigger_than_max", "3"),
        ({"3": {"steps": "many"}}, "invalid_input_type", "3"),
        ({"3": {"model": ["5", 0]}}, "return_type_mismatch", "3"),
        ({"3": {"model": ["4"]}}, "bad_linked_input", "3"),
        ({"4": {"ckpt_name": "none"}}, "value_not_in_list", "4"),
    ],
)
def test_an_invalid_graph_is_refused_with_node_errors(
    serve: Serve, changes: dict[str, Any], kind: str, node: str
) -> None:
    reply = send_request(serve(ComfyUI()).url, "POST", "/prompt", {"prompt": graph(changes)})
    assert reply.status == 400
    assert reply.json["error"]["type"] == "prompt_outputs_failed_validation"
    entry = reply.json["node_errors"][node]
    assert entry["errors"][0]["type"] == kind
    assert entry["dependent_outputs"] == ["9"]


def test_other_invalid_requests_are_refused(serve: Serve) -> None:
    url = serve(ComfyUI()).url
    old = serve(ComfyUI(old=True)).url
    assert send_request(old, "POST", "/prompt", {}).json == {
        "error": "no prompt",
        "node_errors": [],
    }
    assert send_request(url, "POST", "/prompt", {}).json["error"]["type"] == "no_prompt"
    assert send_request(url, "POST", "/prompt", b"{").status == 500
    assert send_request(url, "GET", "/queue", headers={"Origin": "http://elsewhere"}).status == 403
    no_output = {name: node for name, node in graph().items() if name != "9"}
    assert (
        send_request(url, "POST", "/prompt", {"prompt": no_output}).json["error"]["type"]
        == "prompt_no_outputs"
    )
    assert send_request(url, "GET", "/view?filename=../x").status == 400
    assert send_request(url, "GET", "/view?filename=x&subfolder=../x").status == 403
    assert send_request(url, "GET", "/view?filename=x").status == 404


@pytest.mark.parametrize("old", [True, False])
def test_a_repeated_graph_uses_the_cache(serve: Serve, old: bool) -> None:
    server = ComfyUI(old=old)
    url = serve(server).url
    first, second = run(server, url, graph()), run(server, url, graph())
    assert len(server.jobs) == 1
    assert second["outputs"] == ({} if old else first["outputs"])


def test_failed_and_interrupted_jobs_are_in_the_history(serve: Serve) -> None:
    server = ComfyUI()
    url = serve(server).url
    server.failing = ("torch.OutOfMemoryError", "CUDA out of memory")
    entry = run(server, url, graph())
    assert entry["status"]["status_str"] == "error"
    assert entry["status"]["messages"][-1][1]["exception_type"] == "torch.OutOfMemoryError"
    server.failing = None
    server.hold_at(2)
    first = send_request(url, "POST", "/prompt", {"prompt": graph()}).json["prompt_id"]
    assert server.reached()
    second = send_request(url, "POST", "/prompt", {"prompt": graph({"3": {"seed": 8}})}).json[
        "prompt_id"
    ]
    queue = send_request(url, "GET", "/queue").json
    assert [item[1] for item in queue["queue_running"]] == [first]
    assert [item[1] for item in queue["queue_pending"]] == [second]
    send_request(url, "POST", "/interrupt", {"prompt_id": second})
    assert server.running == first
    send_request(url, "POST", "/queue", {"delete": [second]})
    send_request(url, "POST", "/interrupt", {"prompt_id": first})
    assert server.idle()
    assert (
        send_request(url, "GET", f"/history/{first}").json[first]["status"]["messages"][-1][0]
        == "execution_interrupted"
    )


class Listener:
    """A plain websocket client."""

    def __init__(self, url: str, client: str) -> None:
        import socket

        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), 5)
        self.protocol = WSConnection(ConnectionType.CLIENT)
        self.socket.sendall(
            self.protocol.send(Request(host=parts.netloc, target=f"/ws?clientId={client}"))
        )
        self.waiting: list[Event] = []
        assert isinstance(self.next(), AcceptConnection)

    def next(self) -> Event:
        """Return the next event."""
        while not self.waiting:
            self.protocol.receive_data(self.socket.recv(1 << 16) or None)
            self.waiting = list(self.protocol.events())
        return self.waiting.pop(0)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def say(self, message: Any) -> None:
        """Send a JSON message."""
        self.socket.sendall(self.protocol.send(TextMessage(json.dumps(message))))

    def until(self, kind: str) -> list[Any]:
        """Return the messages up to the first of this type."""
        messages: list[Any] = []
        while True:
            event = self.next()
            if isinstance(event, BytesMessage):
                messages.append(bytes(event.data))
            elif isinstance(event, TextMessage):
                messages.append(json.loads(event.data))
                if messages[-1]["type"] == kind:
                    return messages


@pytest.mark.parametrize("old", [True, False])
def test_the_websocket_reports_a_job(serve: Serve, old: bool) -> None:
    server = ComfyUI(old=old)
    url = serve(server).url
    with Listener(url, "me") as listener:
        listener.say({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        (status, *_) = listener.until("status" if old else "feature_flags")
        assert status["data"]["sid"] == "me"
        server.hold_at(0)
        send_request(url, "POST", "/prompt", {"prompt": graph(), "client_id": "me"})
        server.release()
        messages = listener.until("executed")
        steps = [
            message["data"]
            for message in messages
            if isinstance(message, dict) and message["type"] == "progress"
        ]
        assert [step["value"] for step in steps] == [1, 2, 3, 4]
        assert ("prompt_id" in steps[0]) is not old
        previews = [message for message in messages if isinstance(message, bytes)]
        assert [struct.unpack(">I", preview[:4])[0] for preview in previews] == [
            1 if old else 4
        ] * 4
        last_message = listener.until("executing")[-1]
        assert last_message["data"]["node"] is None
    assert server.listening(0)


def test_a_disabled_websocket_is_not_found(serve: Serve) -> None:
    server = ComfyUI()
    server.websocket = False
    assert send_request(serve(server).url, "GET", "/ws?clientId=x").status == 404
