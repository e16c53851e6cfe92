"""stable-diffusion.cpp's own API: `/sdcpp/v1/img_gen` and its jobs. Source: stable-diffusion.cpp at 97d2990, `examples/server`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from majordomo.backend_status import ModelInfo
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    describe_image,
    details_of,
    drop_fields,
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
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.image_reply import ImageReplyDecoder
from majordomo.framing.json import decode_object
from majordomo.imagegen import Request, Result
from majordomo.imagegen.geometry import local_geometry
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

BATCH = 8


@dataclass(frozen=True, slots=True)
class SdcppJobsCodec:
    """Client door. The tag of the other routes is plain text here, so a prompt goes as it is."""

    path: str = "/sdcpp/v1"

    def input_format(self, model: str) -> ImageInputFormat:
        return ImageInputFormat(rgb_png=True, mask="luminance")

    def max_per_call(self, model: str, request: Request) -> int:
        return BATCH

    def adapt(
        self, model: str, request: Request, lists: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        request, warnings = clamp_steps(SDCPP.translate(request, lists))
        request, lost = drop_fields(
            request, ("quality", "background"), f"{SDCPP.backend} has no such setting"
        )
        request, more = drop_fields(
            request, ("previews",), f"{SDCPP.backend} shows no unfinished images"
        )
        warnings = [*warnings, *lost, *more]
        if not request.images:
            request, lost = drop_fields(request, ("strength",), "it needs images")
            warnings += lost
        if request.seed is None:
            warnings.append(SEED_WARNING)
        request, lost = resolve_size(request, local_geometry(model), exactly=False)
        return request, [*warnings, *lost]

    def encode_request(self, model: str, request: Request) -> HTTPRequest:
        splices = Splices()
        body: dict[str, Any] = {"prompt": request.prompt}
        if (
            (size := first_size(request)) is not None
        ):  # "sent without width/height the output is the server default, not the image's size"
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
            body["init_image"] = splices.base64(request.images[0])
            if len(request.images) > 1:
                body["ref_images"] = [splices.base64(image) for image in request.images[1:]]
        if request.mask is not None:
            body["mask_image"] = splices.base64(request.mask)
        return json_request(f"{self.path}/img_gen", body, request.extra, splices)

    def decode_job_id(self, body: bytes, limits: Limits) -> str:
        """The job's id."""
        job = decode_object(body, limits.max_json_depth).get("id")
        if not isinstance(job, str) or not job:
            raise BadResponseError("the answer names no job")
        return job

    def encode_poll(self, job: str) -> HTTPRequest:
        return HTTPRequest("GET", f"{self.path}/jobs/{quote(job, safe='')}")

    def encode_cancel(self, job: str) -> HTTPRequest:
        """Works while the job waits; once it is drawn the answer is 409, and it is drawn to its end."""
        return HTTPRequest("POST", f"{self.path}/jobs/{quote(job, safe='')}/cancel")

    def reply_decoder(self, limits: Limits) -> ImageReplyDecoder:
        return ImageReplyDecoder(
            limit=limits.max_image_reply_bytes,
            image_limit=limits.max_image_bytes,
            depth=limits.max_json_depth,
        )

    def decode_status(
        self, reply: ImageReplyDecoder, request: Request, limits: Limits
    ) -> JobStatus:
        """Raises BackendError for a job that failed, JobCancelledError for one that somebody cancelled."""
        job = reply.finish()
        status = job.get("status")
        if status == "queued":
            position = job.get("queue_position")
            return JobStatus(
                position
                if isinstance(position, int) and not isinstance(position, bool) and position > 0
                else 1
            )
        if status == "completed":
            return JobStatus(result=_result(job, reply.images, request, limits))
        if status in ("failed", "cancelled"):
            error = job.get("error")
            words = error if isinstance(error, dict) else {}
            message = str(words.get("message") or f"the job is {status}")
            if status == "cancelled":
                raise JobCancelledError(message)
            raise BackendError(
                message,
                code="GENERATION_FAILED",
                details={"backend_code": str(words.get("code", ""))},
            )
        return JobStatus()


def _result(job: dict[str, Any], cut: list[bytes], request: Request, limits: Limits) -> Result:
    found = job.get("result")
    items = found.get("images") if isinstance(found, dict) else None
    images: list[ImagePart] = []
    for item in items if isinstance(items, list) else ():
        value = item.get("b64_json") if isinstance(item, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(cut):
            images.append(parse_image(cut[value], limits))
        elif isinstance(value, str) and value:
            images.append(parse_base64_image(value, limits))
    if not images:
        raise NoImageError("the finished job holds no image")
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
    """`GET /sdcpp/v1/capabilities`: samplers and schedulers, and the one model this process has."""
    document = decode_object(body, limits.max_json_depth)
    model = document.get("model")
    named = model if isinstance(model, dict) else {}
    name = next(
        (value for key in ("stem", "name") if isinstance(value := named.get(key), str) and value),
        "sd-cpp-local",
    )
    info = ModelInfo(name, frozenset({"image", "edit"}), True, "ready", raw=document)
    return SamplerCatalog(
        _names(document.get("samplers")), _names(document.get("schedulers"))
    ), info


def _names(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(
        name
        for item in value
        if isinstance(name := item.get("name") if isinstance(item, dict) else item, str)
    )
