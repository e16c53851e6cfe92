"""A strict server of Ollama's native API: chat, generate, embeddings and model management.

Image models are in `ollama.py`.

server = OllamaChat()
server.script = [Reply("hello", thinking="hm")]
url = serve(server).url
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import ImageStat

from tests.servers.hashed_images import decode_image
from tests.servers.http_helpers import (
    STREAMED,
    Gate,
    Response,
    empty_response,
    json_response,
    route,
    text_response,
)
from tests.servers.ollama import BUSY, JSON, NDJSON
from tests.servers.ollama_account import Service
from tests.support.loopback import Peer, ReceivedRequest

MODELS: dict[str, tuple[str, ...]] = {
    "llama3.2": ("completion", "tools"),
    "gemma3": ("completion", "vision"),
    "qwen3-vl": ("completion", "vision", "tools", "thinking"),
    "nomic-embed-text": ("embedding",),
}
METHODS = {
    "/": ("GET", "HEAD"),
    "/api/version": ("GET", "HEAD"),
    "/api/tags": ("GET", "HEAD"),
    "/api/ps": ("GET",),
    "/api/delete": ("DELETE",),
    **dict.fromkeys(
        ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"), ("POST",)
    ),
    **dict.fromkeys(("/api/pull", "/api/push", "/api/create", "/api/copy"), ("POST",)),
}
INTEGER_OPTIONS = (
    "num_ctx",
    "num_predict",
    "top_k",
    "repeat_last_n",
    "seed",
    "num_keep",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "num_thread",
)
NUMBER_OPTIONS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
# Nanoseconds, which strict ISO 8601 parsers reject.
CREATED = "2026-08-21T10:00:00.123456789Z"
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "3.2B",
    "quantization_level": "Q4_K_M",
}
LAYERS = tuple(
    ("sha256:" + hashlib.sha256(name).hexdigest(), size)
    for name, size in ((b"weights", 2000), (b"template", 300))
)
MANIFEST_MISSING = "pull model manifest: file does not exist"


@dataclass
class Reply:
    """One scripted reply of the model."""

    text: str = ""
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """Calls as `{"name", "arguments"}`, or in the complete form with a `function` key."""
    done_reason: str | None = "stop"
    """The done_reason; None sends none."""
    error: str = ""
    """Message of an error line after the text."""
    cut: bool = False
    """Whether the stream ends before `done`."""


class _Refused(Exception):
    """An error response."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class OllamaChat(Gate):
    """A handler for `serve()`.

    `received_bodies` lists the parsed request bodies. `hold()` and `release()` delay a stream of
    chat or generate after its first frame.

    State of the server:

    * `models`: capabilities by model name with tag.
    * `loaded`: context lengths of the loaded models.
    * `created`: settings of the models that were created.
    * `blobs`: uploaded blobs by digest.
    * `pushed`: names of the models that were pushed.

    Settings that tests change:

    * `script`: one `Reply` for each of the next requests. Without one, `_default_reply` answers.
    * `busy`: refuse every chat and generate request with status 503.
    * `failure`: status and message with which every chat and generate request fails.
    * `ids`: whether calls have ids.
    * `metrics`: whether counts and durations are other than zero; zeros are left out.
    * `pull`: how pulls and pushes end. "success"; "error", an error frame with status 200;
      "refused", status 500 before any frame; "interrupted", no success frame.
    * `service`: the hosted service as this server knows it.
    """

    def __init__(self, models: Mapping[str, tuple[str, ...]] | None = None) -> None:
        super().__init__()
        self.models = {
            _with_tag(name): tuple(capabilities)
            for name, capabilities in (MODELS if models is None else models).items()
        }
        self.loaded: dict[str, int] = {}
        self.created: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.pushed: list[str] = []
        self.received_bodies: list[Any] = []
        self.script: list[Reply] = []
        self.busy = False
        self.failure: tuple[int, str] | None = None
        self.ids = True
        self.metrics = True
        self.pull = "success"
        self.service = Service()
        self._calls = 0

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            try:
                response = self._answer(peer, request)
            except _Refused as refused:
                response = json_response({"error": refused.message}, refused.status, JSON)
            if response is None:
                return
            if response is not STREAMED:
                peer.send(_head_only(response) if request.method == "HEAD" else response.sent)

    def _answer(self, peer: Peer, request: ReceivedRequest) -> Response | None:
        path, _ = route(request)
        if path.startswith("/api/blobs/"):
            return self._blob(request, path.removeprefix("/api/blobs/"))
        methods = METHODS | self.service.methods
        if path not in methods:
            return text_response("404 page not found", 404, "text/plain")
        if request.method not in methods[path]:
            return text_response("405 method not allowed", 405)
        if path == "/api/status":
            return self.service.status()
        if path == "/api/me":
            return self.service.me()
        if path == "/":
            return text_response("Ollama is running")
        if path == "/api/version":
            return json_response({"version": "0.33.0"}, 200, JSON)
        if path == "/api/tags":
            return json_response(
                {
                    "models": [
                        self._list_entry(name) | {"capabilities": list(capabilities)}
                        for name, capabilities in self.models.items()
                    ]
                },
                200,
                JSON,
            )
        if path == "/api/ps":
            return json_response(
                {"models": [self._running_entry(name, size) for name, size in self.loaded.items()]},
                200,
                JSON,
            )
        body = _parse_body(request)
        self.received_bodies.append(body)
        if path in self.service.methods:
            return self.service.web(
                path.rsplit("/", 1)[-1], body, request.headers.get("authorization", "")
            )
        if path == "/api/chat":
            return self._chat(peer, body)
        if path == "/api/generate":
            return self._generate(peer, body)
        if path in ("/api/embed", "/api/embeddings"):
            return self._embed(body, is_legacy=path == "/api/embeddings")
        if path == "/api/show":
            return json_response(self._details(self._resolve_model(body)), 200, JSON)
        if path == "/api/copy":
            name = self._resolve_model(body, "source")
            target = _with_tag(_field(body, "destination", str, ""))
            self.models[target] = self.models[name]
            self.created[target] = self.created.get(name, {})
            return empty_response(200)
        if path == "/api/delete":
            name = self._resolve_model(body)
            del self.models[name]
            self.loaded.pop(name, None)
            return empty_response(200)
        return self._change_models(peer, body, path.removeprefix("/api/"))

    # Models

    def _resolve_model(
        self, body: dict[str, Any], key: str = "model", missing: _Refused | None = None
    ) -> str:
        name = body.get(key) or (body.get("name") if key == "model" else None)
        if not isinstance(name, str) or not name:
            raise missing or _Refused(400, "model is required")
        if _with_tag(name) not in self.models:
            raise _Refused(404, f"model '{name}' not found")
        return _with_tag(name)

    def _list_entry(self, name: str) -> dict[str, Any]:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return {
            "name": name,
            "model": name,
            "modified_at": CREATED,
            "size": 2300,
            "digest": digest,
            "details": DETAILS,
        }

    def _running_entry(self, name: str, context: int) -> dict[str, Any]:
        row = self._list_entry(name)
        del row["modified_at"]
        return row | {"expires_at": CREATED, "size_vram": 2300, "context_length": context}

    def _details(self, name: str) -> dict[str, Any]:
        created = self.created.get(name, {})
        lines = [
            f"{key:30} {json.dumps(value)}"
            for key, value in created.get("parameters", {"temperature": 0.8}).items()
        ]
        return {
            "license": created.get("license", ""),
            "modelfile": f"FROM {name}",
            "parameters": "\n".join(lines),
            "template": created.get("template", "{{ .Prompt }}"),
            "system": created.get("system", ""),
            "details": DETAILS,
            "messages": created.get("messages", []),
            "model_info": {
                "general.architecture": "llama",
                "llama.context_length": 131072,
                "llama.embedding_length": 8,
            },
            "capabilities": list(self.models[name]),
            "modified_at": CREATED,
        }

    def _blob(self, request: ReceivedRequest, digest: str) -> Response:
        if not re.fullmatch("sha256:[0-9a-f]{64}", digest):
            raise _Refused(400, "invalid digest format")
        if request.method == "HEAD":
            return empty_response(200 if digest in self.blobs else 404)
        if request.method != "POST":
            return text_response("405 method not allowed", 405)
        if digest in self.blobs:
            return empty_response(200)
        if digest != "sha256:" + hashlib.sha256(request.body).hexdigest():
            raise _Refused(400, "digest mismatch")
        self.blobs[digest] = request.body
        return empty_response(201)

    def _change_models(self, peer: Peer, body: dict[str, Any], kind: str) -> Response:
        """Answer a pull, push or create with progress frames, and apply it when it succeeds."""
        name = body.get("model") or body.get("name")
        if not isinstance(name, str) or not name:
            raise _Refused(400, "model is required")
        name = _with_tag(name)
        if kind == "push" and name not in self.models:
            missing = f"open /models/manifests/{name.replace(':', '/')}: no such file or directory"
            frames = [{"status": "retrieving manifest"}, {"error": missing}]
        elif kind == "create":
            frames = self._create(name, body)
        else:
            if self.pull == "refused":
                raise _Refused(500, MANIFEST_MISSING)
            frames = [{"status": "retrieving manifest" if kind == "push" else "pulling manifest"}]
            for digest, total in LAYERS:
                layer = {"status": f"{kind}ing {digest[7:19]}", "digest": digest, "total": total}
                frames += [layer, layer | {"completed": total // 2}, layer | {"completed": total}]
            frames += [
                {"status": status}
                for status in (
                    ("verifying sha256 digest", "writing manifest") if kind == "pull" else ()
                )
            ]
            frames.append({"status": "success"})
            if self.pull == "error":
                frames = [*frames[:3], {"error": MANIFEST_MISSING}]
            elif self.pull == "interrupted":
                frames = frames[:3]
            elif kind == "pull":
                self.models.setdefault(name, ("completion",))
            else:
                self.pushed.append(name)
        if body.get("stream") is not False:
            return self._stream(peer, frames)
        if "error" in frames[-1]:
            raise _Refused(500, frames[-1]["error"])
        return json_response(frames[-1], 200, JSON)

    def _create(self, name: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        files = _field(body, "files", dict, {})
        source = self._resolve_model(body, "from") if body.get("from") else None
        if source is None and not files:
            raise _Refused(400, "neither 'from' or 'files' was specified")
        absent = next((digest for digest in files.values() if digest not in self.blobs), None)
        if absent is not None:
            missing = f"open /models/blobs/{absent.replace(':', '-')}: no such file or directory"
            return [{"status": "parsing GGUF"}, {"error": missing}]
        self.models[name] = self.models[source] if source else ("completion",)
        self.created[name] = {
            key: body[key]
            for key in ("template", "system", "license", "parameters", "messages")
            if body.get(key)
        }
        first = "using existing layer" if source else "parsing GGUF"
        return [{"status": status} for status in (first, "writing manifest", "success")]

    def _stream(self, peer: Peer, frames: Iterable[dict[str, Any]]) -> Response:
        peer.begin(headers={"content-type": NDJSON})
        for frame in frames:
            peer.chunk(json.dumps(frame).encode() + b"\n")
        peer.end()
        return STREAMED

    # Chat and generate

    def _chat(self, peer: Peer, body: dict[str, Any]) -> Response | None:
        name = self._resolve_model(body)
        capabilities = self.models[name]
        messages = [_parse_message(item) for item in _field(body, "messages", list, [])]
        tools = [_tool_name(item) for item in _field(body, "tools", list, [])]
        self._check_request(name, body, "chat")
        if tools and "tools" not in capabilities:
            raise _Refused(400, f"registry.ollama.ai/library/{name} does not support tools")
        if not messages:
            return self._load_only(name, body, {"message": {"role": "assistant", "content": ""}})
        images = [data for message in messages for data in message["images"]]
        last_prompt = next(
            (message["content"] for message in reversed(messages) if message["role"] == "user"), ""
        )
        # Answer a tool result with text; otherwise the default rule would call the tool forever.
        offered = [] if messages[-1]["role"] == "tool" else tools
        return self._answer_prompt(peer, name, body, last_prompt, images, offered)

    def _generate(self, peer: Peer, body: dict[str, Any]) -> Response | None:
        name = self._resolve_model(body, missing=_Refused(404, "model '' not found"))
        prompt, suffix = _field(body, "prompt", str, ""), _field(body, "suffix", str, "")
        template, system = _field(body, "template", str, ""), _field(body, "system", str, "")
        context = _field(body, "context", list, [])
        images = [_decode_base64(item) for item in _field(body, "images", list, [])]
        if _field(body, "raw", bool, False) and (template or system or context):
            raise _Refused(400, "raw mode does not support template, system, or context")
        self._check_request(name, body, "generate")
        if suffix and "insert" not in self.models[name]:
            raise _Refused(400, f"registry.ollama.ai/library/{name} does not support insert")
        if not prompt:
            return self._load_only(name, body, {"response": ""})
        return self._answer_prompt(peer, name, body, prompt, images, None)

    def _check_request(self, name: str, body: dict[str, Any], route_name: str) -> None:
        """Refuse what both routes refuse before a model is loaded."""
        _check_options(body)
        _field(body, "stream", bool, True)
        think, response_format = body.get("think"), body.get("format")
        if isinstance(think, str) and think not in ("low", "medium", "high", "max"):
            raise _Refused(
                400,
                f'invalid think value: "{think}" '
                '(must be "high", "medium", "low", "max", true, or false)',
            )
        if not isinstance(think, bool | str | None):
            raise _Refused(400, "think must be a boolean or string")
        if response_format not in (None, "", "json") and not isinstance(response_format, dict):
            raise _Refused(
                500,
                f"invalid format: {json.dumps(response_format)}; "
                'expected "json" or a valid JSON Schema object',
            )
        if not 0 <= _field(body, "top_logprobs", int, 0) <= 20:
            raise _Refused(400, "top_logprobs must be between 0 and 20")
        if "completion" not in self.models[name]:
            raise _Refused(400, f'"{body["model"]}" does not support {route_name}')
        if think and "thinking" not in self.models[name]:
            raise _Refused(400, f'"{body["model"]}" does not support thinking')
        if self.busy:
            raise _Refused(503, BUSY)
        if self.failure is not None:
            raise _Refused(*self.failure)

    def _load_only(self, name: str, body: dict[str, Any], empty_answer: dict[str, Any]) -> Response:
        """Answer a request without a prompt, which only loads or unloads the model."""
        unload = body.get("keep_alive") in (0, "0", "0s")
        self._load(name, body)
        reason = "unload" if unload else "load"
        return json_response(
            {"model": body["model"], "created_at": CREATED}
            | empty_answer
            | {"done": True, "done_reason": reason},
            200,
            JSON,
        )

    def _load(self, name: str, body: dict[str, Any]) -> None:
        if body.get("keep_alive") in (0, "0", "0s"):
            self.loaded.pop(name, None)
        else:
            self.loaded[name] = (body.get("options") or {}).get("num_ctx", 4096)

    def _answer_prompt(
        self,
        peer: Peer,
        name: str,
        body: dict[str, Any],
        prompt: str,
        images: list[bytes],
        tools: list[str] | None,
    ) -> Response | None:
        # A model without vision ignores images silently.
        if "vision" not in self.models[name]:
            prompt, images = (
                "".join(f"[img-{number}]" for number in range(len(images))) + prompt,
                [],
            )
        descriptions = [_describe_image(data) for data in images]
        reply = (
            self.script.pop(0)
            if self.script
            else self._default_reply(name, body, prompt, descriptions, tools or [])
        )
        self._load(name, body)
        frames = list(self._frames(body["model"], reply, chat=tools is not None))
        if body.get("stream") is False:
            if reply.error or reply.cut:
                raise _Refused(500, reply.error or "unexpected EOF")
            return json_response(_merged(frames), 200, JSON)
        peer.begin(headers={"content-type": NDJSON})
        for number, frame in enumerate(frames):
            peer.chunk(json.dumps(frame).encode() + b"\n")
            if number == 0 and not self._wait(peer):
                return None
        peer.end()
        return STREAMED

    def _default_reply(
        self, name: str, body: dict[str, Any], prompt: str, images: list[str], tools: list[str]
    ) -> Reply:
        is_thinking = "thinking" in self.models[name] and body.get("think") is not False
        thinking = "I think about it." if is_thinking else ""
        tool_name = next(
            (tool for tool in tools if re.search(rf"\b{re.escape(tool)}\b", prompt)), None
        )
        if tool_name:
            return Reply("", thinking, [{"name": tool_name, "arguments": _first_object(prompt)}])
        response_format = body.get("format")
        if response_format:
            return Reply(
                json.dumps(
                    _sample_value(response_format)
                    if isinstance(response_format, dict)
                    else {"text": prompt}
                ),
                thinking,
            )
        return Reply(" ".join(["I saw:", prompt, *images]), thinking)

    def _frames(self, model: str, reply: Reply, chat: bool) -> Iterator[dict[str, Any]]:
        def frame(text: str, done: bool = False, **more: Any) -> dict[str, Any]:
            content = (
                {"message": {"role": "assistant", "content": text} | more}
                if chat
                else {"response": text} | more
            )
            return {"model": model, "created_at": CREATED} | content | {"done": done}

        yield from (frame("", thinking=word) for word in _split_words(reply.thinking))
        yield from (frame(word) for word in _split_words(reply.text))
        for index, call in enumerate(reply.tool_calls):
            yield frame("", tool_calls=[self._call(index, call)])
        if reply.error:
            yield {"error": reply.error}
        if reply.error or reply.cut:
            return
        counts = {
            "prompt_eval_count": 7,
            "prompt_eval_duration": 10_000_000,
            "eval_count": 5,
            "eval_duration": 50_000_000,
        }
        final = frame("", True) | ({"done_reason": reply.done_reason} if reply.done_reason else {})
        final |= {} if chat else {"context": [1, 2, 3]}
        yield final | (
            {"total_duration": 90_000_000, "load_duration": 20_000_000} | counts
            if self.metrics
            else {}
        )

    def _call(self, index: int, call: dict[str, Any]) -> dict[str, Any]:
        if "function" in call:
            return call
        self._calls += 1
        identifier = {"id": f"call_{self._calls:08d}"} if self.ids else {}
        return identifier | {
            "function": {
                "index": index,
                "name": call["name"],
                "arguments": call.get("arguments", {}),
            }
        }

    def _embed(self, body: dict[str, Any], is_legacy: bool) -> Response:
        name = self._resolve_model(body)
        _check_options(body)
        value = _field(body, "prompt", str, "") if is_legacy else body.get("input")
        texts = [value] if isinstance(value, str) and value else value or []
        if not isinstance(texts, list) or not all(isinstance(item, str) for item in texts):
            raise _Refused(400, "invalid input type")
        if "embedding" not in self.models[name]:
            raise _Refused(400, "this model does not support embeddings")
        self._load(name, body)
        if body.get("truncate") is False and any(
            len(item.split()) > self.loaded.get(name, 4096) for item in texts
        ):
            raise _Refused(400, "the input length exceeds the context length")
        vectors = [_vector(item, _field(body, "dimensions", int, 0) or 8) for item in texts]
        if is_legacy:
            return json_response({"embedding": vectors[0] if vectors else []}, 200, JSON)
        counts = {"prompt_eval_count": sum(len(item.split()) for item in texts)}
        metrics = (
            {"total_duration": 9_000_000, "load_duration": 2_000_000} | counts
            if self.metrics
            else {}
        )
        return json_response({"model": body["model"], "embeddings": vectors} | metrics, 200, JSON)


def _with_tag(name: str) -> str:
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def _head_only(answer: Response) -> bytes:
    """Return the head only: a client would read a body after HEAD as the next response."""
    return answer.sent.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _parse_body(request: ReceivedRequest) -> dict[str, Any]:
    if not request.body:
        raise _Refused(400, "missing request body")
    try:
        body = json.loads(request.body)
    except ValueError:
        raise _Refused(400, "unexpected EOF") from None
    if not isinstance(body, dict):
        raise _Refused(400, f"json: cannot unmarshal {type(body).__name__} into Go value")
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


def _check_options(body: dict[str, Any]) -> None:
    """Check the option types; the real server does so when it loads the model, hence status 500."""
    for name, value in _field(body, "options", dict, {}).items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if (name in INTEGER_OPTIONS and not (is_number and value == int(value))) or (
            name in NUMBER_OPTIONS and not is_number
        ):
            raise _Refused(
                500,
                f'option "{name}" must be of type '
                f"{'integer' if name in INTEGER_OPTIONS else 'float32'}",
            )
        if name == "stop" and not (
            isinstance(value, list) and all(isinstance(item, str) for item in value)
        ):
            raise _Refused(500, 'option "stop" must be of type array')
        if name == "use_mmap" and not isinstance(value, bool):
            raise _Refused(500, 'option "use_mmap" must be of type boolean')


def _parse_message(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise _Refused(400, "json: cannot unmarshal into Go struct field ChatRequest.messages")
    # The server accepts any role; the template of the model decides what it means.
    role = _field(item, "role", str, "")
    for call in _field(item, "tool_calls", list, []):
        _field(_field(call, "function", dict, {}), "arguments", dict, {})
    for name in ("thinking", "tool_name", "tool_call_id"):
        _field(item, name, str, "")
    images = [_decode_base64(data) for data in _field(item, "images", list, [])]
    return {"role": role, "content": _field(item, "content", str, ""), "images": images}


def _tool_name(item: Any) -> str:
    if not isinstance(item, dict):
        raise _Refused(400, "json: cannot unmarshal into Go struct field ChatRequest.tools")
    return str(_field(_field(item, "function", dict, {}), "name", str, ""))


def _decode_base64(item: Any) -> bytes:
    """Decode plain base64; the prefix of a data URL is invalid."""
    try:
        return b64decode(item, validate=True)
    except (NotBase64, TypeError, ValueError):
        raise _Refused(400, "illegal base64 data at input byte 4") from None


def _describe_image(data: bytes) -> str:
    image = decode_image(data)
    if image is None:
        raise _Refused(400, "Failed to load image or audio file")
    red, green, blue = (round(mean) for mean in ImageStat.Stat(image.convert("RGB")).mean)
    return f"{image.width}x{image.height} #{red:02x}{green:02x}{blue:02x}"


def _first_object(text: str) -> dict[str, Any]:
    """Return the first JSON object in a text, or an empty one."""
    for match in re.finditer(r"\{", text):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, match.start())
        except ValueError:
            continue
        return dict(value)
    return {}


def _sample_value(schema: Any) -> Any:
    """Return a simple value that matches the schema."""
    if not isinstance(schema, dict):
        return None
    if schema.get("enum"):
        return schema["enum"][0]
    if schema.get("anyOf"):
        return _sample_value(schema["anyOf"][0])
    if "properties" in schema:
        return {name: _sample_value(subschema) for name, subschema in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_sample_value(schema.get("items", {}))]
    return {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "object": {}}.get(
        str(schema.get("type"))
    )


def _split_words(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*$|\s*\S+", text) or ([text] if text else [])


def _vector(text: str, size: int) -> list[float]:
    numbers = [byte - 127.5 for byte in hashlib.shake_128(text.encode()).digest(size)]
    length = sum(value * value for value in numbers) ** 0.5
    return [value / length for value in numbers]


def _merged(frames: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the frames of a stream into the single object of `stream: false`."""
    chat = "message" in frames[-1]
    parts = [frame["message"] if chat else frame for frame in frames]
    content: dict[str, Any] = {
        "content" if chat else "response": "".join(
            part["content" if chat else "response"] for part in parts
        )
    }
    if thinking := "".join(part.get("thinking", "") for part in parts):
        content["thinking"] = thinking
    if calls := [call for part in parts for call in part.get("tool_calls", [])]:
        content["tool_calls"] = calls
    return frames[-1] | ({"message": {"role": "assistant"} | content} if chat else content)
