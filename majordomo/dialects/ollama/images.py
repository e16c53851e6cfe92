"""Ollama's images: `/api/generate`, streamed as JSON lines; and the servers that support it.

Sources: ollama/ollama at the tags v0.14.0, v0.15.4 and v0.32.5, and at fb30760, where image
generation has been removed. Ollama called it experimental and silently ignores what it cannot do,
so this module checks the version and the capabilities first and reports what has no effect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from majordomo.backend_status import Capability, ModelInfo
from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    describe_image,
    drop_fields,
    drop_other_fields,
    parse_base64_image,
    reported_count,
    resolve_size,
    text_chunks,
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
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.json import decode_json, decode_object
from majordomo.framing.lines import JSONLinesDecoder
from majordomo.imagegen import ImageDetails, ImageEvent, Request, Result, Step, Usage
from majordomo.imagegen.geometry import Geometry
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

Version = tuple[int, int, int]

# Image generation in 0.14.0 to 0.14.2 used another contract, which is not supported here.
FIRST_IMAGE_VERSION: Version = (0, 14, 3)
FIRST_VERSION_WITHOUT_IMAGES: Version = (0, 32, 6)

# Input images work from the first of these versions and before the second; later engines ignore
# them.
EDIT_VERSIONS: tuple[Version, Version] = ((0, 15, 0), (0, 15, 5))

# From this version on `/api/tags` lists the capabilities of each model.
CAPABILITIES_LISTED_SINCE: Version = (0, 30, 0)
MAX_INPUT_IMAGES = 2

# In pixels. The server answers 400 to anything larger.
MAX_SIDE = 4096

# The server passes a seed through a float64.
MAX_SEED = 1 << 53
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
_FIELDS = ("steps", "seed")
_REASONS = {
    "previews": "Ollama sends no unfinished images",
    "output_format": "Ollama returns PNG",
}
_GEOMETRY = Geometry(pixels=1024 * 1024, multiple=16, max_side=MAX_SIDE)
_IMAGES_NEED = "image generation needs Ollama 0.14.3 to 0.32.5"

# Our capabilities by Ollama's names of them.
_CAPABILITIES: dict[str, Capability] = {
    "completion": "chat",
    "tools": "tools",
    "thinking": "thinking",
    "embedding": "embed",
    "image": "image",
}


@dataclass(frozen=True, slots=True)
class OllamaServer:
    """What is known about a server and one of its models before the first image."""

    version: Version | None = None
    """None when the server does not report a version, as a build from source."""
    capabilities: frozenset[str] = frozenset()
    """The capabilities of the model, by Ollama's names."""

    @property
    def generates_images(self) -> bool:
        """Whether this version generates images. An unknown version counts as yes."""
        return (
            self.version is None
            or FIRST_IMAGE_VERSION <= self.version < FIRST_VERSION_WITHOUT_IMAGES
        )

    @property
    def edits_images(self) -> bool:
        """Whether this version honors input images. An unknown version counts as no."""
        return self.version is not None and EDIT_VERSIONS[0] <= self.version < EDIT_VERSIONS[1]

    @property
    def version_text(self) -> str:
        """The version for messages, as "0.15.4" or "of unknown version"."""
        if self.version is None:
            return "of unknown version"
        return ".".join(str(number) for number in self.version)

    def check_version(self) -> None:
        """Raise UnsupportedError when this version does not generate images, or in another way."""
        if not self.generates_images:
            raise UnsupportedError(
                f"this server is {self.version_text}; {_IMAGES_NEED}", field="model"
            )

    def check_model(self, model: str) -> None:
        """Raise UnsupportedError when the model does not generate images."""
        if "image" not in self.capabilities:
            raise UnsupportedError(
                f"{model} does not generate images; its capabilities are "
                f"{_join_names(self.capabilities)}",
                field="model",
            )

    def unsupported_error(self, error: MajordomoError) -> UnsupportedError | None:
        """Return the error for a server that does not generate images, whatever it reported before.

        None when `error` has another cause. Errors of the native API are one text without a code;
        the text of 0.32.6 and later is the only sign of this case.
        """
        # With a 404 it is the route that is missing: the model was found before.
        if error.status == 404:
            reason = "has no /api/generate"
        elif error.status == 400 and "not currently supported" in error.message:
            reason = f"answers: {error.message}"
        else:
            return None
        return UnsupportedError(
            f"this server is {self.version_text} and {reason}; {_IMAGES_NEED}",
            field="model",
            status=error.status,
        )


@dataclass(frozen=True, slots=True)
class OllamaImagesCodec:
    """Client-side codec for images from `/api/generate`.

    Requests are always streamed, because the steps are the only sign that the server works.
    """

    server: Callable[[str], OllamaServer]
    """Returns what is known about the server and this model."""

    def input_format(self, model: str) -> ImageInputFormat:
        """Return the format of input images: RGB PNG; masks are not accepted."""
        return ImageInputFormat(rgb_png=True, mask=None)

    def max_per_call(self, model: str, request: Request) -> int:
        """Return the maximum number of images per call: 1."""
        return 1

    def adapt(
        self, model: str, request: Request, catalog: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        """Return the request as the server can honor it, and a warning for each dropped field.

        Raises:
            UnsupportedError: The request has a mask, or input images that this version or this
                model would ignore.
            InvalidRequestError: A side is above 4096 pixels (field `size`), or a seed is above
                2**53 (field `seed`).
        """
        warnings: list[CallWarning] = []
        if request.mask is not None:
            raise UnsupportedError("Ollama does not accept a mask", field="mask")
        if request.images:
            self._check_edit(model, request)
            request, warnings = drop_fields(
                request,
                ("size", "aspect", "megapixels"),
                "with input images Ollama uses the size of the first one",
            )
        if (size := request.pixels) is not None and max(size) > MAX_SIDE:
            raise InvalidRequestError(
                f"size must be at most {MAX_SIDE} pixels per side for Ollama; got {request.size}",
                field="size",
            )
        if request.seed is not None and request.seed + max(request.n - 1, 0) > MAX_SEED:
            raise InvalidRequestError(
                "seed must be at most 2**53 for Ollama, counted up for each image; "
                f"got {request.seed} with n={request.n}",
                field="seed",
            )
        if request.seed == 0:
            request, dropped = drop_fields(
                request, ("seed",), "0 means a random seed to Ollama; use another number"
            )
            warnings += dropped
        supported = (*_FIELDS, "output_format") if request.output_format == "png" else _FIELDS
        request, dropped = drop_other_fields(
            request, supported, "Ollama has no such setting", _REASONS
        )
        warnings += dropped
        # Keep a requested size: only the engine knows the multiples that its model rounds to.
        request, size_warnings = resolve_size(request, _GEOMETRY, exactly=False)
        return request, [*warnings, *size_warnings]

    def _check_edit(self, model: str, request: Request) -> None:
        server = self.server(model)
        if not server.edits_images:
            raise UnsupportedError(
                f"this server is {server.version_text}; input images are silently ignored by the "
                "engine except in Ollama 0.15.0 to 0.15.4",
                field="images",
            )
        if "vision" not in server.capabilities:
            raise UnsupportedError(
                f"{model} does not accept input images: its capabilities do not include vision",
                field="images",
            )
        if len(request.images) > MAX_INPUT_IMAGES:
            raise UnsupportedError(
                f"Ollama accepts at most {MAX_INPUT_IMAGES} images; got {len(request.images)}",
                field="images",
            )

    def encode_request(self, model: str, request: Request) -> HTTPRequest:
        """Return the streamed HTTP request for an adapted request."""
        placeholders = Base64Placeholders()
        body: dict[str, Any] = {"model": model, "prompt": request.prompt}
        if (size := request.pixels) is not None:
            body["width"], body["height"] = size
        if request.steps is not None:
            # At the top level: in `options` it is ignored.
            body["steps"] = request.steps
        if request.images:
            body["images"] = [placeholders.base64(image) for image in request.images]
        if request.seed is not None:
            body["options"] = {"seed": request.seed}
        body["stream"] = True
        return json_request("/api/generate", body, request.extra, placeholders, stream=True)

    def supports_streaming(self, model: str, request: Request) -> bool:
        """Return True."""
        return True

    def encode_stream(self, model: str, request: Request) -> HTTPRequest:
        """Return the streamed HTTP request, which is that of `encode_request`."""
        return self.encode_request(model, request)

    def stream_decoder(self, request: Request, limits: Limits) -> OllamaImageStreamDecoder:
        """Return a decoder of the JSON lines of one response."""
        return OllamaImageStreamDecoder(request, limits)

    def reply_decoder(self, limits: Limits) -> DiscardEvents:
        """Return a decoder for a response that is read as a whole.

        Needed behind a proxy that sends the lines with another content type: one object is a
        stream of one line.
        """
        return DiscardEvents(OllamaImageStreamDecoder(Request(""), limits))

    def decode_reply(self, reply: DiscardEvents, request: Request, limits: Limits) -> Result:
        """Return the result of a response. Raises as `OllamaImageStreamDecoder.finish` does."""
        return reply.stream.finish(request)


@dataclass(frozen=True, slots=True)
class DiscardEvents:
    """A stream decoder whose events are dropped."""

    stream: OllamaImageStreamDecoder

    def feed(self, chunk: bytes) -> None:
        """Decode a chunk. Raises as `OllamaImageStreamDecoder.feed` does."""
        for _ in self.stream.feed(chunk):
            pass


class OllamaImageStreamDecoder:
    """A decoder of lines of progress, and one line with the image.

    Call `feed` with bytes in any slicing, then `finish`.
    """

    def __init__(self, request: Request, limits: Limits) -> None:
        self._request = request
        self._limits = limits
        self._lines = JSONLinesDecoder(limits.max_image_event_bytes)
        self._last_frame: dict[str, Any] | None = None
        self._received_bytes = 0

    @property
    def complete(self) -> bool:
        """Whether the last line has arrived, with an image or without."""
        return self._last_frame is not None

    def feed(self, chunk: bytes) -> Iterator[ImageEvent]:
        """Yield the steps that `chunk` completes, one by one.

        Steps before an error are yielded before it is raised.

        Raises:
            MajordomoError: A line reports an error.
            BadResponseError: The response is beyond the limits, or a line is not valid JSON.
        """
        self._received_bytes += len(chunk)
        if self._received_bytes > self._limits.max_image_reply_bytes:
            raise BadResponseError(
                "the response is larger than the limit of "
                f"{self._limits.max_image_reply_bytes:,} bytes",
                code="TOO_LARGE",
            )
        for line in self._lines.feed(chunk):
            event = self._decode_frame(decode_json(line, self._limits.max_json_depth))
            if event is not None:
                yield event

    def finish(self, request: Request | None = None) -> Result:
        """Return the result once the bytes have ended.

        Raises:
            NoImageError: Generation ended without an image.
            StreamBrokenError: The stream ended before the last line.
        """
        for line in self._lines.finish():
            try:
                frame = decode_json(line, self._limits.max_json_depth)
            except BadResponseError:
                # The line was cut off.
                break
            self._decode_frame(frame)
        if self._last_frame is None:
            raise StreamBrokenError("the stream ended before the image arrived")
        return self._result(self._last_frame, request or self._request)

    def _decode_frame(self, frame: Any) -> ImageEvent | None:
        if not isinstance(frame, dict) or self.complete:
            return None
        if frame.get("error"):
            raise build_error(200, read_error_value(frame), {})
        if frame.get("done") is True:
            self._last_frame = frame
            return None
        # The server omits `completed` while it is 0.
        step, total = reported_count(frame.get("completed")), reported_count(frame.get("total"))
        return Step(step, total) if 0 < step <= total else None

    def _result(self, frame: dict[str, Any], request: Request) -> Result:
        text = frame.get("image")
        if not isinstance(text, str) or not text:
            # Ollama does not pass on the engine's own error: this line is the only sign of it.
            raise NoImageError(
                "the engine failed to generate the image; Ollama reports no reason, "
                "its log may show more",
                details={"done_reason": plain_text(str(frame.get("done_reason", "")), 100)},
            )
        image = parse_base64_image(text, self._limits)
        model = frame.get("model")
        return Result(
            (image,),
            (ImageDetails(seed=request.seed, settings=dict(text_chunks(image))),),
            usage=Usage(
                seconds=_seconds(frame.get("total_duration")),
                load_seconds=_seconds(frame.get("load_duration")),
            ),
            model=model if isinstance(model, str) else "",
            raw={**frame, "image": describe_image(image)},
        )


def decode_version(body: bytes, limits: Limits) -> Version | None:
    """Return the version in a response of `GET /api/version`, None when there is none.

    A build from source reports 0.0.0, which says nothing about it and counts as None.
    """
    match = _VERSION.match(str(decode_object(body, limits.max_json_depth).get("version", "")))
    version = (int(match[1]), int(match[2]), int(match[3])) if match else None
    return None if version == (0, 0, 0) else version


def encode_show(model: str) -> HTTPRequest:
    """Return the request for the description of one model."""
    return json_request("/api/show", {"model": model}, {}, Base64Placeholders())


def decode_show(body: bytes, limits: Limits) -> frozenset[str]:
    """Return the capabilities of one model, by Ollama's names.

    The server omits an empty list of capabilities.
    """
    return _capability_names(decode_object(body, limits.max_json_depth))


def decode_tags(body: bytes, limits: Limits) -> list[dict[str, Any]]:
    """Return the local models, as `GET /api/tags` lists them."""
    models = decode_object(body, limits.max_json_depth).get("models")
    if not isinstance(models, list):
        raise BadResponseError('the model list has no list "models"')
    return [item for item in models if isinstance(item, dict) and model_name(item)]


def decode_loaded(body: bytes, limits: Limits) -> frozenset[str]:
    """Return the names of the models in memory, as `GET /api/ps` lists them."""
    return frozenset(model_name(item) for item in decode_tags(body, limits))


def model_info(
    item: Mapping[str, Any], server: OllamaServer, loaded: frozenset[str] | None
) -> ModelInfo:
    """Return the description of one model of the list.

    Args:
        item: The model as `/api/tags` lists it.
        server: Its version, and the model's capabilities where the list does not name them.
        loaded: Names of the models in memory; None when they are unknown.
    """
    names = server.capabilities | _capability_names(item)
    capabilities = {known for name in names if (known := _CAPABILITIES.get(name)) is not None}
    if "vision" in names and "completion" in names:
        capabilities.add("vision")
    # Models keep this capability in versions that no longer generate images.
    if "image" in capabilities and not server.generates_images:
        capabilities.remove("image")
    if "image" in capabilities and "vision" in names and server.edits_images:
        capabilities.add("edit")
    name = model_name(item)
    return ModelInfo(
        name, frozenset(capabilities), None if loaded is None else name in loaded, raw=dict(item)
    )


def model_name(item: Mapping[str, Any]) -> str:
    """Return the name of a listed model, "" when it has none."""
    names = (item.get("name"), item.get("model"))
    return next((name for name in names if isinstance(name, str) and name), "")


def _capability_names(item: Mapping[str, Any]) -> frozenset[str]:
    names = item.get("capabilities")
    return (
        frozenset(name for name in names if isinstance(name, str))
        if isinstance(names, list)
        else frozenset()
    )


def _join_names(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)[:20]) or "not listed"


def _seconds(nanoseconds: Any) -> float | None:
    if (
        isinstance(nanoseconds, bool)
        or not isinstance(nanoseconds, int)
        or not 0 < nanoseconds < 1 << 63
    ):
        return None
    return nanoseconds / 1e9
