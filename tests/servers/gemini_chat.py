"""A strict server of Gemini's chat API, as in `gemini-chat.md`.

It generates text, calls, thoughts, images and embeddings.

server = GeminiChat()
base = serve(server).url + "/v1beta"      # the key is "k"
server.script = [Turn([{"text": "Hello."}]), Turn(finish="SAFETY")]
...
assert server.received_bodies[0]["contents"]
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.servers.gemini import (
    ENCODED_SENTINEL,
    MAX_BODY_BYTES,
    SENTINEL,
    Gemini,
    Model,
    _decode_base64,
    _invalid,
    _normalized,
    _Refused,
)
from tests.servers.gemini_chat_requests import EMBED_REQUEST, Json, Request
from tests.servers.hashed_images import (
    b64,
    decode_image,
    encode_image,
    fingerprint,
    hash_color,
    solid_image,
)
from tests.servers.http_helpers import STREAMED, Response, json_response
from tests.support.loopback import Peer, ReceivedRequest

CHAT_MODELS = {
    "gemini-2.5-flash": Model(),
    "gemini-2.5-flash-image": Model(("1:1",)),
    "gemini-3-flash-preview": Model(signed=True),
    "gemini-3-pro-preview": Model(signed=True),
    "gemini-3-pro-image-preview": Model(("1:1",), signed=True),
    "gemini-embedding-001": Model(),
}
TASK_TYPES = (
    r"RETRIEVAL_(QUERY|DOCUMENT)|SEMANTIC_SIMILARITY|CLASSIFICATION|CLUSTERING"
    r"|QUESTION_ANSWERING|FACT_VERIFICATION|CODE_RETRIEVAL_QUERY"
)
JSON_CONTENT_TYPE = "application/json; charset=UTF-8"


@dataclass
class Turn:
    """One scripted answer."""

    parts: list[Json] = field(default_factory=list)
    finish: str | None = "STOP"
    """The finishReason; None sends none."""
    message: str | None = None
    """The finishMessage."""
    usage: Json | None = None
    """Usage that replaces the counted one."""
    blocked: str | None = None
    """A blockReason; the response then has no candidates."""
    broken: str = ""
    """How a stream fails in place of its last frame.

    "error" sends an error frame, "bare" and "array" an error without `data:`. "cut" ends the body
    regularly but without a finishReason, "drop" closes the connection.
    """
    signed: bool = True
    """Whether a Gemini 3 model adds signatures to the parts."""


class GeminiChat(Gemini):
    """A handler for `serve()`.

    `received_bodies` lists the bodies of all POST requests with a valid key, accepted or refused.

    Settings that tests change:

    * `script`: one `Turn` for each of the next valid requests.
    * `models`, `files`, `failures`, `retry_delay`, `blocked`, `finish`, `drafts`, `words`, `mime`,
      `hold()` and `release()`: as in `Gemini`.
    * `wrapped`: put every error into a list.
    * `call_ids`: give every call an id.
    * `lone_usage`: send a frame with nothing but usage after the first frame of a stream.
    * `dimensions`: length of the embeddings.
    """

    def __init__(self, key: str = "k") -> None:
        super().__init__(key)
        self.models = dict(CHAT_MODELS)
        self.script: list[Turn] = []
        self.received_bodies: list[Any] = []
        self.call_ids = False
        self.lone_usage = False
        self.dimensions = 8
        self._issued: dict[bytes, tuple[str, str]] = {}
        self._answers = 0

    # HTTP

    def _answer(
        self, peer: Peer, http_request: ReceivedRequest, path: str, query: dict[str, str]
    ) -> Response | None:
        try:
            return self._dispatch(peer, http_request, path, query)
        except _Refused as refused:
            if not self.wrapped:
                raise
            return json_response([{"error": refused.error}], refused.code, JSON_CONTENT_TYPE)

    def _dispatch(
        self, peer: Peer, http_request: ReceivedRequest, path: str, query: dict[str, str]
    ) -> Response | None:
        call = re.fullmatch(r"/v1beta/(models/[^/:]+):(\w+)", path)
        methods = ("generateContent", "streamGenerateContent", "embedContent", "batchEmbedContents")
        if http_request.method != "POST" or call is None or call[2] not in methods:
            return super()._answer(peer, http_request, path, query)
        self._authorize(http_request, query)
        body = self._body(http_request.body)
        model = self._resolve_model(call[1], call[2])
        is_embedding = "embedding" in model
        if is_embedding != ("mbed" in call[2]):
            message = (
                f"models/{model} is not found for API version v1beta, "
                f"or is not supported for {call[2]}."
            )
            raise _Refused("NOT_FOUND", message)
        if self.failures:
            raise self._failure(self.failures.pop(0))
        if is_embedding:
            return json_response(
                self._embeddings(model, body, call[2]), content_type=JSON_CONTENT_TYPE
            )
        request = Request(self, model, body)
        with self._changed:
            self._answers += 1
            turn = self.script.pop(0) if self.script else self._default_turn(request)
        if call[2] == "streamGenerateContent":
            return self._stream(peer, request, turn, query.get("alt") == "sse")
        if not self._wait(peer):
            return None
        return json_response(self._single_frame(request, turn), content_type=JSON_CONTENT_TYPE)

    def _body(self, raw: bytes) -> Any:
        if len(raw) > MAX_BODY_BYTES:
            raise _invalid(f"Request payload size exceeds the limit: {MAX_BODY_BYTES} bytes.")
        try:
            body = json.loads(raw)
        except ValueError:
            raise _invalid("Invalid JSON payload received. Unexpected end of string.") from None
        self.received_bodies.append(body)
        return body

    def _describe_model(self, name: str) -> Json:
        methods = (
            ["embedContent", "batchEmbedContents"]
            if "embedding" in name
            else ["generateContent", "countTokens"]
        )
        return super()._describe_model(name) | {"supportedGenerationMethods": methods}

    # Embeddings

    def _embeddings(self, model: str, body: Any, method: str) -> Json:
        if method == "embedContent":
            return {"embedding": self._vector(_normalized(body, EMBED_REQUEST, ""))}
        requests = _normalized(body, {"requests": [EMBED_REQUEST]}, "").get("requests")
        if not requests:
            raise _invalid("* BatchEmbedContentsRequest.requests: at least one request is required")
        if any(request.get("model") != f"models/{model}" for request in requests):
            raise _invalid(
                "* BatchEmbedContentsRequest.requests: "
                "the model in each request must match the model of the batch"
            )
        return {"embeddings": [self._vector(request) for request in requests]}

    def _vector(self, request: Json) -> Json:
        """Return a predictable vector; equal texts have equal vectors."""
        parts = request.get("content", {}).get("parts")
        if not parts:
            raise _invalid("* EmbedContentRequest.content: content is empty")
        if not re.fullmatch(TASK_TYPES, request.get("taskType", "CLUSTERING")):
            raise _invalid("Invalid value at 'task_type'", "task_type")
        digest = hashlib.sha256("\n".join(part.get("text", "") for part in parts).encode()).digest()
        return {
            "values": [
                digest[index % 32] / 256
                for index in range(request.get("outputDimensionality", self.dimensions))
            ]
        }

    # Signatures

    def sign(self, model: str, part: Json) -> Json:
        """Return the part with its own or a new signature.

        Only this model accepts the signature, and only on this part.
        """
        with self._changed:
            signature = part.get("thoughtSignature") or b64(
                f"signature {len(self._issued)} of {model}".encode()
            )
            self._issued[_decode_base64(signature)] = (model, _signed_content(part))
        return part | {"thoughtSignature": signature}

    def check_signature(self, model: str, part: Json) -> None:
        """Refuse a signature that does not belong to this model and part."""
        signature = part.get("thoughtSignature")
        if signature in (None, SENTINEL, ENCODED_SENTINEL):
            return
        if self._issued.get(_decode_base64(signature)) != (model, _signed_content(part)):
            raise _Refused("INVALID_ARGUMENT", "Corrupted thought signature.")

    def _signed(self, model: str, parts: list[Json], streamed: bool) -> list[Json]:
        """Return the parts with the signatures of a Gemini 3 model.

        It signs the first call of a step and every image; without these, the end of the text. A
        stream signs an empty text after it.
        """
        signed_parts = [
            self.sign(model, part) if "thoughtSignature" in part else part for part in parts
        ]
        calls = [index for index, part in enumerate(signed_parts) if "functionCall" in part]
        indexes = calls[:1] + [
            index for index, part in enumerate(signed_parts) if "inlineData" in part
        ]
        if (
            signed_parts
            and not indexes
            and "text" in signed_parts[-1]
            and not signed_parts[-1].get("thought")
        ):
            if streamed and "thoughtSignature" not in signed_parts[-1]:
                signed_parts.append({"text": ""})
            indexes = [len(signed_parts) - 1]
        for index in indexes:
            signed_parts[index] = self.sign(model, signed_parts[index])
        return [*signed_parts, {"text": ""}] if streamed and calls else signed_parts

    # Answers

    def _default_turn(self, request: Request) -> Turn:
        """Return the turn that is used without a script."""
        if self.blocked is not None or self.finish is not None:
            return Turn(finish=self.finish, blocked=self.blocked)
        thoughts: list[Json] = [{"text": "I think.", "thought": True}] if request.thoughts else []
        if calls := request.wanted_calls():
            unnumbered = [{"name": name, "args": args} for name, args in calls]
            function_calls = [
                call | ({"id": f"call{self._answers}-{index}"} if self.call_ids else {})
                for index, call in enumerate(unnumbered)
            ]
            return Turn(
                [*thoughts, *({"functionCall": call} for call in function_calls)],
                message="Model generated function call(s).",
            )
        if "IMAGE" in request.config.get("responseModalities", []):
            drafts = [
                self._image(request, index + 1) | {"thought": True} for index in range(self.drafts)
            ]
            intro = (
                [{"text": self.words}]
                if "TEXT" in request.config["responseModalities"] and self.words
                else []
            )
            return Turn([*thoughts, *drafts, *intro, self._image(request)])
        text, max_tokens = request.answer_text(), request.config.get("maxOutputTokens")
        words = text.split(" ")
        if max_tokens is not None and len(words) > max_tokens:
            return Turn([*thoughts, {"text": " ".join(words[:max_tokens])}], finish="MAX_TOKENS")
        return Turn([*thoughts, {"text": text}])

    def _image(self, request: Request, draft: int = 0) -> Json:
        image = solid_image(hash_color({"prompt": request.last_text, "draft": draft}), (64, 64))
        return {
            "inlineData": {
                "mimeType": self.mime,
                "data": b64(encode_image(image, self.mime.rpartition("/")[2])),
            }
        }

    def _count_usage(self, request: Request, parts: list[Json]) -> Json:
        """Return predictable token counts, one per word; zeros are left out."""
        prompt_tokens = sum(len(text.split()) for text in request.texts) + 258 * len(request.images)
        candidate_tokens, thought_tokens = (
            sum(
                258 if "inlineData" in part else len(part.get("text", "call it").split())
                for part in parts
                if part.get("thought", False) is is_thought
            )
            for is_thought in (False, True)
        )
        counts = {
            "promptTokenCount": prompt_tokens,
            "candidatesTokenCount": candidate_tokens,
            "thoughtsTokenCount": thought_tokens,
        }
        return {name: count for name, count in counts.items() if count} | {
            "totalTokenCount": prompt_tokens + candidate_tokens + thought_tokens
        }

    def _common_fields(self, settings: Mapping[str, Any]) -> Json:
        return {"modelVersion": settings["model"], "responseId": f"r{self._answers}"}

    def _frame(
        self, request: Request, turn: Turn, parts: list[Json], usage: Json, is_last: bool = True
    ) -> Json:
        fields = {"usageMetadata": usage} | self._common_fields({"model": request.model})
        if turn.blocked is not None:
            return {"promptFeedback": {"blockReason": turn.blocked}} | fields
        candidate: Json = {"content": {"role": "model", "parts": parts} if parts else {}}
        if is_last and turn.finish is not None:
            candidate["finishReason"] = turn.finish
            if turn.message is not None:
                candidate["finishMessage"] = turn.message
        return {"candidates": [candidate]} | fields

    def _prepare(self, request: Request, turn: Turn, streamed: bool) -> tuple[list[Json], Json]:
        parts = turn.parts
        if request.is_gemini_3 and turn.signed:
            parts = self._signed(request.model, parts, streamed)
        else:
            parts = [
                self.sign(request.model, part) if "thoughtSignature" in part else part
                for part in parts
            ]
        return parts, self._count_usage(request, turn.parts) if turn.usage is None else turn.usage

    def _single_frame(self, request: Request, turn: Turn) -> Json:
        parts, usage = self._prepare(request, turn, streamed=False)
        return self._frame(request, turn, parts, usage)

    def _frames(self, request: Request, turn: Turn) -> Iterator[Json]:
        """Yield the frames, with a part or half of its text in each.

        The usage is cumulative, but the prompt count starts too high and shrinks.
        """
        parts, usage = self._prepare(request, turn, streamed=True)
        frame_parts: list[Json] = []
        for part in parts:
            text = part.get("text", "")
            undivided = len(text) < 2 or "thoughtSignature" in part
            halves = [text[: len(text) // 2], text[len(text) // 2 :]]
            frame_parts += [part] if undivided else [part | {"text": half} for half in halves]
        for index, frame_part in enumerate(frame_parts[:-1]):
            prompt_tokens, candidate_tokens = (
                usage.get("promptTokenCount", 0) + 90,
                usage.get("candidatesTokenCount", 0) * index // len(frame_parts),
            )
            early_usage = (
                {"promptTokenCount": prompt_tokens}
                | ({"candidatesTokenCount": candidate_tokens} if candidate_tokens else {})
                | {"totalTokenCount": prompt_tokens + candidate_tokens}
            )
            yield self._frame(request, turn, [frame_part], early_usage, is_last=False)
            if index == 0 and self.lone_usage:
                yield {"usageMetadata": early_usage} | self._common_fields({"model": request.model})
        yield self._frame(request, turn, frame_parts[-1:], usage)

    def _stream(self, peer: Peer, request: Request, turn: Turn, as_events: bool) -> Response | None:
        """Send frames without names and without a terminator; without `alt=sse`, one JSON array."""
        peer.begin(headers={} if as_events else {"content-type": JSON_CONTENT_TYPE})
        error = {
            "error": {
                "code": 500,
                "message": "An internal error has occurred.",
                "status": "INTERNAL",
            }
        }
        frames = list(self._frames(request, turn))
        if turn.broken:
            frames = frames[: max(1, len(frames) - 1)]
            for frame in frames:
                frame.get("candidates", [{}])[0].pop("finishReason", None)
            frames += [error] if turn.broken == "error" else []
        for index, frame in enumerate(frames):
            if index == min(1, len(frames) - 1) and not self._wait(peer):
                return None
            data = json.dumps(frame).encode()
            peer.chunk(
                b"data: " + data + b"\r\n\r\n"
                if as_events
                else (b",\r\n" if index else b"[") + data
            )
        if turn.broken == "drop":
            return None
        if turn.broken in ("bare", "array"):
            peer.chunk(json.dumps(error if turn.broken == "bare" else [error], indent=2).encode())
        elif not as_events:
            peer.chunk(b"]")
        peer.end()
        return STREAMED


def _signed_content(part: Json) -> str:
    """Return what a signature covers.

    This is the part without its id and its encoding, which clients may change.
    """
    content = {
        name: value
        for name, value in part.items()
        if name != "thoughtSignature" and value is not False
    }
    if "functionCall" in content:
        content["functionCall"] = {
            "name": content["functionCall"].get("name"),
            "args": content["functionCall"].get("args", {}),
        }
    if "inlineData" in content:
        image = decode_image(data := _decode_base64(content["inlineData"]["data"]))
        content["inlineData"] = (
            hashlib.sha256(data).hexdigest() if image is None else fingerprint(image)
        )
    return json.dumps(content, sort_keys=True)
