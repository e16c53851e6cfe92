"""A strict server of Gemini's image models, as in `gemini-images.md`.

It follows `gemini-chat.md` where that page has no rule, and checks every field.

server = Gemini()
base = serve(server).url + "/v1beta"      # the key is "k"
...
assert image_color == color({"prompt": "a red fox", "seed": 7})
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from binascii import Error as NotBase64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from tests.servers.hashed_images import (
    Color,
    b64,
    decode_image,
    encode_image,
    fingerprint,
    hash_color,
    solid_image,
)
from tests.servers.http_helpers import STREAMED, Gate, Response, json_response, route
from tests.support.loopback import Peer, ReceivedRequest

RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
LONG_RATIOS = ("1:4", "4:1", "1:8", "8:1")
SIZES = {"512": 512, "1K": 1024, "2K": 2048, "4K": 4096}
IMAGE_MIME_TYPES = ("image/png", "image/jpeg", "image/webp")
MAX_BODY_BYTES = 20 * 1024 * 1024
SENTINEL = "skip_thought_signature_validator"
ENCODED_SENTINEL = "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I="
STATUS_CODES = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


@dataclass(frozen=True)
class Model:
    """What a model accepts."""

    ratios: Sequence[str] = ()
    """Accepted aspect ratios; empty for a text model."""
    sizes: Sequence[str] = ()
    """Accepted image sizes; empty when the parameter is not supported."""
    signed: bool = False
    """Whether every image has a thought signature, which must come back with it."""


MODELS = {
    "gemini-2.5-flash-image": Model(RATIOS),
    "gemini-3-pro-image-preview": Model(RATIOS, ("1K", "2K", "4K"), True),
    "gemini-3.1-flash-image-preview": Model(RATIOS + LONG_RATIOS, ("512", "1K", "2K", "4K"), True),
    "gemini-2.5-flash": Model(),
}

# The fields of a request: a type is a scalar, a list or a dict is nested, ANY is not checked.
ANY = object()
_PART: dict[str, Any] = {
    "text": str,
    "inlineData": {"mimeType": str, "data": str},
    "fileData": {"fileUri": str, "mimeType": str},
    "thought": bool,
    "thoughtSignature": str,
    "functionCall": ANY,
    "functionResponse": ANY,
    "executableCode": ANY,
    "codeExecutionResult": ANY,
    "videoMetadata": ANY,
}
_CONTENT = {"role": str, "parts": [_PART]}
REQUEST: dict[str, Any] = {
    "contents": [_CONTENT],
    "systemInstruction": _CONTENT,
    "tools": [
        {
            "functionDeclarations": ANY,
            "googleSearch": ANY,
            "codeExecution": ANY,
            "urlContext": ANY,
            "fileSearch": ANY,
        }
    ],
    "toolConfig": ANY,
    "safetySettings": [{"category": str, "threshold": str}],
    "cachedContent": str,
    "generationConfig": {
        "responseModalities": [str],
        "imageConfig": {"aspectRatio": str, "imageSize": str},
        "seed": int,
        "temperature": float,
        "topP": float,
        "topK": int,
        "candidateCount": int,
        "maxOutputTokens": int,
        "stopSequences": [str],
        "presencePenalty": float,
        "frequencyPenalty": float,
        "responseMimeType": str,
        "responseSchema": ANY,
        "responseJsonSchema": ANY,
        "responseLogprobs": bool,
        "logprobs": int,
        "mediaResolution": str,
        "speechConfig": ANY,
        "thinkingConfig": {"includeThoughts": bool, "thinkingBudget": int, "thinkingLevel": str},
    },
}
TYPE_NAMES = {str: "TYPE_STRING", int: "TYPE_INT32", float: "TYPE_FLOAT", bool: "TYPE_BOOL"}
DATA_FIELDS = (
    "text",
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
)


def color(settings: Mapping[str, Any], draft: bool = False) -> Color:
    """Return the color of the image for these settings, or of its draft; absent ones have defaults.

    `prompt` has the texts of all user contents, one per line; `images` are the `fingerprint()`s of
    all images in the contents.
    """
    defaults: dict[str, Any] = {
        "model": "gemini-2.5-flash-image",
        "prompt": "",
        "system": "",
        "seed": 0,
        "aspectRatio": "1:1",
        "imageSize": "1K",
        "images": [],
    }
    return hash_color(
        {name: settings.get(name, default) for name, default in defaults.items()} | {"draft": draft}
    )


def pixels(ratio: str, size: str = "1K") -> tuple[int, int]:
    """Return the size of an image in pixels.

    The area is about that of a square of the named size; the sides are multiples of 16.
    """
    width, _, height = ratio.partition(":")
    root_ratio = (int(width) / int(height)) ** 0.5
    return max(16, round(SIZES[size] * root_ratio / 16) * 16), max(
        16, round(SIZES[size] / root_ratio / 16) * 16
    )


class _Refused(Exception):
    """An error response in Google's format."""

    def __init__(self, status: str, message: str, *details: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = STATUS_CODES[status]
        self.error: dict[str, Any] = {"code": self.code, "message": message, "status": status}
        if details:
            self.error["details"] = list(details)


def _invalid(message: str, path: str = "") -> _Refused:
    violation = {"field": path, "description": message} if path else {"description": message}
    return _Refused(
        "INVALID_ARGUMENT",
        message,
        {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]},
    )


class Gemini(Gate):
    """A handler for `serve()`.

    `jobs` lists the settings of every valid request. `hold()` and `release()` delay the image;
    `cancelled` counts the clients that disconnect meanwhile.

    Settings that tests change:

    * `models`: the models by name.
    * `files`: contents of uploaded files by URI, for `fileData`.
    * `failures`: each of the next requests fails with one of these statuses, for example
      "RESOURCE_EXHAUSTED".
    * `retry_delay`: the delay in the details of RESOURCE_EXHAUSTED.
    * `wrapped`: put errors of streams into a list.
    * `blocked`: respond with this blockReason.
    * `finish`: respond with this finishReason and no parts.
    * `only_words`: respond with this text instead of an image.
    * `drafts`: number of draft images, marked as thoughts, before the final one.
    * `words`: text before the image when the TEXT modality is requested.
    * `mime`: MIME type of generated images.
    * `break_stream`: end a stream before the image, with an "error" event or a closed
      connection ("drop").
    """

    def __init__(self, key: str = "k") -> None:
        super().__init__()
        self.key = key
        self.models = dict(MODELS)
        self.files: dict[str, bytes] = {}
        self.jobs: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.retry_delay = "34s"
        self.wrapped = False
        self.blocked: str | None = None
        self.finish: str | None = None
        self.only_words: str | None = None
        self.drafts = 0
        self.words = "Here is your image."
        self.mime = "image/png"
        self.break_stream = ""
        self._signatures: dict[str, str] = {}

    # HTTP

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            path, query = route(request)
            try:
                response = self._answer(peer, request, unquote(path), query)
            except _Refused as refused:
                error: Any = {"error": refused.error}
                streamed = "streamGenerateContent" in path and (
                    self.wrapped or query.get("alt") != "sse"
                )
                response = json_response(
                    [error] if streamed else error, refused.code, "application/json; charset=UTF-8"
                )
            if response is None:
                return
            if response is not STREAMED:
                peer.send(response.sent)

    def _answer(
        self, peer: Peer, request: ReceivedRequest, path: str, query: dict[str, str]
    ) -> Response | None:
        """Return the answer, `STREAMED` after a stream, or None when the connection must close."""
        self._authorize(request, query)
        if request.method == "GET" and path == "/v1beta/models":
            return self._list_models(query)
        if request.method == "GET" and (one := re.fullmatch(r"/v1beta/(models/[^/:]+)", path)):
            return json_response(self._describe_model(self._resolve_model(one[1], "getModel")))
        call = re.fullmatch(
            r"/v1beta/(models/[^/:]+):(generateContent|streamGenerateContent)", path
        )
        if call is None or request.method != "POST":
            raise _Refused("NOT_FOUND", "Requested entity was not found.")
        if self.failures:
            raise self._failure(self.failures.pop(0))
        settings = self._read_request(self._resolve_model(call[1], call[2]), request.body)
        with self._changed:
            settings.setdefault("seed", 1_000_000 + len(self.jobs))
            self.jobs.append(settings)
        if call[2] == "streamGenerateContent":
            return self._stream_image(peer, settings, query.get("alt") == "sse")
        if not self._wait(peer):
            return None
        return json_response(
            self._image_response(settings), content_type="application/json; charset=UTF-8"
        )

    def _authorize(self, request: ReceivedRequest, query: dict[str, str]) -> None:
        key = request.headers.get("x-goog-api-key") or query.get("key")
        if not key:
            raise _Refused(
                "PERMISSION_DENIED",
                "Method doesn't allow unregistered callers (callers without established identity).",
            )
        if key != self.key:
            reason = {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
            }
            raise _Refused(
                "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason
            )

    def _failure(self, status: str) -> _Refused:
        if status != "RESOURCE_EXHAUSTED":
            return _Refused(status, f"This is {status}.")
        quota = {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"quotaId": "PerMinute"}],
        }
        retry = {
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": self.retry_delay,
        }
        return _Refused(
            status,
            f"You exceeded your current quota. Please retry in {self.retry_delay}.",
            quota,
            retry,
        )

    def _resolve_model(self, name: str, method: str) -> str:
        bare = name.removeprefix("models/")
        if bare not in self.models:
            message = (
                f"{name} is not found for API version v1beta, or is not supported for {method}. "
                "Call ListModels to see the list."
            )
            raise _Refused("NOT_FOUND", message)
        return bare

    def _describe_model(self, name: str) -> dict[str, Any]:
        return {
            "name": f"models/{name}",
            "version": "001",
            "displayName": name,
            "inputTokenLimit": 32768,
            "outputTokenLimit": 32768,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }

    def _list_models(self, query: dict[str, str]) -> Response:
        """Return one page of the models, `pageSize` long."""
        names = list(self.models)
        start, size = int(query.get("pageToken", 0)), int(query.get("pageSize", 50))
        next_page = {"nextPageToken": str(start + size)} if start + size < len(names) else {}
        return json_response(
            {"models": [self._describe_model(name) for name in names[start : start + size]]}
            | next_page
        )

    # Reading a request

    def _read_request(self, model: str, raw: bytes) -> dict[str, Any]:
        """Validate a request and return its settings."""
        if len(raw) > MAX_BODY_BYTES:
            raise _Refused(
                "INVALID_ARGUMENT",
                f"Request payload size exceeds the limit: {MAX_BODY_BYTES} bytes.",
            )
        try:
            body = json.loads(raw)
        except ValueError:
            raise _invalid("Invalid JSON payload received. Unexpected end of string.") from None
        body = _normalized(body, REQUEST, "")
        if not body.get("contents"):
            raise _invalid(
                "* GenerateContentRequest.contents: contents is not specified", "contents"
            )
        config = body.get("generationConfig", {})
        settings: dict[str, Any] = {
            "model": model,
            "prompt": "",
            "images": [],
            "system": "",
            "modalities": config.get("responseModalities", []),
        }
        system = body.get("systemInstruction", {}).get("parts", [])
        settings["system"] = "\n".join(part["text"] for part in system if "text" in part)
        image_sizes: list[tuple[int, int]] = []
        texts: list[str] = []
        for content in body["contents"]:
            role = content.get("role", "user")
            if role not in ("user", "model", "function"):
                raise _invalid("Please use a valid role: user, model.")
            if not content.get("parts"):
                raise _invalid(
                    "* GenerateContentRequest.contents: contents.parts must not be empty.",
                    "contents",
                )
            for part in content["parts"]:
                self._part(model, role, part, texts, settings["images"], image_sizes)
        settings["prompt"] = "\n".join(texts)
        self._image_config(settings, config, image_sizes)
        if "seed" in config:
            settings["seed"] = config["seed"]
        return settings

    def _part(
        self,
        model: str,
        role: str,
        part: dict[str, Any],
        texts: list[str],
        images: list[str],
        image_sizes: list[tuple[int, int]],
    ) -> None:
        if sum(field in part for field in DATA_FIELDS) != 1:
            raise _invalid(
                "Invalid value at 'contents.parts' (oneof), "
                "oneof field 'data' must have one initialized field"
            )
        if "text" in part and role == "user":
            texts.append(part["text"])
        if "inlineData" in part:
            mime_type, data = (
                part["inlineData"].get("mimeType", ""),
                _decode_base64(part["inlineData"].get("data", "")),
            )
        elif "fileData" in part:
            uri = part["fileData"].get("fileUri", "")
            if uri not in self.files:
                raise _Refused(
                    "PERMISSION_DENIED",
                    f"You do not have permission to access the File {uri} or it may not exist.",
                )
            mime_type, data = part["fileData"].get("mimeType", "image/png"), self.files[uri]
        else:
            return
        if mime_type not in IMAGE_MIME_TYPES:
            raise _Refused("INVALID_ARGUMENT", f"Unsupported MIME type: {mime_type}")
        image = decode_image(data)
        if image is None:
            raise _Refused(
                "INVALID_ARGUMENT", "Unable to process input image. Please retry or report it."
            )
        image_fingerprint = fingerprint(image)
        if role == "model" and self.models[model].signed:
            self._check_signature(part.get("thoughtSignature"), image_fingerprint)
        images.append(image_fingerprint)
        image_sizes.append(image.size)

    def _check_signature(self, signature: str | None, image: str) -> None:
        """Check the signature of an image in a model content.

        An image that the model generated needs its own signature; any other image may have the
        sentinel.
        """
        if signature is None:
            raise _Refused("INVALID_ARGUMENT", "Image part is missing a thought_signature.")
        if (
            signature not in (SENTINEL, ENCODED_SENTINEL)
            and self._signatures.get(signature) != image
        ):
            raise _Refused("INVALID_ARGUMENT", "Corrupted thought signature.")

    def _image_config(
        self, settings: dict[str, Any], config: dict[str, Any], image_sizes: list[tuple[int, int]]
    ) -> None:
        """Validate `aspectRatio` and `imageSize`; the default ratio is that of the first image."""
        model = self.models[settings["model"]]
        for name in settings["modalities"]:
            if name not in ("TEXT", "IMAGE", "AUDIO"):
                raise _invalid(
                    "Invalid value at 'generation_config.response_modalities' (Modality), "
                    f'"{name}"'
                )
        if "IMAGE" in settings["modalities"] and not model.ratios:
            raise _Refused(
                "INVALID_ARGUMENT",
                "The requested combination of response modalities is not supported by the model.",
            )
        image_config = config.get("imageConfig", {})
        ratio, size = image_config.get("aspectRatio"), image_config.get("imageSize")
        if ratio is not None and ratio not in model.ratios:
            raise _Refused(
                "INVALID_ARGUMENT", f"aspect_ratio must be one of: {', '.join(model.ratios)}"
            )
        if size is not None and size not in model.sizes:
            raise _Refused(
                "INVALID_ARGUMENT",
                "image_size is not supported by this model"
                if not model.sizes
                else "Invalid image_size",
            )
        if ratio is None:
            source_ratio = image_sizes[0][0] / image_sizes[0][1] if image_sizes else 1.0
            ratio = min(
                model.ratios or RATIOS, key=lambda name: abs(_ratio_value(name) - source_ratio)
            )
        settings |= {"aspectRatio": ratio, "imageSize": size or "1K"}

    # Answers

    def _image_part(self, settings: dict[str, Any], draft: bool = False) -> dict[str, Any]:
        """Return a part with the image, with a signature if the model signs its images."""
        image = solid_image(
            color(settings, draft), pixels(settings["aspectRatio"], settings["imageSize"])
        )
        part: dict[str, Any] = {
            "inlineData": {
                "mimeType": self.mime,
                "data": b64(encode_image(image, self.mime.rpartition("/")[2])),
            }
        }
        if self.models[settings["model"]].signed:
            signature = b64(f"signature of {fingerprint(image)}".encode())
            self._signatures[signature] = fingerprint(image)
            part["thoughtSignature"] = signature
        return part | ({"thought": True} if draft else {})

    def _parts(self, settings: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the parts of the answer: text only, unless the IMAGE modality is requested."""
        if self.only_words is not None or "IMAGE" not in settings["modalities"]:
            return [{"text": self.words if self.only_words is None else self.only_words}]
        drafts = [{"text": "I think.", "thought": True}] if self.drafts else []
        drafts += [self._image_part(settings, draft=True) for _ in range(self.drafts)]
        text = [{"text": self.words}] if "TEXT" in settings["modalities"] and self.words else []
        return [*drafts, *text, self._image_part(settings)]

    def _usage(self, settings: dict[str, Any], parts: list[dict[str, Any]]) -> dict[str, Any]:
        """Return predictable token counts; zeros are left out."""
        prompt_tokens = len(settings["prompt"].split()) + 258 * len(settings["images"])
        candidate_tokens = sum(
            1290 if "inlineData" in part else len(part["text"].split())
            for part in parts
            if not part.get("thought")
        )
        thought_tokens = sum(
            1290 if "inlineData" in part else 2 for part in parts if part.get("thought")
        )
        counts = {
            "promptTokenCount": prompt_tokens,
            "candidatesTokenCount": candidate_tokens,
            "thoughtsTokenCount": thought_tokens,
        }
        return {name: count for name, count in counts.items() if count} | {
            "totalTokenCount": prompt_tokens + candidate_tokens + thought_tokens
        }

    def _common_fields(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {"modelVersion": settings["model"], "responseId": f"r{len(self.jobs)}"}

    def _refusal(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Return the response without an image, which still has status 200, or None."""
        fields = {"usageMetadata": self._usage(settings, [])} | self._common_fields(settings)
        if self.blocked is not None:
            return {"promptFeedback": {"blockReason": self.blocked}} | fields
        if self.finish is not None:
            message = "Unable to show the generated image."
            return {
                "candidates": [
                    {
                        "content": {},
                        "finishReason": self.finish,
                        "finishMessage": message,
                        "index": 0,
                    }
                ]
            } | fields
        return None

    def _image_response(self, settings: dict[str, Any]) -> dict[str, Any]:
        refusal = self._refusal(settings)
        if refusal is not None:
            return refusal
        parts = self._parts(settings)
        candidate = {
            "content": {"role": "model", "parts": parts},
            "finishReason": "STOP",
            "index": 0,
        }
        return {
            "candidates": [candidate],
            "usageMetadata": self._usage(settings, parts),
        } | self._common_fields(settings)

    def _chunks(self, peer: Peer, settings: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
        """Yield a chunk for each part, then one with the finish reason and the usage.

        None means that the client has disconnected or that the connection must close.
        """
        refusal = self._refusal(settings)
        if refusal is not None:
            yield refusal
            return
        parts = self._parts(settings)
        for part in parts:
            if "inlineData" in part and not part.get("thought"):
                if not self._wait(peer) or self.break_stream == "drop":
                    yield None
                    return
                if self.break_stream == "error":
                    yield {
                        "error": {
                            "code": 500,
                            "message": "An internal error has occurred.",
                            "status": "INTERNAL",
                        }
                    }
                    return
            yield {
                "candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}]
            } | self._common_fields(settings)
        final = {
            "content": {"role": "model", "parts": [{"text": ""}]},
            "finishReason": "STOP",
            "index": 0,
        }
        yield {
            "candidates": [final],
            "usageMetadata": self._usage(settings, parts),
        } | self._common_fields(settings)

    def _stream_image(
        self, peer: Peer, settings: dict[str, Any], as_events: bool
    ) -> Response | None:
        """Send events without names and without a sentinel; without `alt=sse`, one JSON array."""
        peer.begin(headers={} if as_events else {"content-type": "application/json; charset=UTF-8"})
        prefix = b"["
        for chunk in self._chunks(peer, settings):
            if chunk is None:
                return None
            data = json.dumps(chunk).encode()
            peer.chunk(b"data: " + data + b"\r\n\r\n" if as_events else prefix + data)
            prefix = b",\r\n"
        if not as_events:
            peer.chunk(b"]")
        peer.end()
        return STREAMED


def _camel(name: str) -> str:
    """Return the camel case spelling; the server accepts `inline_data` and `inlineData`."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)


def _normalized(value: Any, shape: Any, path: str) -> Any:
    """Return the value with all field names in camel case.

    An unknown field or a wrong type is refused with status 400; null means absent.
    """
    if shape is ANY:
        return value
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise _invalid(f"Invalid value at '{path}', {json.dumps(value)[:50]}", path)
        fields = {}
        for name, item in value.items():
            if _camel(name) not in shape:
                location = f" at '{path}'" if path else ""
                raise _invalid(
                    f'Invalid JSON payload received. Unknown name "{name}"{location}: '
                    "Cannot find field.",
                    path,
                )
            if item is not None:
                fields[_camel(name)] = _normalized(
                    item, shape[_camel(name)], f"{path}.{_snake(_camel(name))}".lstrip(".")
                )
        return fields
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise _invalid(f"Invalid value at '{path}', {json.dumps(value)[:50]}", path)
        return [_normalized(item, shape[0], f"{path}[{index}]") for index, item in enumerate(value)]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if shape is int and (
        (is_number and float(value).is_integer())
        or (isinstance(value, str) and re.fullmatch(r"-?\d+", value))
    ):
        return int(value)
    if (shape is float and is_number) or (shape in (str, bool) and isinstance(value, shape)):
        return value
    raise _invalid(
        f"Invalid value at '{path}' ({TYPE_NAMES[shape]}), {json.dumps(value)[:50]}", path
    )


def _decode_base64(data: str) -> bytes:
    """Decode base64 of either alphabet, the standard or the URL-safe one."""
    try:
        urlsafe = data.replace("+", "-").replace("/", "_")
        if not re.fullmatch(r"[A-Za-z0-9_-]*={0,2}", urlsafe):
            raise NotBase64
        return urlsafe_b64decode(urlsafe.rstrip("=") + "=" * (-len(urlsafe.rstrip("=")) % 4))
    except NotBase64:
        raise _invalid(
            "Invalid value at 'contents[0].parts[0].inline_data.data' (TYPE_BYTES), "
            "Base64 decoding failed"
        ) from None


def _ratio_value(ratio: str) -> float:
    width, _, height = ratio.partition(":")
    return int(width) / int(height)
