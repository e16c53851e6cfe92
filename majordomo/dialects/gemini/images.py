"""Gemini's image models: chat models that answer with images, `POST /models/{id}:generateContent`.

Sources: vercel/ai at ed857f5 (packages google and google-vertex), Google's public REST reference. Imagen, the older route, was shut down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from majordomo.dialects.chat_accumulator import as_objects, as_token_count
from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.gemini.usage import tokens_by_modality, usage_by_modality
from majordomo.dialects.image_fields import ImageInputFormat, drop_fields, parse_base64_image
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
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.buffered_body import BufferedBody
from majordomo.framing.json import decode_object
from majordomo.imagegen import ImageDetails, Request, Result, Usage
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

RATIOS = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
LONG_RATIOS = ("1:4", "4:1", "1:8", "8:1")
SIZES = {"1K": 1024 * 1024 / 1e6, "2K": 2048 * 2048 / 1e6, "4K": 4096 * 4096 / 1e6}  # in megapixels
LARGEST_SEED = 2**31 - 1
LARGEST_BODY = (
    20 * 1024 * 1024
)  # with images in it; larger ones would have to be uploaded as files before
LONGEST_TEXT = 2000  # characters of an answer in words that go into an error
CLOSE = (
    1.01  # shapes this near to each other are the same: nobody writes 21:9 with all its decimals
)

_LACKING = (
    "strength",
    "steps",
    "cfg_scale",
    "sampler",
    "scheduler",
    "negative_prompt",
    "output_format",
    "quality",
    "background",
    "previews",
)
_REFUSING = ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION")
_IMAGELESS = ("NO_IMAGE", "IMAGE_OTHER")
_VERSION = re.compile(r"gemini-(\d{1,3})(?:\.(\d{1,3}))?(?!\d)")


@dataclass(frozen=True, slots=True)
class ImageModelFamily:
    """What a model takes: shapes, and whether one of three areas may be chosen."""

    ratios: tuple[str, ...]
    sizes: bool

    def nearest(self, shape: float) -> str:
        return min(self.ratios, key=lambda name: abs(math.log(_quotient(name) / shape)))


def family_of(model: str) -> ImageModelFamily:
    """Guessed from the id. One without a version is taken for a model of Gemini 3, which takes no long shapes."""
    found = _VERSION.search(model)
    version = (int(found[1]), int(found[2] or 0)) if found else (3, 0)
    return ImageModelFamily(RATIOS + LONG_RATIOS if version > (3, 0) else RATIOS, version >= (3, 0))


class GeminiImagesCodec:
    """Client door of `generateContent` for images. What the strict server does not know is never sent, but for the caller's `extra`."""

    def input_format(self, model: str) -> ImageInputFormat:
        return ImageInputFormat(rgb_png=False, mask=None)

    def max_per_call(self, model: str, request: Request) -> int:
        """One: `candidateCount` does not count images."""
        return 1

    def adapt(
        self, model: str, request: Request, lists: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        """The request with a shape and an area the model takes, in `aspect` and `megapixels`, instead of a size.

        A size in pixels brings no warning here: what came is compared with it. Raises UnsupportedError for a model of Imagen and for a
        mask.
        """
        if model.startswith("imagen-"):
            raise UnsupportedError(
                "Google has shut Imagen down; the gemini models with -image in their ids draw now"
            )
        if request.mask is not None:
            raise UnsupportedError(
                "Gemini takes no mask: say in the prompt what is to change", field="mask"
            )
        warnings: list[CallWarning] = []
        for name in _LACKING:
            hint = "; say in the prompt what to leave out" if name == "negative_prompt" else ""
            request, lost = drop_fields(request, (name,), f"Gemini has no such setting{hint}")
            warnings += lost
        # The images of one request are drawn from seed, seed + 1, …
        if request.seed is not None and request.seed + max(request.n, 1) - 1 > LARGEST_SEED:
            request, lost = drop_fields(
                request, ("seed",), f"Gemini's seeds go up to {LARGEST_SEED}"
            )
            warnings += lost
        request, more = _shaped(request, family_of(model))
        return request, [*warnings, *more]

    def encode_request(self, model: str, request: Request) -> HTTPRequest:
        """Of a fitted request. Raises InvalidRequestError (field `images`) when its images make it larger than 20 MiB."""
        splices = Splices()
        parts: list[dict[str, Any]] = [{"text": request.prompt}]
        parts += [
            {"inlineData": {"mimeType": image.mime, "data": splices.base64(image)}}
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
        wire = json_request(
            f"/models/{quote(model, safe='')}:generateContent", body, request.extra, splices
        )
        if isinstance(wire.body, Base64Body) and wire.body.length > LARGEST_BODY:
            raise InvalidRequestError(
                "Gemini takes images of at most 20 MB together",
                field="images",
                code="IMAGE_TOO_LARGE",
            )
        return wire

    def reply_decoder(self, limits: Limits) -> BufferedBody:
        return BufferedBody(limits.max_image_reply_bytes)

    def decode_reply(self, reply: BufferedBody, request: Request, limits: Limits) -> Result:
        """All images of all candidates but drafts. These are chat models: what one says beside its images stands in the first
        image's `details` (settings `text`, at most 2,000 characters).

        Without an image: ContentRefusedError (details `reason`, `message`) when that was a matter of rules, else NoImageError, with what
        the model said instead in its details (`text`, at most 2,000 characters). Raises BadResponseError for what is no answer.
        """
        document = decode_object(reply.body(), limits.max_json_depth)
        if "error" in document and not document.get("candidates"):
            raise build_error(200, error_value(document), {})
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
                raise BadResponseError("an image of the answer has no bytes", code="NOT_AN_IMAGE")
            images.append(parse_base64_image(data, limits))
            signature = part.get("thoughtSignature")
            details.append(
                ImageDetails(
                    request.seed,
                    settings={"thoughtSignature": signature} if isinstance(signature, str) else {},
                )
            )
        if not images:
            raise _why_none(document)
        if words := _said(document):
            details[0] = replace(details[0], settings={**details[0].settings, "text": words})
        return Result(
            tuple(images),
            tuple(details),
            usage=_usage(document.get("usageMetadata")),
            raw=without_bytes(document),
        )


def _shaped(request: Request, family: ImageModelFamily) -> tuple[Request, list[CallWarning]]:
    """The request with one of the family's shapes as `aspect`, and an area only where the family lets one choose."""
    warnings: list[CallWarning] = []
    size, shape, area = request.pixels, request.ratio, request.megapixels
    if size is not None:
        shape, area = size[0] / size[1], size[0] * size[1] / 1e6
    aspect = family.nearest(shape) if shape is not None else ""
    if size is None and shape is not None and not 1 / CLOSE < _quotient(aspect) / shape < CLOSE:
        words = f"aspect {request.aspect} is none this model draws; {aspect} was asked for instead"
        warnings.append(CallWarning(UNSUPPORTED, words, "aspect"))
    if not family.sizes:
        request, lost = drop_fields(
            request, ("megapixels",), "this model draws images of one area only"
        )
        warnings += lost
        area = None
    elif area is not None:
        area = SIZES[_size_name(area)]
    return replace(request, size="", aspect=aspect, megapixels=area), warnings


def _size_name(megapixels: float) -> str:
    return min(SIZES, key=lambda name: abs(math.log(SIZES[name] / megapixels)))


def _quotient(ratio: str) -> float:
    across, _, down = ratio.partition(":")
    return int(across) / int(down)


def _said(document: Mapping[str, Any]) -> str:
    """The words of an answer, without its thoughts."""
    texts = (
        part["text"]
        for part in _parts(document)
        if part.get("thought") is not True and isinstance(part.get("text"), str)
    )
    return "".join(texts).strip()[:LONGEST_TEXT]


def _parts(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for candidate in as_objects(document.get("candidates")):
        content = candidate.get("content")
        yield from as_objects(content.get("parts")) if isinstance(content, dict) else ()


def _why_none(document: Mapping[str, Any]) -> MajordomoError:
    """The error for an answer without an image: the prompt's fault, then the image's, then words instead."""
    feedback = document.get("promptFeedback")
    if isinstance(feedback, dict) and (reason := _word(feedback.get("blockReason"))):
        return _refused("Gemini refused the prompt", reason, feedback.get("blockReasonMessage"))
    if not isinstance(document.get("candidates"), list):
        return BadResponseError('the answer has no list "candidates"')
    reasons = [
        (reason, item.get("finishMessage"))
        for item in as_objects(document.get("candidates"))
        if (reason := _word(item.get("finishReason")))
    ]
    for reason, message in reasons:
        if reason in _REFUSING or (reason.startswith("IMAGE_") and reason not in _IMAGELESS):
            return _refused("Gemini refused to show the image", reason, message)
    reason, told = reasons[0] if reasons else ("", None)
    details = {"reason": reason} if reason else {}
    text = _said(document)
    if text and reason not in _IMAGELESS:
        return NoImageError(
            f"the model answered in words: {text}", details={**details, "text": text}
        )
    words = f"{reason}: {_word(told)}".removesuffix(": ") if reason else "no reason is given"
    return NoImageError(
        f"the answer holds no image ({words})",
        details={**details, "text": text} if text else details,
    )


def _refused(what: str, reason: str, message: Any) -> ContentRefusedError:
    message = _word(message)
    words = f"{what} ({reason}){': ' if message else ''}{message}"
    return ContentRefusedError(words, details={"reason": reason, "message": message})


def _word(value: Any) -> str:
    return plain_text(value, LONGEST_TEXT) if isinstance(value, str) else ""


def _usage(value: Any) -> Usage:
    """Thoughts are paid for as output; counts that are zero are left out by the server."""
    if not isinstance(value, dict):
        return Usage()
    asked, made, thought = (
        as_token_count(value.get(f"{name}TokenCount"))
        for name in ("prompt", "candidates", "thoughts")
    )
    read, written = (
        usage_by_modality(value, "promptTokensDetails"),
        usage_by_modality(value, "candidatesTokensDetails"),
    )
    return Usage(
        asked,
        None if made is None and thought is None else (made or 0) + (thought or 0),
        text_input_tokens=tokens_by_modality(read, "TEXT", "DOCUMENT"),
        image_input_tokens=tokens_by_modality(read, "IMAGE"),
        cached_tokens=as_token_count(value.get("cachedContentTokenCount")),
        text_output_tokens=tokens_by_modality(written, "TEXT", "DOCUMENT"),
        image_output_tokens=tokens_by_modality(written, "IMAGE"),
    )


def without_bytes(value: Any) -> Any:
    """The answer without the bytes of its images, drafts included."""
    if isinstance(value, list):
        return [without_bytes(item) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("data"), str) and "mimeType" in value:
        return {
            **value,
            "data": f"<{value['mimeType']}, {len(value['data']) * 3 // 4 - value['data'][-2:].count('=')} bytes>",
        }
    return {name: without_bytes(item) for name, item in value.items()}
