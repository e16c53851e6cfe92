"""A test server for llama-swap in front of image servers: routing, loading, eviction and errors.

It follows `llama-swap.md`, and imitates the errors of three generations of llama-swap.

    swap = LlamaSwap({"sdxl": StableDiffusion(), "flux": StableDiffusion()}, instant=False)
    url = serve(swap).url
    ...                              # a request for "sdxl" in a thread waits without a response
    assert swap.starting("sdxl")
    swap.loaded("sdxl")              # now the request is forwarded
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

from tests.servers.http_helpers import (
    Crash,
    Response,
    client_left,
    empty_response,
    json_response,
    parse_form,
    route,
    text_response,
)
from tests.support.loopback import Loopback, Peer, ReceivedRequest

JSON_ROUTES = {
    "/v1/images/generations",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
}
FORM_ROUTES = {"/v1/images/edits", "/v1/audio/transcriptions"}
QUERY_ROUTES = {"/sdapi/v1/loras"}
GATEWAY_ROUTES = {"/v1/models", "/models", "/running", "/unload", "/health"}
STATIC_FILE = re.compile(r"\.(js|json|css|png|gif|jpg|jpeg|ico|txt)$")
NOT_FOUND = text_response("404 page not found\n", 404)


class Upstream(Protocol):
    """A model's server, which loses its jobs when its process is stopped."""

    def answer(self, request: ReceivedRequest) -> Response: ...

    def lose_jobs(self) -> None: ...


@dataclass
class _Model:
    """A model's process.

    `open` counts its forwarded requests, `waiting` the requests that wait until it is loaded.
    """

    name: str
    server: Upstream
    state: str = "stopped"
    open: int = 0
    waiting: int = 0
    starts: int = 0
    failures: int = 0
    reason: str = ""


class _Refused(Exception):
    """An error that the gateway itself sends."""

    def __init__(self, status: int, message: str, code: str, kind: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.kind = status, message, code, kind


class LlamaSwap:
    """A handler for `serve()`.

    One model is loaded at a time; it is stopped for another one once it has no open request.

    Args:
        models: The server of each model, by name.
        generation: The form of error bodies: "current", "middle" or "old".
        keys: The accepted API keys; none means that no key is required.
        instant: False makes a load last until `loaded()`.
        limit: The number of concurrent requests per model.
        declared: The models whose capabilities the operator has declared.
        aliases: Further names of models.
        set_params_by_id: The operator's filter `setParamsByID`: settings by the name in a request,
            by model. A name that is no model is one more alias.
        aliases_listed: Whether the list of models has an entry for each alias.

    These attributes may be changed while it runs: `broken` (models that never load), `not_ready`
    (models that answer 503), `set_params` and `strip_params` (the operator's filters) and
    `truncate` (the upstream dies in the middle of its response).
    """

    def __init__(
        self,
        models: Mapping[str, Upstream],
        *,
        generation: str = "current",
        keys: Iterable[str] = (),
        instant: bool = True,
        limit: int = 10,
        declared: Iterable[str] = (),
        aliases: Mapping[str, str] | None = None,
        set_params_by_id: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        aliases_listed: bool = False,
    ) -> None:
        self.generation, self.keys, self.instant, self.limit = generation, set(keys), instant, limit
        self.declared, self.aliases = set(declared), dict(aliases or {})
        self.aliases_listed = aliases_listed
        self.params_by_id: dict[str, Mapping[str, Any]] = {}
        for model, params_by_id in (set_params_by_id or {}).items():
            self.params_by_id.update(params_by_id)
            self.aliases |= {name: model for name in params_by_id if name != model}
        self.broken: set[str] = set()
        self.not_ready: set[str] = set()
        self.set_params: dict[str, Any] = {}
        self.strip_params: set[str] = set()
        self.truncate = False
        self.loads: list[str] = []
        self._models = {name: _Model(name, server) for name, server in models.items()}
        self._changed = threading.Condition(threading.RLock())

    # Controls for tests

    def state(self, model: str) -> str:
        """Return the state of a model: stopped, starting or ready."""
        with self._changed:
            return self._models[model].state

    def starting(self, model: str, seconds: float = 5) -> bool:
        """Return whether this model starts to load within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._models[model].state == "starting", seconds)

    def waiting(self, model: str, count: int, seconds: float = 5) -> bool:
        """Return whether exactly `count` requests wait for this model within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._models[model].waiting == count, seconds)

    def open(self, model: str, count: int, seconds: float = 5) -> bool:
        """Return whether exactly `count` requests are forwarded to this model within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._models[model].open == count, seconds)

    def loaded(self, model: str, seconds: float = 5) -> None:
        """Finish loading a model; its waiting requests are forwarded."""
        if not self.starting(model, seconds):
            raise AssertionError(f"{model} is not being loaded")
        with self._changed:
            self._models[model].state = "ready"
            self._changed.notify_all()

    def fail(
        self, model: str, reason: str = "upstream command exited prematurely", seconds: float = 5
    ) -> None:
        """Let a model fail to load, for example for lack of memory.

        Requests that wait for it get 500.
        """
        if not self.starting(model, seconds):
            raise AssertionError(f"{model} is not being loaded")
        with self._changed:
            self._stop(self._models[model], reason)

    def unload(self, model: str) -> None:
        """Stop a model's process, as a TTL or another client does.

        Waiting requests get 500 and forwarded ones 502; the jobs of the process are lost.
        """
        with self._changed:
            self._stop(self._models[model], "group : model unloaded")

    def _stop(self, model: _Model, reason: str) -> None:
        if model.state == "starting":
            model.failures += 1
            model.reason = reason
        if model.state != "stopped":
            model.state = "stopped"
            model.server.lose_jobs()
        self._changed.notify_all()

    # HTTP

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            try:
                answer = self._answer(peer, request)
            except _Refused as refused:
                answer = self._error(request, refused)
            if answer is None:
                return
            if self.truncate and len(answer.body) > 1:
                peer.send(answer.sent[: -len(answer.body) // 2])
                return
            peer.send(answer.sent)

    def _answer(self, peer: Peer, request: ReceivedRequest) -> Response | None:
        path, query = route(request)
        if path == "/health":
            return text_response("OK")
        self._authorize(request)
        if path == "/upstream" or path.startswith("/upstream/"):
            return self._upstream(peer, request, path)
        if path == "/api/events":
            return self._send_events(peer)
        if path == "/api/models/unload" or path.startswith("/api/models/unload/"):
            return self._unload_by_request(
                request, unquote(path[len("/api/models/unload") :].lstrip("/"))
            )
        if path in GATEWAY_ROUTES | QUERY_ROUTES:
            if request.method != "GET":
                return _not_allowed("GET, HEAD")
            return (
                self._proxy(peer, request, self._find_model(query.get("model", "")))
                if path in QUERY_ROUTES
                else self._answer_itself(path)
            )
        if path in JSON_ROUTES | FORM_ROUTES:
            if request.method != "POST":
                return _not_allowed("POST")
            return self._proxy(
                peer, self._apply_filters(request, path), self._find_model(_model_of(request))
            )
        return NOT_FOUND

    def _send_events(self, peer: Peer) -> None:
        """Send the states of all models, now and after each change, until the client leaves."""
        peer.begin()
        last_states: list[dict[str, str]] = []
        while not client_left(peer):
            with self._changed:
                states = [
                    {"id": model.name, "name": "", "description": "", "state": model.state}
                    for model in self._models.values()
                ]
                if states == last_states:
                    self._changed.wait(0.05)
                    continue
            last_states = states
            message = json.dumps({"type": "modelStatus", "data": json.dumps(states)})
            peer.chunk(f"event:message\ndata:{message}\n\n".encode())

    def _authorize(self, request: ReceivedRequest) -> None:
        """Check Basic, then Bearer, then x-api-key; the first that is present decides alone."""
        kind, _, credentials = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                key = base64.b64decode(credentials, validate=True).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                key = ""
        else:
            key = credentials if kind.lower() == "bearer" else request.headers.get("x-api-key", "")
        if self.keys and key not in self.keys:
            raise _Refused(
                401,
                "unauthorized: invalid or missing API key",
                "unauthorized",
                "authentication_error",
            )

    def _find_model(self, name: str) -> _Model:
        if not name:
            raise _Refused(
                404, "no model id could be identified", "not_found", "invalid_request_error"
            )
        name = self.aliases.get(name, name)
        if name not in self._models:
            message = (
                "no local server found for requested model"
                if self.generation == "old"
                else "no router for requested model"
            )
            raise _Refused(404, message, "not_found", "invalid_request_error")
        return self._models[name]

    def _apply_filters(self, request: ReceivedRequest, path: str) -> ReceivedRequest:
        """Apply the filters to the JSON routes, but not to forms or /upstream."""
        if path not in JSON_ROUTES or not (
            self.set_params or self.strip_params or self.params_by_id
        ):
            return request
        try:
            body = json.loads(request.body)
        except ValueError:
            return request
        remaining = {
            name: value
            for name, value in body.items()
            if name not in self.strip_params or name == "model"
        }
        by_id = self.params_by_id.get(str(body.get("model")), {})
        return replace(request, body=json.dumps({**remaining, **self.set_params, **by_id}).encode())

    def _upstream(self, peer: Peer, request: ReceivedRequest, path: str) -> Response | None:
        """Forward `/upstream/{model}/<path>`; ids with slashes are matched segment by segment."""
        raw, mark, query = request.path.partition("?")
        segments = raw.split("/")[2:]
        for count in range(len(segments), 0, -1):
            name = unquote("/".join(segments[:count]))
            model = self._models.get(self.aliases.get(name, name))
            if model is None:
                continue
            if count == len(segments):
                headers = {"Location": f"{raw}/{mark}{query}"}
                return Response(
                    301 if request.method == "GET" else 308,
                    b"",
                    "text/html; charset=utf-8",
                    headers,
                )
            rest = "/" + "/".join(segments[count:])
            if (
                request.method == "GET"
                and STATIC_FILE.search(rest)
                and self.state(model.name) == "stopped"
            ):
                message = f"model {model.name} is not loaded; path matches upstream.ignorePaths"
                raise _Refused(409, message, "conflict", "invalid_request_error")
            return self._proxy(peer, replace(request, path=rest + mark + query), model)
        raise _Refused(404, "model not found", "not_found", "invalid_request_error")

    def _answer_itself(self, path: str) -> Response:
        with self._changed:
            if path == "/unload":
                for model in self._models.values():
                    self._stop(model, "group : model unloaded")
                return text_response("OK")
            if path == "/running":
                running = [model for model in self._models.values() if model.state != "stopped"]
                return json_response({"running": [self._process(model) for model in running]})
            return json_response(
                {
                    "object": "list",
                    "data": [
                        entry for model in self._models.values() for entry in self._listed(model)
                    ],
                }
            )

    def _process(self, model: _Model) -> dict[str, Any]:
        fields = {
            "cmd": f"sd-server --model {model.name}",
            "proxy": "http://127.0.0.1:5800",
            "ttl": 0,
            "name": "",
            "description": "",
        }
        return {"model": model.name, "state": model.state} | fields

    def _listed(self, model: _Model) -> list[dict[str, Any]]:
        """Return the entries of a model in the list of models.

        It has capabilities only if the operator declared them. A starting model counts as loaded.
        """
        aliases = [alias for alias, name in self.aliases.items() if name == model.name]
        entry: dict[str, Any] = {
            "id": model.name,
            "object": "model",
            "created": 1,
            "owned_by": "llama-swap",
            "status": {"value": "unloaded" if model.state == "stopped" else "loaded"},
            "meta": {"llamaswap": {"type": "model"}},
        }
        if model.name in self.declared:
            entry["architecture"] = {
                "input_modalities": ["text", "image"],
                "output_modalities": ["image"],
                "modality": "text+image->image",
            }
            entry["capabilities"] = {"image_generation": True, "image_to_image": True}
        if aliases:
            entry["meta"] = {"llamaswap": {"type": "model", "aliases": aliases}}
        if not self.aliases_listed:
            return [entry]
        meta = {"llamaswap": {"type": "alias", "modelID": model.name}}
        return [entry, *({**entry, "id": alias, "meta": meta} for alias in aliases)]

    def _unload_by_request(self, request: ReceivedRequest, name: str) -> Response:
        if request.method != "POST":
            return _not_allowed("POST")
        if not name:
            self._answer_itself("/unload")
            return json_response({"msg": "ok"})
        name = self.aliases.get(name, name)
        if name not in self._models:
            raise _Refused(404, "model not found", "not_found", "invalid_request_error")
        self.unload(name)
        return text_response("OK")

    def _error(self, request: ReceivedRequest, refused: _Refused) -> Response:
        """Return an error in the form of this generation and of the Accept header.

        The form changed on 2026-05-28, and after v250 on 2026-08-22.
        """
        accept = request.headers.get("accept", "")
        message = refused.message
        if refused.status == 503 and self.generation != "current":
            answer = text_response(f"llama-swap-error: {message}", 503)
        elif self.generation == "old":
            answer = (
                json_response({"error": message}, refused.status)
                if "application/json" in accept
                else text_response(message, refused.status)
            )
        elif "text/plain" in accept:
            answer = text_response(f"llama-swap: {message}", refused.status)
        elif "text/html" in accept:
            answer = text_response(
                f"<!DOCTYPE html><title>llama-swap</title><p>{message}</p>",
                refused.status,
                "text/html; charset=utf-8",
            )
        elif self.generation == "middle":
            answer = json_response({"src": "llama-swap", "error": message}, refused.status)
        else:
            error = {"message": message, "type": refused.kind, "param": None, "code": refused.code}
            answer = json_response({"src": "llama-swap", "error": error}, refused.status)
        extra = {401: {"WWW-Authenticate": 'Basic realm="llama-swap"'}, 429: {"Retry-After": "1"}}
        return replace(answer, headers=extra.get(refused.status, {}))

    # Loading and forwarding

    def _proxy(self, peer: Peer, request: ReceivedRequest, model: _Model) -> Response | None:
        """Return the upstream's response once the model is loaded.

        Returns None when the client has disconnected.
        """
        with self._changed:
            if model.name in self.not_ready:
                raise _Refused(
                    503,
                    f"[{model.name}] process is not ready",
                    "service_unavailable",
                    "server_error",
                )
            if model.open + model.waiting >= self.limit:
                raise _Refused(429, "Too many requests", "concurrency_limit", "rate_limit_error")
            model.waiting += 1
            self._changed.notify_all()
            try:
                if not self._wait_until_ready(peer, model):
                    return None
                model.open += 1
            finally:
                model.waiting -= 1
                self._changed.notify_all()
        try:
            return self._forward(peer, request, model)
        finally:
            with self._changed:
                model.open -= 1
                self._changed.notify_all()

    def _wait_until_ready(self, peer: Peer, model: _Model) -> bool:
        """Wait until the model is loaded, and load it if no other request does.

        Returns False when the client has disconnected.
        """
        failures = model.failures
        while model.state != "ready":
            if model.failures != failures:
                raise _Refused(
                    500, f"unspecific error: {model.reason}", "internal_error", "server_error"
                )
            others = [
                other
                for other in self._models.values()
                if other is not model and other.state != "stopped"
            ]
            if model.state == "stopped" and not any(
                other.open or other.state == "starting" for other in others
            ):
                for other in others:
                    self._stop(other, "")
                self._start(model)
                continue
            self._changed.wait(0.02)
            if client_left(peer):
                return False
        return True

    def _start(self, model: _Model) -> None:
        model.state = "starting"
        model.starts += 1
        self.loads.append(model.name)
        if model.name in self.broken:
            self._stop(model, "upstream command exited prematurely")
        elif self.instant:
            model.state = "ready"
        self._changed.notify_all()

    def _forward(self, peer: Peer, request: ReceivedRequest, model: _Model) -> Response | None:
        """Return the upstream's response.

        If the client disconnects the gateway drops the request, but the upstream continues to
        work.
        """
        answers: list[Response] = []
        started = model.starts
        done = threading.Event()

        def forward() -> None:
            try:
                answers.append(model.server.answer(request))
            except Crash:
                with self._changed:
                    model.state = "stopped" if model.starts == started else model.state
            finally:
                done.set()

        threading.Thread(target=forward, daemon=True).start()
        while not done.wait(0.02):
            if client_left(peer):
                return None
        return answers[0] if answers else empty_response(502)


@contextmanager
def other_client_waiting(server: Loopback, swap: LlamaSwap, model: str) -> Iterator[None]:
    """Keep a request of another client waiting for this model, so that the model is loading."""
    body = json.dumps({"model": model, "prompt": "a"}).encode()
    head = (
        "POST /v1/images/generations HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(head.encode() + body)
        assert swap.starting(model)
        yield


def _not_allowed(methods: str) -> Response:
    """Return the response of Go's router to an unsupported method."""
    return Response(405, b"Method Not Allowed\n", "text/plain; charset=utf-8", {"Allow": methods})


def _model_of(request: ReceivedRequest) -> str:
    """Return `model` of a JSON body if the content type names JSON, else of a form.

    The result is "" when there is none.
    """
    kind = request.headers.get("content-type", "")
    try:
        if "application/json" in kind:
            body = json.loads(request.body)
            model = body.get("model") if isinstance(body, dict) else None
            return model if isinstance(model, str) else ""
        if "multipart/form-data" in kind:
            return next(
                (
                    part.content.decode()
                    for part in parse_form(kind, request.body)
                    if part.name == "model"
                ),
                "",
            )
        return parse_qs(request.body.decode()).get("model", [""])[0]
    except ValueError:
        return ""
