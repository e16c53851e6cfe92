"""Ollama's model management and `/api/generate`.

Models are pulled, pushed, created, copied, deleted and loaded; files are uploaded as blobs.
`/api/generate` is covered with every field.

Source: ollama/ollama at fb30760 (api types, routes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from majordomo.dialects.chat_accumulator import as_text, as_token_count
from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.ollama.chat import usage_of
from majordomo.dialects.request_body import json_request
from majordomo.errors import BadResponseError, InvalidRequestError, StreamBrokenError
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.json import decode_json
from majordomo.llm.reply import Usage
from majordomo.llm.tools import output_schema
from majordomo.media.image_limits import check_sendable
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_name, check_text

# Length of a SHA-256 digest.
DIGEST_HEX_DIGITS = 64


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One step of a pull, a push or a creation."""

    status: str
    """What the server does, in its own words."""
    digest: str = ""
    """The layer that is transferred; "" when the step transfers nothing."""
    total: int | None = None
    """Size of the layer in bytes; None while nothing is transferred."""
    completed: int | None = None
    """Transferred bytes of the layer; None while nothing is transferred."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The result of `/api/generate`."""

    text: str
    """The completion."""
    thinking: str = ""
    """The model's thinking; "" when it did not think."""
    context: tuple[int, ...] = ()
    """The conversation as tokens, to send with the next request (an old form of memory)."""
    finish_reason: str = ""
    """The server's `done_reason`, for example "stop" or "length"."""
    usage: Usage = field(default_factory=Usage)
    """Token counts and durations."""
    model: str = ""
    """The model that the server used."""
    raw: Any = field(default=None, repr=False, compare=False)
    """The last line of the response as the server sent it."""


def model_request(
    method: str, path: str, model: str, *, stream: bool = False, **fields: Any
) -> HTTPRequest:
    """Return a request about one model. Fields that are None are not sent."""
    body: dict[str, Any] = {
        "model": check_name(model, "model"),
        **{key: value for key, value in fields.items() if value is not None},
    }
    post = json_request(path, body, {}, Base64Placeholders(), stream=stream)
    return HTTPRequest(method, path, post.body, post.content_type, post.accept, stream)


class CreateFields(TypedDict, total=False):
    """What a model is created from. `from_model` or `files` is required."""

    from_model: str | None
    """Name of an existing model."""
    files: Mapping[str, str] | None
    """File names, and the digests of the uploaded blobs with their content."""
    adapters: Mapping[str, str] | None
    """File names of LoRA adapters, and the digests of the uploaded blobs with their content."""
    template: str | None
    """Prompt template."""
    system: str | None
    """System prompt."""
    license: str | Sequence[str] | None
    """The text of one license, or of several."""
    parameters: Mapping[str, Any] | None
    """Default options of the model."""
    messages: Sequence[Mapping[str, Any]] | None
    """Messages added before every chat and generation request."""
    quantize: str | None
    """Quantization of the new model."""
    renderer: str | None
    """Ollama's `renderer`, sent unchanged."""
    parser: str | None
    """Ollama's `parser`, sent unchanged."""
    requires: str | None
    """The minimum version of Ollama that the model requires."""
    extra: Mapping[str, Any] | None
    """Fields that are not listed here."""


class GenerateFields(TypedDict, total=False):
    """Settings of a completion."""

    suffix: str | None
    """Text that follows the completion."""
    system: str | None
    """System prompt, instead of the model's own."""
    template: str | None
    """Prompt template, instead of the model's own."""
    images: Sequence[ImagePart]
    """Images for a vision model."""
    output: Any
    """A JSON schema or a pydantic model (sent as `format`), or "json" for any JSON."""
    options: Mapping[str, Any] | None
    """Model options, for example `{"num_ctx": 8192}`."""
    think: bool | str | None
    """Ollama's `think`: whether a thinking model thinks, or how much ("low", "medium", "high")."""
    raw: bool
    """Send the prompt without a template; excludes `template`, `system` and `context`."""
    keep_alive: str | float | None
    """How long the model stays loaded: seconds, or a duration such as "10m"."""
    context: Sequence[int] | None
    """`Generated.context` of an earlier completion."""
    extra: Mapping[str, Any] | None
    """Fields that are not listed here."""


def encode_create(model: str, fields: CreateFields) -> HTTPRequest:
    """Return the request that creates a model.

    Raises:
        InvalidRequestError: Neither `from_model` nor `files` is set, or a digest is invalid.
        TypeError: A field is unknown.
    """
    values = _checked_fields(fields, CreateFields, "create")
    if not (fields.get("from_model") or fields.get("files")):
        raise InvalidRequestError(
            "from_model or files must be set to create a model", field="from_model"
        )
    for digest in {**(fields.get("files") or {}), **(fields.get("adapters") or {})}.values():
        check_digest(digest)
    extra = values.pop("extra", None) or {}
    values["from"] = values.pop("from_model", None)
    return model_request("POST", "/api/create", model, stream=True, **{**values, **extra})


def encode_generate(model: str, prompt: str, fields: GenerateFields, limits: Limits) -> HTTPRequest:
    """Return the streamed request for a completion.

    Raises:
        InvalidRequestError: The prompt or an image is one that no backend accepts, or `raw` is
            combined with `template`, `system` or `context`.
        TypeError: A field is unknown.
    """
    values = _checked_fields(fields, GenerateFields, "generate")
    check_text(prompt, "prompt", limits.max_prompt_characters)
    extra = values.pop("extra", None) or {}
    images = tuple(values.pop("images", ()))
    output, context = values.pop("output", None), values.pop("context", None)
    values["format"] = output if output is None or output == "json" else output_schema(output)
    values["context"] = None if context is None else list(context)
    values["raw"] = values.get("raw") or None
    values |= extra
    if values.get("raw") and any(values.get(name) for name in ("template", "system", "context")):
        raise InvalidRequestError(
            "raw cannot be combined with template, system or context", field="raw"
        )
    placeholders = Base64Placeholders()
    body: dict[str, Any] = {"model": check_name(model, "model"), "prompt": prompt, "stream": True}
    body |= {key: value for key, value in values.items() if value is not None}
    for image in images:
        check_sendable(image, limits, "images")
    if images:
        body["images"] = [placeholders.base64(image) for image in images]
    return json_request("/api/generate", body, {}, placeholders, stream=True)


def encode_unload(model: str) -> HTTPRequest:
    """Return the request that unloads a model: an empty prompt, "with keep_alive 0 unloads"."""
    body = {"model": check_name(model, "model"), "prompt": "", "keep_alive": 0, "stream": False}
    return json_request("/api/generate", body, {}, Base64Placeholders())


def _checked_fields(fields: Mapping[str, Any], kind: type, function: str) -> dict[str, Any]:
    """Return a copy of the fields. Raises TypeError for one that `kind` does not declare."""
    for name in fields:
        if name not in kind.__annotations__:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
    return dict(fields)


def check_digest(digest: str) -> str:
    """Return the digest, `sha256:` and 64 hexadecimal digits in lower case.

    Raises:
        InvalidRequestError: It has another form (field `digest`).
    """
    algorithm, _, digits = digest.partition(":")
    if (
        algorithm != "sha256"
        or len(digits) != DIGEST_HEX_DIGITS
        or not set(digits) <= set("0123456789abcdef")
    ):
        raise InvalidRequestError(
            'digest must be "sha256:" and 64 hexadecimal digits in lower case; '
            f"got {digest[:100]!r}",
            field="digest",
        )
    return digest


def decode_frame(line: bytes, limits: Limits) -> dict[str, Any]:
    """Return the object on one line of a streamed response.

    Raises BadResponseError for a line that is not an object, and the error that a line reports:
    after the first line an HTTP status can no longer do so.
    """
    frame = decode_json(line, limits.max_json_depth)
    if not isinstance(frame, dict):
        raise BadResponseError("a line of the response is not a JSON object")
    if frame.get("error"):
        raise build_error(200, read_error_value(frame), {})
    return frame


def decode_progress(frame: Mapping[str, Any]) -> PullProgress:
    """Return the progress in one line of a pull, a push or a creation."""
    return PullProgress(
        as_text(frame.get("status")) or "",
        as_text(frame.get("digest")) or "",
        as_token_count(frame.get("total")),
        as_token_count(frame.get("completed")),
    )


class GenerationAccumulator:
    """The result of `/api/generate`, built from the lines of its stream."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._size = 0
        # None until the last line has arrived.
        self.done: Generated | None = None

    def feed(self, frame: Mapping[str, Any], limits: Limits) -> str:
        """Add a line and return its text. Raises BadResponseError beyond the size limit."""
        text = as_text(frame.get("response")) or ""
        thinking = as_text(frame.get("thinking")) or ""
        self._size += len(text) + len(thinking)
        if self._size > limits.max_reply_bytes:
            raise BadResponseError(
                f"the response is larger than the limit of {limits.max_reply_bytes:,} characters",
                code="TOO_LARGE",
            )
        self._text.append(text)
        self._thinking.append(thinking)
        if frame.get("done") is True:
            context = frame.get("context")
            self.done = Generated(
                "".join(self._text),
                "".join(self._thinking),
                tuple(token for token in context if isinstance(token, int))
                if isinstance(context, list)
                else (),
                as_text(frame.get("done_reason")) or "",
                usage_of(frame),
                as_text(frame.get("model")) or "",
                dict(frame),
            )
        return text

    @property
    def partial(self) -> Generated:
        """Text and thinking that have arrived so far."""
        return Generated("".join(self._text), "".join(self._thinking))

    def result(self) -> Generated:
        """Return the complete result. Raises StreamBrokenError before the last line."""
        if self.done is None:
            raise StreamBrokenError(
                "the stream ended before the completion did", partial=self.partial
            )
        return self.done
