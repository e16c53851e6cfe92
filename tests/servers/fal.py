"""A test server for fal.ai: the queue, the CDN and the catalog, each on its own paths.

It follows fal's documentation (fal.ai/docs: inference-api/queue, model-apis/queue, errors,
request-errors, fal-cdn, platform-apis/v1/models) and the types of fal-js. It is strict: a field
that a model does not have is an error, and so is a key or any other foreign header at the CDN or
at the catalog. An image has one color, the hash of the settings in effect.

    server = Fal()
    url = serve(server).url
    ...
    assert server.requests[-1].input["num_inference_steps"] == 20
"""

from __future__ import annotations

import base64
import json
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.servers.fal_models import MODELS, PRESETS, Field, Model
from tests.servers.hashed_images import (
    Color,
    b64,
    decode_image,
    encode_image,
    fingerprint,
    hash_color,
    repaint_masked,
    solid_image,
)
from tests.servers.http_helpers import Response, json_response, route
from tests.support.loopback import Peer, ReceivedRequest

BLACK: Color = (0, 0, 0)
# What a request to the CDN or the catalog may say about its sender.
NEUTRAL_HEADERS = {"host", "user-agent", "accept", "accept-encoding"}
_JOB_PATH = re.compile(
    r"/(?P<app>(?:(?:workflows|comfy)/)?[^/]+/[^/]+)/requests/(?P<id>[^/]+)(?P<rest>/status|/cancel)?"
)


def color(settings: dict[str, Any], index: int = 0) -> Color:
    """Return the color of image `index` of these settings, of which the seed has to be one."""
    names = ("prompt", "seed", "num_inference_steps", "guidance_scale", "negative_prompt")
    return hash_color({"index": index} | {name: settings.get(name) for name in names})


@dataclass
class Request:
    """A request in the queue."""

    id: str
    app: str
    model: str
    input: dict[str, Any]
    positions: list[int]
    status: str = "IN_QUEUE"
    result: Response | None = None
    cancelled: bool = False


@dataclass(frozen=True)
class Stored:
    """A file on the CDN."""

    content_type: str
    data: bytes


class Fal:
    """A handler for `serve()`.

    `requests` lists the accepted requests, in order. `keys` are the valid keys; with none, every
    key is valid. `positions` are what the first polls of a request report, in turn; by default a
    request starts at once.

    These attributes may be changed while it runs: `fail` (the response that is the result of the
    next requests), `queue_url` (the address of the queue in replies; a client that follows it sends
    its key there), `media_url` (the address of the CDN in results, by default that of the server),
    `name_file` (changes the URL of a file in a result), `no_catalog` (404 for the catalog),
    `random_seed` (the seed of requests without one).
    """

    def __init__(
        self,
        *,
        keys: tuple[str, ...] = (),
        positions: tuple[int, ...] = (),
        size: tuple[int, int] = (64, 64),
        media_url: str = "",
    ) -> None:
        self.keys, self.positions, self.size, self.media_url = keys, positions, size, media_url
        self.requests: list[Request] = []
        self.files: dict[str, Stored] = {}
        self.foreign_headers: list[str] = []
        self.name_file: Callable[[str], str] = str
        self.fail: Response | None = None
        self.no_catalog = False
        self.queue_url = "https://queue.fal.run"
        self.page_size = 3
        self.random_seed = 4_242
        self._hold_status = ""
        self._changed = threading.Condition(threading.RLock())

    # Controls for tests

    def hold(self, status: str = "IN_PROGRESS") -> None:
        """Let no request go beyond this status until `release()`."""
        with self._changed:
            self._hold_status = status

    def release(self) -> None:
        """Continue all held requests."""
        with self._changed:
            self._hold_status = ""

    def lose_requests(self) -> None:
        """Forget all requests."""
        with self._changed:
            for request in self.requests:
                request.id = ""

    # HTTP

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            peer.send(self.answer(request).sent)

    def answer(self, request: ReceivedRequest) -> Response:
        """Return the response to a request."""
        path, query = route(request)
        if path.startswith("/files/"):
            return self._neutral(request) or self._file(path)
        if path == "/v1/models":
            return self._neutral(request) or self._catalog(query)
        if (refusal := self._check_key(request)) is not None:
            return refusal
        with self._changed:
            if (job := _JOB_PATH.fullmatch(path)) is not None:
                return self._job(request, job, query)
            if request.method == "POST":
                return self._submit(request, path.removeprefix("/"))
        return json_response({"detail": "Method Not Allowed"}, 405)

    def _neutral(self, request: ReceivedRequest) -> Response | None:
        """Return an error for a request that is no GET or tells who sends it."""
        if request.method != "GET" or request.body:
            return json_response({"detail": "Method Not Allowed"}, 405)
        foreign = sorted(set(request.headers) - NEUTRAL_HEADERS)
        self.foreign_headers += foreign
        return json_response({"detail": f"headers: {foreign}"}, 400) if foreign else None

    def _check_key(self, request: ReceivedRequest) -> Response | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme != "Key" or not key or (self.keys and key not in self.keys):
            return json_response(
                {"detail": "Authentication is required to access this application."}, 401
            )
        return None

    # Queue

    def _submit(self, request: ReceivedRequest, model: str) -> Response:
        if request.headers.get("content-type") != "application/json":
            return json_response({"detail": "Unsupported Media Type"}, 415)
        try:
            body = json.loads(request.body)
        except ValueError:
            return json_response({"detail": "Invalid JSON"}, 400)
        app = _app_of(model)
        if not isinstance(body, dict) or app not in {_app_of(name) for name in MODELS}:
            return json_response({"detail": f'Application "{app}" not found'}, 404)
        queued = Request(str(uuid.uuid4()), app, model, body, list(self.positions))
        self.requests.append(queued)
        self._changed.notify_all()
        return json_response(
            self._urls(queued)
            | {
                "status": "IN_QUEUE",
                "queue_position": queued.positions[0] if queued.positions else 0,
            }
        )

    def _urls(self, queued: Request) -> dict[str, Any]:
        url = f"{self.queue_url}/{queued.app}/requests/{queued.id}"
        return {
            "request_id": queued.id,
            "response_url": url,
            "status_url": f"{url}/status",
            "cancel_url": f"{url}/cancel",
        }

    def _job(self, request: ReceivedRequest, job: re.Match[str], query: dict[str, str]) -> Response:
        queued = next((item for item in self.requests if item.id == job["id"]), None)
        if queued is None or queued.app != job["app"]:
            missing = {"status": "NOT_FOUND"} if job["rest"] == "/cancel" else {}
            return json_response(missing or {"detail": "Request not found"}, 404)
        match request.method, job["rest"]:
            case "GET", "/status":
                return self._status(request, queued, query)
            case "GET", None:
                if queued.status != "COMPLETED" or queued.result is None:
                    return json_response({"detail": "Request is still in progress"}, 400)
                return queued.result
            case "PUT", "/cancel":
                if queued.status == "COMPLETED":
                    return json_response({"status": "ALREADY_COMPLETED"}, 400)
                queued.cancelled = True
                self._complete(queued, _cancelled_response())
                return json_response({"status": "CANCELLATION_REQUESTED"}, 202)
        return json_response({"detail": "Method Not Allowed"}, 405)

    def _status(self, request: ReceivedRequest, queued: Request, query: dict[str, str]) -> Response:
        body: dict[str, Any] = self._urls(queued)
        if queued.status == "IN_QUEUE" and (queued.positions or self._hold_status == "IN_QUEUE"):
            position = (queued.positions or [0])[0]
            # A held request stays at its last position.
            if self._hold_status != "IN_QUEUE" or len(queued.positions) > 1:
                queued.positions.pop(0)
            return json_response(body | {"status": "IN_QUEUE", "queue_position": position}, 202)
        logs = [{"message": "step 1", "level": "INFO", "source": "USER", "timestamp": "2026"}]
        body["logs"] = logs if query.get("logs") in ("1", "true", "True") else None
        if queued.status != "COMPLETED":
            queued.status = "IN_PROGRESS"
            self._changed.notify_all()
            if self._hold_status == "IN_PROGRESS":
                return json_response(body | {"status": "IN_PROGRESS"}, 202)
            self._complete(queued, self.fail or self._run(request, queued))
        error = {}
        if queued.result is not None and queued.result.status >= 400:
            failure = json.loads(queued.result.body or b"{}")
            error = {"error": str(failure.get("detail")), "error_type": failure.get("error_type")}
        return json_response(
            body | error | {"status": "COMPLETED", "metrics": {"inference_time": 0.25}}
        )

    def _complete(self, queued: Request, result: Response) -> None:
        queued.status, queued.result = "COMPLETED", result
        self._changed.notify_all()

    # Models

    def _run(self, request: ReceivedRequest, queued: Request) -> Response:
        model = MODELS.get(queued.model)
        if model is None:
            path = queued.model.removeprefix(queued.app)
            return json_response({"detail": f"Path {path} not found"}, 404)
        if errors := _validate(model, queued.input):
            return _errors_response(errors)
        settings = {"seed": self.random_seed} | queued.input
        if "forbidden" in settings["prompt"]:
            return _errors_response(
                [
                    _error(
                        "prompt",
                        "content_policy_violation",
                        "The content could not be processed because it contained material "
                        "flagged by a content checker.",
                    )
                ]
            )
        count = settings.get("num_images", 1)
        checked = settings.get("enable_safety_checker", True)
        flags = [bool(checked) and f"nsfw{index}" in settings["prompt"] for index in range(count)]
        files = [
            self._store(request, settings, index, flags[index], settings.get("sync_mode", False))
            for index in range(count)
        ]
        return json_response(
            {
                "images": files,
                "timings": {"inference": 0.25},
                "seed": settings["seed"],
                "has_nsfw_concepts": flags,
                "prompt": settings["prompt"],
            },
            x_fal_request_id=queued.id,
        )

    def _store(
        self,
        request: ReceivedRequest,
        settings: dict[str, Any],
        index: int,
        flagged: bool,
        inline: bool,
    ) -> dict[str, Any]:
        inputs = [settings["image_url"]] if "image_url" in settings else []
        originals = [_open(url) for url in inputs + settings.get("image_urls", [])]
        size = _size_of(settings, originals[0].size if originals else self.size)
        rendered = solid_image(BLACK if flagged else color(settings, index), size)
        if "mask_url" in settings:
            rendered = repaint_masked(originals[0], rendered, _open(settings["mask_url"]))
        kind = settings.get("output_format", settings.get("format", "png"))
        data = encode_image(rendered, kind)
        content_type = f"image/{kind}"
        name = f"{fingerprint(data)}-{len(self.files)}.{kind}"
        self.files[name] = Stored(content_type, data)
        base = self.media_url or f"http://{request.headers['host']}"
        url = f"data:{content_type};base64,{b64(data)}" if inline else f"{base}/files/{name}?sig=s"
        return {
            "url": self.name_file(url),
            "width": size[0],
            "height": size[1],
            "content_type": content_type,
        }

    # CDN

    def _file(self, path: str) -> Response:
        stored = self.files.get(path.removeprefix("/files/"))
        if stored is None:
            return Response(404, b"<Error/>", "application/xml")
        return Response(200, stored.data, stored.content_type)

    # Catalog

    def _catalog(self, query: dict[str, str]) -> Response:
        known = {"endpoint_id", "expand", "category", "status", "limit", "cursor", "q"}
        if self.no_catalog or set(query) - known:
            return json_response({"error": {"type": "not_found", "message": "no such route"}}, 404)
        entries = [
            {
                "endpoint_id": name,
                "metadata": {
                    "display_name": name.rpartition("/")[2],
                    "category": model.category,
                    "description": f"The model {name}.",
                    "status": "active",
                    "tags": [],
                },
            }
            | ({"openapi": model.openapi(name)} if query.get("expand") == "openapi-3.0" else {})
            for name, model in MODELS.items()
            if query.get("endpoint_id", name) == name
            and query.get("category", model.category) == model.category
        ]
        start = int(query.get("cursor", "0"))
        page = entries[start : start + self.page_size]
        more = start + self.page_size < len(entries)
        return json_response(
            {
                "models": page,
                "next_cursor": str(start + self.page_size) if more else None,
                "has_more": more,
            }
        )


def _app_of(model: str) -> str:
    segments = model.split("/")
    return "/".join(segments[: 3 if segments[0] in ("workflows", "comfy") else 2])


def _cancelled_response() -> Response:
    return json_response(
        {"detail": "Request was cancelled", "error_type": "client_cancelled"},
        499,
        x_fal_error_type="client_cancelled",
    )


def _error(name: str, type_: str, message: str, **context: Any) -> dict[str, Any]:
    return {
        "loc": ["body", name],
        "msg": message,
        "type": type_,
        "url": f"https://docs.fal.ai/errors/#{type_}",
        "ctx": context,
    }


def _errors_response(errors: list[dict[str, Any]]) -> Response:
    return json_response({"detail": errors}, 422, x_fal_retryable="false")


def _validate(model: Model, given: dict[str, Any]) -> list[dict[str, Any]]:
    errors = [
        _error(name, "missing", "Field required")
        for name, field_ in model.fields.items()
        if field_.required and name not in given
    ]
    for name, value in given.items():
        accepted = model.fields.get(name)
        if accepted is None:
            errors.append(_error(name, "extra_forbidden", "Extra inputs are not permitted"))
        elif (problem := _problem(accepted, value)) is not None:
            errors.append(_error(name, *problem))
    return errors


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def _problem(accepted: Field, value: Any) -> tuple[str, str] | None:
    """Return the type and the message of the error for a value; None for a valid one."""
    if accepted.type == "image_size":
        valid = value in PRESETS if isinstance(value, str) else _is_size(value)
        return None if valid else ("one_of", "Input should be a size or a preset")
    if accepted.type in ("url", "urls"):
        urls = value if accepted.type == "urls" else [value]
        if not isinstance(urls, list) or not urls or not all(isinstance(u, str) for u in urls):
            return "string_type", "Input should be a valid string"
        return None if all(map(_open, urls)) else ("image_load_error", "Image load error")
    if isinstance(value, bool) != (accepted.type == "boolean") or not isinstance(
        value, _TYPES[accepted.type]
    ):
        return f"{accepted.type}_type", f"Input should be a valid {accepted.type}"
    if accepted.low is not None and value < accepted.low:
        return "greater_than_equal", f"Input should be greater than or equal to {accepted.low}"
    if accepted.high is not None and value > accepted.high:
        return "less_than_equal", f"Input should be less than or equal to {accepted.high}"
    if accepted.choices and value not in accepted.choices:
        return "one_of", f"Input should be {' or '.join(map(repr, accepted.choices))}"
    return None


def _is_size(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) <= {"width", "height"}
        and all(isinstance(side, int) and 1 <= side <= 14142 for side in value.values())
    )


def _size_of(settings: dict[str, Any], default: tuple[int, int]) -> tuple[int, int]:
    requested = settings.get("image_size")
    if isinstance(requested, str):
        return PRESETS[requested]
    if isinstance(requested, dict):
        return requested.get("width", 512), requested.get("height", 512)
    ratio = settings.get("aspect_ratio", "auto")
    if ratio == "auto":
        return default
    width, height = map(int, ratio.split(":"))
    return 16 * width, 16 * height


def _open(url: str) -> Any:
    """Return the image of a data URL; None when it is not one."""
    head, _, data = url.partition(",")
    if not re.fullmatch(r"data:image/(png|jpeg|webp);base64", head):
        return None
    return decode_image(base64.b64decode(data))
