"""fal's queue API: submit a request, poll its status, fetch its result, cancel it.

Sources, read in November 2026: fal.ai/docs (inference-api/queue, model-apis/queue,
model-apis/errors, model-apis/request-errors, model-apis/fal-cdn), and the clients fal-client at
c6f0afaa and fal-js at 381105e. What they say about the wire:

* `POST /{owner}/{app}[/{path}]` with the model's input as JSON. The reply has `request_id`.
* `GET /{owner}/{app}/requests/{request_id}/status` has `status`: IN_QUEUE with `queue_position`,
  the number of requests ahead; IN_PROGRESS; or COMPLETED, also for a request that failed. It is
  answered with 202 until the request has completed.
* `GET /{owner}/{app}/requests/{request_id}` has the result, or the status and body of the error.
* `PUT /{owner}/{app}/requests/{request_id}/cancel` removes a request from the queue (202), or asks
  the runner to stop; 400 when the request has completed.
* A model id with one of the namespaces `workflows` and `comfy` has it in front of the owner.

The replies also have the URLs of these routes. They are not followed, because they would send the
key wherever a reply says; the paths are built from the request id, as both clients do when they
continue a request by its id.

Files of the result are URLs, mostly of the CDN (`fal.media`), which needs no key, or data URLs with
`sync_mode`. Input images are sent as data URLs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from majordomo.dialects.fal.models import ModelInput
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    details_of,
    drop_fields,
    drop_other_fields,
    reported_count,
    resolve_size,
)
from majordomo.dialects.image_jobs import JobFiles, JobStatus
from majordomo.dialects.request_body import UNSUPPORTED, json_request
from majordomo.dialects.result_urls import read_result_url, without_query
from majordomo.dialects.samplers import SamplerCatalog
from majordomo.errors import (
    BadResponseError,
    CallWarning,
    ContentRefusedError,
    InvalidRequestError,
    NoImageError,
    UnsupportedError,
)
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.buffered_body import BufferedBody
from majordomo.framing.json import decode_object
from majordomo.imagegen import Request, Result, Usage
from majordomo.imagegen.geometry import Geometry
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest
from majordomo.validation import is_number

_NAMESPACES = ("workflows", "comfy")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
# "Range: 1 to 4" at almost every model that has `num_images`.
_USUAL_MAX_IMAGES = 4
_GEOMETRY = Geometry(multiple=16)
# The models' names for a field of the request; a model has one of them, or none.
_NAMES: dict[str, tuple[str, ...]] = {
    "n": ("num_images",),
    "steps": ("num_inference_steps",),
    "cfg_scale": ("guidance_scale",),
    "negative_prompt": ("negative_prompt",),
    "seed": ("seed",),
    "strength": ("strength",),
    "output_format": ("output_format", "format"),
    "quality": ("quality",),
    "background": ("background",),
    "mask": ("mask_url", "mask_image_url"),
}
_SETTINGS = tuple(name for name in _NAMES if name not in ("n", "mask"))
_IMAGE_LISTS = ("image_urls", "input_image_urls", "reference_image_urls")


@dataclass(frozen=True, slots=True)
class FalQueueCodec:
    """Client-side codec for one model of fal's queue.

    What a model accepts is in the catalog. A model whose entry is not known is sent every field
    under its most frequent name.
    """

    model: str
    """The model id, "owner/app" or "owner/app/path"."""
    model_input: ModelInput | None = None
    """The fields that the model accepts; None when they are not known. All steps of a call need the
    same ones."""

    def input_format(self, model: str) -> ImageInputFormat:
        """Return the format of input images: unchanged, with a luminance mask."""
        return ImageInputFormat()

    def max_per_call(self, model: str, request: Request) -> int:
        """Return the maximum number of images per request; 1 for a model that has no number."""
        accepted = self.model_input
        if accepted is None:
            return _USUAL_MAX_IMAGES
        if "num_images" not in accepted.names:
            return 1
        return max(accepted.max_images or _USUAL_MAX_IMAGES, 1)

    def adapt(
        self, model: str, request: Request, catalog: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        """Return the request as the model accepts it, and a warning for each dropped field.

        Raises InvalidRequestError for an id that is not a model id, and UnsupportedError for input
        images or a mask that the model does not take.
        """
        _app_path(model)
        accepted = self.model_input
        _check_inputs(model, request, accepted)
        request, warnings = drop_other_fields(
            request,
            _SETTINGS,
            "fal's models have names of their own for it, if any; set theirs in extra",
            {"previews": "fal sends no unfinished images"},
        )
        if not request.images:
            request, dropped = drop_fields(request, ("strength",), "it needs input images")
            warnings += dropped
        if accepted is not None:
            request, dropped = _drop_unknown(model, request, accepted)
            warnings += dropped
            if "prompt" not in accepted.names:
                message = f"prompt has no effect: {model} takes none"
                warnings.append(CallWarning(UNSUPPORTED, message, "prompt"))
        request, dropped = _adapt_size(model, request, accepted)
        return request, [*warnings, *dropped]

    def encode_request(self, model: str, request: Request) -> HTTPRequest:
        """Return the HTTP request that submits a request.

        Raises UnsupportedError for input images that the model does not take.
        """
        accepted = self.model_input
        placeholders = Base64Placeholders()
        body: dict[str, Any] = {}
        if accepted is None or "prompt" in accepted.names:
            body["prompt"] = request.prompt
        if request.aspect:
            body["aspect_ratio"] = request.aspect
        elif (size := request.pixels) is not None:
            body["image_size"] = {"width": size[0], "height": size[1]}
        values: tuple[tuple[str, Any], ...] = (
            ("n", request.n or None),
            *((name, getattr(request, name)) for name in _SETTINGS),
            ("mask", None if request.mask is None else placeholders.data_url(request.mask)),
        )
        for name, value in values:
            if value is not None and value != "":
                body[_name_of(name, accepted)] = value
        if request.images:
            field, several = _image_field(model, request, accepted)
            images = [placeholders.data_url(image) for image in request.images]
            body[field] = images if several else images[0]
        return json_request(f"/{_quoted(model)}", body, request.extra, placeholders)

    def decode_job_id(self, body: bytes, limits: Limits) -> str:
        """Return the id of a submitted request.

        Raises BadResponseError when there is none that can be part of a path.
        """
        job = decode_object(body, limits.max_json_depth).get("request_id")
        if not isinstance(job, str) or not _REQUEST_ID.fullmatch(job):
            raise BadResponseError('the response has no valid "request_id"')
        return job

    def encode_poll(self, job: str) -> HTTPRequest:
        """Return the request for the status of a request."""
        return HTTPRequest("GET", f"{self._job_path(job)}/status")

    def encode_result(self, job: str) -> HTTPRequest:
        """Return the request for the result of a completed request."""
        return HTTPRequest("GET", self._job_path(job))

    def encode_cancel(self, job: str) -> HTTPRequest:
        """Return the request that cancels a request."""
        return HTTPRequest("PUT", f"{self._job_path(job)}/cancel")

    def reply_decoder(self, limits: Limits) -> BufferedBody:
        """Return a decoder for one status response."""
        return BufferedBody(limits.max_reply_bytes)

    def decode_status(self, reply: BufferedBody, request: Request, limits: Limits) -> JobStatus:
        """Return the status of a request.

        A request that failed has completed too; its result is the error.
        """
        document = decode_object(reply.body(), limits.max_json_depth)
        match document.get("status"):
            case "IN_QUEUE":
                # "Number of requests ahead of yours"
                return JobStatus(reported_count(document.get("queue_position")) + 1)
            case "IN_PROGRESS":
                return JobStatus()
            case "COMPLETED":
                return JobStatus(ended=True)
        raise BadResponseError('the response has no known "status"')

    def decode_files(self, body: bytes, request: Request, limits: Limits) -> JobFiles:
        """Return the images that a result names.

        The safety checker replaces an image that it flags by a black one. Such images are left out,
        with a warning, unless the request switches the checker off.

        Raises:
            ContentRefusedError: Every image was flagged.
            NoImageError: The result names no image.
            BadResponseError: The result is not valid, or names an image by an invalid URL.
        """
        document = decode_object(body, limits.max_json_depth)
        items = document.get("images")
        if not isinstance(items, list):
            items = [document["image"]] if isinstance(document.get("image"), dict) else []
        urls = [item.get("url") if isinstance(item, dict) else item for item in items]
        if not urls:
            raise NoImageError("the result has no image")
        flags = document.get("has_nsfw_concepts")
        if not isinstance(flags, list) or request.extra.get("enable_safety_checker") is False:
            flags = []
        flagged = {index for index, flag in enumerate(flags[: len(urls)]) if flag is True}
        if len(flagged) == len(urls):
            raise ContentRefusedError("the safety checker flagged every image of the result")
        warnings = []
        if flagged:
            message = f"the safety checker flagged {len(flagged)} images; they were left out"
            warnings.append(CallWarning("IMAGE_REFUSED", message))
        unflagged = [url for index, url in enumerate(urls) if index not in flagged]
        kept = unflagged[: limits.max_images]
        if len(kept) < len(unflagged):
            message = f"{len(unflagged)} images were generated; the first {len(kept)} were fetched"
            warnings.append(CallWarning("IMAGES_NOT_FETCHED", message, "n"))
        return JobFiles(
            tuple(read_result_url(url, limits) for url in kept),
            {**document, **_cleaned_images(document)},
            tuple(warnings),
        )

    def decode_result(
        self, images: Sequence[ImagePart], files: JobFiles, request: Request
    ) -> Result:
        """Return the result of a completed request from its fetched images."""
        seed = files.raw.get("seed")
        if not isinstance(seed, int) or isinstance(seed, bool):
            seed = request.seed
        prompt = files.raw.get("prompt")
        if not isinstance(prompt, str) or prompt in ("", request.prompt):
            prompt = None
        timings = files.raw.get("timings")
        seconds = timings.get("inference") if isinstance(timings, dict) else None
        return Result(
            tuple(images),
            tuple(details_of(image, seed, prompt) for image in images),
            files.warnings,
            Usage(seconds=seconds if is_number(seconds) and seconds >= 0 else None),
            raw=files.raw,
        )

    def _job_path(self, job: str) -> str:
        return f"/{_app_path(self.model)}/requests/{job}"


def _app_path(model: str) -> str:
    """Return the path of a model's application, which is its id without the path of the endpoint.

    Raises InvalidRequestError for an id that is not "owner/app" or "owner/app/path".
    """
    segments = model.split("/")
    length = 3 if segments[0] in _NAMESPACES else 2
    if len(segments) < length or not all(segments) or "." in segments:
        raise InvalidRequestError(
            'a model of fal must be "owner/app" or "owner/app/path", for example '
            f'"fal-ai/flux/dev"; got {model!r}',
            field="model",
        )
    return _quoted("/".join(segments[:length]))


def _quoted(model: str) -> str:
    return quote(model, safe="/")


def _name_of(field: str, accepted: ModelInput | None) -> str:
    """Return the model's name of a field of the request."""
    names = _NAMES[field]
    return next((name for name in names if accepted and name in accepted.names), names[0])


def _image_field(model: str, request: Request, accepted: ModelInput | None) -> tuple[str, bool]:
    """Return the model's field for the input images, and whether it is a list.

    Raises UnsupportedError if the model has no field for so many.
    """
    several = len(request.images) > 1
    if accepted is None:
        return ("image_urls", True) if several else ("image_url", False)
    if "image_url" in accepted.names and not several:
        return "image_url", False
    for name in _IMAGE_LISTS:
        if name in accepted.names:
            return name, True
    raise UnsupportedError(
        f"{model} takes one input image; got {len(request.images)}"
        if "image_url" in accepted.names
        else f"{model} takes no input images; edits have a model id of their own, often ending in "
        '"/edit" or "/image-to-image"',
        field="images",
    )


def _check_inputs(model: str, request: Request, accepted: ModelInput | None) -> None:
    """Raise UnsupportedError for input images or a mask that the model does not take."""
    if accepted is None or not request.images:
        return
    _image_field(model, request, accepted)
    if request.mask is not None and not accepted.names & set(_NAMES["mask"]):
        raise UnsupportedError(
            f"{model} takes no mask; inpainting has a model id of its own, often ending in "
            '"/inpainting"',
            field="mask",
        )


def _drop_unknown(
    model: str, request: Request, accepted: ModelInput
) -> tuple[Request, list[CallWarning]]:
    """Drop the settings that the model does not have, and values that it does not accept."""
    warnings: list[CallWarning] = []
    for field in _SETTINGS:
        name = _name_of(field, accepted)
        choices = accepted.choices.get(name, ())
        if name not in accepted.names:
            reason = f"{model} has no such setting"
        elif choices and getattr(request, field) not in choices:
            reason = f"{model} accepts {', '.join(choices)}"
        else:
            continue
        request, dropped = drop_fields(request, (field,), reason)
        warnings += dropped
    return request, warnings


def _adapt_size(
    model: str, request: Request, accepted: ModelInput | None
) -> tuple[Request, list[CallWarning]]:
    """Return the request with a size, or with an aspect ratio for a model that takes only those."""
    if accepted is None or "image_size" in accepted.names:
        return resolve_size(request, _GEOMETRY, exactly=False)
    ratios = [ratio for ratio in accepted.choices.get("aspect_ratio", ()) if ":" in ratio]
    if not ratios:
        return drop_fields(
            request, ("size", "aspect", "megapixels"), f"{model} has no such setting"
        )
    request, warnings = drop_fields(
        request, ("megapixels",), f"{model} accepts only an aspect ratio"
    )
    size = request.pixels
    wanted = size[0] / size[1] if size is not None else request.ratio
    if wanted is None:
        return request, warnings
    nearest = min(ratios, key=lambda ratio: abs(math.log(_ratio_of(ratio) / wanted)))
    return replace(request, size="", aspect=nearest), warnings


def _ratio_of(text: str) -> float:
    """Return an aspect ratio of the catalog as a number; 1 for anything that is not one."""
    width, _, height = text.partition(":")
    try:
        ratio = float(width) / float(height)
    except (ValueError, ZeroDivisionError):
        return 1.0
    return ratio if 0 < ratio < math.inf else 1.0


def _cleaned_images(document: dict[str, Any]) -> dict[str, Any]:
    """Return the images of a result without their data and without the signatures of their URLs."""

    def clean(item: Any) -> Any:
        if isinstance(item, list):
            return [clean(inner) for inner in item]
        if isinstance(item, dict) and isinstance(item.get("url"), str):
            return {**item, "url": without_query(item["url"])}
        return without_query(item) if isinstance(item, str) else item

    return {name: clean(document[name]) for name in ("images", "image") if name in document}
