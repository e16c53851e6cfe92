"""A test server for ComfyUI: one queue, one GPU, graphs that are executed, and a websocket.

It follows `comfyui.md`.

    server = ComfyUI()
    url = serve(server).url
    server.hold_at(3)
    ...                              # a call in a thread
    assert server.reached()          # the job is held at step 3
    server.release()
    assert server.jobs[-1]["steps"] == 20
    assert image_color == color({"positive": "a red fox", "seed": 7})
"""

from __future__ import annotations

import contextlib
import json
import struct
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import RemoteProtocolError

from tests.servers.comfyui_nodes import (
    NODES,
    NodeError,
    Run,
    ancestors,
    color,
    describe_node,
    png_with,
    validate_graph,
)
from tests.servers.hashed_images import encode_image, solid_image
from tests.servers.http_helpers import (
    Response,
    empty_response,
    header_parameter,
    json_response,
    parse_form,
    route,
    text_response,
)
from tests.support.loopback import Peer, ReceivedRequest

__all__ = ["ComfyUI", "color"]

MAX_UPLOAD_BYTES = 100 * 1024 * 1024


class _Interrupted(Exception):
    """The running job was interrupted."""


class _ProcessRestarted(Exception):
    """The process was restarted while the job ran."""


@dataclass
class _Job:
    """A submitted graph."""

    number: float
    id: str
    graph: dict[str, Any]
    extra: dict[str, Any]
    outputs: list[str]
    interrupted: bool = False
    messages: list[list[Any]] = field(default_factory=list)

    @property
    def item(self) -> list[Any]:
        """The job as `/queue` and the history list it."""
        return [self.number, self.id, self.graph, self.extra, self.outputs]

    @property
    def client(self) -> str | None:
        """The websocket client that submitted the job; None for a job without a client id."""
        client_id = self.extra.get("client_id")
        return client_id if isinstance(client_id, str) else None


class _Socket:
    """The server's end of a websocket.

    Threads share wsproto's state, so a lock guards it.
    """

    def __init__(self, peer: Peer, request: ReceivedRequest, client: str) -> None:
        self.peer, self.client = peer, client
        self.features: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._protocol = WSConnection(ConnectionType.SERVER)
        headers = [(name.encode(), value.encode()) for name, value in request.headers.items()]
        self._protocol.initiate_upgrade_connection(headers, request.path)
        list(self._protocol.events())
        self._send(AcceptConnection())

    def _send(self, event: Event) -> None:
        # The connection may be closing.
        with self._lock, contextlib.suppress(Exception):
            self.peer.send(self._protocol.send(event))

    def say(self, kind: str, data: Any) -> None:
        """Send a JSON message of this type."""
        self._send(TextMessage(json.dumps({"type": kind, "data": data})))

    def show(self, data: bytes) -> None:
        """Send a binary message."""
        self._send(BytesMessage(data))

    def ping(self) -> None:
        """Send a ping."""
        self._send(Ping(b"there?"))

    def receive(self) -> list[Event] | None:
        """Return the next events from the client; None once it has disconnected."""
        try:
            data = self.peer.receive()
        except OSError:
            data = b""
        if not data:
            return None
        with self._lock:
            try:
                self._protocol.receive_data(data)
            except RemoteProtocolError:
                return None
            events = list(self._protocol.events())
        for event in events:
            if isinstance(event, (Ping, CloseConnection)):
                self._send(event.response())
        return None if any(isinstance(event, CloseConnection) for event in events) else events


class ComfyUI:
    """A handler for `serve()`. `jobs` lists the inputs of every sampler run, in order.

    Args:
        old: A server of 2024: interrupts are global, the server chooses the prompt ids, there is no
            progress_state, and a cached run has no outputs.
        checkpoints: The checkpoint files that the server has.
        previews: Send a preview with every step.

    These attributes may be changed while it runs: `combo` (lists of choices in the newer form),
    `websocket` (False sends 404), `previews`, `failing` (exception type and message that every
    sampler raises), `nulled` (history entries without a status), `silent` (no messages about
    jobs).
    """

    def __init__(
        self,
        *,
        old: bool = False,
        checkpoints: Iterable[str] = ("model.safetensors",),
        previews: bool = True,
    ) -> None:
        self.old, self.previews = old, previews
        self.combo = False
        self.websocket = True
        self.failing: tuple[str, str] | None = None
        self.history_without_status = False
        self.silent = False
        self.checkpoints = list(checkpoints)
        self.inputs: dict[str, bytes] = {}
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.jobs: list[dict[str, Any]] = []
        self.submitted: list[dict[str, Any]] = []
        # The text messages of clients.
        self.received: list[Any] = []
        self.pongs = 0
        self.interrupts = 0
        self.sockets: list[_Socket] = []
        self.history: dict[str, dict[str, Any]] = {}
        self._pending: list[_Job] = []
        self._running: _Job | None = None
        self._number = 0
        self._hold_step: int | None = None
        self._held_samplers = 0
        self._cached: set[str] = set()
        self._cached_images: dict[str, list[dict[str, str]]] = {}
        self._changed = threading.Condition(threading.RLock())

    # Controls for tests

    def hold_at(self, step: int) -> None:
        """Hold every sampler once it has reported this step; 0 is before the first.

        A sampler held at another step continues.
        """
        with self._changed:
            self._hold_step = step
            self._changed.notify_all()

    def release(self) -> None:
        """Continue the held samplers and hold no others."""
        with self._changed:
            self._hold_step = None
            self._changed.notify_all()

    def reached(self, seconds: float = 5) -> bool:
        """Return whether a sampler is held at its step within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._held_samplers > 0, seconds)

    def pending(self, count: int = 1, seconds: float = 5) -> bool:
        """Return whether exactly `count` jobs are queued within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._pending) == count, seconds)

    def idle(self, seconds: float = 5) -> bool:
        """Return whether no job runs and none is queued within `seconds`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._running is None and not self._pending, seconds
            )

    def listening(self, count: int = 1, seconds: float = 5) -> bool:
        """Return whether exactly `count` websockets are open within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.sockets) == count, seconds)

    def lose_jobs(self) -> None:
        """Restart the server: the queue, the history and the running job are lost."""
        with self._changed:
            self._pending.clear()
            self.history.clear()
            self._running = None
            self._changed.notify_all()

    def say(self, kind: str, data: Any) -> None:
        """Send a JSON message to every websocket."""
        for socket in self.sockets[:]:
            socket.say(kind, data)

    def show(self, data: bytes) -> None:
        """Send a binary message to every websocket."""
        for socket in self.sockets[:]:
            socket.show(data)

    def ping(self) -> None:
        """Send a ping to every websocket."""
        for socket in self.sockets[:]:
            socket.ping()

    def send_raw(self, data: bytes) -> None:
        """Send bytes that are not framed as a websocket message."""
        for socket in self.sockets[:]:
            socket.peer.send(data)

    def drop_sockets(self) -> None:
        """Reset the connection of every websocket."""
        for socket in self.sockets[:]:
            socket.peer.reset()

    def submit(self, graph: dict[str, Any], client: str | None = None) -> str:
        """Submit a graph as another client does; return its prompt id."""
        body = {"prompt": graph} | ({"client_id": client} if client else {})
        return str(json.loads(self._submit(body).body)["prompt_id"])

    @property
    def running(self) -> str | None:
        """The prompt id of the running job; None when none runs."""
        with self._changed:
            return self._running.id if self._running else None

    # HTTP

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            path, query = route(request)
            if (
                path.removeprefix("/api") == "/ws"
                and self.websocket
                and "upgrade" in request.headers.get("connection", "").lower()
            ):
                self._serve_websocket(peer, request, query.get("clientId") or uuid.uuid4().hex)
                return
            peer.send(self.answer(request).sent)

    def answer(self, request: ReceivedRequest) -> Response:
        """Return the response to a request."""
        path, query = route(request)
        path = unquote(path.removeprefix("/api"))
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            return empty_response(403)
        try:
            if request.method == "POST":
                return self._post(path, request)
            if request.method == "GET":
                return self._get(path, query)
        except json.JSONDecodeError:
            return text_response("500 Internal Server Error\n\nServer got itself in trouble", 500)
        return empty_response(404)

    def _get(self, path: str, query: dict[str, str]) -> Response:
        with self._changed:
            if path == "/prompt":
                return json_response({"exec_info": {"queue_remaining": self._remaining}})
            if path == "/queue":
                running = [self._running.item] if self._running else []
                # The server sends its heap as it is in memory, unsorted.
                return json_response(
                    {
                        "queue_running": running,
                        "queue_pending": [job.item for job in reversed(self._pending)],
                    }
                )
            if path == "/history":
                max_items = int(query.get("max_items", -1))
                items = list(self.history.items())
                return json_response(dict(items[-max_items:] if max_items >= 0 else items))
            if path.startswith("/history/"):
                entry = self.history.get(path.removeprefix("/history/"))
                return json_response({path.removeprefix("/history/"): entry} if entry else {})
            if path == "/view":
                return self._view(query)
            if path == "/object_info":
                return json_response(
                    {name: describe_node(name, self._folders, self.combo) for name in NODES}
                )
            if path.startswith("/object_info/"):
                name = path.removeprefix("/object_info/")
                return json_response(
                    {name: describe_node(name, self._folders, self.combo)} if name in NODES else {}
                )
            if path == "/system_stats":
                return json_response(
                    {
                        "system": {"os": "posix", "comfyui_version": "0.3.0"},
                        "devices": [{"name": "cuda:0", "vram_free": 1 << 30}],
                    }
                )
            if path == "/features" and not self.old:
                return json_response(
                    {"supports_preview_metadata": True, "max_upload_size": MAX_UPLOAD_BYTES}
                )
        return text_response("404: Not Found", 404)

    def _post(self, path: str, request: ReceivedRequest) -> Response:
        if path == "/prompt":
            return self._submit(request.json)
        if path == "/upload/image":
            return self._upload(request)
        if path == "/upload/mask":
            return self._upload_mask(request)
        with self._changed:
            body = json.loads(request.body) if request.body else {}
            if path == "/queue":
                if body.get("clear"):
                    self._pending.clear()
                self._pending = [
                    job for job in self._pending if job.id not in body.get("delete", [])
                ]
                self._changed.notify_all()
                return empty_response(200)
            if path == "/interrupt":
                self.interrupts += 1
                prompt_id = None if self.old else body.get("prompt_id")
                if self._running is not None and prompt_id in (None, self._running.id):
                    self._running.interrupted = True
                    self._changed.notify_all()
                return empty_response(200)
            if path == "/history":
                for name in list(self.history) if body.get("clear") else body.get("delete", []):
                    self.history.pop(name, None)
                return empty_response(200)
            if path == "/free":
                return empty_response(200)
        return text_response("404: Not Found", 404)

    @property
    def _folders(self) -> dict[str, list[str]]:
        return {"checkpoints": self.checkpoints, "input": sorted(self.inputs)}

    @property
    def _remaining(self) -> int:
        return len(self._pending) + (self._running is not None)

    def _view(self, query: dict[str, str]) -> Response:
        name, subfolder = query.get("filename", ""), query.get("subfolder", "")
        if not name:
            return empty_response(404)
        if name.startswith("/") or ".." in name:
            return empty_response(400)
        if subfolder.startswith("/") or ".." in subfolder:
            return empty_response(403)
        kind = query.get("type", "output")
        if kind == "input":
            content = self.inputs.get(f"{subfolder}/{name}" if subfolder else name)
        else:
            content = self.files.get((kind, subfolder, name))
        return (
            Response(200, content, "image/png", {"Content-Disposition": f'filename="{name}"'})
            if content is not None
            else empty_response(404)
        )

    def _upload(self, request: ReceivedRequest) -> Response:
        if len(request.body) > MAX_UPLOAD_BYTES:
            return text_response("Maximum request body size exceeded", 413)
        if not header_parameter(request.headers.get("content-type", ""), "boundary"):
            return empty_response(400)
        parts = {
            part.name: part for part in parse_form(request.headers["content-type"], request.body)
        }
        fields = {
            name: part.content.decode() for name, part in parts.items() if part.filename is None
        }
        image = parts.get("image")
        if image is None or not image.filename:
            return empty_response(400)
        with self._changed:
            name = self._free_name(
                image.filename,
                fields.get("subfolder", ""),
                fields.get("overwrite") in ("true", "1"),
            )
            self._store_input(name, fields.get("subfolder", ""), image.content)
        return json_response(
            {
                "name": name,
                "subfolder": fields.get("subfolder", ""),
                "type": fields.get("type", "input"),
            }
        )

    def _upload_mask(self, request: ReceivedRequest) -> Response:
        """Store a copy of the original image with the alpha channel of the uploaded one."""
        import io

        from PIL import Image

        parts = {
            part.name: part for part in parse_form(request.headers["content-type"], request.body)
        }
        image, reference = parts.get("image"), parts.get("original_ref")
        if image is None or not image.filename or reference is None:
            return empty_response(400)
        original = json.loads(reference.content)
        with self._changed:
            subfolder = original.get("subfolder", "")
            content = self.inputs.get(
                f"{subfolder}/{original['filename']}" if subfolder else original["filename"]
            )
            if content is None:
                return empty_response(400)
            masked = Image.open(io.BytesIO(content)).convert("RGBA")
            masked.putalpha(Image.open(io.BytesIO(image.content)).convert("RGBA").getchannel("A"))
            name = self._free_name(image.filename, "", False)
            self._store_input(name, "", png_with(masked, {}))
        return json_response({"name": name, "subfolder": "", "type": "input"})

    def _free_name(self, wanted: str, subfolder: str, overwrite: bool) -> str:
        stem, dot, suffix = wanted.rpartition(".")
        name, number = wanted, 1
        while not overwrite and (f"{subfolder}/{name}" if subfolder else name) in self.inputs:
            name = f"{stem} ({number}){dot}{suffix}"
            number += 1
        return name

    def _store_input(self, name: str, subfolder: str, content: bytes) -> None:
        self.inputs[f"{subfolder}/{name}" if subfolder else name] = content

    def _submit(self, body: dict[str, Any]) -> Response:
        with self._changed:
            self.submitted.append(body)
            if "prompt" not in body:
                if self.old:
                    return json_response({"error": "no prompt", "node_errors": []}, 400)
                error = {
                    "type": "no_prompt",
                    "message": "No prompt provided",
                    "details": "No prompt provided",
                    "extra_info": {},
                }
                return json_response({"error": error, "node_errors": {}}, 400)
            verdict = validate_graph(body["prompt"], self._folders, self.old)
            if verdict.error is not None:
                return json_response(
                    {"error": verdict.error, "node_errors": verdict.node_errors}, 400
                )
            number = (
                float(body["number"])
                if "number" in body
                else float(-self._number if body.get("front") else self._number)
            )
            self._number += 1
            prompt_id = None if self.old else body.get("prompt_id")
            extra = dict(body.get("extra_data", {}))
            if "client_id" in body:
                extra["client_id"] = body["client_id"]
            job = _Job(
                number, prompt_id or str(uuid.uuid4()), body["prompt"], extra, verdict.outputs
            )
            self._pending.append(job)
            self._pending.sort(key=lambda queued: queued.number)
            self._changed.notify_all()
            if self._running is None:
                self._start_next()
        self._send_status()
        return json_response(
            {"prompt_id": job.id, "number": number, "node_errors": verdict.node_errors}
        )

    # Execution

    def _start_next(self) -> None:
        self._running = self._pending.pop(0) if self._pending else None
        self._changed.notify_all()
        if self._running is not None:
            threading.Thread(target=self._execute, args=(self._running,), daemon=True).start()

    def _execute(self, job: _Job) -> None:
        failure = None
        executed: list[str] = []
        outputs: dict[str, Any] = {}
        node = ""

        def begin(number: str) -> None:
            nonlocal node
            node = number
            self._emit(
                job, "executing", {"node": number, "display_node": number, "prompt_id": job.id}
            )
            executed.append(number)

        self._record(job, "execution_start", {"prompt_id": job.id})
        signatures = {
            number: self._signature(job.graph, number)
            for output in job.outputs
            for number in ancestors(job.graph, output)
        }
        cached = [number for number, signature in signatures.items() if signature in self._cached]
        self._record(job, "execution_cached", {"nodes": cached, "prompt_id": job.id})
        try:
            run = Run(
                job.graph, self.inputs, lambda *step: self._end_step(job, *step), self._save, begin
            )
            for output in job.outputs:
                if output in cached:
                    images = self._cached_images[signatures[output]]
                    if not self.old:
                        outputs[output] = {"images": images}
                else:
                    (images,) = run.run(output)
                    outputs[output] = {"images": images}
                    self._cached_images[signatures[output]] = images
                    self._emit(
                        job,
                        "executed",
                        {"node": output, "output": outputs[output], "prompt_id": job.id},
                    )
            self._cached |= set(signatures.values())
            if not self.old:
                self._record(job, "execution_success", {"prompt_id": job.id})
        except _ProcessRestarted:
            return
        except _Interrupted:
            failure = "execution_interrupted"
            data = {
                "prompt_id": job.id,
                "node_id": node,
                "node_type": job.graph[node]["class_type"],
                "executed": executed,
            }
            self._record(job, failure, data, broadcast=True)
        except NodeError as error:
            failure = "execution_error"
            data = {
                "prompt_id": job.id,
                "node_id": node,
                "node_type": job.graph[node]["class_type"],
                "executed": executed,
                "exception_message": str(error),
                "exception_type": error.kind,
                "traceback": ["  File nodes.py\n"],
                "current_inputs": {},
                "current_outputs": [],
            }
            self._record(job, failure, data)
        with self._changed:
            if self._running is not job:
                return
            status = {
                "status_str": "error" if failure else "success",
                "completed": not failure,
                "messages": job.messages,
            }
            self.history[job.id] = {
                "prompt": job.item,
                "outputs": outputs,
                "status": None if self.history_without_status else status,
                "meta": {},
            }
        self._emit(job, "executing", {"node": None, "prompt_id": job.id})
        with self._changed:
            if self._running is job:
                self._start_next()
        self._send_status()

    def _signature(self, graph: dict[str, Any], node: str) -> str:
        inputs = {
            n: [self._signature(graph, v[0]), v[1]] if isinstance(v, list) else v
            for n, v in graph[node]["inputs"].items()
        }
        return json.dumps([graph[node]["class_type"], inputs], sort_keys=True)

    def _end_step(
        self, job: _Job, node: str, settings: dict[str, Any], done: int, total: int
    ) -> None:
        if done == 0:
            self.jobs.append(settings)
            if self.failing is not None:
                raise NodeError(*self.failing)
        else:
            extra = {} if self.old else {"prompt_id": job.id, "node": node}
            self._emit(job, "progress", {"value": done, "max": total, **extra})
            if not self.old:
                state = {
                    "value": done,
                    "max": total,
                    "state": "running",
                    "node_id": node,
                    "prompt_id": job.id,
                    "display_node_id": node,
                }
                self._emit(job, "progress_state", {"prompt_id": job.id, "nodes": {node: state}})
            if self.previews:
                self._preview(job, node, done)
        with self._changed:
            if self._hold_step == done:
                self._held_samplers += 1
                self._changed.notify_all()
                released = self._changed.wait_for(
                    lambda: self._hold_step != done or job.interrupted or self._running is not job,
                    30,
                )
                self._held_samplers -= 1
                if not released:
                    raise NodeError("TimeoutError", "the test never released this job")
            if self._running is not job:
                raise _ProcessRestarted
            if job.interrupted:
                raise _Interrupted

    def _preview(self, job: _Job, node: str, done: int) -> None:
        if self.silent:
            return
        image = encode_image(solid_image((done, done, done), (8, 8)), "jpeg")
        for socket in self._listeners(job):
            if socket.features.get("supports_preview_metadata") and not self.old:
                metadata = json.dumps(
                    {"node_id": node, "prompt_id": job.id, "image_type": "image/jpeg"}
                ).encode()
                socket.show(struct.pack(">II", 4, len(metadata)) + metadata + image)
            else:
                socket.show(struct.pack(">II", 1, 1) + image)

    def _save(self, data: bytes, prefix: str, temporary: bool) -> dict[str, str]:
        kind = "temp" if temporary else "output"
        subfolder, _, stem = prefix.rpartition("/")
        with self._changed:
            existing = sum(
                1
                for key in self.files
                if key[:2] == (kind, subfolder) and key[2].startswith(f"{stem}_")
            )
            name = f"{stem}_{existing + 1:05}_.png"
            self.files[kind, subfolder, name] = data
        return {"filename": name, "subfolder": subfolder, "type": kind}

    # The websocket

    def _serve_websocket(self, peer: Peer, request: ReceivedRequest, client: str) -> None:
        # A client may submit a job as soon as it is accepted.
        with self._changed:
            socket = _Socket(peer, request, client)
            self.sockets.append(socket)
            self._changed.notify_all()
        socket.say(
            "status", {"status": {"exec_info": {"queue_remaining": self._remaining}}, "sid": client}
        )
        first = True
        try:
            while (events := socket.receive()) is not None:
                for event in events:
                    if isinstance(event, TextMessage):
                        message = json.loads(event.data)
                        self.received.append(message)
                        if first and message.get("type") == "feature_flags" and not self.old:
                            socket.features = message["data"]
                            socket.say("feature_flags", {"supports_preview_metadata": True})
                        first = False
                    elif type(event).__name__ == "Pong":
                        with self._changed:
                            self.pongs += 1
                            self._changed.notify_all()
        finally:
            with self._changed:
                self.sockets.remove(socket)
                self._changed.notify_all()

    def ponged(self, count: int = 1, seconds: float = 5) -> bool:
        """Return whether clients have answered at least `count` pings within `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self.pongs >= count, seconds)

    def _listeners(self, job: _Job) -> list[_Socket]:
        """Return the websockets that get a job's messages; a job without a client id has all."""
        with self._changed:
            return [socket for socket in self.sockets if job.client in (None, socket.client)]

    def _emit(self, job: _Job, kind: str, data: Any, broadcast: bool = False) -> None:
        if self.silent:
            return
        for socket in self.sockets[:] if broadcast else self._listeners(job):
            socket.say(kind, data)

    def _record(self, job: _Job, kind: str, data: Any, broadcast: bool = False) -> None:
        job.messages.append([kind, data])
        self._emit(job, kind, data, broadcast)

    def _send_status(self) -> None:
        self.say("status", {"status": {"exec_info": {"queue_remaining": self._remaining}}})
