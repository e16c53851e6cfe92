"""ComfyUI, as `comfyui.md` describes it: one queue, one GPU, graphs that really run, and a websocket that tells of it.

server = ComfyUI()
url = serve(server).url
server.hold_at(3)
...                              # a call in a thread
assert server.reached()          # the image stands at step 3
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
    Run,
    Trouble,
    above,
    color,
    described,
    png_with,
    validated,
)
from tests.servers.hashed_images import encoded, plain
from tests.servers.http_helpers import Answer, empty, form, parameter, route, said, text
from tests.support.loopback import Peer, Seen

__all__ = ["ComfyUI", "color"]

LARGEST_UPLOAD = 100 * 1024 * 1024


class _Interrupted(Exception):
    pass


class _Died(Exception):
    """The process was restarted under the job."""


@dataclass
class _Job:
    number: float
    id: str
    graph: dict[str, Any]
    extra: dict[str, Any]
    outputs: list[str]
    interrupted: bool = False
    messages: list[list[Any]] = field(default_factory=list)

    @property
    def item(self) -> list[Any]:
        return [self.number, self.id, self.graph, self.extra, self.outputs]

    @property
    def client(self) -> str | None:
        found = self.extra.get("client_id")
        return found if isinstance(found, str) else None


class _Socket:
    """The server's end of a websocket. wsproto's state is one; threads take turns."""

    def __init__(self, peer: Peer, seen: Seen, client: str) -> None:
        self.peer, self.client = peer, client
        self.features: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._protocol = WSConnection(ConnectionType.SERVER)
        headers = [(name.encode(), value.encode()) for name, value in seen.headers.items()]
        self._protocol.initiate_upgrade_connection(headers, seen.path)
        list(self._protocol.events())
        self._send(AcceptConnection())

    def _send(self, event: Event) -> None:
        with self._lock, contextlib.suppress(Exception):  # it may be closing
            self.peer.send(self._protocol.send(event))

    def say(self, kind: str, data: Any) -> None:
        self._send(TextMessage(json.dumps({"type": kind, "data": data})))

    def show(self, data: bytes) -> None:
        self._send(BytesMessage(data))

    def ping(self) -> None:
        self._send(Ping(b"there?"))

    def heard(self) -> list[Event] | None:
        """What the client says; None when it has gone."""
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
    """A handler for `serve()`. `jobs` lists what each sampler was given, in order.

    Knobs: `old` (a server of 2024: global interrupt, its own prompt ids, no progress_state, cached runs without outputs), `combo` (newer
    lists of choices), `websocket` (False: 404), `previews`, `failing` ((exception type, message) of every sampler), `nulled` (history
    without a status), `silent` (no frames about jobs at all).
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
        self.nulled = False
        self.silent = False
        self.checkpoints = list(checkpoints)
        self.inputs: dict[str, bytes] = {}
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.jobs: list[dict[str, Any]] = []
        self.submitted: list[dict[str, Any]] = []
        self.heard: list[Any] = []  # text messages of clients
        self.pongs = 0
        self.interrupts = 0
        self.sockets: list[_Socket] = []
        self.history: dict[str, dict[str, Any]] = {}
        self._pending: list[_Job] = []
        self._running: _Job | None = None
        self._number = 0
        self._held: int | None = None
        self._standing = 0
        self._known: set[str] = set()
        self._kept: dict[str, list[dict[str, str]]] = {}
        self._changed = threading.Condition(threading.RLock())

    # What a test does to it

    def hold_at(self, step: int) -> None:
        """Every sampler stops once it has told of this step; 0 is before the first. One that stands at another step goes on."""
        with self._changed:
            self._held = step
            self._changed.notify_all()

    def release(self) -> None:
        with self._changed:
            self._held = None
            self._changed.notify_all()

    def reached(self, seconds: float = 5) -> bool:
        """Whether a sampler stands at the step within so long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._standing > 0, seconds)

    def pending(self, count: int = 1, seconds: float = 5) -> bool:
        """Whether exactly so many jobs wait within so long."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._pending) == count, seconds)

    def idle(self, seconds: float = 5) -> bool:
        """Whether nothing runs and nothing waits within so long."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._running is None and not self._pending, seconds
            )

    def listening(self, count: int = 1, seconds: float = 5) -> bool:
        """Whether exactly so many websockets are open within so long."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.sockets) == count, seconds)

    def lose_jobs(self) -> None:
        """Restart: queue, history and the running job are gone."""
        with self._changed:
            self._pending.clear()
            self.history.clear()
            self._running = None
            self._changed.notify_all()

    def say(self, kind: str, data: Any) -> None:
        """A frame to everybody who listens."""
        for socket in self.sockets[:]:
            socket.say(kind, data)

    def show(self, data: bytes) -> None:
        for socket in self.sockets[:]:
            socket.show(data)

    def ping(self) -> None:
        for socket in self.sockets[:]:
            socket.ping()

    def send_raw(self, data: bytes) -> None:
        """Bytes under the frames."""
        for socket in self.sockets[:]:
            socket.peer.send(data)

    def drop_sockets(self) -> None:
        for socket in self.sockets[:]:
            socket.peer.reset()

    def submit(self, graph: dict[str, Any], client: str | None = None) -> str:
        """Somebody else's job."""
        body = {"prompt": graph} | ({"client_id": client} if client else {})
        return str(json.loads(self._submit(body).body)["prompt_id"])

    @property
    def running(self) -> str | None:
        with self._changed:
            return self._running.id if self._running else None

    # HTTP

    def __call__(self, peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            path, query = route(seen)
            if (
                path.removeprefix("/api") == "/ws"
                and self.websocket
                and "upgrade" in seen.headers.get("connection", "").lower()
            ):
                self._talk(peer, seen, query.get("clientId") or uuid.uuid4().hex)
                return
            peer.send(self.answer(seen).sent)

    def answer(self, seen: Seen) -> Answer:
        path, query = route(seen)
        path = unquote(path.removeprefix("/api"))
        origin = seen.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != seen.headers.get("host"):
            return empty(403)
        try:
            if seen.method == "POST":
                return self._post(path, seen)
            if seen.method == "GET":
                return self._get(path, query)
        except json.JSONDecodeError:
            return text("500 Internal Server Error\n\nServer got itself in trouble", 500)
        return empty(404)

    def _get(self, path: str, query: dict[str, str]) -> Answer:
        with self._changed:
            if path == "/prompt":
                return said({"exec_info": {"queue_remaining": self._remaining}})
            if path == "/queue":
                running = [self._running.item] if self._running else []
                # a heap, as it lies in memory: not sorted
                return said(
                    {
                        "queue_running": running,
                        "queue_pending": [job.item for job in reversed(self._pending)],
                    }
                )
            if path == "/history":
                most = int(query.get("max_items", -1))
                items = list(self.history.items())
                return said(dict(items[-most:] if most >= 0 else items))
            if path.startswith("/history/"):
                found = self.history.get(path.removeprefix("/history/"))
                return said({path.removeprefix("/history/"): found} if found else {})
            if path == "/view":
                return self._view(query)
            if path == "/object_info":
                return said({name: described(name, self._folders, self.combo) for name in NODES})
            if path.startswith("/object_info/"):
                name = path.removeprefix("/object_info/")
                return said(
                    {name: described(name, self._folders, self.combo)} if name in NODES else {}
                )
            if path == "/system_stats":
                return said(
                    {
                        "system": {"os": "posix", "comfyui_version": "0.3.0"},
                        "devices": [{"name": "cuda:0", "vram_free": 1 << 30}],
                    }
                )
            if path == "/features" and not self.old:
                return said({"supports_preview_metadata": True, "max_upload_size": LARGEST_UPLOAD})
        return text("404: Not Found", 404)

    def _post(self, path: str, seen: Seen) -> Answer:
        if path == "/prompt":
            return self._submit(seen.json)
        if path == "/upload/image":
            return self._upload(seen)
        if path == "/upload/mask":
            return self._upload_mask(seen)
        with self._changed:
            body = json.loads(seen.body) if seen.body else {}
            if path == "/queue":
                if body.get("clear"):
                    self._pending.clear()
                self._pending = [
                    job for job in self._pending if job.id not in body.get("delete", [])
                ]
                self._changed.notify_all()
                return empty(200)
            if path == "/interrupt":
                self.interrupts += 1
                wanted = None if self.old else body.get("prompt_id")
                if self._running is not None and wanted in (None, self._running.id):
                    self._running.interrupted = True
                    self._changed.notify_all()
                return empty(200)
            if path == "/history":
                for name in list(self.history) if body.get("clear") else body.get("delete", []):
                    self.history.pop(name, None)
                return empty(200)
            if path == "/free":
                return empty(200)
        return text("404: Not Found", 404)

    @property
    def _folders(self) -> dict[str, list[str]]:
        return {"checkpoints": self.checkpoints, "input": sorted(self.inputs)}

    @property
    def _remaining(self) -> int:
        return len(self._pending) + (self._running is not None)

    def _view(self, query: dict[str, str]) -> Answer:
        name, subfolder = query.get("filename", ""), query.get("subfolder", "")
        if not name:
            return empty(404)
        if name.startswith("/") or ".." in name:
            return empty(400)
        if subfolder.startswith("/") or ".." in subfolder:
            return empty(403)
        kind = query.get("type", "output")
        if kind == "input":
            found = self.inputs.get(f"{subfolder}/{name}" if subfolder else name)
        else:
            found = self.files.get((kind, subfolder, name))
        return (
            Answer(200, found, "image/png", {"Content-Disposition": f'filename="{name}"'})
            if found is not None
            else empty(404)
        )

    def _upload(self, seen: Seen) -> Answer:
        if len(seen.body) > LARGEST_UPLOAD:
            return text("Maximum request body size exceeded", 413)
        if not parameter(seen.headers.get("content-type", ""), "boundary"):
            return empty(400)
        parts = {part.name: part for part in form(seen.headers["content-type"], seen.body)}
        fields = {
            name: part.content.decode() for name, part in parts.items() if part.filename is None
        }
        image = parts.get("image")
        if image is None or not image.filename:
            return empty(400)
        with self._changed:
            name = self._named(
                image.filename,
                fields.get("subfolder", ""),
                fields.get("overwrite") in ("true", "1"),
            )
            self._place(name, fields.get("subfolder", ""), image.content)
        return said(
            {
                "name": name,
                "subfolder": fields.get("subfolder", ""),
                "type": fields.get("type", "input"),
            }
        )

    def _upload_mask(self, seen: Seen) -> Answer:
        """The uploaded image's alpha becomes that of a copy of the original."""
        import io

        from PIL import Image

        parts = {part.name: part for part in form(seen.headers["content-type"], seen.body)}
        image, reference = parts.get("image"), parts.get("original_ref")
        if image is None or not image.filename or reference is None:
            return empty(400)
        original = json.loads(reference.content)
        with self._changed:
            where = original.get("subfolder", "")
            found = self.inputs.get(
                f"{where}/{original['filename']}" if where else original["filename"]
            )
            if found is None:
                return empty(400)
            whole = Image.open(io.BytesIO(found)).convert("RGBA")
            whole.putalpha(Image.open(io.BytesIO(image.content)).convert("RGBA").getchannel("A"))
            name = self._named(image.filename, "", False)
            self._place(name, "", png_with(whole, {}))
        return said({"name": name, "subfolder": "", "type": "input"})

    def _named(self, wanted: str, subfolder: str, overwrite: bool) -> str:
        stem, dot, suffix = wanted.rpartition(".")
        name, number = wanted, 1
        while not overwrite and (f"{subfolder}/{name}" if subfolder else name) in self.inputs:
            name = f"{stem} ({number}){dot}{suffix}"
            number += 1
        return name

    def _place(self, name: str, subfolder: str, content: bytes) -> None:
        self.inputs[f"{subfolder}/{name}" if subfolder else name] = content

    def _submit(self, body: dict[str, Any]) -> Answer:
        with self._changed:
            self.submitted.append(body)
            if "prompt" not in body:
                if self.old:
                    return said({"error": "no prompt", "node_errors": []}, 400)
                error = {
                    "type": "no_prompt",
                    "message": "No prompt provided",
                    "details": "No prompt provided",
                    "extra_info": {},
                }
                return said({"error": error, "node_errors": {}}, 400)
            verdict = validated(body["prompt"], self._folders, self.old)
            if verdict.error is not None:
                return said({"error": verdict.error, "node_errors": verdict.node_errors}, 400)
            number = (
                float(body["number"])
                if "number" in body
                else float(-self._number if body.get("front") else self._number)
            )
            self._number += 1
            given = None if self.old else body.get("prompt_id")
            extra = dict(body.get("extra_data", {}))
            if "client_id" in body:
                extra["client_id"] = body["client_id"]
            job = _Job(number, given or str(uuid.uuid4()), body["prompt"], extra, verdict.outputs)
            self._pending.append(job)
            self._pending.sort(key=lambda one: one.number)
            self._changed.notify_all()
            if self._running is None:
                self._next()
        self._tell_status()
        return said({"prompt_id": job.id, "number": number, "node_errors": verdict.node_errors})

    # Execution

    def _next(self) -> None:
        self._running = self._pending.pop(0) if self._pending else None
        self._changed.notify_all()
        if self._running is not None:
            threading.Thread(target=self._execute, args=(self._running,), daemon=True).start()

    def _execute(self, job: _Job) -> None:
        ended = None
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

        self._message(job, "execution_start", {"prompt_id": job.id})
        signatures = {
            number: self._signature(job.graph, number)
            for output in job.outputs
            for number in above(job.graph, output)
        }
        cached = [number for number, signature in signatures.items() if signature in self._known]
        self._message(job, "execution_cached", {"nodes": cached, "prompt_id": job.id})
        try:
            run = Run(
                job.graph, self.inputs, lambda *step: self._stepped(job, *step), self._save, begin
            )
            for output in job.outputs:
                if output in cached:
                    images = self._kept[signatures[output]]
                    if not self.old:
                        outputs[output] = {"images": images}
                else:
                    (images,) = run.made(output)
                    outputs[output] = {"images": images}
                    self._kept[signatures[output]] = images
                    self._emit(
                        job,
                        "executed",
                        {"node": output, "output": outputs[output], "prompt_id": job.id},
                    )
            self._known |= set(signatures.values())
            if not self.old:
                self._message(job, "execution_success", {"prompt_id": job.id})
        except _Died:
            return
        except _Interrupted:
            ended = "execution_interrupted"
            data = {
                "prompt_id": job.id,
                "node_id": node,
                "node_type": job.graph[node]["class_type"],
                "executed": executed,
            }
            self._message(job, ended, data, everybody=True)
        except Trouble as trouble:
            ended = "execution_error"
            data = {
                "prompt_id": job.id,
                "node_id": node,
                "node_type": job.graph[node]["class_type"],
                "executed": executed,
                "exception_message": str(trouble),
                "exception_type": trouble.kind,
                "traceback": ["  File nodes.py\n"],
                "current_inputs": {},
                "current_outputs": [],
            }
            self._message(job, ended, data)
        with self._changed:
            if self._running is not job:
                return
            status = {
                "status_str": "error" if ended else "success",
                "completed": not ended,
                "messages": job.messages,
            }
            self.history[job.id] = {
                "prompt": job.item,
                "outputs": outputs,
                "status": None if self.nulled else status,
                "meta": {},
            }
        self._emit(job, "executing", {"node": None, "prompt_id": job.id})
        with self._changed:
            if self._running is job:
                self._next()
        self._tell_status()

    def _signature(self, graph: dict[str, Any], node: str) -> str:
        inputs = {
            n: [self._signature(graph, v[0]), v[1]] if isinstance(v, list) else v
            for n, v in graph[node]["inputs"].items()
        }
        return json.dumps([graph[node]["class_type"], inputs], sort_keys=True)

    def _stepped(
        self, job: _Job, node: str, settings: dict[str, Any], done: int, total: int
    ) -> None:
        if done == 0:
            self.jobs.append(settings)
            if self.failing is not None:
                raise Trouble(*self.failing)
        else:
            more = {} if self.old else {"prompt_id": job.id, "node": node}
            self._emit(job, "progress", {"value": done, "max": total, **more})
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
            if self._held == done:
                self._standing += 1
                self._changed.notify_all()
                freed = self._changed.wait_for(
                    lambda: self._held != done or job.interrupted or self._running is not job, 30
                )
                self._standing -= 1
                if not freed:
                    raise Trouble("TimeoutError", "the test never released this job")
            if self._running is not job:
                raise _Died
            if job.interrupted:
                raise _Interrupted

    def _preview(self, job: _Job, node: str, done: int) -> None:
        if self.silent:
            return
        image = encoded(plain((done, done, done), (8, 8)), "jpeg")
        for socket in self._listeners(job):
            if socket.features.get("supports_preview_metadata") and not self.old:
                about = json.dumps(
                    {"node_id": node, "prompt_id": job.id, "image_type": "image/jpeg"}
                ).encode()
                socket.show(struct.pack(">II", 4, len(about)) + about + image)
            else:
                socket.show(struct.pack(">II", 1, 1) + image)

    def _save(self, data: bytes, prefix: str, temporary: bool) -> dict[str, str]:
        kind = "temp" if temporary else "output"
        subfolder, _, stem = prefix.rpartition("/")
        with self._changed:
            taken = sum(
                1
                for place in self.files
                if place[:2] == (kind, subfolder) and place[2].startswith(f"{stem}_")
            )
            name = f"{stem}_{taken + 1:05}_.png"
            self.files[kind, subfolder, name] = data
        return {"filename": name, "subfolder": subfolder, "type": kind}

    # The websocket

    def _talk(self, peer: Peer, seen: Seen, client: str) -> None:
        with self._changed:  # a client may submit as soon as it is accepted
            socket = _Socket(peer, seen, client)
            self.sockets.append(socket)
            self._changed.notify_all()
        socket.say(
            "status", {"status": {"exec_info": {"queue_remaining": self._remaining}}, "sid": client}
        )
        first = True
        try:
            while (events := socket.heard()) is not None:
                for event in events:
                    if isinstance(event, TextMessage):
                        message = json.loads(event.data)
                        self.heard.append(message)
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
        with self._changed:
            return self._changed.wait_for(lambda: self.pongs >= count, seconds)

    def _listeners(self, job: _Job) -> list[_Socket]:
        """A job without a client id is everybody's."""
        with self._changed:
            return [socket for socket in self.sockets if job.client in (None, socket.client)]

    def _emit(self, job: _Job, kind: str, data: Any, everybody: bool = False) -> None:
        if self.silent:
            return
        for socket in self.sockets[:] if everybody else self._listeners(job):
            socket.say(kind, data)

    def _message(self, job: _Job, kind: str, data: Any, everybody: bool = False) -> None:
        job.messages.append([kind, data])
        self._emit(job, kind, data, everybody)

    def _tell_status(self) -> None:
        self.say("status", {"status": {"exec_info": {"queue_remaining": self._remaining}}})
