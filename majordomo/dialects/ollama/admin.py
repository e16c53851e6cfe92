"""Ollama's own business: models pulled, pushed, made, copied, deleted, loaded; blobs; and `/api/generate` with every field.

Source: ollama/ollama at fb30760 (api types, routes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from majordomo.dialects.chat_accumulator import as_text, as_token_count
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.ollama.chat import usage_of
from majordomo.dialects.request_body import json_request
from majordomo.errors import BadResponseError, InvalidRequestError, StreamBrokenError
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_json
from majordomo.llm.reply import Usage
from majordomo.llm.tools import output_schema
from majordomo.media.image_limits import check_sendable
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from majordomo.validation import check_name, check_text

DIGEST = 64  # hexadecimal digits of a sha256


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One step of a pull, a push or a creation. `completed` and `total` are bytes of the layer `digest`, None while nothing flows."""

    status: str
    digest: str = ""
    total: int | None = None
    completed: int | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer of `/api/generate`. `context` is the conversation in tokens, to be given back (an old form of memory)."""

    text: str
    thinking: str = ""
    context: tuple[int, ...] = ()
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    raw: Any = field(default=None, repr=False, compare=False)


def model_request(
    method: str, path: str, model: str, *, stream: bool = False, **fields: Any
) -> HTTPRequest:
    """A request about one model; fields that are None stay at home."""
    body: dict[str, Any] = {
        "model": check_name(model, "model"),
        **{key: value for key, value in fields.items() if value is not None},
    }
    made = json_request(path, body, {}, Splices(), stream=stream)
    return HTTPRequest(method, path, made.body, made.content_type, made.accept, stream)


class CreateFields(TypedDict, total=False):
    """What a model may be made of. `files` and `adapters` are names and digests of blobs sent before; `extra` holds fields not named
    here."""

    from_model: str | None
    files: Mapping[str, str] | None
    adapters: Mapping[str, str] | None
    template: str | None
    system: str | None
    license: str | Sequence[str] | None
    parameters: Mapping[str, Any] | None
    messages: Sequence[Mapping[str, Any]] | None
    quantize: str | None
    renderer: str | None
    parser: str | None
    requires: str | None
    extra: Mapping[str, Any] | None


class GenerateFields(TypedDict, total=False):
    """What a completion may be told besides its prompt. `output` is a schema or a pydantic model (`format`), "json" for any JSON;
    `keep_alive` is seconds, or a duration as "10m"; `extra` holds fields not named here."""

    suffix: str | None
    system: str | None
    template: str | None
    images: Sequence[ImagePart]
    output: Any
    options: Mapping[str, Any] | None
    think: bool | str | None
    raw: bool
    keep_alive: str | float | None
    context: Sequence[int] | None
    extra: Mapping[str, Any] | None


def encode_create(model: str, fields: CreateFields) -> HTTPRequest:
    """Raises InvalidRequestError for a model made of nothing and for a digest that is none, TypeError for a field nobody knows."""
    known = _known(fields, CreateFields, "create")
    if not (fields.get("from_model") or fields.get("files")):
        raise InvalidRequestError(
            "a model is made from another one, or from files", field="from_model"
        )
    for digest in {**(fields.get("files") or {}), **(fields.get("adapters") or {})}.values():
        check_digest(digest)
    extra = known.pop("extra", None) or {}
    known["from"] = known.pop("from_model", None)
    return model_request("POST", "/api/create", model, stream=True, **{**known, **extra})


def encode_generate(model: str, prompt: str, fields: GenerateFields, limits: Limits) -> HTTPRequest:
    """Raises InvalidRequestError for text and images no backend can take, and for `raw` beside what it replaces; TypeError for a
    field nobody knows."""
    known = _known(fields, GenerateFields, "generate")
    check_text(prompt, "prompt", limits.max_prompt_characters)
    extra = known.pop("extra", None) or {}
    images = tuple(known.pop("images", ()))
    output, context = known.pop("output", None), known.pop("context", None)
    known["format"] = output if output is None or output == "json" else output_schema(output)
    known["context"] = None if context is None else list(context)
    known["raw"] = known.get("raw") or None
    known |= extra
    if known.get("raw") and any(known.get(name) for name in ("template", "system", "context")):
        raise InvalidRequestError("raw means without template, system and context", field="raw")
    splices = Splices()
    body: dict[str, Any] = {"model": check_name(model, "model"), "prompt": prompt, "stream": True}
    body |= {key: value for key, value in known.items() if value is not None}
    for image in images:
        check_sendable(image, limits, "images")
    if images:
        body["images"] = [splices.base64(image) for image in images]
    return json_request("/api/generate", body, {}, splices, stream=True)


def encode_unload(model: str) -> HTTPRequest:
    """An empty prompt to be kept for no time: "with keep_alive 0 unloads"."""
    body = {"model": check_name(model, "model"), "prompt": "", "keep_alive": 0, "stream": False}
    return json_request("/api/generate", body, {}, Splices())


def _known(fields: Mapping[str, Any], kind: type, call: str) -> dict[str, Any]:
    for name in fields:
        if name not in kind.__annotations__:
            raise TypeError(f"{call}() got an unexpected keyword argument {name!r}")
    return dict(fields)


def check_digest(digest: str) -> str:
    """`sha256:` and 64 hexadecimal digits. Raises InvalidRequestError (field `digest`)."""
    kind, _, digits = digest.partition(":")
    if kind != "sha256" or len(digits) != DIGEST or not set(digits) <= set("0123456789abcdef"):
        raise InvalidRequestError(
            "a digest is sha256: and 64 hexadecimal digits in lower case", field="digest"
        )
    return digest


def decode_frame(line: bytes, limits: Limits) -> dict[str, Any]:
    """One line of an answer. Raises the error it tells: after the first line there is no status to tell it."""
    frame = decode_json(line, limits.max_json_depth)
    if not isinstance(frame, dict):
        raise BadResponseError("a line of the answer is no JSON object")
    if frame.get("error"):
        raise build_error(200, error_value(frame), {})
    return frame


def decode_progress(frame: Mapping[str, Any]) -> PullProgress:
    return PullProgress(
        as_text(frame.get("status")) or "",
        as_text(frame.get("digest")) or "",
        as_token_count(frame.get("total")),
        as_token_count(frame.get("completed")),
    )


class GenerationAccumulator:
    """The frames of `/api/generate`, put together."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._size = 0
        self.done: Generated | None = None

    def feed(self, frame: Mapping[str, Any], limits: Limits) -> str:
        """The text of this frame."""
        text, thought = as_text(frame.get("response")) or "", as_text(frame.get("thinking")) or ""
        self._size += len(text) + len(thought)
        if self._size > limits.max_reply_bytes:
            raise BadResponseError(
                f"the answer is larger than the limit of {limits.max_reply_bytes:,} characters",
                code="TOO_LARGE",
            )
        self._text.append(text)
        self._thinking.append(thought)
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
        return Generated("".join(self._text), "".join(self._thinking))

    def result(self) -> Generated:
        if self.done is None:
            raise StreamBrokenError("the answer ended before it was done", partial=self.partial)
        return self.done
