"""stable-diffusion.cpp's own API: `/sdcpp/v1/img_gen` and its jobs.

Source: stable-diffusion.cpp at 97d2990, `examples/server`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from majordomo.backend_status import ModelInfo
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    describe_image,
    details_of,
    drop_other_fields,
    first_size,
    parse_base64_image,
    parse_image,
    resolve_size,
)
from majordomo.dialects.image_jobs import JobStatus
from majordomo.dialects.request_body import json_request
from majordomo.dialects.samplers import SDCPP, SamplerCatalog
from majordomo.dialects.stable_diffusion_cpp.prompt_tag import SEED_WARNING, clamp_steps
from majordomo.errors import (
    BackendError,
    BadResponseError,
    CallWarning,
    JobCancelledError,
    NoImageError,
)
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.image_reply import ImageReplyDecoder
from majordomo.framing.json import decode_object
from majordomo.imagegen import Request, Result
from majordomo.imagegen.geometry import local_geometry
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

MAX_BATCH = 8
_FIELDS = (
    *("steps", "cfg_scale", "negative_prompt", "sampler", "scheduler", "seed", "output_format"),
)
_REASONS = {
    "previews": f"{SDCPP.backend} sends no unfinished images",
    "strength": "it needs input images",
}


@dataclass(frozen=True, slots=True)
class SdcppJobsCodec:
    """Client-side codec for image jobs of sd-server.

    The `<sd_cpp_extra_args>` tag of the other routes is plain text here, so the prompt is sent
    unchanged.
    """

    path: str = "/sdcpp/v1"
    """Path of the API below the base URL."""

    def input_format(self, model: str) -> ImageInputFormat:
        """Return the format of input images: RGB PNG, with a luminance mask."""
        return ImageInputFormat(rgb_png=True, mask="luminance")

    def max_per_call(self, model: str, request: Request) -> int:
        """Return the maximum number of images per job."""
        return MAX_BATCH

    def adapt(
        self, model: str, request: Request, catalog: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        """Return the request as the server can honor it, and a warning for each dropped field.

        Raises as `SamplerVocabulary.translate` does.
        """
        request, warnings = clamp_steps(SDCPP.translate(request, catalog))
        request, dropped = drop_other_fields(
            request,
            (*_FIELDS, "strength") if request.images else _FIELDS,
            f"{SDCPP.backend} has no such setting",
            _REASONS,
        )
        warnings = [*warnings, *dropped]
        if request.seed is None:
            warnings.append(SEED_WARNING)
        request, size_warnings = resolve_size(request, local_geometry(model), exactly=False)
        return request, [*warnings, *size_warnings]

    def encode_request(self, model: str, request: Request) -> HTTPRequest:
        """Return the HTTP request that submits a job."""
        placeholders = Base64Placeholders()
        body: dict[str, Any] = {"prompt": request.prompt}
        # "sent without width/height the output is the server default, not the image's size"
        if (size := first_size(request)) is not None:
            body["width"], body["height"] = size
        fields: tuple[tuple[str, Any], ...] = (
            ("negative_prompt", request.negative_prompt or None),
            ("seed", request.seed),
            ("batch_count", request.n or None),
            ("output_format", request.output_format or None),
            ("strength", None if request.strength is None else float(request.strength)),
        )
        body.update({name: value for name, value in fields if value is not None})
        fields = (
            ("sample_steps", request.steps),
            ("sample_method", request.sampler or None),
            ("scheduler", request.scheduler or None),
            (
                "guidance",
                None if request.cfg_scale is None else {"txt_cfg": float(request.cfg_scale)},
            ),
        )
        if sampling := {name: value for name, value in fields if value is not None}:
            body["sample_params"] = sampling
        if request.images:
            body["init_image"] = placeholders.base64(request.images[0])
            if len(request.images) > 1:
                body["ref_images"] = [placeholders.base64(image) for image in request.images[1:]]
        if request.mask is not None:
            body["mask_image"] = placeholders.base64(request.mask)
        return json_request(f"{self.path}/img_gen", body, request.extra, placeholders)

    def decode_job_id(self, body: bytes, limits: Limits) -> str:
        """Return the id of a submitted job. Raises BadResponseError when there is none."""
        job = decode_object(body, limits.max_json_depth).get("id")
        if not isinstance(job, str) or not job:
            raise BadResponseError('the response has no job "id"')
        return job

    def encode_poll(self, job: str) -> HTTPRequest:
        """Return the request for the status of a job."""
        return HTTPRequest("GET", f"{self.path}/jobs/{quote(job, safe='')}")

    def encode_cancel(self, job: str) -> HTTPRequest:
        """Return the request that cancels a queued job.

        The server answers 409 for a job that runs, and finishes it.
        """
        return HTTPRequest("POST", f"{self.path}/jobs/{quote(job, safe='')}/cancel")

    def reply_decoder(self, limits: Limits) -> ImageReplyDecoder:
        """Return a decoder for one status response."""
        return ImageReplyDecoder(
            limit=limits.max_image_reply_bytes,
            image_limit=limits.max_image_bytes,
            depth=limits.max_json_depth,
        )

    def decode_status(
        self, reply: ImageReplyDecoder, request: Request, limits: Limits
    ) -> JobStatus:
        """Return the status of a job, with the result of a finished one.

        Raises:
            BackendError: The job failed.
            JobCancelledError: The job was cancelled.
            NoImageError: The finished job has no image.
        """
        job = reply.finish()
        status = job.get("status")
        if status == "queued":
            position = job.get("queue_position")
            if not isinstance(position, int) or isinstance(position, bool) or position < 1:
                position = 1
            return JobStatus(position)
        if status == "completed":
            return JobStatus(result=_decode_result(job, reply.images, request, limits))
        if status in ("failed", "cancelled"):
            value = job.get("error")
            error = value if isinstance(value, dict) else {}
            message = str(error.get("message") or f"the server reports the job as {status}")
            if status == "cancelled":
                raise JobCancelledError(message)
            raise BackendError(
                message,
                code="GENERATION_FAILED",
                details={"backend_code": str(error.get("code", ""))},
            )
        return JobStatus()


def _decode_result(
    job: dict[str, Any], decoded_images: list[bytes], request: Request, limits: Limits
) -> Result:
    """Return the result of a finished job.

    The reply decoder replaces each image in the JSON with its index in `decoded_images`.
    """
    value = job.get("result")
    items = value.get("images") if isinstance(value, dict) else None
    images: list[ImagePart] = []
    for item in items if isinstance(items, list) else ():
        data = item.get("b64_json") if isinstance(item, dict) else None
        if isinstance(data, int) and not isinstance(data, bool) and 0 <= data < len(decoded_images):
            images.append(parse_image(decoded_images[data], limits))
        elif isinstance(data, str) and data:
            images.append(parse_base64_image(data, limits))
    if not images:
        raise NoImageError("the finished job has no image")
    details = tuple(
        details_of(image, None if request.seed is None else request.seed + index)
        for index, image in enumerate(images)
    )
    return Result(
        tuple(images),
        details,
        raw={**job, "result": {"images": [describe_image(image) for image in images]}},
    )


def decode_capabilities(body: bytes, limits: Limits) -> tuple[SamplerCatalog, ModelInfo]:
    """Return the samplers and schedulers, and the one model of this process.

    They are the response of `GET /sdcpp/v1/capabilities`.
    """
    document = decode_object(body, limits.max_json_depth)
    value = document.get("model")
    model = value if isinstance(value, dict) else {}
    name = next(
        (text for key in ("stem", "name") if isinstance(text := model.get(key), str) and text),
        "sd-cpp-local",
    )
    info = ModelInfo(name, frozenset({"image", "edit"}), True, "ready", raw=document)
    catalog = SamplerCatalog(_names(document.get("samplers")), _names(document.get("schedulers")))
    return catalog, info


def _names(value: Any) -> tuple[str, ...] | None:
    """Return the names in a list of names, or of objects with a name; None for anything else."""
    if not isinstance(value, list):
        return None
    return tuple(
        name
        for item in value
        if isinstance(name := item.get("name") if isinstance(item, dict) else item, str)
    )
