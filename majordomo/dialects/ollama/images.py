"""Ollama's images: `/api/generate`, streamed as JSON lines, and what a server's version and lists say about it.

Sources: ollama/ollama at the tags v0.14.0, v0.15.4 and v0.32.5, and at fb30760, where drawing is gone. Everything here was called
experimental there, and what a server cannot do it ignores in silence: it is said here instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from majordomo.backend_status import Capability, ModelInfo
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    base64_text,
    describe_image,
    drop_fields,
    parse_base64_image,
    reported_count,
    resolve_size,
)
from majordomo.dialects.request_body import json_request
from majordomo.dialects.samplers import SamplerCatalog
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    InvalidRequestError,
    MajordomoError,
    NoImageError,
    StreamBrokenError,
    UnsupportedError,
    plain_text,
)
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_json, decode_object
from majordomo.framing.lines import JSONLinesDecoder
from majordomo.imagegen import ImageDetails, ImageEvent, Request, Result, Step, Usage
from majordomo.imagegen.geometry import Geometry
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

Version = tuple[int, int, int]
FIRST: Version = (0, 14, 3)  # 0.14.0 to 0.14.2 drew under another contract
GONE: Version = (0, 32, 6)
EDITS: tuple[Version, Version] = (
    (0, 15, 0),
    (0, 15, 5),
)  # from the first, before the second; later the engine ignores them
LISTED: Version = (0, 30, 0)  # `/api/tags` names capabilities since then
MOST_IMAGES = 2
LARGEST = 4096  # a side; anything more is a 400
EXACT = 1 << 53  # a seed goes through a float64 on its way
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
_LACKING = (
    "cfg_scale",
    "negative_prompt",
    "sampler",
    "scheduler",
    "strength",
    "quality",
    "background",
)
_GEOMETRY = Geometry(pixels=1024 * 1024, multiple=16, max_side=LARGEST)
_WORDS: dict[str, Capability] = {
    "completion": "chat",
    "tools": "tools",
    "thinking": "thinking",
    "embedding": "embed",
    "image": "image",
}


@dataclass(frozen=True, slots=True)
class OllamaServer:
    """What is known before an image: the server's version (None: it tells none, as a build from source) and the model's capabilities."""

    version: Version | None = None
    capabilities: frozenset[str] = frozenset()

    @property
    def generates_images(self) -> bool:
        return self.version is None or FIRST <= self.version < GONE

    @property
    def edits_images(self) -> bool:
        """Whether images to begin with are honored. A version that is not known is not trusted with them."""
        return self.version is not None and EDITS[0] <= self.version < EDITS[1]

    @property
    def name(self) -> str:
        return (
            "of unknown version"
            if self.version is None
            else ".".join(str(number) for number in self.version)
        )

    def check_version(self) -> None:
        """Raises UnsupportedError when this version draws no images, or in another way."""
        if self.generates_images:
            return
        assert self.version is not None
        if self.version >= GONE:
            raise UnsupportedError(
                f"this server is {self.name}; Ollama drew images from 0.14.0 to 0.32.5",
                field="model",
            )
        raise UnsupportedError(
            f"this server is {self.name}; images need Ollama 0.14.3 to 0.32.5", field="model"
        )

    def check_model(self, model: str) -> None:
        """Raises UnsupportedError for a model that draws no images."""
        if "image" not in self.capabilities:
            raise UnsupportedError(
                f"{model} draws no images: its capabilities are {_listing(self.capabilities)}",
                field="model",
            )

    def refused(self, error: MajordomoError) -> UnsupportedError | None:
        """The error for a server that will not draw, whatever it said before; None when `error` is about something else.

        Native errors are one text without a code: this text, of 0.32.6 and later, is all there is to go by.
        """
        if error.status == 404:  # the model is there: it is the route that has gone
            reason = "has no /api/generate"
        elif error.status == 400 and "not currently supported" in error.message:
            reason = f"answers: {error.message}"
        else:
            return None
        drew = "Ollama drew images from 0.14.0 to 0.32.5"
        return UnsupportedError(
            f"this server is {self.name} and {reason}; {drew}", field="model", status=error.status
        )


@dataclass(frozen=True, slots=True)
class OllamaImagesCodec:
    """Client door of `/api/generate` for images: always streamed, as the steps are the only sign of life. `server` tells what is
    known of the server and a model of it."""

    server: Callable[[str], OllamaServer]

    def input_format(self, model: str) -> ImageInputFormat:
        return ImageInputFormat(rgb_png=True, mask=None)

    def max_per_call(self, model: str, request: Request) -> int:
        return 1

    def adapt(
        self, model: str, request: Request, lists: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        """Raises UnsupportedError for a mask, and for images where the version or the model would ignore them; InvalidRequestError
        (field `size`) above 4096 a side, (field `seed`) above 2**53."""
        warnings: list[CallWarning] = []
        if request.mask is not None:
            raise UnsupportedError("Ollama takes no mask", field="mask")
        if request.images:
            self._check_edit(model, request)
            request, warnings = drop_fields(
                request,
                ("size", "aspect", "megapixels"),
                "Ollama draws an edit in its first image's size",
            )
        if (size := request.pixels) is not None and max(size) > LARGEST:
            raise InvalidRequestError(
                f"size {request.size} is more than Ollama's {LARGEST} a side", field="size"
            )
        if request.seed is not None and request.seed + max(request.n - 1, 0) > EXACT:
            raise InvalidRequestError(
                "Ollama takes seeds up to 2**53, counted up for each image", field="seed"
            )
        if request.seed == 0:
            request, lost = drop_fields(request, ("seed",), "0 means a random seed to Ollama")
            warnings += lost
        reasons = dict.fromkeys(_LACKING, "Ollama has no such setting")
        reasons["previews"] = "Ollama shows no unfinished images"
        if request.output_format != "png":
            reasons["output_format"] = "Ollama answers in PNG"
        for name, reason in reasons.items():
            request, lost = drop_fields(request, (name,), reason)
            warnings += lost
        # A size that is asked for is left alone: which multiples a model rounds to, only its engine knows
        request, more = resolve_size(request, _GEOMETRY, exactly=False)
        return request, [*warnings, *more]

    def _check_edit(self, model: str, request: Request) -> None:
        server = self.server(model)
        if not server.edits_images:
            raise UnsupportedError(
                f"this server is {server.name}; images are silently ignored by the engine except in Ollama 0.15.0 to 0.15.4",
                field="images",
            )
        if "vision" not in server.capabilities:
            raise UnsupportedError(
                f"{model} draws from text only: its capabilities do not list vision", field="images"
            )
        if len(request.images) > MOST_IMAGES:
            raise UnsupportedError(f"Ollama takes at most {MOST_IMAGES} images", field="images")

    def encode_request(self, model: str, request: Request) -> HTTPRequest:
        splices = Splices()
        body: dict[str, Any] = {"model": model, "prompt": request.prompt}
        if (size := request.pixels) is not None:
            body["width"], body["height"] = size
        if request.steps is not None:
            body["steps"] = request.steps  # top level; within `options` it is ignored
        if request.images:
            body["images"] = [splices.base64(image) for image in request.images]
        if request.seed is not None:
            body["options"] = {"seed": request.seed}
        body["stream"] = True
        return json_request("/api/generate", body, request.extra, splices, stream=True)

    def supports_streaming(self, model: str, request: Request) -> bool:
        return True

    def encode_stream(self, model: str, request: Request) -> HTTPRequest:
        return self.encode_request(model, request)

    def stream_decoder(self, request: Request, limits: Limits) -> OllamaImageStreamDecoder:
        return OllamaImageStreamDecoder(request, limits)

    def reply_decoder(self, limits: Limits) -> DiscardEvents:
        """The same, for a proxy that sends the lines under another name: one object is a stream of one line."""
        return DiscardEvents(OllamaImageStreamDecoder(Request(""), limits))

    def decode_reply(self, reply: DiscardEvents, request: Request, limits: Limits) -> Result:
        return reply.stream.finish(request)


@dataclass(frozen=True, slots=True)
class DiscardEvents:
    """A stream to whose steps nobody listens."""

    stream: OllamaImageStreamDecoder

    def feed(self, chunk: bytes) -> None:
        for _ in self.stream.feed(chunk):
            pass


class OllamaImageStreamDecoder:
    """Lines of progress, then one with the image: `feed` bytes in any slicing, then `finish`."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self._request = request
        self._limits = limits
        self._lines = JSONLinesDecoder(limits.max_image_event_bytes)
        self._last: dict[str, Any] | None = None
        self._seen = 0

    @property
    def complete(self) -> bool:
        """Whether the last line is there, with an image or without."""
        return self._last is not None

    def feed(self, chunk: bytes) -> Iterator[ImageEvent]:
        """The steps that `chunk` completes, one by one: what came before an error is told. Raises the error of a line that says one, and
        BadResponseError beyond the limits or for a line that is no JSON."""
        self._seen += len(chunk)
        if self._seen > self._limits.max_image_reply_bytes:
            raise BadResponseError(
                f"the answer is larger than the limit of {self._limits.max_image_reply_bytes:,} bytes",
                code="TOO_LARGE",
            )
        for line in self._lines.feed(chunk):
            if (event := self._take(decode_json(line, self._limits.max_json_depth))) is not None:
                yield event

    def finish(self, request: Request | None = None) -> Result:
        """The result. Raises NoImageError when drawing ended without an image, StreamBrokenError when the stream ended before it did."""
        for line in self._lines.finish():
            try:
                frame = decode_json(line, self._limits.max_json_depth)
            except BadResponseError:
                break  # a line that was cut off
            self._take(frame)
        if self._last is None:
            raise StreamBrokenError("the stream ended before the image")
        return self._result(self._last, request or self._request)

    def _take(self, frame: Any) -> ImageEvent | None:
        if not isinstance(frame, dict) or self.complete:
            return None
        if frame.get("error"):
            raise build_error(200, error_value(frame), {})
        if frame.get("done") is True:
            self._last = frame
            return None
        step, total = reported_count(frame.get("completed")), reported_count(frame.get("total"))
        return (
            Step(step, total) if 0 < step <= total else None
        )  # `completed` is left out while it is 0

    def _result(self, frame: dict[str, Any], request: Request) -> Result:
        text = frame.get("image")
        if not isinstance(text, str) or not text:
            # The engine's own error is not passed on: this line is all that tells of it
            raise NoImageError(
                "the engine failed while drawing; Ollama does not pass on why",
                details={"done_reason": plain_text(str(frame.get("done_reason", "")), 100)},
            )
        image = parse_base64_image(text, self._limits)
        model = frame.get("model")
        return Result(
            (image,),
            (ImageDetails(seed=request.seed, settings=dict(base64_text(image))),),
            usage=Usage(
                seconds=_seconds(frame.get("total_duration")),
                load_seconds=_seconds(frame.get("load_duration")),
            ),
            model=model if isinstance(model, str) else "",
            raw={**frame, "image": describe_image(image)},
        )


def decode_version(body: bytes, limits: Limits) -> Version | None:
    """`GET /api/version`. A build from source calls itself 0.0.0, which tells nothing."""
    found = _VERSION.match(str(decode_object(body, limits.max_json_depth).get("version", "")))
    version = (int(found[1]), int(found[2]), int(found[3])) if found else None
    return None if version == (0, 0, 0) else version


def encode_show(model: str) -> HTTPRequest:
    return json_request("/api/show", {"model": model}, {}, Splices())


def decode_show(body: bytes, limits: Limits) -> frozenset[str]:
    """The capabilities of one model, in Ollama's words. None at all are left out of the answer."""
    return _capabilities(decode_object(body, limits.max_json_depth))


def decode_tags(body: bytes, limits: Limits) -> list[dict[str, Any]]:
    """The models pulled, as `GET /api/tags` lists them."""
    models = decode_object(body, limits.max_json_depth).get("models")
    if not isinstance(models, list):
        raise BadResponseError('the model list has no list "models"')
    return [item for item in models if isinstance(item, dict) and model_name(item)]


def decode_loaded(body: bytes, limits: Limits) -> frozenset[str]:
    """The names of the models in memory, as `GET /api/ps` lists them."""
    return frozenset(model_name(item) for item in decode_tags(body, limits))


def model_info(
    item: Mapping[str, Any], server: OllamaServer, loaded: frozenset[str] | None
) -> ModelInfo:
    """One model of the list. `server` has its capabilities where the list does not name them."""
    words = server.capabilities | _capabilities(item)
    found = {known for word in words if (known := _WORDS.get(word)) is not None}
    if "vision" in words and "completion" in words:
        found.add("vision")
    if "image" in found and not server.generates_images:  # they are listed for ever
        found.remove("image")
    if "image" in found and "vision" in words and server.edits_images:
        found.add("edit")
    name = model_name(item)
    return ModelInfo(
        name, frozenset(found), None if loaded is None else name in loaded, raw=dict(item)
    )


def model_name(item: Mapping[str, Any]) -> str:
    names = (item.get("name"), item.get("model"))
    return next((name for name in names if isinstance(name, str) and name), "")


def _capabilities(item: Mapping[str, Any]) -> frozenset[str]:
    words = item.get("capabilities")
    return (
        frozenset(word for word in words if isinstance(word, str))
        if isinstance(words, list)
        else frozenset()
    )


def _listing(words: frozenset[str]) -> str:
    return ", ".join(sorted(words)[:20]) or "not listed"


def _seconds(nanoseconds: Any) -> float | None:
    if (
        isinstance(nanoseconds, bool)
        or not isinstance(nanoseconds, int)
        or not 0 < nanoseconds < 1 << 63
    ):
        return None
    return nanoseconds / 1e9
