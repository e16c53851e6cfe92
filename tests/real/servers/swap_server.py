"""A stand-in for llama-swap, for machines where it cannot be had: one process per model, started when asked for, one at a time.

Follows llama-swap at 0bdb372: the model is named in the JSON body; another model is stopped first, once it has no open request; the
health check is polled until it answers 200; then the request is passed on unchanged and the answer streamed back unbuffered. Errors
have the gateway's shape, `--generation` choosing among the three there have been; an upstream that dies before its answer is a 502 with an
empty body. It is not llama-swap: no filters, groups, peers or time to live.

    swap_server.py CONFIG.json --port N [--key K] [--generation object|text|bare]
    CONFIG.json: {"model": {"command": [...], "port": N, "check": "/health"}, ...}
"""

from __future__ import annotations

import argparse
import http.client
import json
import select
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

ROUTED = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/images/generations"}
START_LIMIT = 120


class Failed(Exception):
    def __init__(self, status: int, message: str, code: str, kind: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.kind = status, message, code, kind


class Models:
    """What runs. One lock decides who starts and stops; open requests are counted so that nobody's work is stopped."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.state: dict[str, str] = {}
        self.process: dict[str, subprocess.Popen[bytes]] = {}
        self.open: dict[str, int] = dict.fromkeys(config, 0)
        self.changed = threading.Condition()
        self.swapping = threading.Lock()

    def enter(self, model: str) -> int:
        """The port of the running model; `leave` must follow."""
        if model not in self.config:
            raise Failed(404, "no router for requested model", "not_found", "invalid_request_error")
        with self.swapping:
            process = self.process.get(model)
            if process is None or process.poll() is not None or self.state.get(model) != "ready":
                for other in list(self.process):
                    with self.changed:
                        self.changed.wait_for(lambda other=other: self.open[other] == 0)
                    self.stop(other)
                self._start(model)
            with self.changed:
                self.open[model] += 1
        return int(self.config[model]["port"])

    def leave(self, model: str) -> None:
        with self.changed:
            self.open[model] -= 1
            self.changed.notify_all()

    def _start(self, model: str) -> None:
        self.state[model] = "starting"
        process = self.process[model] = subprocess.Popen(
            self.config[model]["command"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + START_LIMIT
        while time.monotonic() < until:
            if process.poll() is not None:
                self._forget(model)
                raise Failed(500, "unspecific error: upstream command exited prematurely", "internal_error", "server_error")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.config[model]["port"], timeout=2)
                connection.request("GET", self.config[model]["check"])
                if connection.getresponse().status == 200:
                    self.state[model] = "ready"
                    return
            except OSError:
                pass
            time.sleep(0.2)
        self.stop(model)
        raise Failed(500, "unspecific error: health check timed out", "internal_error", "server_error")

    def stop(self, model: str) -> None:
        process = self.process.get(model)
        if process is None:
            return
        self.state[model] = "stopping"
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._forget(model)

    def _forget(self, model: str) -> None:
        self.process.pop(model, None)
        self.state.pop(model, None)


def handler(models: Models, key: str | None, generation: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = self.path.partition("?")[0]
            try:
                if path == "/health":
                    return self._text(200, "OK")
                if key is not None and self.headers.get("authorization") != f"Bearer {key}" and self.headers.get("x-api-key") != key:
                    raise Failed(401, "unauthorized: invalid or missing API key", "unauthorized", "authentication_error")
                if path in ROUTED and self.command == "POST":
                    return self._routed(path, body)
                if path.startswith("/upstream/"):
                    name, _, rest = path.removeprefix("/upstream/").partition("/")
                    return self._pass(unquote(name), "/" + rest, body)
                return self._own(path)
            except Failed as failed:
                return self._failed(failed)

        def _routed(self, path: str, body: bytes) -> None:
            model = None
            if "application/json" in (self.headers.get("content-type") or ""):
                try:
                    model = json.loads(body).get("model")
                except (ValueError, AttributeError):
                    model = None
            if not isinstance(model, str) or not model:
                raise Failed(404, "no model id could be identified", "not_found", "invalid_request_error")
            self._pass(model, path, body)

        def _own(self, path: str) -> None:
            if path in ("/v1/models", "/models"):
                listed = [
                    {
                        "id": name,
                        "object": "model",
                        "created": 1,
                        "owned_by": "llama-swap",
                        "status": {"value": "loaded" if name in models.state else "unloaded"},
                    }
                    for name in models.config
                ]
                return self._json(200, {"object": "list", "data": listed})
            if path == "/running":
                running = [{"model": name, "state": state, "ttl": 0} for name, state in dict(models.state).items()]
                return self._json(200, {"running": running})
            if path == "/unload" or (path.startswith("/api/models/unload") and self.command == "POST"):
                wanted = unquote(path.removeprefix("/api/models/unload").removeprefix("/")) if path != "/unload" else ""
                if wanted and wanted not in models.config:
                    raise Failed(404, "model not found", "not_found", "invalid_request_error")
                for name in [wanted] if wanted else list(models.process):
                    models.stop(name)
                return self._text(200, "OK")
            return self._text(404, "404 page not found")

        def _pass(self, model: str, path: str, body: bytes) -> None:
            port = models.enter(model)
            try:
                upstream = http.client.HTTPConnection("127.0.0.1", port)
                try:
                    headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
                    upstream.request(self.command, path, body, headers)
                    answer = upstream.getresponse()
                except (OSError, http.client.HTTPException):
                    self.send_response(502)  # empty, without a content type
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                self._stream(answer)
                upstream.close()
            finally:
                models.leave(model)

        def _stream(self, answer: http.client.HTTPResponse) -> None:
            self.send_response(answer.status)
            length = answer.getheader("content-length")
            for name in ("content-type", "retry-after"):
                if value := answer.getheader(name):
                    self.send_header(name, value)
            self.send_header(*(("content-length", length) if length else ("transfer-encoding", "chunked")))
            self.end_headers()
            try:
                while piece := answer.read1(65536):
                    # a client that has left closes the upstream, which frees its engine
                    if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, 2):
                        raise ConnectionResetError
                    self.wfile.write(piece if length else b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.flush()
            except (OSError, http.client.HTTPException):
                answer.close()
                self.close_connection = True
                return
            if not length:
                self.wfile.write(b"0\r\n\r\n")

        def _failed(self, failed: Failed) -> None:
            if generation == "bare" and "application/json" not in (self.headers.get("accept") or ""):
                return self._text(failed.status, failed.message)
            detail: Any = {"message": failed.message, "type": failed.kind, "param": None, "code": failed.code}
            body = {"src": "llama-swap", "error": detail if generation == "object" else failed.message}
            if generation == "bare":
                del body["src"]
            return self._json(failed.status, body)

        def _json(self, status: int, value: Any) -> None:
            self._send(status, json.dumps(value).encode(), "application/json")

        def _text(self, status: int, text: str) -> None:
            self._send(status, text.encode(), "text/plain; charset=utf-8")

        def _send(self, status: int, data: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key")
    parser.add_argument("--generation", choices=["object", "text", "bare"], default="object")
    options = parser.parse_args()
    models = Models(json.loads(options.config.read_text()))
    try:
        ThreadingHTTPServer(("127.0.0.1", options.port), handler(models, options.key, options.generation)).serve_forever()
    finally:
        for name in list(models.process):
            models.stop(name)


if __name__ == "__main__":
    import signal
    import sys

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the children end too
    main()
