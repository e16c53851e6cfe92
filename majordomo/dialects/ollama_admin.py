"""Ollama's own business: models pulled, pushed, made, copied, deleted, loaded; blobs; and `/api/generate` with every field.

Source: ollama/ollama at fb30760 (api types, routes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from majordomo.dialects.answer import count, word_of
from majordomo.dialects.bodies import json_request
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.ollama_chat import usage_of
from majordomo.errors import BadResponseError, InvalidRequestError, StreamBrokenError
from majordomo.framing.json import decode_json
from majordomo.framing.splice import Splices
from majordomo.llm.reply import Usage
from majordomo.media import ImagePart, check_sendable
from majordomo.settings import Limits
from majordomo.wire import WireRequest
from majordomo.words import check_name, check_text

DIGEST = 64  # hexadecimal digits of a sha256


@dataclass(frozen=True, slots=True)
class Progress:
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


def named(method: str, path: str, model: str, *, stream: bool = False, **fields: Any) -> WireRequest:
    """A request about one model; fields that are None stay at home."""
    body: dict[str, Any] = {"model": check_name(model, "model"), **{key: value for key, value in fields.items() if value is not None}}
    made = json_request(path, body, {}, Splices(), stream=stream)
    return WireRequest(method, path, made.body, made.content_type, made.accept, stream)


def encode_generate(model: str, prompt: str, images: Sequence[ImagePart], fields: Mapping[str, Any], limits: Limits) -> WireRequest:
    """Raises InvalidRequestError for text and pictures no backend can take, and for `raw` beside what it replaces."""
    check_text(prompt, "prompt", limits.prompt)
    if fields.get("raw") and any(fields.get(name) for name in ("template", "system", "context")):
        raise InvalidRequestError("raw means without template, system and context", field="raw")
    splices = Splices()
    body: dict[str, Any] = {"model": check_name(model, "model"), "prompt": prompt, "stream": True}
    body |= {key: value for key, value in fields.items() if value is not None}
    for image in images:
        check_sendable(image, limits, "images")
    if images:
        body["images"] = [splices.base64(image) for image in images]
    return json_request("/api/generate", body, {}, splices, stream=True)


def encode_unload(model: str) -> WireRequest:
    """An empty prompt to be kept for no time: "with keep_alive 0 unloads"."""
    body = {"model": check_name(model, "model"), "prompt": "", "keep_alive": 0, "stream": False}
    return json_request("/api/generate", body, {}, Splices())


def check_digest(digest: str) -> str:
    """`sha256:` and 64 hexadecimal digits. Raises InvalidRequestError (field `digest`)."""
    kind, _, digits = digest.partition(":")
    if kind != "sha256" or len(digits) != DIGEST or not set(digits) <= set("0123456789abcdef"):
        raise InvalidRequestError("a digest is sha256: and 64 hexadecimal digits in lower case", field="digest")
    return digest


def decode_frame(line: bytes, limits: Limits) -> dict[str, Any]:
    """One line of an answer. Raises the error it tells: after the first line there is no status to tell it."""
    frame = decode_json(line, limits.depth)
    if not isinstance(frame, dict):
        raise BadResponseError("a line of the answer is no JSON object")
    if frame.get("error"):
        raise build_error(200, error_value(frame), {})
    return frame


def decode_progress(frame: Mapping[str, Any]) -> Progress:
    return Progress(
        word_of(frame.get("status")) or "", word_of(frame.get("digest")) or "", count(frame.get("total")), count(frame.get("completed"))
    )


class Generation:
    """The frames of `/api/generate`, put together."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._size = 0
        self.done: Generated | None = None

    def take(self, frame: Mapping[str, Any], limits: Limits) -> str:
        """The text of this frame."""
        text, thought = word_of(frame.get("response")) or "", word_of(frame.get("thinking")) or ""
        self._size += len(text) + len(thought)
        if self._size > limits.reply:
            raise BadResponseError(f"the answer is larger than the limit of {limits.reply:,} characters", code="TOO_LARGE")
        self._text.append(text)
        self._thinking.append(thought)
        if frame.get("done") is True:
            context = frame.get("context")
            self.done = Generated(
                "".join(self._text),
                "".join(self._thinking),
                tuple(token for token in context if isinstance(token, int)) if isinstance(context, list) else (),
                word_of(frame.get("done_reason")) or "",
                usage_of(frame),
                word_of(frame.get("model")) or "",
                dict(frame),
            )
        return text

    def whole(self) -> Generated:
        if self.done is None:
            raise StreamBrokenError("the answer ended before it was done", partial=Generated("".join(self._text), "".join(self._thinking)))
        return self.done
