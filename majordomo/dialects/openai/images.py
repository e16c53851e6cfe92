"""OpenAI's image routes, as OpenAI, the many compatible servers, llama-swap and sd-server answer them.

Sources: openai-openapi at f85dbe2, llama-swap at 0bdb372, stable-diffusion.cpp at 97d2990.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from majordomo.dialects.chat_accumulator import as_token_count
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    describe_image,
    details_of,
    drop_fields,
    parse_base64_image,
    parse_image,
    parse_preview,
    resolve_size,
)
from majordomo.dialects.openai.image_families import ImageModelFamily, geometry_of, sdcpp_family
from majordomo.dialects.request_body import UNSUPPORTED, deep_merge, json_request
from majordomo.dialects.samplers import SDCPP, SamplerCatalog
from majordomo.dialects.stable_diffusion_cpp.prompt_tag import (
    SEED_WARNING,
    clamp_steps,
    encode_tag,
    with_neutralized_text,
)
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    InvalidRequestError,
    NoImageError,
    StreamBrokenError,
    UnsupportedError,
)
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.image_reply import ImageReplyDecoder
from majordomo.framing.json import decode_json, encode_json
from majordomo.framing.lines import EventDecoder
from majordomo.framing.multipart import FormField, MultipartBody
from majordomo.imagegen import ImageDetails, ImageEvent, Preview, Request, Result, Usage
from majordomo.media.filenames import SUFFIXES
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

_SETTINGS = ("steps", "cfg_scale", "negative_prompt", "sampler", "scheduler", "seed")


@dataclass(frozen=True, slots=True)
class OpenAIImagesCodec:
    """Client door of `/images/generations` and `/images/edits`."""

    family: Callable[[str], ImageModelFamily] = sdcpp_family
    path: str = "/v1/images"
    tag: bool = (
        True  # behind it stands stable-diffusion.cpp, which reads settings only from the tag
    )
    # OpenAI's SDK sends one image as `image` and several as `image[]`; sd-server wants `image[]` always
    edits: Literal["multipart", "json"] = "multipart"

    def input_format(self, model: str) -> ImageInputFormat:
        return ImageInputFormat(
            rgb_png=self.tag or self.family(model).square_png,
            mask="luminance" if self.tag else "alpha",
        )

    def max_per_call(self, model: str, request: Request) -> int:
        return self.family(model).max_images

    def adapt(
        self, model: str, request: Request, lists: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        family = self.family(model)
        if len(request.prompt) > family.prompt:
            raise InvalidRequestError(
                f"{family.backend} takes prompts of at most {family.prompt:,} characters",
                field="prompt",
            )
        _check_edit(request, family)
        warnings: list[CallWarning] = []
        if self.tag:
            request = SDCPP.translate(request, lists)
            request, tagged = with_neutralized_text(request)
            request, cut = clamp_steps(request)
            warnings += tagged + cut
            if request.images and request.output_format == "webp":
                request, lost = drop_fields(
                    request, ("output_format",), "an edit answers in PNG or JPEG"
                )
                warnings += lost
            if request.seed is None:
                warnings.append(SEED_WARNING)
        else:
            request, tagged = with_neutralized_text(request)
            warnings += tagged
        if not request.images or not self.tag:
            reason = "it needs images" if self.tag else f"{family.backend} has no such setting"
            request, lost = drop_fields(request, ("strength",), reason)
            warnings += lost
        if not family.settings:
            request, lost = drop_fields(request, _SETTINGS, f"{family.backend} has no such setting")
            warnings += lost
        request, lost = _choices(request, family)
        request, more = resolve_size(
            request, geometry_of(family, model), exactly=family.geometry is not None
        )
        return request, [*warnings, *lost, *more]

    def encode_request(self, model: str, request: Request, *, stream: bool = False) -> HTTPRequest:
        family = self.family(model)
        body: dict[str, Any] = {
            "model": model,
            "prompt": (encode_tag(request) if self.tag else "") + request.prompt,
        }
        settings = (
            ("n", request.n or None),
            ("size", request.size or None),
            ("quality", request.quality or None),
            ("background", request.background or None),
            ("steps", request.steps),
            ("cfg_scale", request.cfg_scale),
            ("negative_prompt", request.negative_prompt or None),
            ("sample_method", request.sampler or None),
            ("scheduler", request.scheduler or None),
            ("seed", request.seed),
            ("output_format", request.output_format or None),
            ("response_format", "b64_json" if family.response_format else None),
            ("stream", True if stream else None),
            ("partial_images", min(request.previews, 3) if stream else None),
        )
        body.update({name: value for name, value in settings if value is not None})
        if not request.images:
            return json_request(
                f"{self.path}/generations", body, request.extra, Splices(), stream=stream
            )
        if self.edits == "json":
            splices = Splices()
            body["images"] = [{"image_url": splices.data_url(image)} for image in request.images]
            if request.mask is not None:
                body["mask"] = {"image_url": splices.data_url(request.mask)}
            return json_request(f"{self.path}/edits", body, request.extra, splices, stream=stream)
        return self._form(body, request, stream)

    def _form(self, body: dict[str, Any], request: Request, stream: bool) -> HTTPRequest:
        fields = [
            FormField(name, _scalar(name, value))
            for name, value in deep_merge(body, request.extra).items()
        ]
        several = self.tag or len(request.images) > 1
        for number, image in enumerate(request.images):
            fields.append(_file("image[]" if several else "image", f"image{number}", image))
        if request.mask is not None:
            fields.append(_file("mask", "mask", request.mask))
        upload = MultipartBody(fields)
        accept = "text/event-stream, application/json" if stream else "application/json"
        return HTTPRequest(
            "POST", f"{self.path}/edits", upload, upload.content_type, accept, stream
        )

    def supports_streaming(self, model: str, request: Request) -> bool:
        return request.previews > 0 and self.family(model).streams

    def encode_stream(self, model: str, request: Request) -> HTTPRequest:
        return self.encode_request(model, request, stream=True)

    def stream_decoder(self, request: Request, limits: Limits) -> OpenAIImageStreamDecoder:
        return OpenAIImageStreamDecoder(self, request, limits)

    def reply_decoder(self, limits: Limits) -> ImageReplyDecoder:
        """Feed it the answer's bytes as they come, then give it to `decode`."""
        return ImageReplyDecoder(
            limit=limits.max_image_reply_bytes,
            image_limit=limits.max_image_bytes,
            depth=limits.max_json_depth,
        )

    def decode_reply(self, reply: ImageReplyDecoder, request: Request, limits: Limits) -> Result:
        """The images. Raises NoImageError when there is none, BadResponseError for what is no image or no answer."""
        return self.result(reply.finish(), reply.images, request, limits)

    def result(
        self, document: dict[str, Any], cut: Sequence[bytes], request: Request, limits: Limits
    ) -> Result:
        if "error" in document and not document.get("data"):
            raise build_error(200, error_value(document), {})
        data = document.get("data")
        if not isinstance(data, list):
            raise BadResponseError('the answer has no list "data"')
        images: list[ImagePart] = []
        details: list[ImageDetails] = []
        warnings: list[CallWarning] = []
        for index, item in enumerate(data):
            image = _image(item, cut, limits)
            if image is None:
                warnings.append(
                    CallWarning(
                        "IMAGE_MISSING", f"entry {index} of the answer holds no image bytes"
                    )
                )
                continue
            details.append(_details(image, item, request, len(images), counted=self.tag))
            images.append(image)
        if not images:
            linked = any(isinstance(item, dict) and item.get("url") for item in data)
            raise NoImageError(
                "the answer has a link instead of an image; links are never fetched"
                if linked
                else "the answer holds no image"
            )
        return Result(
            tuple(images),
            tuple(details),
            tuple(warnings),
            usage_of(document.get("usage")),
            raw=_elided(document, images),
        )


class OpenAIImageStreamDecoder:
    """Server-sent events with unfinished images, then the finished ones: `feed` bytes in any slicing, then `finish`.

    The kind of an event stands in its JSON (`type`); the `event:` line repeats it and is not needed.
    """

    def __init__(self, codec: OpenAIImagesCodec, request: Request, limits: Limits) -> None:
        self._codec = codec
        self._request = request
        self._limits = limits
        self._events = EventDecoder(limits.max_image_event_bytes)
        self._finished: list[dict[str, Any]] = []
        self._seen = 0

    @property
    def complete(self) -> bool:
        """Whether all images are there; what follows is only a farewell."""
        return len(self._finished) >= max(self._request.n, 1)

    def feed(self, chunk: bytes) -> Iterator[ImageEvent]:
        """The images that `chunk` completes, one by one: what came before an error is told."""
        self._seen += len(chunk)
        if self._seen > self._limits.max_image_reply_bytes:
            raise BadResponseError(
                f"the answer is larger than the limit of {self._limits.max_image_reply_bytes:,} bytes",
                code="TOO_LARGE",
            )
        for data in self._events.feed(chunk):
            if (event := self._take(data)) is not None:
                yield event

    def finish(self) -> Result:
        """The result. Raises StreamBrokenError when the stream ended before a finished image."""
        for data in self._events.finish():
            self._take(data)
        if self._finished:
            last = self._finished[-1]
            document = {
                **last,
                "data": [{"b64_json": item.get("b64_json")} for item in self._finished],
            }
            document.pop("b64_json", None)
            result = self._codec.result(document, (), self._request, self._limits)
            if self.complete:
                return result
            raise StreamBrokenError("the stream ended before all its images", partial=result)
        raise StreamBrokenError("the stream ended without a finished image")

    def _take(self, data: bytes) -> ImageEvent | None:
        if self.complete or data.strip() == b"[DONE]":  # a farewell may be cut off
            return None
        event = decode_json(data, self._limits.max_json_depth)
        if not isinstance(event, dict):
            return None
        if event.get("error"):
            raise build_error(200, error_value(event), {})
        kind = str(event.get("type", ""))
        if kind.endswith(".partial_image"):
            image = parse_preview(event.get("b64_json"), self._limits)
            return Preview(image, len(self._finished)) if image is not None else None
        if kind.endswith(".completed"):
            self._finished.append(event)
        return None


def _check_edit(request: Request, family: ImageModelFamily) -> None:
    """Raise UnsupportedError or InvalidRequestError for what an edit may not be."""
    if not request.images:
        return
    if not family.edits:
        raise UnsupportedError(f"{family.backend} draws from text only", field="images")
    if len(request.images) > family.edits:
        raise UnsupportedError(
            f"{family.backend} takes at most {family.edits} images", field="images"
        )
    for name, picture in (*(("images", image) for image in request.images), ("mask", request.mask)):
        if picture is not None and len(picture.data) > family.edit_bytes:
            raise InvalidRequestError(
                f"{family.backend} takes images of at most {family.edit_bytes // (1 << 20)} MiB",
                field=name,
                code="IMAGE_TOO_LARGE",
            )
    if family.square_png and request.images[0].width != request.images[0].height:
        raise UnsupportedError(f"{family.backend} edits square images only", field="images")


def _choices(request: Request, family: ImageModelFamily) -> tuple[Request, list[CallWarning]]:
    """Fields that are one of a few words."""
    warnings: list[CallWarning] = []
    for name, taken in (
        ("quality", family.qualities),
        ("background", None if family.backgrounds else ()),
    ):
        value = getattr(request, name)
        if value and taken is not None and value not in taken:
            words = f"takes {', '.join(taken)}" if taken else "has no such setting"
            request, lost = drop_fields(request, (name,), f"{family.backend} {words}")
            warnings += lost
    if not family.formats:
        if request.output_format != "png":
            request, lost = drop_fields(
                request, ("output_format",), f"{family.backend} answers in PNG"
            )
            warnings += lost
        request = replace(request, output_format="")
    if request.background == "transparent" and request.output_format == "jpeg":
        request, lost = drop_fields(request, ("background",), "a JPEG cannot be transparent")
        warnings += lost
    if request.previews and not family.streams:
        request, lost = drop_fields(request, ("previews",), "this route shows no unfinished images")
        warnings += lost
    if request.previews > 3:
        warnings.append(
            CallWarning(UNSUPPORTED, "at most 3 unfinished images are shown", "previews")
        )
    return request, warnings


def _scalar(name: str, value: Any) -> bytes:
    """A form has text only: what is neither text nor number nor true or false travels as JSON."""
    if isinstance(value, str):
        return value.encode()
    return encode_json(value)


def _file(name: str, stem: str, image: ImagePart) -> FormField:
    # "parts without an image MIME type are rejected": every file has its name and its kind
    return FormField(name, image.data, stem + SUFFIXES[image.mime], image.mime)


def _image(item: Any, cut: Sequence[bytes], limits: Limits) -> ImagePart | None:
    value = item.get("b64_json") if isinstance(item, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(cut):
            raise BadResponseError("b64_json is a number")
        return parse_image(cut[value], limits)
    return parse_base64_image(value, limits) if isinstance(value, str) and value else None


def _details(
    image: ImagePart, item: Mapping[str, Any], request: Request, index: int, *, counted: bool
) -> ImageDetails:
    # Batch item i is drawn from seed + i (stable-diffusion.cpp)
    sent = request.seed + index if request.seed is not None and counted else request.seed
    revised = item.get("revised_prompt")
    return details_of(image, sent, revised if isinstance(revised, str) and revised else None)


def usage_of(value: Any) -> Usage:
    if not isinstance(value, dict):
        return Usage()
    read, written = (
        found if isinstance(found, dict) else {}
        for found in (value.get("input_tokens_details"), value.get("output_tokens_details"))
    )
    return Usage(
        as_token_count(value.get("input_tokens")),
        as_token_count(value.get("output_tokens")),
        text_input_tokens=as_token_count(read.get("text_tokens")),
        image_input_tokens=as_token_count(read.get("image_tokens")),
        cached_tokens=as_token_count(read.get("cached_tokens")),
        text_output_tokens=as_token_count(written.get("text_tokens")),
        image_output_tokens=as_token_count(written.get("image_tokens")),
    )


def _elided(document: dict[str, Any], images: Sequence[ImagePart]) -> dict[str, Any]:
    data = []
    sizes = iter(images)
    for item in document["data"]:
        if isinstance(item, dict) and item.get("b64_json") not in (None, ""):
            image = next(sizes, None)
            item = {**item, "b64_json": describe_image(image) if image else "<elided>"}
        data.append(item)
    return {**document, "data": data}
