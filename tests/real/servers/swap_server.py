"""A substitute for llama-swap, for tests on machines that cannot have it.

It has one address, many models and one process at a time. It follows llama-swap at commit
0bdb372:

* A request names its model in the JSON body (`model`), in the form field of that name for
  multipart, in the query for GET, or in the path (`/upstream/{model}/...`). A JSON body needs a
  content type with `application/json` in it; otherwise no model is found: 404.
* A model that is not running is started. The running model is stopped first, but only when it has
  no open request. Then the `checkEndpoint` (default `/health`) of the model is polled until it
  answers 200. The client receives nothing meanwhile.
* The body is forwarded unchanged and the response is streamed. When a client disconnects, the
  connection to the process is closed too, also while the client waits for the first byte.
* `/v1/models` lists all models and which are loaded (a starting one counts), `/running` reports
  starting, ready or stopping, `/unload` and `POST /api/models/unload[/{model}]` stop processes
  even if they are busy. `/health` needs no key. Any other route: a plain text 404.
* Its own errors: 401, 404, 429 with `Retry-After: 1`, 500 when a process does not start or is
  unloaded while a request waits for it, and 502 with an empty body and no content type when the
  process dies before it has answered. If it dies later, the body is truncated.
* The form of those errors is that of one of three generations (`errors`): "current" has an object,
  "v250" a string, "old" a string only if the Accept header names application/json, and otherwise
  the bare message.

* A model has further names: its `aliases`, and the keys of its filter `setParamsByID`, which sets
  fields of a JSON body. `/v1/models` lists them in the entry of their model, and with
  `includeAliasesInList` in entries of their own; `/running` lists real names only.

Unlike llama-swap it polls five times a second instead of once, has no TTL, other filters, peers or
groups, and sends no loading chunks.

    python swap_server.py --config FILE --port N

FILE is JSON:

    {"apiKeys": [...], "errors": "current", "healthCheckTimeout": 60, "models": {"NAME": {
        "cmd": [...], "proxy": "http://127.0.0.1:PORT", "checkEndpoint": "/",
        "concurrencyLimit": 10, "name": "", "description": "", "output": ["text"],
        "aliases": [...], "filters": {"setParamsByID": {"NAME:short": {"max_tokens": 3}}}}}}
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from http_helpers import Handler, Server, has_left, serve

POLL_SECONDS = 0.2
# The time between asking a process to end and killing it.
TERMINATE_SECONDS = 1.0
HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "proxy-connection",
}
MODEL_IN_BODY = {
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/images/generations",
    "/v1/images/edits",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
}
MODEL_IN_QUERY = {"/sdapi/v1/loras"}


class GatewayError(Exception):
    """An error that the gateway itself sends."""

    def __init__(
        self, status: int, message: str, code: str, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.kind = kind
        self.headers = headers or {}


class ClientLeft(Exception):
    """The client that waited for this response has disconnected."""


def not_found(message: str) -> GatewayError:
    """Return an error with status 404."""
    return GatewayError(404, message, "not_found", "invalid_request_error")


def failed(reason: str) -> GatewayError:
    """Return the error for a process that did not start."""
    return GatewayError(500, f"unspecific error: {reason}", "internal_error", "server_error")


@dataclass
class Process:
    """A model's process and the number of requests that it is answering."""

    model: str
    popen: subprocess.Popen[bytes]
    state: str = "starting"
    open_requests: int = 0

    def await_death(self) -> None:
        """Wait for the process to end after its connection was lost.

        A dying process closes its sockets a moment before it ends, and no request may be
        forwarded to it in between.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(0.2)


@dataclass
class Swap:
    """Which process runs. `changed` guards all state."""

    models: dict[str, dict[str, Any]]
    health_timeout: float
    changed: threading.Condition = field(default_factory=threading.Condition)
    current: Process | None = None
    waiting: dict[str, int] = field(default_factory=dict)

    def aliases(self, model: str) -> list[str]:
        """Return the further names of a model."""
        config = self.models[model]
        names = [*config.get("aliases", ()), *params_by_id(config)]
        return [name for name in dict.fromkeys(names) if name != model]

    def real_name(self, name: str) -> str | None:
        """Return the model that has this name or alias."""
        if name in self.models:
            return name
        return next((model for model in self.models if name in self.aliases(model)), None)

    @contextlib.contextmanager
    def use(self, model: str, client: socket.socket) -> Iterator[Process]:
        """Yield the model's process, ready and not to be stopped meanwhile.

        Raises GatewayError, and ClientLeft if the client disconnects while it waits.
        """
        with self._counted(model):
            process = self._ready(model, client)
            try:
                yield process
            finally:
                with self.changed:
                    process.open_requests -= 1
                    self.changed.notify_all()

    @contextlib.contextmanager
    def _counted(self, model: str) -> Iterator[None]:
        with self.changed:
            if self.waiting.get(model, 0) >= self.models[model].get("concurrencyLimit", 10):
                raise GatewayError(
                    429,
                    "Too many requests",
                    "concurrency_limit",
                    "rate_limit_error",
                    {"Retry-After": "1"},
                )
            self.waiting[model] = self.waiting.get(model, 0) + 1
        try:
            yield
        finally:
            with self.changed:
                self.waiting[model] -= 1

    def _ready(self, model: str, client: socket.socket) -> Process:
        awaited: Process | None = None
        with self.changed:
            while True:
                self._forget_dead()
                if awaited is not None and awaited is not self.current:
                    # A process with the state "stopped" was stopped for another model: wait again.
                    if awaited.state != "stopped":
                        raise failed(self._reason(awaited))
                    awaited = None
                process = self.current
                if process is None:
                    awaited = self._start(model)
                elif process.model == model and process.state == "ready":
                    process.open_requests += 1
                    return process
                elif process.model == model and process.state == "starting":
                    awaited = process
                elif (
                    process.model != model
                    and process.state == "ready"
                    and not process.open_requests
                ):
                    self._stop(process)
                    continue
                self.changed.wait(POLL_SECONDS)
                if has_left(client):
                    raise ClientLeft

    def _reason(self, process: Process) -> str:
        if process.state == "late":
            return f"health check timed out after {self.health_timeout:g}s"
        if process.state == "unloaded":
            return f"{process.model} : model unloaded"
        return "upstream command exited prematurely"

    def _forget_dead(self) -> None:
        if (
            self.current is not None
            and self.current.popen.poll() is not None
            and self.current.state != "stopping"
        ):
            self.current = None
            self.changed.notify_all()

    def _start(self, model: str) -> Process:
        try:
            popen = subprocess.Popen(self.models[model]["cmd"], stdin=subprocess.DEVNULL)
        except OSError as error:
            raise failed(f"failed to start command: {error.strerror}") from None
        self.current = process = Process(model, popen)
        threading.Thread(target=self._poll_health, args=(process,), daemon=True).start()
        return process

    def _poll_health(self, process: Process) -> None:
        """Poll the health of a process without holding the lock, because a poll takes time."""
        config = self.models[process.model]
        deadline = time.monotonic() + self.health_timeout
        while process.popen.poll() is None and process.state == "starting":
            if is_ready(config["proxy"], config.get("checkEndpoint", "/health")):
                with self.changed:
                    if process.state == "starting":
                        process.state = "ready"
                    self.changed.notify_all()
                return
            if time.monotonic() > deadline:
                self.unload(process.model, "late")
            time.sleep(POLL_SECONDS)

    def _stop(self, process: Process, state: str = "stopped") -> None:
        """End the process; the lock is released while it ends."""
        process.state = "stopping"
        process.popen.terminate()
        deadline = time.monotonic() + TERMINATE_SECONDS
        while process.popen.poll() is None:
            if time.monotonic() > deadline:
                process.popen.kill()
            self.changed.wait(0.02)
        process.state = state
        if self.current is process:
            self.current = None
        self.changed.notify_all()

    def unload(self, model: str | None = None, state: str = "unloaded") -> None:
        """End the process of this model, or the one that runs."""
        with self.changed:
            process = self.current
            if process is None or (model is not None and process.model != model):
                return
            if process.state == "stopping":
                while process.state == "stopping":
                    self.changed.wait(POLL_SECONDS)
                return
            self._stop(process, state)

    def running(self) -> list[Process]:
        """Return the current process, if there is one."""
        with self.changed:
            self._forget_dead()
            return [] if self.current is None else [self.current]


def params_by_id(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the filter `setParamsByID` of a model: fields by the name in the request."""
    filters: dict[str, dict[str, dict[str, Any]]] = config.get("filters", {})
    return filters.get("setParamsByID", {})


def connect(address: str, timeout: float | None = None) -> http.client.HTTPConnection:
    """Return a connection to the host and port of a URL."""
    parts = urlsplit(address)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)


def is_ready(address: str, path: str) -> bool:
    """Return whether a process is ready, asked on a new connection."""
    connection = connect(address, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class SwapHandler(Handler):
    """The routes of the gateway."""

    swap: Swap
    keys: tuple[str, ...] = ()
    errors = "current"
    aliases_listed = False

    def answer_request(self) -> None:
        """Send the response, or the error, to the request."""
        path = urlsplit(self.path).path
        try:
            if path == "/health":
                self.send(200, b"OK", "text/plain")
                return
            self._check_key()
            self._route(path)
        except GatewayError as error:
            self._send_error(error)
        except ClientLeft:
            self.close_connection = True

    def _route(self, path: str) -> None:
        if self.command == "GET" and path in ("/v1/models", "/models"):
            self.send_json(200, {"object": "list", "data": self._list_models()})
        elif self.command == "GET" and path == "/running":
            self.send_json(
                200, {"running": [self._describe(process) for process in self.swap.running()]}
            )
        elif self.command == "GET" and path == "/unload":
            self.swap.unload()
            self.send(200, b"OK", "text/plain")
        elif self.command == "POST" and path == "/api/models/unload":
            self.swap.unload()
            self.send_json(200, {"msg": "ok"})
        elif self.command == "POST" and path.startswith("/api/models/unload/"):
            model = unquote(path.removeprefix("/api/models/unload/"))
            self.swap.unload(self._check_model(model, "model not found"))
            self.send(200, b"OK", "text/plain")
        elif path.startswith("/upstream/"):
            self._upstream(path)
        elif (self.command == "POST" and path in MODEL_IN_BODY) or (
            self.command == "GET" and path in MODEL_IN_QUERY
        ):
            name = self._model_of_request()
            model = self._check_model(name)
            self._set_params(model, name)
            self._forward(model, self.path)
        else:
            self.send(404, b"404 page not found\n", "text/plain; charset=utf-8")

    def _list_models(self) -> list[dict[str, Any]]:
        loaded = {process.model for process in self.swap.running()}
        entries: list[dict[str, Any]] = []
        for model, config in self.swap.models.items():
            aliases = self.swap.aliases(model)
            details: dict[str, Any] = {"type": "model"} | ({"aliases": aliases} if aliases else {})
            entry = {
                "id": model,
                "object": "model",
                "created": int(time.time()),
                "owned_by": "llama-swap",
                "name": config.get("name", ""),
                "description": config.get("description", ""),
                "status": {"value": "loaded" if model in loaded else "unloaded"},
                "meta": {"llamaswap": details},
                **self._modalities(config),
            }
            entries.append(entry)
            if self.aliases_listed:
                meta = {"llamaswap": {"type": "alias", "modelID": model}}
                entries += [{**entry, "id": alias, "meta": meta} for alias in aliases]
        return entries

    def _modalities(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the capabilities, if the operator has declared them."""
        modalities = config.get("output")
        if not modalities:
            return {}
        architecture = {
            "input_modalities": ["text"],
            "output_modalities": modalities,
            "modality": f"text->{'+'.join(modalities)}",
        }
        return {
            "architecture": architecture,
            "capabilities": {"image_generation": True} if "image" in modalities else {},
        }

    def _describe(self, process: Process) -> dict[str, Any]:
        config = self.swap.models[process.model]
        return {
            "model": process.model,
            "state": process.state,
            "cmd": " ".join(config["cmd"]),
            "proxy": config["proxy"],
            "ttl": 0,
            "name": config.get("name", ""),
            "description": config.get("description", ""),
        }

    def _check_model(self, model: str, complaint: str = "no router for requested model") -> str:
        real_name = self.swap.real_name(model)
        if real_name is None:
            raise not_found(complaint)
        return real_name

    def _set_params(self, model: str, name: str) -> None:
        """Set the fields of a JSON body that the operator sets for this name."""
        params = params_by_id(self.swap.models[model]).get(name)
        if params and "application/json" in self.headers.get("Content-Type", ""):
            self.body = json.dumps({**json.loads(self.body), **params}).encode()

    def _model_of_request(self) -> str:
        kind = self.headers.get("Content-Type", "")
        model: object = None
        if self.command == "GET":
            model = parse_qs(urlsplit(self.path).query).get("model", [None])[0]
        elif "application/json" in kind:
            with contextlib.suppress(ValueError):
                body = json.loads(self.body)
                model = body.get("model") if isinstance(body, dict) else None
        elif "multipart/form-data" in kind:
            form = message_from_bytes(
                b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + self.body
            )
            for part in form.get_payload() if form.is_multipart() else ():
                if part.get_param("name", header="content-disposition") == "model":
                    model = part.get_payload(decode=True).decode("utf-8", "replace")
        if not isinstance(model, str) or not model:
            raise not_found("no model id could be identified")
        return model

    def _upstream(self, path: str) -> None:
        """Forward `/upstream/{model}/{path}`.

        A model's name may contain slashes, so it is matched segment by segment.
        """
        segments = unquote(path.removeprefix("/upstream/")).split("/")
        for end in range(1, len(segments) + 1):
            model = self.swap.real_name("/".join(segments[:end]))
            if model is None:
                continue
            if end == len(segments):
                self.send(301 if self.command == "GET" else 308, headers={"Location": f"{path}/"})
                return
            rest = path.removeprefix("/upstream/").split("/", end)[end]
            query = urlsplit(self.path).query
            self._forward(model, f"/{rest}?{query}" if query else f"/{rest}")
            return
        raise not_found("model not found")

    def _forward(self, model: str, path: str) -> None:
        with self.swap.use(model, self.connection) as process:
            connection = connect(self.swap.models[model]["proxy"])
            try:
                connection.connect()
            except OSError:
                process.await_death()
                self.send(502)
                return
            done = threading.Event()
            watcher = threading.Thread(
                target=self._watch_client, args=(connection.sock, done), daemon=True
            )
            watcher.start()
            try:
                self._relay(connection, path, process)
            # The headers have been sent: end without a last chunk or the announced length.
            except (OSError, http.client.HTTPException):
                process.await_death()
                self.close_connection = True
            finally:
                done.set()
                watcher.join()
                connection.close()

    def _watch_client(self, upstream: socket.socket, done: threading.Event) -> None:
        while not done.wait(0.05):
            if has_left(self.connection):
                with contextlib.suppress(OSError):
                    upstream.shutdown(socket.SHUT_RDWR)
                return

    def _relay(self, connection: http.client.HTTPConnection, path: str, process: Process) -> None:
        try:
            connection.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in HOP_BY_HOP | {"content-length"}:
                    connection.putheader(name, value)
            if self.body or self.command == "POST":
                connection.putheader("Content-Length", str(len(self.body)))
            connection.endheaders(self.body or None)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException):
            process.await_death()
            self.send(502)
            return
        with response:
            length = response.getheader("Content-Length")
            self.send_response_only(response.status, response.reason)
            for name, value in response.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            if length is None:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.log_request(response.status)
            self._stream(response, None if length is None else int(length))

    def _stream(self, response: http.client.HTTPResponse, length: int | None) -> None:
        if self.command == "HEAD" or response.status in (204, 304):
            return
        sent = 0
        while chunk := response.read1(65536):
            sent += len(chunk)
            self.wfile.write(chunk if length is not None else b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if length is None:
            self.wfile.write(b"0\r\n\r\n")
        elif sent < length:
            raise http.client.IncompleteRead(b"", length - sent)

    def _check_key(self) -> None:
        """Check Basic, then Bearer, then x-api-key; the first that is present decides alone."""
        if not self.keys:
            return
        key = self.headers.get("x-api-key", "")
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            with contextlib.suppress(ValueError):
                key = base64.b64decode(value).decode("utf-8", "replace").partition(":")[2]
        elif scheme.lower() == "bearer":
            key = value.strip()
        if key not in self.keys:
            headers = {"WWW-Authenticate": 'Basic realm="llama-swap"'}
            raise GatewayError(
                401,
                "unauthorized: invalid or missing API key",
                "unauthorized",
                "authentication_error",
                headers,
            )

    def _send_error(self, error: GatewayError) -> None:
        accept = self.headers.get("Accept", "")
        if self.errors == "old":
            if "application/json" in accept:
                self.send_json(error.status, {"error": error.message}, error.headers)
            else:
                self.send(
                    error.status,
                    f"{error.message}\n".encode(),
                    "text/plain; charset=utf-8",
                    error.headers,
                )
        elif "text/plain" in accept:
            self.send(
                error.status, f"llama-swap: {error.message}".encode(), "text/plain", error.headers
            )
        elif "text/html" in accept:
            page = re.sub(r"[<>&]", " ", error.message)
            self.send(
                error.status,
                f"<html><title>llama-swap</title><p>{page}</p></html>".encode(),
                "text/html",
                error.headers,
            )
        else:
            value: object = error.message
            if self.errors == "current":
                value = {
                    "message": error.message,
                    "type": error.kind,
                    "param": None,
                    "code": error.code,
                }
            self.send_json(error.status, {"src": "llama-swap", "error": value}, error.headers)


def main() -> None:
    """Run the gateway."""
    parser = argparse.ArgumentParser(description="a substitute for llama-swap")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    config = json.loads(arguments.config.read_text())
    SwapHandler.swap = swap = Swap(config["models"], config.get("healthCheckTimeout", 120))
    SwapHandler.keys = tuple(config.get("apiKeys", ()))
    SwapHandler.errors = config.get("errors", "current")
    SwapHandler.aliases_listed = config.get("includeAliasesInList", False)
    try:
        serve(Server((arguments.host, arguments.port), SwapHandler))
    finally:
        swap.unload()


if __name__ == "__main__":
    main()
