"""OpenAI's image routes, for OpenAI, compatible servers, llama-swap and sd-server.

Sources: openai-openapi at f85dbe2, llama-swap at 0bdb372, stable-diffusion.cpp at 97d2990.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from majordomo.dialects.chat_accumulator import as_text, as_token_count
from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    describe_image,
    details_of,
    drop_fields,
    drop_other_fields,
    parse_base64_image,
    parse_image,
    parse_preview,
    resolve_size,
)
from majordomo.dialects.openai.image_families import (
    MIB,
    ImageModelFamily,
    geometry_of,
    sdcpp_family,
)
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
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.image_reply import ImageReplyDecoder
from majordomo.framing.json import decode_json, encode_json
from majordomo.framing.lines import EventDecoder
from majordomo.framing.multipart import FormField, MultipartBody
from majordomo.imagegen import ImageDetails, ImageEvent, Preview, Request, Result, Usage
from majordomo.media.filenames import SUFFIXES
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

# Maximum of `partial_images`.
_MAX_PREVIEWS = 3
_SETTINGS = ("steps", "cfg_scale", "negative_prompt", "sampler", "scheduler", "seed")
# `_drop_unsupported_choices` decides about the values of these fields.
_CHOICES = ("output_format", "quality", "background", "previews")


@dataclass(frozen=True, slots=True)
class OpenAIImagesCodec:
    """Client-side codec for `/images/generations` and `/images/edits`."""

    family: Callable[[str], ImageModelFamily] = sdcpp_family
    """Returns the family of a model id, which says what the model accepts."""
    path: str = "/v1/images"
    """Path below the base URL."""
    tag: bool = True
    """Whether the server is stable-diffusion.cpp, which reads settings only from a prompt tag."""
    edits: Literal["multipart", "json"] = "multipart"
    """Encoding of edit requests: a form with the images as files, or JSON with data URLs."""

    def input_format(self, model: str) -> ImageInputFormat:
        """Return the format in which this model accepts input images."""
        return ImageInputFormat(
            rgb_png=self.tag or self.family(model).square_png,
            mask="luminance" if self.tag else "alpha",
        )

    def max_per_call(self, model: str, request: Request) -> int:
        """Return the maximum number of images per request."""
        return self.family(model).max_images

    def adapt(
        self, model: str, request: Request, catalog: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        """Return the request as this model accepts it, and a warning for each change.

        Raises InvalidRequestError or UnsupportedError for a request that cannot be adapted.
        """
        family = self.family(model)
        if len(request.prompt) > family.max_prompt_characters:
            raise InvalidRequestError(
                f"{family.backend} accepts prompts of at most {family.max_prompt_characters:,} "
                f"characters; got {len(request.prompt):,}",
                field="prompt",
            )
        _check_edit(request, family)
        warnings: list[CallWarning] = []
        if self.tag:
            request = SDCPP.translate(request, catalog)
            request, tag_warnings = with_neutralized_text(request)
            request, step_warnings = clamp_steps(request)
            warnings += tag_warnings + step_warnings
            if request.images and request.output_format == "webp":
                request, dropped = drop_fields(
                    request, ("output_format",), "edits return PNG or JPEG"
                )
                warnings += dropped
            if request.seed is None:
                warnings.append(SEED_WARNING)
        else:
            request, tag_warnings = with_neutralized_text(request)
            warnings += tag_warnings
        supported = {*_CHOICES, *_SETTINGS} if family.settings else {*_CHOICES}
        if request.images and self.tag:
            supported.add("strength")
        request, dropped = drop_other_fields(
            request,
            supported,
            f"{family.backend} has no such setting",
            {"strength": "it needs images"} if self.tag else None,
        )
        warnings += dropped
        request, dropped = _drop_unsupported_choices(request, family)
        request, size_warnings = resolve_size(
            request, geometry_of(family, model), exactly=family.geometry is not None
        )
        return request, [*warnings, *dropped, *size_warnings]

    def encode_request(self, model: str, request: Request, *, stream: bool = False) -> HTTPRequest:
        """Encode an adapted request: a generation, or an edit if it has input images."""
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
            ("partial_images", min(request.previews, _MAX_PREVIEWS) if stream else None),
        )
        body.update({name: value for name, value in settings if value is not None})
        if not request.images:
            return json_request(
                f"{self.path}/generations", body, request.extra, Base64Placeholders(), stream=stream
            )
        if self.edits == "json":
            placeholders = Base64Placeholders()
            body["images"] = [
                {"image_url": placeholders.data_url(image)} for image in request.images
            ]
            if request.mask is not None:
                body["mask"] = {"image_url": placeholders.data_url(request.mask)}
            return json_request(
                f"{self.path}/edits", body, request.extra, placeholders, stream=stream
            )
        return self._encode_form(body, request, stream)

    def _encode_form(self, body: dict[str, Any], request: Request, stream: bool) -> HTTPRequest:
        fields = [
            FormField(name, _form_value(value))
            for name, value in deep_merge(body, request.extra).items()
        ]
        # OpenAI's SDK sends one image as `image` and several as `image[]`; sd-server accepts only
        # `image[]`.
        image_field = "image[]" if self.tag or len(request.images) > 1 else "image"
        for number, image in enumerate(request.images):
            fields.append(_file_field(image_field, f"image{number}", image))
        if request.mask is not None:
            fields.append(_file_field("mask", "mask", request.mask))
        form = MultipartBody(fields)
        accept = "text/event-stream, application/json" if stream else "application/json"
        return HTTPRequest("POST", f"{self.path}/edits", form, form.content_type, accept, stream)

    def supports_streaming(self, model: str, request: Request) -> bool:
        """Whether to stream this request: it asks for previews, and the model can send them."""
        return request.previews > 0 and self.family(model).streams

    def encode_stream(self, model: str, request: Request) -> HTTPRequest:
        """Encode a request for a streamed response."""
        return self.encode_request(model, request, stream=True)

    def stream_decoder(self, request: Request, limits: Limits) -> OpenAIImageStreamDecoder:
        """Return a decoder for the bytes of a streamed response."""
        return OpenAIImageStreamDecoder(self, request, limits)

    def reply_decoder(self, limits: Limits) -> ImageReplyDecoder:
        """Return a decoder for the bytes of a response; pass it to `decode_reply` at the end."""
        return ImageReplyDecoder(
            limit=limits.max_image_reply_bytes,
            image_limit=limits.max_image_bytes,
            depth=limits.max_json_depth,
        )

    def decode_reply(self, reply: ImageReplyDecoder, request: Request, limits: Limits) -> Result:
        """Decode a complete response.

        Raises NoImageError if it has no image, and BadResponseError for an invalid response or an
        invalid image.
        """
        return self.decode_document(reply.finish(), reply.images, request, limits)

    def decode_document(
        self,
        document: dict[str, Any],
        extracted: Sequence[bytes],
        request: Request,
        limits: Limits,
    ) -> Result:
        """Decode the JSON of a response. Raises as `decode_reply` does.

        An integer in `b64_json` is an index into `extracted`, the image data that was decoded while
        the response arrived.
        """
        if "error" in document and not document.get("data"):
            raise build_error(200, read_error_value(document), {})
        data = document.get("data")
        if not isinstance(data, list):
            raise BadResponseError('the response has no list "data"')
        images: list[ImagePart] = []
        details: list[ImageDetails] = []
        warnings: list[CallWarning] = []
        for index, item in enumerate(data):
            image = _decode_image(item, extracted, limits)
            if image is None:
                warnings.append(
                    CallWarning("IMAGE_MISSING", f"entry {index} of the response has no image data")
                )
                continue
            details.append(_decode_details(image, item, request, len(images), seeds_count=self.tag))
            images.append(image)
        if not images:
            has_link = any(isinstance(item, dict) and item.get("url") for item in data)
            raise NoImageError(
                "the response has a link instead of an image; links are never fetched"
                if has_link
                else "the response has no image"
            )
        return Result(
            tuple(images),
            tuple(details),
            tuple(warnings),
            usage_of(document.get("usage")),
            raw=_without_image_data(document, images),
        )


class OpenAIImageStreamDecoder:
    """Decoder of server-sent events with previews and finished images, in any slicing.

    Call `feed` with the bytes, then `finish` for the result. The type of an event is in its JSON
    (`type`); the `event:` line repeats it and is ignored.
    """

    def __init__(self, codec: OpenAIImagesCodec, request: Request, limits: Limits) -> None:
        self._codec = codec
        self._request = request
        self._limits = limits
        self._events = EventDecoder(limits.max_image_event_bytes)
        self._finished: list[dict[str, Any]] = []
        self._received_bytes = 0

    @property
    def complete(self) -> bool:
        """Whether all images have arrived; only an end mark may follow."""
        return len(self._finished) >= max(self._request.n, 1)

    def feed(self, chunk: bytes) -> Iterator[ImageEvent]:
        """Yield the events that these bytes complete, so that those before an error are emitted.

        Raises BadResponseError for an invalid stream or one beyond the limits, and the error that
        the stream reports.
        """
        self._received_bytes += len(chunk)
        limit = self._limits.max_image_reply_bytes
        if self._received_bytes > limit:
            raise BadResponseError(
                f"the response is larger than the limit of {limit:,} bytes", code="TOO_LARGE"
            )
        for data in self._events.feed(chunk):
            if (event := self._handle_event(data)) is not None:
                yield event

    def finish(self) -> Result:
        """Return the result.

        Raises StreamBrokenError if the stream ended before all its images; the error holds the
        partial result if at least one image is finished.
        """
        for data in self._events.finish():
            self._handle_event(data)
        if self._finished:
            last = self._finished[-1]
            document = {
                **last,
                "data": [{"b64_json": item.get("b64_json")} for item in self._finished],
            }
            document.pop("b64_json", None)
            result = self._codec.decode_document(document, (), self._request, self._limits)
            if self.complete:
                return result
            raise StreamBrokenError("the stream ended before its last image", partial=result)
        raise StreamBrokenError("the stream ended without a finished image")

    def _handle_event(self, data: bytes) -> ImageEvent | None:
        # After the last image an event may be truncated, so it is not parsed.
        if self.complete or data.strip() == b"[DONE]":
            return None
        event = decode_json(data, self._limits.max_json_depth)
        if not isinstance(event, dict):
            return None
        if event.get("error"):
            raise build_error(200, read_error_value(event), {})
        event_type = str(event.get("type", ""))
        if event_type.endswith(".partial_image"):
            image = parse_preview(event.get("b64_json"), self._limits)
            return Preview(image, len(self._finished)) if image is not None else None
        if event_type.endswith(".completed"):
            self._finished.append(event)
        return None


def _check_edit(request: Request, family: ImageModelFamily) -> None:
    """Raise UnsupportedError or InvalidRequestError for an edit that the family rejects."""
    if not request.images:
        return
    if not family.max_edit_images:
        raise UnsupportedError(f"{family.backend} generates images from text only", field="images")
    if len(request.images) > family.max_edit_images:
        raise UnsupportedError(
            f"{family.backend} accepts at most {family.max_edit_images} images; "
            f"got {len(request.images)}",
            field="images",
        )
    for name, image in (*(("images", image) for image in request.images), ("mask", request.mask)):
        if image is not None and len(image.data) > family.max_edit_image_bytes:
            raise InvalidRequestError(
                f"{family.backend} accepts images of at most "
                f"{family.max_edit_image_bytes // MIB} MiB; got {len(image.data):,} bytes",
                field=name,
                code="IMAGE_TOO_LARGE",
            )
    if family.square_png and request.images[0].width != request.images[0].height:
        raise UnsupportedError(f"{family.backend} edits square images only", field="images")


def _drop_unsupported_choices(
    request: Request, family: ImageModelFamily
) -> tuple[Request, list[CallWarning]]:
    """Drop values that the family does not accept from fields with a fixed set of values."""
    warnings: list[CallWarning] = []
    for name, accepted in (
        ("quality", family.qualities),
        ("background", None if family.backgrounds else ()),
    ):
        value = getattr(request, name)
        if value and accepted is not None and value not in accepted:
            reason = f"accepts {', '.join(accepted)}" if accepted else "has no such setting"
            request, dropped = drop_fields(request, (name,), f"{family.backend} {reason}")
            warnings += dropped
    if not family.output_formats:
        if request.output_format != "png":
            request, dropped = drop_fields(
                request, ("output_format",), f"{family.backend} returns PNG"
            )
            warnings += dropped
        request = replace(request, output_format="")
    if request.background == "transparent" and request.output_format == "jpeg":
        request, dropped = drop_fields(request, ("background",), "a JPEG cannot be transparent")
        warnings += dropped
    if request.previews and not family.streams:
        request, dropped = drop_fields(request, ("previews",), "this route sends no previews")
        warnings += dropped
    if request.previews > _MAX_PREVIEWS:
        warnings.append(
            CallWarning(UNSUPPORTED, f"at most {_MAX_PREVIEWS} previews are sent", "previews")
        )
    return request, warnings


def _form_value(value: Any) -> bytes:
    """Encode a value as text for a form; anything but a string is written as JSON."""
    if isinstance(value, str):
        return value.encode()
    return encode_json(value)


def _file_field(name: str, stem: str, image: ImagePart) -> FormField:
    # "parts without an image MIME type are rejected": every file has a name and a MIME type.
    return FormField(name, image.data, stem + SUFFIXES[image.mime], image.mime)


def _decode_image(item: Any, extracted: Sequence[bytes], limits: Limits) -> ImagePart | None:
    value = item.get("b64_json") if isinstance(item, dict) else None
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(extracted):
            raise BadResponseError("b64_json is a number, not base64 text")
        return parse_image(extracted[value], limits)
    return parse_base64_image(value, limits) if isinstance(value, str) and value else None


def _decode_details(
    image: ImagePart, item: Mapping[str, Any], request: Request, index: int, *, seeds_count: bool
) -> ImageDetails:
    """Return an image's details; with `seeds_count`, the seed grows by one from image to image."""
    # stable-diffusion.cpp generates item i of a batch from seed + i.
    seed = request.seed + index if request.seed is not None and seeds_count else request.seed
    return details_of(image, seed, as_text(item.get("revised_prompt")))


def usage_of(value: Any) -> Usage:
    """Decode the `usage` object of an image response; an empty Usage for anything else."""
    if not isinstance(value, dict):
        return Usage()
    input_details, output_details = (
        details if isinstance(details, dict) else {}
        for details in (value.get("input_tokens_details"), value.get("output_tokens_details"))
    )
    return Usage(
        as_token_count(value.get("input_tokens")),
        as_token_count(value.get("output_tokens")),
        text_input_tokens=as_token_count(input_details.get("text_tokens")),
        image_input_tokens=as_token_count(input_details.get("image_tokens")),
        cached_tokens=as_token_count(input_details.get("cached_tokens")),
        text_output_tokens=as_token_count(output_details.get("text_tokens")),
        image_output_tokens=as_token_count(output_details.get("image_tokens")),
    )


def _without_image_data(document: dict[str, Any], images: Sequence[ImagePart]) -> dict[str, Any]:
    """Return the response with a short description in place of each image's data."""
    data = []
    remaining = iter(images)
    for item in document["data"]:
        if isinstance(item, dict) and item.get("b64_json") not in (None, ""):
            image = next(remaining, None)
            item = {**item, "b64_json": describe_image(image) if image else "<elided>"}
        data.append(item)
    return {**document, "data": data}
