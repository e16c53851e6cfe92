"""sd-server's OpenAI-shaped picture route over the real engine.

Follows stable-diffusion.cpp at 97d2990, `examples/server` and `examples/common`: settings only from the first complete
`<sd_cpp_extra_args>` tag in the prompt, all complete tags deleted in one pass, unknown keys and scalars of a wrong type ignored, seed 42
unless set, n cut to 8, sizes rounded up by the engine, a size that cannot be read is the default one, `error` a string, unknown routes 404
with an empty body. One engine behind one lock; no authentication.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from engine import draw, load
from PIL.PngImagePlugin import PngInfo

TAG = re.compile(r"<sd_cpp_extra_args>([^\n\r]*?)</sd_cpp_extra_args>")
DEFAULT_SIZE = 64  # the real default of 512 takes half a minute on a processor
FLAT = {"negative_prompt": str, "seed": int, "width": int, "height": int, "batch_count": int, "strength": float}


class Refused(Exception):
    def __init__(self, status: int, body: dict[str, str]) -> None:
        super().__init__(status)
        self.status, self.body = status, body


def settings_of(request: dict[str, Any]) -> dict[str, Any]:
    """What the engine is told, from the request's JSON."""
    prompt = request.get("prompt", "")
    if not isinstance(prompt, str) or not isinstance(request.get("n", 1), int) or not isinstance(request.get("size", ""), str):
        raise Refused(500, {"error": "server_error", "message": "[json.exception.type_error.302] type must be string"})
    if not prompt:
        raise Refused(400, {"error": "prompt required"})
    width = height = DEFAULT_SIZE
    if "x" in request.get("size", ""):
        left, _, right = request["size"].partition("x")
        if left.isdigit() and right.isdigit() and int(left) > 0 and int(right) > 0:
            width, height = int(left), int(right)
    settings = {
        "width": width,
        "height": height,
        "seed": 42,
        "batch_count": max(1, request.get("n", 1)),
        "cfg_scale": 7.0,
        "sample_steps": 20,
    }
    if found := TAG.search(prompt):
        try:
            extra = json.loads(found[1]) if found[1] else {}
        except ValueError:
            raise Refused(400, {"error": "invalid sd_cpp_extra_args"}) from None
        for name, kind in FLAT.items():
            if type(extra.get(name)) is kind:
                settings[name] = extra[name]
        sampling = extra.get("sample_params") if isinstance(extra.get("sample_params"), dict) else {}
        guidance = sampling.get("guidance") if isinstance(sampling.get("guidance"), dict) else {}
        if type(sampling.get("sample_steps")) is int:
            settings["sample_steps"] = min(max(sampling["sample_steps"], 1), 100)
        if isinstance(guidance.get("txt_cfg"), (int, float)):
            settings["cfg_scale"] = float(guidance["txt_cfg"])
        for name in ("sample_method", "scheduler"):
            if isinstance(sampling.get(name), str):
                settings[name] = sampling[name]
    settings["prompt"] = TAG.sub("", prompt)
    settings["batch_count"] = min(settings["batch_count"], 8)
    return settings


def encoded(images: list[Any], settings: dict[str, Any]) -> list[dict[str, str]]:
    """PNG with the text the engine's own server writes; picture i of a batch is drawn from seed + i."""
    data = []
    for index, image in enumerate(images):
        info = PngInfo()
        words = f"Steps: {settings['sample_steps']}, CFG scale: {settings['cfg_scale']:.6f}, Seed: {settings['seed'] + index}"
        info.add_text("parameters", f"{settings['prompt']}\n{words}, Size: {image.width}x{image.height}")
        held = io.BytesIO()
        image.save(held, "PNG", pnginfo=info)
        data.append({"b64_json": base64.b64encode(held.getvalue()).decode()})
    return data


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    engine = load(options.models)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self._answer(200, {"data": [{"id": "sd-cpp-local", "object": "model", "owned_by": "local"}]})
            elif self.path == "/":
                self._answer(200, b"")
            else:
                self._answer(404, b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.path != "/v1/images/generations":
                return self._answer(404, b"")
            try:
                if not body:
                    raise Refused(400, {"error": "empty body"})
                settings = settings_of(json.loads(body))
                with lock:
                    images = draw(engine, settings)
            except Refused as refused:
                return self._answer(refused.status, refused.body)
            except ValueError as error:
                return self._answer(500, {"error": "server_error", "message": str(error)})
            return self._answer(200, {"created": int(time.time()), "data": encoded(images, settings), "output_format": "png"})

        def _answer(self, status: int, body: dict[str, Any] | bytes) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if data:
                self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
