"""Gemini's image models: chat models that answer with images, `POST /models/{id}:generateContent`.

Sources: vercel/ai at ed857f5 (packages google and google-vertex), Google's public REST reference.
Imagen, the older route, was shut down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from majordomo.dialects.chat_accumulator import as_objects, as_token_count
from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.gemini.usage import tokens_by_modality, usage_by_modality
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    drop_fields,
    drop_other_fields,
    parse_base64_image,
)
from majordomo.dialects.request_body import UNSUPPORTED, json_request
from majordomo.dialects.samplers import SamplerCatalog
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    ContentRefusedError,
    InvalidRequestError,
    MajordomoError,
    NoImageError,
    UnsupportedError,
    plain_text,
)
from majordomo.framing.base64 import Base64Body
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.buffered_body import BufferedBody
from majordomo.framing.json import decode_object
from majordomo.imagegen import ImageDetails, Request, Result, Usage
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
LONG_RATIOS = ("1:4", "4:1", "1:8", "8:1")

# Megapixels by the name of the size.
SIZES = {"1K": 1024 * 1024 / 1e6, "2K": 2048 * 2048 / 1e6, "4K": 4096 * 4096 / 1e6}
MAX_SEED = 2**31 - 1

# Maximum size of a request with images in its body. Larger images would have to be uploaded first.
MAX_BODY_BYTES = 20 * 1024 * 1024

# Maximum length of the model's text in errors and in `details`.
MAX_TEXT_CHARACTERS = 2000

# Ratios within this factor of each other count as the same, so that 21:9 need not be written with
# all its decimals.
RATIO_TOLERANCE = 1.01

_NO_SETTING = "Gemini has no such setting"
_REASONS = {"negative_prompt": f"{_NO_SETTING}; describe in the prompt what to leave out"}
_REFUSAL_REASONS = ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION")
_NO_IMAGE_REASONS = ("NO_IMAGE", "IMAGE_OTHER")
_VERSION = re.compile(r"gemini-(\d{1,3})(?:\.(\d{1,3}))?(?!\d)")


@dataclass(frozen=True, slots=True)
class ImageModelFamily:
    """What the models of one family accept."""

    ratios: tuple[str, ...]
    """Accepted aspect ratios, as "16:9"."""
    sizes: bool
    """Whether one of the three sizes (`SIZES`) can be chosen."""

    def nearest(self, ratio: float) -> str:
        """Return the accepted aspect ratio that is nearest to width divided by height."""
        return min(self.ratios, key=lambda name: abs(math.log(_ratio_value(name) / ratio)))


def family_of(model: str) -> ImageModelFamily:
    """Return the family of a model, guessed from its id.

    An id without a version counts as Gemini 3, which accepts none of the long ratios.
    """
    match = _VERSION.search(model)
    version = (int(match[1]), int(match[2] or 0)) if match else (3, 0)
    return ImageModelFamily(RATIOS + LONG_RATIOS if version > (3, 0) else RATIOS, version >= (3, 0))


class GeminiImagesCodec:
    """Client-side codec for images from `generateContent`.

    The server rejects unknown fields, so no field that it does not know is sent, except for what
    the request's `extra` adds.
    """

    def input_format(self, model: str) -> ImageInputFormat:
        """Return the format of input images. They are sent unchanged; masks are not accepted."""
        return ImageInputFormat(rgb_png=False, mask=None)

    def max_per_call(self, model: str, request: Request) -> int:
        """Return the maximum number of images per call: 1. `candidateCount` ignores images."""
        return 1

    def adapt(
        self, model: str, request: Request, catalog: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        """Return the request with an accepted `aspect` and `megapixels` instead of a size.

        A size in pixels brings no warning here: it is compared with the size of the result.

        Raises:
            UnsupportedError: The model is an Imagen model, or the request has a mask.
        """
        if model.startswith("imagen-"):
            raise UnsupportedError(
                f"{model} is not available: Google has shut Imagen down; use a gemini model with "
                "-image in its id"
            )
        if request.mask is not None:
            raise UnsupportedError(
                "Gemini does not accept a mask; describe in the prompt what to change", field="mask"
            )
        request, warnings = drop_other_fields(request, ("seed",), _NO_SETTING, _REASONS)
        # The images of one request use seed, seed + 1, …
        if request.seed is not None and request.seed + max(request.n, 1) - 1 > MAX_SEED:
            request, dropped = drop_fields(
                request,
                ("seed",),
                f"it must be at most {MAX_SEED} for Gemini, counted up for each image; "
                f"got {request.seed}",
            )
            warnings += dropped
        request, shape_warnings = _fit_shape(request, family_of(model))
        return request, [*warnings, *shape_warnings]

    def encode_request(self, model: str, request: Request) -> HTTPRequest:
        """Return the HTTP request for an adapted request.

        Raises:
            InvalidRequestError: The images make the body larger than 20 MiB (field `images`).
        """
        placeholders = Base64Placeholders()
        parts: list[dict[str, Any]] = [{"text": request.prompt}]
        parts += [
            {"inlineData": {"mimeType": image.mime, "data": placeholders.base64(image)}}
            for image in request.images
        ]
        config: dict[str, Any] = {"responseModalities": ["TEXT", "IMAGE"]}
        image_config: dict[str, Any] = {}
        if request.aspect:
            image_config["aspectRatio"] = request.aspect
        if request.megapixels is not None:
            image_config["imageSize"] = _size_name(request.megapixels)
        if image_config:
            config["imageConfig"] = image_config
        if request.seed is not None:
            config["seed"] = request.seed
        body = {"contents": [{"role": "user", "parts": parts}], "generationConfig": config}
        http_request = json_request(
            f"/models/{quote(model, safe='')}:generateContent", body, request.extra, placeholders
        )
        if isinstance(http_request.body, Base64Body) and http_request.body.length > MAX_BODY_BYTES:
            raise InvalidRequestError(
                "the images are too large for Gemini: the request must be at most 20 MiB; "
                f"got {http_request.body.length:,} bytes",
                field="images",
                code="IMAGE_TOO_LARGE",
            )
        return http_request

    def reply_decoder(self, limits: Limits) -> BufferedBody:
        """Return a buffer for one response body."""
        return BufferedBody(limits.max_image_reply_bytes)

    def decode_reply(self, reply: BufferedBody, request: Request, limits: Limits) -> Result:
        """Return all images of all candidates, without drafts.

        These are chat models: text beside the images is in the first image's `details` (settings
        `text`, at most 2,000 characters).

        Raises:
            ContentRefusedError: There is no image because of the provider's content rules
                (details `reason`, `message`).
            NoImageError: There is no image for another reason; the model's text is in the details
                (`text`, at most 2,000 characters).
            BadResponseError: The body is not a valid response.
        """
        document = decode_object(reply.body(), limits.max_json_depth)
        if "error" in document and not document.get("candidates"):
            raise build_error(200, read_error_value(document), {})
        images: list[ImagePart] = []
        details: list[ImageDetails] = []
        for part in _parts(document):
            inline = part.get("inlineData")
            if (
                part.get("thought") is True
                or not isinstance(inline, dict)
                or not str(inline.get("mimeType", "")).startswith("image/")
            ):
                continue
            data = inline.get("data")
            if not isinstance(data, str) or not data:
                raise BadResponseError("an image in the response has no data", code="NOT_AN_IMAGE")
            images.append(parse_base64_image(data, limits))
            signature = part.get("thoughtSignature")
            details.append(
                ImageDetails(
                    request.seed,
                    settings={"thoughtSignature": signature} if isinstance(signature, str) else {},
                )
            )
        if not images:
            raise _no_image_error(document)
        if text := _reply_text(document):
            details[0] = replace(details[0], settings={**details[0].settings, "text": text})
        return Result(
            tuple(images),
            tuple(details),
            usage=_usage(document.get("usageMetadata")),
            raw=without_image_bytes(document),
        )


def _fit_shape(request: Request, family: ImageModelFamily) -> tuple[Request, list[CallWarning]]:
    """Return the request with an accepted `aspect`, and `megapixels` if the family has sizes."""
    warnings: list[CallWarning] = []
    size, ratio, megapixels = request.pixels, request.ratio, request.megapixels
    if size is not None:
        ratio, megapixels = size[0] / size[1], size[0] * size[1] / 1e6
    aspect = family.nearest(ratio) if ratio is not None else ""
    if (
        size is None
        and ratio is not None
        and not 1 / RATIO_TOLERANCE < _ratio_value(aspect) / ratio < RATIO_TOLERANCE
    ):
        message = f"this model does not support aspect {request.aspect}; sent {aspect}"
        warnings.append(CallWarning(UNSUPPORTED, message, "aspect"))
    if not family.sizes:
        request, dropped = drop_fields(
            request, ("megapixels",), "this model generates images of one area only"
        )
        warnings += dropped
        megapixels = None
    elif megapixels is not None:
        megapixels = SIZES[_size_name(megapixels)]
    return replace(request, size="", aspect=aspect, megapixels=megapixels), warnings


def _size_name(megapixels: float) -> str:
    return min(SIZES, key=lambda name: abs(math.log(SIZES[name] / megapixels)))


def _ratio_value(ratio: str) -> float:
    """Return width divided by height of a ratio such as "16:9"."""
    width, _, height = ratio.partition(":")
    return int(width) / int(height)


def _reply_text(document: Mapping[str, Any]) -> str:
    """Return the text of a response, without thoughts, at most `MAX_TEXT_CHARACTERS` long."""
    texts = (
        part["text"]
        for part in _parts(document)
        if part.get("thought") is not True and isinstance(part.get("text"), str)
    )
    return "".join(texts).strip()[:MAX_TEXT_CHARACTERS]


def _parts(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for candidate in as_objects(document.get("candidates")):
        content = candidate.get("content")
        yield from as_objects(content.get("parts")) if isinstance(content, dict) else ()


def _no_image_error(document: Mapping[str, Any]) -> MajordomoError:
    """Return the error for a response without an image.

    Checked in this order: the prompt was refused, the image was refused, the model answered with
    text instead.
    """
    feedback = document.get("promptFeedback")
    if isinstance(feedback, dict) and (reason := _plain(feedback.get("blockReason"))):
        return _refusal(
            "Gemini refused the prompt", reason, _plain(feedback.get("blockReasonMessage"))
        )
    if not isinstance(document.get("candidates"), list):
        return BadResponseError('the response has no list "candidates"')
    reasons = [
        (reason, _plain(item.get("finishMessage")))
        for item in as_objects(document.get("candidates"))
        if (reason := _plain(item.get("finishReason")))
    ]
    for reason, message in reasons:
        if reason in _REFUSAL_REASONS or (
            reason.startswith("IMAGE_") and reason not in _NO_IMAGE_REASONS
        ):
            return _refusal("Gemini refused to return the image", reason, message)
    reason, message = reasons[0] if reasons else ("", "")
    details = {"reason": reason} if reason else {}
    text = _reply_text(document)
    if text and reason not in _NO_IMAGE_REASONS:
        return NoImageError(
            f"the model answered with text instead of an image: {text}",
            details={**details, "text": text},
        )
    explanation = f"{reason}: {message}".removesuffix(": ") if reason else "no reason is given"
    return NoImageError(
        f"the response has no image ({explanation})",
        details={**details, "text": text} if text else details,
    )


def _refusal(summary: str, reason: str, message: str) -> ContentRefusedError:
    text = f"{summary} ({reason}){': ' if message else ''}{message}"
    return ContentRefusedError(text, details={"reason": reason, "message": message})


def _plain(value: Any) -> str:
    """Return a text of the server without control characters, "" for anything else."""
    return plain_text(value, MAX_TEXT_CHARACTERS) if isinstance(value, str) else ""


def _usage(value: Any) -> Usage:
    """Return the token usage. Thinking counts as output; the server omits counts of zero."""
    if not isinstance(value, dict):
        return Usage()
    prompt, output, thinking = (
        as_token_count(value.get(f"{name}TokenCount"))
        for name in ("prompt", "candidates", "thoughts")
    )
    input_by_modality = usage_by_modality(value, "promptTokensDetails")
    output_by_modality = usage_by_modality(value, "candidatesTokensDetails")
    return Usage(
        prompt,
        None if output is None and thinking is None else (output or 0) + (thinking or 0),
        text_input_tokens=tokens_by_modality(input_by_modality, "TEXT", "DOCUMENT"),
        image_input_tokens=tokens_by_modality(input_by_modality, "IMAGE"),
        cached_tokens=as_token_count(value.get("cachedContentTokenCount")),
        text_output_tokens=tokens_by_modality(output_by_modality, "TEXT", "DOCUMENT"),
        image_output_tokens=tokens_by_modality(output_by_modality, "IMAGE"),
    )


def without_image_bytes(value: Any) -> Any:
    """Return a response with a placeholder for the data of each image, drafts included."""
    if isinstance(value, list):
        return [without_image_bytes(item) for item in value]
    if not isinstance(value, dict):
        return value
    data = value.get("data")
    if isinstance(data, str) and "mimeType" in value:
        size = len(data) * 3 // 4 - data[-2:].count("=")
        return {**value, "data": f"<{value['mimeType']}, {size} bytes>"}
    return {name: without_image_bytes(item) for name, item in value.items()}
