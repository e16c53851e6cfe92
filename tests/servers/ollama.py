"""A strict server of Ollama's image generation, as in `ollama-images.md`.

The contract differs between ranges of versions; current versions do not generate images.

server = Ollama("0.32.5")
url = serve(server).url
...
assert image_color == color({"prompt": "a red fox", "seed": 7})
"""

from __future__ import annotations

import json
import re
import threading
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image

from tests.servers.hashed_images import (
    Color,
    b64,
    decode_image,
    encode_image,
    fingerprint,
    hash_color,
    solid_image,
)
from tests.servers.http_helpers import STREAMED, Gate, Response, json_response, route, text_response
from tests.support.loopback import Peer, ReceivedRequest

# The real server's message has two spaces here, too.
BUSY = "server busy, please try again.  maximum pending requests exceeded"
CRASHED = "mlx runner closed response before completion: EOF"
MEMORY = "insufficient memory for image generation: need 20 GB, have 8 GB"
REMOVED = "image generation models are not currently supported"
MAX_SIDE = 4096
NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
MODELS: dict[str, tuple[str, ...]] = {
    "x/z-image-turbo": ("image",),
    "x/flux2-klein": ("image", "vision"),
    "llama3.2": ("completion",),
}
METHODS = {
    "/api/version": "GET",
    "/api/tags": "GET",
    "/api/show": "POST",
    "/api/generate": "POST",
}


def color(settings: Mapping[str, Any]) -> Color:
    """Return the color of the image for these settings.

    Absent settings have the default of `x/z-image-turbo`. `width` and `height` are those of the
    image; `images` are `fingerprint()`s and count only for versions that honor them.
    """
    defaults: dict[str, Any] = {
        "model": "x/z-image-turbo",
        "prompt": "",
        "width": 1024,
        "height": 1024,
        "steps": 9,
        "seed": 0,
        "images": [],
    }
    return hash_color({name: settings.get(name, default) for name, default in defaults.items()})


class _Refused(Exception):
    """An error response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Ollama(Gate):
    """A handler for `serve()`.

    `jobs` lists the settings of every image that was started. `hold()` and `release()` delay a
    response after its first progress frame; `cancelled` counts the clients that disconnect
    meanwhile.

    Settings that tests change:

    * `version`: the Ollama version, which selects the contract.
    * `models`: capabilities by model name.
    * `busy`: refuse every image with status 503.
    * `outcome`: how an image ends. "success"; "no_image", done without an image; "crash", an error
      line; "cut", the body ends without a last frame; "dropped", the connection closes in the
      middle of the body; "memory", status 500 before any frame.
    * `shown`: number of progress frames before a failure.
    """

    def __init__(
        self, version: str = "0.32.5", models: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        super().__init__()
        self.version = version
        self.models = dict(MODELS if models is None else models)
        self.jobs: list[dict[str, Any]] = []
        self.busy = False
        self.outcome = "success"
        self.progress_frames = 2
        self._engine = threading.Lock()

    @property
    def _contract(self) -> str:
        """The row of the table "Availability" in ollama-images.md."""
        version = tuple(int(part) for part in self.version.split(".")[:3])
        rows = [
            ((0, 14, 0), "none"),
            ((0, 14, 3), "first"),
            ((0, 15, 0), "early"),
            ((0, 15, 5), "honored"),
            ((0, 32, 6), "ignored"),
        ]
        return next((name for end, name in rows if version < end), "removed")

    # HTTP

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            path, _ = route(request)
            try:
                response = self._answer(peer, request, path)
            except _Refused as refused:
                response = (
                    _openai_error(refused)
                    if path.startswith("/v1/")
                    else json_response({"error": refused.message}, refused.status, JSON)
                )
            if response is None:
                return
            if response is not STREAMED:
                peer.send(response.sent)

    def _answer(self, peer: Peer, request: ReceivedRequest, path: str) -> Response | None:
        """Return the answer, `STREAMED` after a stream, or None when the connection must close."""
        if path == "/" and request.method == "GET":
            return text_response("Ollama is running")
        if path in METHODS and request.method != METHODS[path]:
            return text_response("405 method not allowed", 405)
        if path == "/api/version":
            return json_response({"version": self.version}, 200, JSON)
        if path == "/api/tags":
            return json_response(
                {"models": [self._list_entry(name) for name in self.models]}, 200, JSON
            )
        if path == "/api/show":
            name = self._resolve_model(_parse_body(request).get("model"))
            return json_response(
                {
                    "license": "",
                    "details": MODEL_DETAILS,
                    "model_info": {},
                    "capabilities": list(self.models[name]),
                },
                200,
                JSON,
            )
        if path == "/api/generate":
            return self._generate(peer, _parse_body(request))
        if (
            path == "/v1/images/generations"
            and self._contract not in ("none", "removed")
            and request.method == "POST"
        ):
            return self._openai_images(peer, _parse_body(request), edit=False)
        if (
            path == "/v1/images/edits"
            and self._contract in ("honored", "ignored")
            and request.method == "POST"
        ):
            return self._openai_images(peer, _parse_body(request), edit=True)
        return text_response("404 page not found", 404, "text/plain")

    def _list_entry(self, name: str) -> dict[str, Any]:
        """Return the list entry of a model; capabilities exist since 0.30.0, unless empty."""
        entry = {
            "name": f"{name}:latest",
            "model": f"{name}:latest",
            "size": 1,
            "digest": "0" * 64,
            "details": MODEL_DETAILS,
        }
        has_capabilities = tuple(int(part) for part in self.version.split(".")[:2]) >= (0, 30)
        return entry | (
            {"capabilities": list(self.models[name])}
            if has_capabilities and self.models[name]
            else {}
        )

    def _resolve_model(self, name: Any) -> str:
        if not isinstance(name, str) or not name:
            raise _Refused(400, "model is required")
        bare = name.removesuffix(":latest")
        if bare not in self.models or ("image" in self.models[bare] and self._contract == "none"):
            raise _Refused(404, f"model '{name}' not found")
        return bare

    # The native route

    def _generate(self, peer: Peer, body: dict[str, Any]) -> Response | None:
        name = self._resolve_model(body.get("model"))
        stream = body.get("stream") is not False
        prompt = _field(body, "prompt", str, "")
        if "image" not in self.models[name]:
            return self._text_answer(body["model"], stream)
        if self._contract == "removed":
            raise _Refused(400, REMOVED)
        settings = self._settings(
            name,
            prompt,
            _field(body, "width", int, 0),
            _field(body, "height", int, 0),
            _field(body, "steps", int, 0),
            _field(body, "options", dict, {}).get("seed"),
            [_decode_base64(item) for item in _field(body, "images", list, [])],
        )
        if not prompt:
            reason = "unload" if body.get("keep_alive") in (0, "0", "0s") else "load"
            return json_response(_frame(body["model"], True) | {"done_reason": reason}, 200, JSON)
        self._admit()
        if stream:
            return self._stream(peer, body["model"], settings)
        final = None
        for final in self._frames(peer, body["model"], settings):
            if final is None:
                return None
        if final is None or not final.get("done"):
            raise _Refused(500, CRASHED)
        return json_response(final, 200, JSON)

    def _text_answer(self, model: str, stream: bool) -> Response:
        """Answer for a text model, which ignores the image fields like any unknown key."""
        final = _frame(model, True) | {"response": "" if stream else "hello", "done_reason": "stop"}
        frames = [_frame(model, False) | {"response": "hello"}, final] if stream else [final]
        return Response(
            200, b"\n".join(_encode_line(frame) for frame in frames), NDJSON if stream else JSON
        )

    def _admit(self) -> None:
        if self.busy:
            raise _Refused(503, BUSY)
        if self.outcome == "memory":
            raise _Refused(500, MEMORY)

    def _settings(
        self,
        name: str,
        prompt: str,
        width: int,
        height: int,
        steps: int,
        seed: Any,
        files: list[bytes],
    ) -> dict[str, Any]:
        """Return the effective settings.

        A size or seed of 0 means the default size or a random seed, and most versions ignore
        images.
        """
        if max(width, height) > MAX_SIDE:
            raise _Refused(400, f"width and height must be <= {MAX_SIDE}")
        width, height = width if width > 0 else 1024, height if height > 0 else 1024
        is_flux = "flux" in name
        images: list[Image.Image] = []
        if self._contract == "honored" and files:
            if len(files) > 2:
                raise _Refused(400, "at most 2 images are supported")
            for data in files:
                image = decode_image(data)
                if image is None:
                    raise _Refused(400, "invalid image: image: unknown format")
                images.append(image)
            width, height = _scale_down(images[0].size, 1024 * 1024 / max(images[0].size) ** 2)
        if is_flux:
            width, height = _scale_down((width, height), 2048 * 2048 / (width * height))
            width, height = max(16, width // 16 * 16), max(16, height // 16 * 16)
        if self._contract == "first":
            steps = 0
        effective_seed = (
            int(float(seed))
            if isinstance(seed, int | float) and abs(seed) < 1 << 63 and self._contract != "first"
            else 0
        )
        return {
            "model": name,
            "prompt": prompt,
            "width": width,
            "height": height,
            "steps": steps if steps > 0 else 4 if is_flux else 9,
            "seed": effective_seed if effective_seed > 0 else 1_000_000 + len(self.jobs),
            "images": [fingerprint(image) for image in images],
        }

    def _image(self, settings: dict[str, Any]) -> str:
        return b64(
            encode_image(solid_image(color(settings), (settings["width"], settings["height"])))
        )

    def _frames(
        self, peer: Peer, model: str, settings: dict[str, Any]
    ) -> Iterator[dict[str, Any] | None]:
        """Yield the progress frames and the last frame of the outcome, one image at a time.

        None means that the client has disconnected.
        """
        with self._engine:
            self.jobs.append(settings)
            total = settings["steps"]
            fails = self.outcome in ("crash", "cut", "dropped")
            for step in range(min(total, self.progress_frames - 1) + 1 if fails else total + 1):
                if self._contract == "first":
                    yield _frame(model, False) | {"response": f"\rGenerating: step {step}/{total}"}
                else:
                    yield (
                        _frame(model, False)
                        | ({"completed": step} if step else {})
                        | {"total": total}
                    )
                if step == 0 and not self._wait(peer):
                    yield None
                    return
            if self.outcome == "crash":
                yield {"error": CRASHED}
            if fails:
                return
            final = _frame(model, True) | {
                "done_reason": "stop",
                "total_duration": 15000000000,
                "load_duration": 2000000000,
            }
            if self.outcome != "no_image":
                image = self._image(settings)
                final |= (
                    {"response": f"IMAGE_BASE64:{image}"}
                    if self._contract == "first"
                    else {"image": image}
                )
            yield final

    def _stream(self, peer: Peer, model: str, settings: dict[str, Any]) -> Response | None:
        peer.begin(headers={"content-type": NDJSON})
        for frame in self._frames(peer, model, settings):
            if frame is None:
                return None
            peer.chunk(_encode_line(frame))
        if self.outcome == "dropped":
            return None
        peer.end()
        return STREAMED

    # The OpenAI-compatible routes

    def _openai_images(self, peer: Peer, body: dict[str, Any], edit: bool) -> Response | None:
        """Answer with one JSON object, although the content type is NDJSON.

        The body is empty when the generation fails after the first progress frame.
        """
        prompt, size = _field(body, "prompt", str, ""), _field(body, "size", str, "")
        if not prompt:
            raise _Refused(400, "prompt is required")
        name = self._resolve_model(body.get("model"))
        files = [_decode_data_url(body.get("image"))] if edit else []
        if "image" not in self.models[name]:
            return Response(200, b"", NDJSON)
        match = re.match(r"([+-]?\d+)x([+-]?\d+)", size)
        width, height = (int(match[1]), int(match[2])) if match else (0, 0)
        settings = self._settings(
            name, prompt, width, height, 0, _field(body, "seed", int, 0), files
        )
        self._admit()
        if self._contract == "first" and body.get("stream") is True:
            return self._first_stream(peer, settings)
        final: dict[str, Any] | None = {}
        for final in self._frames(peer, name, settings):
            if final is None:
                return None
        if self._contract == "first":
            item = {"b64_json": self._image(settings)} if self.outcome == "success" else {}
            return json_response({"created": 1770000000, "data": [item]})
        if final is None or "image" not in final:
            return Response(200, b"", NDJSON)
        return Response(
            200,
            _encode_line({"created": 1770000000, "data": [{"b64_json": final["image"]}]}),
            NDJSON,
        )

    def _first_stream(self, peer: Peer, settings: dict[str, Any]) -> Response:
        """Stream as 0.14.0 to 0.14.2 did: events without a space after the colon."""
        peer.begin()
        self.jobs.append(settings)
        for step in range(1, settings["steps"] + 1):
            peer.chunk(
                b"event:progress\ndata:"
                + _encode_line({"step": step, "total": settings["steps"]})
                + b"\n"
            )
        if self.outcome == "success":
            peer.chunk(
                b"event:done\ndata:"
                + _encode_line(
                    {"created": 1770000000, "data": [{"b64_json": self._image(settings)}]}
                )
                + b"\n"
            )
        else:
            peer.chunk(b"event:error\ndata:" + _encode_line({"error": CRASHED}) + b"\n")
        peer.end()
        return STREAMED


MODEL_DETAILS = {
    "format": "safetensors",
    "family": "image",
    "families": None,
    "parameter_size": "6B",
    "quantization_level": "fp8",
}


def _frame(model: str, done: bool) -> dict[str, Any]:
    return {"model": model, "created_at": "2026-02-01T10:00:00.1Z", "response": "", "done": done}


def _encode_line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _parse_body(request: ReceivedRequest) -> dict[str, Any]:
    """Parse the body as JSON, regardless of its content type; a form is refused."""
    if not request.body:
        raise _Refused(400, "missing request body")
    try:
        body = json.loads(request.body)
    except ValueError:
        raise _Refused(
            400,
            "invalid character '-' in numeric literal"
            if request.body.startswith(b"--")
            else "unexpected EOF",
        ) from None
    if not isinstance(body, dict):
        raise _Refused(
            400,
            f"json: cannot unmarshal {type(body).__name__} "
            "into Go value of type api.GenerateRequest",
        )
    return body


def _field(body: dict[str, Any], name: str, field_type: type, default: Any) -> Any:
    """Return a field as Go binds it: null means absent, a wrong type fails the request."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, field_type) or (field_type is int and isinstance(value, bool)):
        raise _Refused(
            400, f"json: cannot unmarshal {type(value).__name__} into Go struct field .{name}"
        )
    return value


def _decode_base64(item: Any) -> bytes:
    """Decode standard base64; a data URL prefix fails the request."""
    try:
        return b64decode(item, validate=True)
    except (NotBase64, TypeError, ValueError):
        raise _Refused(400, "illegal base64 data at input byte 4") from None


def _decode_data_url(value: Any) -> bytes:
    """Decode one data URL with an image type or without a type."""
    if not isinstance(value, str) or not value:
        raise _Refused(400, "image is required")
    if value.startswith(("http://", "https://")):
        raise _Refused(
            400,
            "invalid image: image URLs are not currently supported, "
            "please use base64 encoded data instead",
        )
    match = re.match(r"data:(?:image/(?:png|jpeg|jpg|webp))?;base64,", value)
    if match is None:
        raise _Refused(400, "invalid image: invalid image input")
    return _decode_base64(value[match.end() :])


def _scale_down(size: tuple[int, int], share: float) -> tuple[int, int]:
    """Scale a size down to this share of its area and keep its ratio."""
    scale = min(1.0, share) ** 0.5
    return int(size[0] * scale), int(size[1] * scale)


def _openai_error(refused: _Refused) -> Response:
    error_type = {400: "invalid_request_error", 404: "not_found_error"}.get(
        refused.status, "api_error"
    )
    return json_response(
        {"error": {"message": refused.message, "type": error_type, "param": None, "code": None}},
        refused.status,
    )
