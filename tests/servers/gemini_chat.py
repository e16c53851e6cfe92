"""Gemini's chat side, as `gemini-chat.md` describes it: words, calls, thoughts, pictures and embeddings, strict about every request.

server = GeminiChat()
base = serve(server).url + "/v1beta"      # the key is "k"
server.script = [Turn([{"text": "Hello."}]), Turn(finish="SAFETY")]
...
assert server.seen[0]["contents"]
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from loopback import Peer, Seen
from PIL import Image
from servers.drawing import b64, decoded, encoded, fingerprint, hashed, plain
from servers.gemini import (
    ANY,
    DATA,
    ENCODED_SENTINEL,
    LARGEST,
    MIMES,
    REQUEST,
    SENTINEL,
    Gemini,
    Model,
    _bytes,
    _camel,
    _invalid,
    _known,
    _Refused,
)
from servers.speaking import STREAMED, Answer, said

Json = dict[str, Any]
CHAT_MODELS = {
    "gemini-2.5-flash": Model(),
    "gemini-2.5-flash-image": Model(("1:1",)),
    "gemini-3-flash-preview": Model(signed=True),
    "gemini-3-pro-preview": Model(signed=True),
    "gemini-3-pro-image-preview": Model(("1:1",), signed=True),
    "gemini-embedding-001": Model(),
}
JSON_KIND = "application/json; charset=UTF-8"
MODES = ("AUTO", "ANY", "NONE", "VALIDATED")
LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
TASKS = [
    "RETRIEVAL_QUERY",
    "RETRIEVAL_DOCUMENT",
    "SEMANTIC_SIMILARITY",
    "CLASSIFICATION",
    "CLUSTERING",
    "QUESTION_ANSWERING",
    "FACT_VERIFICATION",
    "CODE_RETRIEVAL_QUERY",
]
_INLINE = {"mimeType": str, "data": str}
_PART: Json = REQUEST["contents"][0]["parts"][0] | {
    "functionCall": {"name": str, "args": ANY, "id": str},
    "functionResponse": {"name": str, "response": ANY, "id": str, "parts": [{"inlineData": _INLINE}]},
    "toolCall": ANY,
    "toolResponse": ANY,
    "videoMetadata": {"startOffset": str, "endOffset": str, "fps": float},
}
_CONTENT: Json = {"role": str, "parts": [_PART]}
_DECLARATION = {"name": str, "description": str, "parameters": ANY, "parametersJsonSchema": ANY}
CHAT: Json = REQUEST | {
    "contents": [_CONTENT],
    "systemInstruction": _CONTENT,
    "tools": [REQUEST["tools"][0] | {"functionDeclarations": [_DECLARATION]}],
    "toolConfig": {
        "functionCallingConfig": {"mode": str, "allowedFunctionNames": [str]},
        "includeServerSideToolInvocations": bool,
    },
}
EMBED: Json = {"model": str, "content": _CONTENT, "taskType": str, "title": str, "outputDimensionality": int}
ONE_OF = (*DATA, "toolCall", "toolResponse")
# The OpenAPI subset of `parameters` and `responseSchema`: JSON Schema's other keywords are unknown fields there.
SUBSET = [
    "type",
    "format",
    "title",
    "description",
    "nullable",
    "enum",
    "maxItems",
    "minItems",
    "properties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "example",
    "anyOf",
    "propertyOrdering",
    "default",
    "items",
    "minimum",
    "maximum",
]
SUBSET_TYPES = ("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")


@dataclass
class Turn:
    """One scripted answer.

    `finish` None never says how it ended; `usage` stands in place of the counted one; `blocked` is a blockReason, and no candidates.
    `broken` is for streams, after their first piece: "error" (a frame), "bare" and "array" (the error without `data:`), "cut" (the body
    ends well, but no chunk had a finishReason), "drop" (the connection ends). `signed` False leaves parts as they are on a Gemini 3 model.
    """

    parts: list[Json] = field(default_factory=list)
    finish: str | None = "STOP"
    message: str | None = None
    usage: Json | None = None
    blocked: str | None = None
    broken: str = ""
    signed: bool = True


class GeminiChat(Gemini):
    """A handler for `serve()`. `seen` lists the bodies of all POSTs, refused ones too; `script` is used up a Turn per legal request.

    Knobs: `script`, and of `Gemini`: `models`, `files`, `failures`, `retry_delay`, `wrapped` (here every error is in a list), `blocked`,
    `finish`, `drafts`, `words`, `mime`, `hold()`/`release()`. `call_ids` gives calls an id, `dimensions` is the length of embeddings.
    """

    def __init__(self, key: str = "k") -> None:
        super().__init__(key)
        self.models = dict(CHAT_MODELS)
        self.script: list[Turn] = []
        self.seen: list[Any] = []
        self.call_ids = False
        self.dimensions = 8
        self._issued: dict[bytes, tuple[str, str]] = {}
        self._answers = 0

    # HTTP

    def _answer(self, peer: Peer, seen: Seen, path: str, query: dict[str, str]) -> Answer | None:
        try:
            return self._called(peer, seen, path, query)
        except _Refused as refused:
            if not self.wrapped:
                raise
            return said([{"error": refused.error}], refused.code, JSON_KIND)

    def _called(self, peer: Peer, seen: Seen, path: str, query: dict[str, str]) -> Answer | None:
        call = re.fullmatch(r"/v1beta/(models/[^/:]+):(\w+)", path)
        methods = ("generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents")
        if seen.method != "POST" or call is None or call[2] not in methods:
            return super()._answer(peer, seen, path, query)
        self._authorise(seen, query)
        body = self._body(seen.body)
        model = self._model(call[1], call[2])
        embeds = "embedding" in model
        if embeds != ("mbed" in call[2]):
            message = f"models/{model} is not found for API version v1beta, or is not supported for {call[2]}."
            raise _Refused("NOT_FOUND", message)
        if self.failures:
            raise self._failure(self.failures.pop(0))
        if embeds:
            return said(self._embedded(model, body, call[2]), content_type=JSON_KIND)
        request = Request(self, model, body)
        with self._changed:
            self._answers += 1
            turn = self.script.pop(0) if self.script else self._default(request)
        if call[2] == "streamGenerateContent":
            return self._stream(peer, request, turn, query.get("alt") == "sse")
        if not self._wait(peer):
            return None
        return said(self._one(request, turn), content_type=JSON_KIND)

    def _body(self, raw: bytes) -> Any:
        if len(raw) > LARGEST:
            raise _invalid(f"Request payload size exceeds the limit: {LARGEST} bytes.")
        try:
            body = json.loads(raw)
        except ValueError:
            raise _invalid("Invalid JSON payload received. Unexpected end of string.") from None
        self.seen.append(body)
        return body

    def _described(self, name: str) -> Json:
        methods = ["embedContent", "batchEmbedContents"] if "embedding" in name else ["generateContent", "countTokens"]
        return super()._described(name) | {"supportedGenerationMethods": methods}

    # Embeddings

    def _embedded(self, model: str, body: Any, method: str) -> Json:
        if method == "embedContent":
            return {"embedding": self._vector(_known(body, EMBED, ""))}
        requests = _known(body, {"requests": [EMBED]}, "").get("requests")
        if not requests:
            raise _invalid("* BatchEmbedContentsRequest.requests: at least one request is required")
        if any(request.get("model") != f"models/{model}" for request in requests):
            raise _invalid("* BatchEmbedContentsRequest.requests: the model in each request must match the model of the batch")
        return {"embeddings": [self._vector(request) for request in requests]}

    def _vector(self, request: Json) -> Json:
        """Numbers a test can foretell: equal texts have equal ones."""
        parts = request.get("content", {}).get("parts")
        if not parts:
            raise _invalid("* EmbedContentRequest.content: content is empty")
        if request.get("taskType", TASKS[0]) not in TASKS:
            raise _invalid("Invalid value at 'task_type'", "task_type")
        digest = hashlib.sha256("\n".join(part.get("text", "") for part in parts).encode()).digest()
        return {"values": [digest[index % 32] / 256 for index in range(request.get("outputDimensionality", self.dimensions))]}

    # Signatures

    def sign(self, model: str, part: Json) -> Json:
        """The part with a signature, its own or a new one, that this model takes back on this very part only."""
        signature = part.get("thoughtSignature") or b64(f"signature {len(self._issued)} of {model}".encode())
        self._issued[_bytes(signature)] = (model, _essence(part))
        return part | {"thoughtSignature": signature}

    def check_signature(self, model: str, part: Json) -> None:
        signature = part.get("thoughtSignature")
        if signature in (None, SENTINEL, ENCODED_SENTINEL):
            return
        if self._issued.get(_bytes(signature)) != (model, _essence(part)):
            raise _Refused("INVALID_ARGUMENT", "Corrupted thought signature.")

    def _signed(self, model: str, parts: list[Json], streamed: bool) -> list[Json]:
        """Gemini 3 signs the first call of a step, every picture, or else the end of its words; a stream signs an empty text after them."""
        made = [self.sign(model, part) if "thoughtSignature" in part else part for part in parts]
        calls = [index for index, part in enumerate(made) if "functionCall" in part]
        wanted = calls[:1] + [index for index, part in enumerate(made) if "inlineData" in part]
        if made and not wanted and "text" in made[-1] and not made[-1].get("thought"):
            if streamed and "thoughtSignature" not in made[-1]:
                made.append({"text": ""})
            wanted = [len(made) - 1]
        for index in wanted:
            made[index] = self.sign(model, made[index])
        return [*made, {"text": ""}] if streamed and calls else made

    # Answers

    def _default(self, request: Request) -> Turn:
        """What this server answers without a script."""
        if self.blocked is not None or self.finish is not None:
            return Turn(finish=self.finish, blocked=self.blocked)
        thoughts: list[Json] = [{"text": "I think.", "thought": True}] if request.thoughts else []
        if calls := request.wanted_calls():
            made = [{"name": name, "args": args} for name, args in calls]
            named = [call | ({"id": f"call{self._answers}-{index}"} if self.call_ids else {}) for index, call in enumerate(made)]
            return Turn([*thoughts, *({"functionCall": call} for call in named)], message="Model generated function call(s).")
        if "IMAGE" in request.config.get("responseModalities", []):
            drafts = [self._picture(request, index + 1) | {"thought": True} for index in range(self.drafts)]
            words = [{"text": self.words}] if "TEXT" in request.config["responseModalities"] and self.words else []
            return Turn([*thoughts, *drafts, *words, self._picture(request)])
        text, most = request.reply(), request.config.get("maxOutputTokens")
        words_ = text.split(" ")
        if most is not None and len(words_) > most:
            return Turn([*thoughts, {"text": " ".join(words_[:most])}], finish="MAX_TOKENS")
        return Turn([*thoughts, {"text": text}])

    def _picture(self, request: Request, draft: int = 0) -> Json:
        image = plain(hashed({"prompt": request.last_text, "draft": draft}), (64, 64))
        return {"inlineData": {"mimeType": self.mime, "data": b64(encoded(image, self.mime.rpartition("/")[2]))}}

    def _counted(self, request: Request, parts: list[Json]) -> Json:
        """Counts a test can foretell, a word a token; what is zero is left out."""
        prompt = sum(len(text.split()) for text in request.texts) + 258 * len(request.pictures)
        made, thought = (
            sum(
                258 if "inlineData" in part else len(part.get("text", "call it").split())
                for part in parts
                if part.get("thought", False) is which
            )
            for which in (False, True)
        )
        counts = {"promptTokenCount": prompt, "candidatesTokenCount": made, "thoughtsTokenCount": thought}
        return {name: count for name, count in counts.items() if count} | {"totalTokenCount": prompt + made + thought}

    def _about(self, settings: Mapping[str, Any]) -> Json:
        return {"modelVersion": settings["model"], "responseId": f"r{self._answers}"}

    def _framed(self, request: Request, turn: Turn, parts: list[Json], usage: Json, last: bool = True) -> Json:
        about = {"usageMetadata": usage} | self._about({"model": request.model})
        if turn.blocked is not None:
            return {"promptFeedback": {"blockReason": turn.blocked}} | about
        candidate: Json = {"content": {"role": "model", "parts": parts} if parts else {}}
        if last and turn.finish is not None:
            candidate["finishReason"] = turn.finish
            if turn.message is not None:
                candidate["finishMessage"] = turn.message
        return {"candidates": [candidate]} | about

    def _prepared(self, request: Request, turn: Turn, streamed: bool) -> tuple[list[Json], Json]:
        parts = turn.parts
        if request.third and turn.signed:
            parts = self._signed(request.model, parts, streamed)
        else:
            parts = [self.sign(request.model, part) if "thoughtSignature" in part else part for part in parts]
        return parts, self._counted(request, turn.parts) if turn.usage is None else turn.usage

    def _one(self, request: Request, turn: Turn) -> Json:
        parts, usage = self._prepared(request, turn, streamed=False)
        return self._framed(request, turn, parts, usage)

    def _frames(self, request: Request, turn: Turn) -> Iterator[Json]:
        """Pieces of the parts, one in each; the usage is cumulative, but the prompt's count starts too high and shrinks."""
        parts, usage = self._prepared(request, turn, streamed=True)
        pieces: list[Json] = []
        for part in parts:
            words = part.get("text", "")
            whole = len(words) < 2 or "thoughtSignature" in part
            halves = [words[: len(words) // 2], words[len(words) // 2 :]]
            pieces += [part] if whole else [part | {"text": half} for half in halves]
        early = {"promptTokenCount": usage.get("promptTokenCount", 0) + 90, "totalTokenCount": usage.get("totalTokenCount", 0) + 90}
        for index, piece in enumerate(pieces[:-1]):
            yield self._framed(request, turn, [piece], early, last=False)
            if index == 0:
                yield {"usageMetadata": early} | self._about({"model": request.model})
        yield self._framed(request, turn, pieces[-1:], usage)

    def _stream(self, peer: Peer, request: Request, turn: Turn, events: bool) -> Answer | None:
        """Frames with neither names nor a terminator; without `alt=sse` one JSON array in pieces."""
        peer.begin(headers={} if events else {"content-type": JSON_KIND})
        error = {"error": {"code": 500, "message": "An internal error has occurred.", "status": "INTERNAL"}}
        frames = list(self._frames(request, turn))
        if turn.broken:
            frames = frames[: max(1, len(frames) - 1)]
            for frame in frames:
                frame.get("candidates", [{}])[0].pop("finishReason", None)
            frames += [error] if turn.broken == "error" else []
        for index, frame in enumerate(frames):
            if index == 1 and not self._wait(peer):
                return None
            data = json.dumps(frame).encode()
            peer.chunk(b"data: " + data + b"\r\n\r\n" if events else (b",\r\n" if index else b"[") + data)
        if turn.broken == "drop":
            return None
        if turn.broken in ("bare", "array"):
            peer.chunk(json.dumps(error if turn.broken == "bare" else [error], indent=2).encode())
        elif not events:
            peer.chunk(b"]")
        peer.end()
        return STREAMED


class Request:
    """A request to generate, found legal in all its fields."""

    def __init__(self, server: GeminiChat, model: str, raw: Any) -> None:
        self.server, self.model, self.third = server, model, model.startswith("gemini-3")
        self.body: Json = _known(raw, CHAT, "")
        self.config: Json = self.body.get("generationConfig", {})
        self.contents: list[Json] = self.body.get("contents", [])
        self.declared: dict[str, Json] = {}
        self.texts: list[str] = []
        self.pictures: list[str] = []
        if not self.contents:
            raise _invalid("* GenerateContentRequest.contents: contents is not specified", "contents")
        self._config()
        self._tools()
        system = self.body.get("systemInstruction")
        if system is not None and not system.get("parts"):
            raise _invalid("* GenerateContentRequest.system_instruction.parts: must not be empty.")
        for content in self.contents:
            self._content(content)
        self._turns()
        self.thoughts: bool = self.config.get("thinkingConfig", {}).get("includeThoughts", False)
        said_ = [part["text"] for content in self.contents if _role(content) == "user" for part in content["parts"] if "text" in part]
        self.last_text: str = said_[-1] if said_ else ""

    # Strictness

    def _config(self) -> None:
        config, thinking = self.config, self.config.get("thinkingConfig", {})
        mime = config.get("responseMimeType", "text/plain")
        if mime not in ("text/plain", "application/json", "text/x.enum"):
            raise _invalid(
                "* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes are `text/plain`, `application/json`"
            )
        if "responseSchema" in config and "responseJsonSchema" in config:
            raise _invalid("Only one of `response_schema` and `response_json_schema` may be set.")
        if ("responseSchema" in config and mime == "text/plain") or ("responseJsonSchema" in config and mime != "application/json"):
            raise _invalid("A response schema requires response_mime_type application/json.")
        if "responseSchema" in config:
            _check_subset(config["responseSchema"], "generation_config.response_schema")
        if "thinkingBudget" in thinking and "thinkingLevel" in thinking:
            raise _invalid("You can only set only one of thinking budget and thinking level.")
        if "thinkingBudget" in thinking and self.third:
            raise _invalid("Thinking budget is not supported for this model.")
        if "thinkingLevel" in thinking and (not self.third or thinking["thinkingLevel"] not in LEVELS):
            raise _invalid("Thinking level is not supported for this model.")
        modalities = config.get("responseModalities", [])
        if not set(modalities) <= {"TEXT", "IMAGE"} or ("IMAGE" in modalities and not self.server.models[self.model].ratios):
            raise _invalid("The requested combination of response modalities is not supported by the model.")
        if len(config.get("stopSequences", [])) > 5:
            raise _invalid("* GenerateContentRequest.generation_config.stop_sequences: at most 5.")
        if config.get("candidateCount", 1) != 1:
            raise _invalid("Multiple candidates is not enabled for this model")
        if config.get("maxOutputTokens", 1) < 1:
            raise _invalid("max_output_tokens must be positive.")

    def _tools(self) -> None:
        tools = self.body.get("tools", [])
        for declaration in (each for tool in tools for each in tool.get("functionDeclarations", [])):
            name = declaration.get("name", "")
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}", name) or name in self.declared:
                raise _invalid("Invalid function name, or a duplicate function declaration found: " + name)
            if "parameters" in declaration and "parametersJsonSchema" in declaration:
                raise _invalid("Only one of `parameters` and `parameters_json_schema` may be set.")
            if "parameters" in declaration:
                _check_subset(declaration["parameters"], "tools.function_declarations.parameters")
            self.declared[name] = declaration
        hosted = any(set(tool) - {"functionDeclarations"} for tool in tools)
        if self.declared and not self.third and (hosted or self.config.get("responseMimeType", "text/plain") != "text/plain"):
            raise _invalid("Tool use with a response mime type, or with built-in tools, is unsupported together with function calling")
        calling = self.body.get("toolConfig", {}).get("functionCallingConfig", {})
        self.mode: str = calling.get("mode", "AUTO")
        self.allowed: list[str] = calling.get("allowedFunctionNames") or list(self.declared)
        if self.mode not in MODES:
            raise _invalid(f"Invalid value at 'tool_config.function_calling_config.mode', \"{self.mode}\"")
        if calling.get("allowedFunctionNames") and (self.mode not in ("ANY", "VALIDATED") or not set(self.allowed) <= set(self.declared)):
            raise _invalid("Allowed function names are of declared functions, and only set when the mode is ANY or VALIDATED.")
        cached = self.body.get("cachedContent")
        if cached is not None and (
            not cached.startswith("cachedContents/") or {"systemInstruction", "tools", "toolConfig"} & set(self.body)
        ):
            raise _invalid("CachedContent can not be used with GenerateContent request setting system_instruction, tools or tool_config.")

    def _content(self, content: Json) -> None:
        if content.get("role", "user") not in ("user", "model", "function"):
            raise _invalid("Please use a valid role: user, model.")
        if not content.get("parts"):
            raise _invalid("* GenerateContentRequest.contents: contents.parts must not be empty.", "contents")
        for part in content["parts"]:
            if sum(name in part for name in ONE_OF) != 1:
                raise _invalid("Invalid value at 'contents.parts' (oneof), oneof field 'data' must have one initialized field")
            user = _role(content) == "user"
            if "functionCall" in part if user else "functionResponse" in part:
                raise _invalid("Function calls come from the model, and function responses from the user.")
            if "inlineData" in part and not user and self.third and "thoughtSignature" not in part:
                raise _invalid("Image part is missing a thought_signature.")
            self.server.check_signature(self.model, part)
            self._part(part)

    def _part(self, part: Json) -> None:
        if "text" in part:
            self.texts.append(part["text"])
        elif "inlineData" in part:
            self._data(part["inlineData"])
        elif "fileData" in part:
            uri = part["fileData"].get("fileUri", "")
            if uri not in self.server.files and not uri.startswith("https://"):
                raise _Refused("PERMISSION_DENIED", f"You do not have permission to access the File {uri} or it may not exist.")
            self.pictures.append(uri)
        elif "functionCall" in part:
            _check_object(part["functionCall"], "args")
        elif "functionResponse" in part:
            response = part["functionResponse"]
            _check_object({"response": None} | response, "response")
            self.texts.append(json.dumps(response["response"]))
            if "parts" in response and not self.third:
                raise _invalid("Multimodal function responses are not supported for this model.")
            for inner in response.get("parts", []):
                self._data(inner.get("inlineData", {}))

    def _data(self, inline: Json) -> None:
        kind, data = inline.get("mimeType", ""), _bytes(inline.get("data", ""))
        if kind.startswith("image/"):
            image = decoded(data)
            if kind not in MIMES or image is None:
                raise _invalid(f"Unsupported MIME type: {kind}" if image is not None else "Unable to process input image.")
            red, green, blue = image.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[misc]
            self.pictures.append(f"{image.width}x{image.height} #{red:02x}{green:02x}{blue:02x}")
        elif re.fullmatch(r"(audio|video|text)/[\w.+-]+|application/pdf", kind) and data:
            self.pictures.append(f"{kind} {len(data)} bytes")
        else:
            raise _invalid(f"Unsupported MIME type: {kind}")

    def _turns(self) -> None:
        """Calls come after a turn of the user, and the next content answers them all, in order; the calls of this turn are signed."""
        asked = max(
            (index for index, each in enumerate(self.contents) if _role(each) == "user" and not _held(each, "functionResponse")), default=-1
        )
        calls: list[Json] = []
        for index, content in enumerate(self.contents):
            responses = _held(content, "functionResponse")
            if [_name(each) for each in responses] != [_name(each) for each in calls]:
                if not calls:
                    raise _invalid("Please ensure that function response turn comes immediately after a function call turn.")
                message = "Please ensure that the number of function response parts is equal to the number of function call parts of the function call turn."
                raise _invalid(message)
            calls = _held(content, "functionCall")
            if not calls:
                continue
            if index == 0 or _role(self.contents[index - 1]) != "user":
                raise _invalid(
                    "Please ensure that function call turn comes immediately after a user turn or after a function response turn."
                )
            first = next(part for part in content["parts"] if "functionCall" in part)
            if self.third and index > asked and not first.get("thoughtSignature"):
                called = f"function call `default_api:{calls[0]['name']}`, position {index + 1}"
                raise _invalid(f"Function call is missing a thought_signature in functionCall parts. Additional data, {called}.")
        if calls:
            raise _invalid("Please ensure that function call turn is followed by a function response turn.")

    # What to answer

    def wanted_calls(self) -> list[tuple[str, Json]]:
        """Functions the last words of the user name, once each; ANY calls one whatever was said."""
        if not self.declared or self.mode == "NONE":
            return []
        answered = bool(_held(self.contents[-1], "functionResponse"))
        named = [name for name in self.allowed if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", self.last_text)]
        chosen = named if named and not answered else self.allowed[:1] if self.mode == "ANY" else []
        given = re.search(r"\{.*\}", self.last_text, re.DOTALL)
        try:
            args = json.loads(given[0]) if given else None
        except ValueError:
            args = None
        return [(name, args if isinstance(args, dict) else self._invented(name)) for name in chosen]

    def _invented(self, name: str) -> Json:
        declared = self.declared[name]
        schema = declared.get("parametersJsonSchema", declared.get("parameters", {}))
        made = filled(schema, schema)
        return made if isinstance(made, dict) else {}

    def reply(self) -> str:
        """The last words of the user, every picture, and the results in the last content; or a value of the schema."""
        schema = self.config.get("responseJsonSchema", self.config.get("responseSchema"))
        if schema is not None:
            made = filled(schema, schema)
            return str(made) if self.config["responseMimeType"] == "text/x.enum" else json.dumps(made)
        results = [f"{each['name']}={json.dumps(each['response'])}" for each in _held(self.contents[-1], "functionResponse")]
        seen = " ".join([f"You said: {self.last_text}", *self.pictures, *results])
        return json.dumps({"text": seen}) if self.config.get("responseMimeType") == "application/json" else seen


def filled(schema: Any, root: Any) -> Any:
    """A simple value of a schema of either kind."""
    if not isinstance(schema, dict):
        return "x"
    if "$ref" in schema:
        found = root
        for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
            found = found[step] if step else found
        return filled(found, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return filled(schema[several][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = (kind[0] if isinstance(kind, list) else kind).lower()
    if kind == "object":
        return {name: filled(each, root) for name, each in schema.get("properties", {}).items()}
    if kind == "array":
        return [filled(schema.get("items", {}), root)] * max(1, int(schema.get("minItems", 1)))
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return {"boolean": True, "null": None}.get(kind, "x")


def _role(content: Json) -> str:
    return "model" if content.get("role") == "model" else "user"


def _held(content: Json, name: str) -> list[Json]:
    return [part[name] for part in content["parts"] if name in part]


def _name(call: Json) -> tuple[str, str | None]:
    """By what a response is matched with its call: the name, and an id where the client made one, which it then gives both."""
    return call.get("name", ""), call.get("id")


def _check_object(holder: Json, name: str) -> None:
    if not holder.get("name"):
        raise _invalid("The name of a function call or response must not be empty.")
    if not isinstance(holder.get(name, {}), dict):
        raise _invalid(f"Invalid value at 'contents.parts.{name}' (type.googleapis.com/google.protobuf.Struct)")


def _check_subset(schema: Any, path: str) -> None:
    if not isinstance(schema, dict):
        raise _invalid(f"Invalid value at '{path}'", path)
    for name, value in schema.items():
        if _camel(name) not in SUBSET:
            raise _invalid(f"Invalid JSON payload received. Unknown name \"{name}\" at '{path}': Cannot find field.", path)
        if name == "type" and value not in SUBSET_TYPES:
            raise _invalid(
                f"Invalid value at '{path}.type' (type.googleapis.com/google.ai.generativelanguage.v1beta.Type), {json.dumps(value)}"
            )
        inner = list(value.values()) if name == "properties" else value if _camel(name) == "anyOf" else [value] if name == "items" else []
        for each in inner:
            _check_subset(each, f"{path}.{name}")


def _essence(part: Json) -> str:
    """What a signature belongs to: the part without its id and its encoding, which clients may change."""
    held = {name: value for name, value in part.items() if name != "thoughtSignature" and value is not False}
    if "functionCall" in held:
        held["functionCall"] = {"name": held["functionCall"].get("name"), "args": held["functionCall"].get("args", {})}
    if "inlineData" in held:
        image = decoded(data := _bytes(held["inlineData"]["data"]))
        held["inlineData"] = hashlib.sha256(data).hexdigest() if image is None else fingerprint(image)
    return json.dumps(held, sort_keys=True)
