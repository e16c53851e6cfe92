"""AUTOMATIC1111's `/sdapi/v1` routes, also served by its forks, sd-server and llama-swap.

Sources: AUTOMATIC1111/stable-diffusion-webui 1.6 to 1.10 `modules/api`, stable-diffusion.cpp at
97d2990, llama-swap at 0bdb372.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from majordomo.dialects.errors import build_error, read_error_value
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    describe_image,
    drop_other_fields,
    first_size,
    parse_base64_image,
    parse_preview,
    reported_count,
    reported_seed,
    resolve_size,
    text_chunks,
)
from majordomo.dialects.image_jobs import JobProgress
from majordomo.dialects.request_body import json_request
from majordomo.dialects.samplers import A1111, SDCPP, SamplerCatalog
from majordomo.dialects.stable_diffusion_cpp.prompt_tag import clamp_steps, with_neutralized_text
from majordomo.errors import BadResponseError, CallWarning, NoImageError, UnsupportedError
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.buffered_body import BufferedBody
from majordomo.framing.json import decode_json, decode_object
from majordomo.imagegen import ImageDetails, Request, Result
from majordomo.imagegen.geometry import local_geometry
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

# The model id for the checkpoint that A1111 has loaded.
CURRENT = "current"

# `inpainting_fill`: start from the image. The API's default 0 blurs it; A1111's own page sends 1.
ORIGINAL_FILL = 1

# `resize_mode`: crop and resize. 0 would stretch.
CROP_AND_RESIZE = 1

_FIELDS = ("steps", "cfg_scale", "negative_prompt", "sampler", "scheduler", "seed")
_REASONS = {
    "strength": "it needs input images",
    "output_format": "the server chooses the format of its images",
}

# Longer texts in the echoed parameters are images.
MAX_ECHOED_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class SDAPICodec:
    """Client-side codec for txt2img and img2img."""

    sdcpp: bool = False
    """Whether the server implements sd-server's subset.

    It has its own names, no prompt syntax, PNG only, at most 8 images at once and no progress.
    """
    path: str = "/sdapi/v1"
    """Path of the API below the base URL."""
    names_model: bool = False
    """Whether to send the model in the body: llama-swap reads it there, sd-server has one model."""

    def input_format(self, model: str) -> ImageInputFormat:
        """Return the format of input images: RGB PNG, with a luminance mask."""
        return ImageInputFormat(rgb_png=True, mask="luminance")

    def max_per_call(self, model: str, request: Request) -> int:
        """Return the maximum number of images per call."""
        return 8 if self.sdcpp else 100

    def adapt(
        self, model: str, request: Request, catalog: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        """Return the request as the server can honor it, and a warning for each dropped field.

        Raises:
            UnsupportedError: A1111 would get several input images, or the backend lacks the
                sampler or the scheduler.
            InvalidRequestError: The sampler or the scheduler is unknown.
        """
        warnings: list[CallWarning] = []
        backend = SDCPP.backend if self.sdcpp else A1111.backend
        if not self.sdcpp:
            request = _join_sampler_and_scheduler(request, catalog)
        request = (SDCPP if self.sdcpp else A1111).translate(request, catalog)
        if len(request.images) > 1 and not self.sdcpp:
            raise UnsupportedError(
                f"AUTOMATIC1111 accepts one input image; got {len(request.images)} "
                "(several need an extension)",
                field="images",
            )
        if self.sdcpp:
            request, tag_warnings = with_neutralized_text(request)
            request, step_warnings = clamp_steps(request)
            warnings += tag_warnings + step_warnings
        supported = {*_FIELDS, "strength"} if request.images else {*_FIELDS}
        if not self.sdcpp:
            supported.add("previews")
        elif request.output_format == "png":
            supported.add("output_format")
        request, dropped = drop_other_fields(
            request, supported, f"{backend} has no such setting", _REASONS
        )
        warnings += dropped
        geometry = local_geometry(model)
        if not self.sdcpp and request.size:
            # The grid of the latent; other sizes fail or are rounded down.
            geometry = replace(geometry, multiple=8, min_side=8)
        request, size_warnings = resolve_size(request, geometry, exactly=not self.sdcpp)
        return request, [*warnings, *size_warnings]

    def encode_request(self, model: str, request: Request, task: str = "") -> HTTPRequest:
        """Return the HTTP request for an adapted request.

        Args:
            model: A checkpoint, or `CURRENT` for the loaded one.
            request: The adapted request.
            task: Id under which `encode_progress` reports this call; "" leaves it to the server.
        """
        placeholders = Base64Placeholders()
        body: dict[str, Any] = {"prompt": request.prompt}
        if self.names_model:
            body["model"] = model
        elif not self.sdcpp and model != CURRENT:
            body["override_settings"] = {"sd_model_checkpoint": model}
        # sd-server uses the input image's size by default; A1111 would use 512x512.
        size = request.pixels if self.sdcpp else first_size(request)
        if size is not None:
            body["width"], body["height"] = (
                size if self.sdcpp else (max(8, side // 8 * 8) for side in size)
            )
        settings = (
            ("negative_prompt", request.negative_prompt or None),
            ("steps", request.steps),
            ("cfg_scale", None if request.cfg_scale is None else float(request.cfg_scale)),
            ("sampler_name", request.sampler or None),
            ("scheduler", request.scheduler or None),
            ("seed", request.seed),
            ("denoising_strength", None if request.strength is None else float(request.strength)),
            # A1111 generates the images one after the other: n at once would need n times the
            # memory. Seeds count up either way.
            ("batch_size" if self.sdcpp else "n_iter", request.n or None),
            ("force_task_id", task or None),
        )
        body.update({name: value for name, value in settings if value is not None})
        if request.images:
            body["init_images"] = [placeholders.base64(request.images[0])]
            if self.sdcpp and len(request.images) > 1:
                body["extra_images"] = [placeholders.base64(image) for image in request.images[1:]]
            if not self.sdcpp:
                body["resize_mode"] = CROP_AND_RESIZE
            if request.mask is not None:
                body["mask"] = placeholders.base64(request.mask)
                body["inpainting_mask_invert"] = 0
                if not self.sdcpp:
                    body["inpainting_fill"] = ORIGINAL_FILL
                    # True would generate only the masked part, at full size, and paste it in.
                    body["inpaint_full_res"] = False
        route = "img2img" if request.images else "txt2img"
        return json_request(f"{self.path}/{route}", body, request.extra, placeholders)

    def encode_task(self, model: str, request: Request, task: str) -> HTTPRequest:
        """Return the HTTP request for an adapted request with a task id."""
        return self.encode_request(model, request, task)

    def encode_progress(self, *, preview: bool) -> HTTPRequest:
        """Return the request for the progress of the running task.

        Args:
            preview: Whether to ask for the unfinished image too.
        """
        return HTTPRequest(
            "GET", f"{self.path}/progress?skip_current_image={'false' if preview else 'true'}"
        )

    def encode_interrupt(self) -> HTTPRequest:
        """Return the request that stops the running task, also one of another client."""
        return HTTPRequest("POST", f"{self.path}/interrupt")

    def decode_progress(self, body: bytes, limits: Limits) -> JobProgress:
        """Return the progress of the running task."""
        return decode_progress(body, limits)

    def reply_decoder(self, limits: Limits) -> BufferedBody:
        """Return a buffer for one response body."""
        return BufferedBody(limits.max_image_reply_bytes)

    def decode_reply(self, reply: BufferedBody, request: Request, limits: Limits) -> Result:
        """Return the images, without the contact sheet that some servers put first.

        Raises:
            NoImageError: The response has no image.
            BadResponseError: The body is not a valid response.
        """
        document = decode_object(reply.body(), limits.max_json_depth)
        if "error" in document and not document.get("images"):
            raise build_error(200, read_error_value(document), {})
        encoded_images = document.get("images")
        if not isinstance(encoded_images, list) or not all(
            isinstance(text, str) for text in encoded_images
        ):
            raise BadResponseError('the response has no list "images"')
        info = _decode_info(document.get("info"), limits)
        first = info.get("index_of_first_image")
        # With the option return_grid a contact sheet comes first. It has an infotext, but no seed.
        if isinstance(first, int) and 0 < first < len(encoded_images):
            encoded_images = encoded_images[first:]
            infotexts = info.get("infotexts")
            info = {
                **info,
                "infotexts": infotexts[first:] if isinstance(infotexts, list) else None,
            }
        images = [parse_base64_image(text, limits) for text in encoded_images if text]
        if not images:
            raise NoImageError("the response has no image")
        details = tuple(_details(image, index, info, request) for index, image in enumerate(images))
        model_name = info.get("sd_model_name")
        raw = {
            **document,
            "images": [describe_image(image) for image in images],
            "parameters": _without_images(document.get("parameters")),
        }
        return Result(
            tuple(images),
            details,
            model=model_name if isinstance(model_name, str) and not self.sdcpp else "",
            raw=raw,
        )

    def used_other_model(self, model: str, reported: str) -> bool:
        """Return whether the server used another checkpoint than the requested one.

        A1111 silently keeps its checkpoint when it does not know the requested one.
        """
        return bool(reported) and model != CURRENT and reported.lower() not in model.lower()


def _join_sampler_and_scheduler(request: Request, catalog: SamplerCatalog | None) -> Request:
    """Return the request with the scheduler in the sampler's name, for servers before 1.9.

    They have no schedulers; a sampler's name included it, for example "DPM++ 2M Karras".
    """
    if catalog is None or catalog.schedulers != () or not request.scheduler:
        return request
    translated = A1111.translate(
        replace(request, sampler=request.sampler or "Euler"), SamplerCatalog()
    )
    joined = f"{translated.sampler} {translated.scheduler}"
    if joined not in (catalog.samplers or ()):
        return request
    return replace(request, sampler=joined, scheduler="")


def _decode_info(value: Any, limits: Limits) -> dict[str, Any]:
    """Return `info`, which is JSON in a JSON string; older sd-server builds leave it empty."""
    if not isinstance(value, str) or not value.strip():
        return {}
    try:
        info = decode_json(value.encode(), limits.max_json_depth)
    except BadResponseError:
        return {}
    return info if isinstance(info, dict) else {}


def _details(image: ImagePart, index: int, info: dict[str, Any], request: Request) -> ImageDetails:
    texts = text_chunks(image)
    seeds, infotexts = info.get("all_seeds"), info.get("infotexts")
    seed = _item_at(seeds, index, int)
    if seed is None:
        seed = reported_seed(texts)
    if seed is None and request.seed is not None:
        seed = request.seed + index
    settings: dict[str, Any] = dict(texts)
    if "parameters" not in settings and (text := _item_at(infotexts, index, str)):
        settings["parameters"] = text
    return ImageDetails(seed=seed, settings=settings)


def _item_at(values: Any, index: int, kind: type) -> Any:
    """Return the item of a list if it is of this type (a bool never is), else None."""
    value = values[index] if isinstance(values, list) and index < len(values) else None
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _without_images(parameters: Any) -> Any:
    """Return the server's echo of the request body, without its images."""
    if isinstance(parameters, dict):
        return {name: _without_images(value) for name, value in parameters.items()}
    if isinstance(parameters, list):
        return [_without_images(value) for value in parameters]
    is_image = isinstance(parameters, str) and len(parameters) > MAX_ECHOED_CHARACTERS
    return "<elided>" if is_image else parameters


def decode_progress(body: bytes, limits: Limits) -> JobProgress:
    """Return the response of `GET /sdapi/v1/progress`.

    Steps are counted through all images of a job.
    """
    document = decode_object(body, limits.max_json_depth)
    value = document.get("state")
    state: dict[str, Any] = value if isinstance(value, dict) else {}
    step, steps, job, jobs = (
        reported_count(state.get(name))
        for name in ("sampling_step", "sampling_steps", "job_no", "job_count")
    )
    task = document.get("current_task")
    return JobProgress(
        task if isinstance(task, str) else None,
        jobs > 0,
        job,
        step + steps * min(job, max(jobs - 1, 0)),
        steps * max(jobs, 1),
        state.get("interrupted") is True,
        parse_preview(document.get("current_image"), limits),
    )


def decode_names(
    body: bytes, limits: Limits, key: str = "name"
) -> tuple[list[str], dict[str, str]]:
    """Return the names in the response of a list route, and a map of other spellings to them.

    Other spellings are aliases, labels and titles.

    Args:
        body: The response body.
        limits: Limits for the JSON.
        key: The field with the name that requests use.
    """
    items = decode_json(body, limits.max_json_depth)
    if not isinstance(items, list):
        raise BadResponseError("the response is not a JSON list")
    names: list[str] = []
    aliases: dict[str, str] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get(key), str):
            continue
        names.append(item[key])
        spellings: Sequence[Any] = [
            *(item["aliases"] if isinstance(item.get("aliases"), list) else []),
            item.get("name"),
        ]
        aliases |= {
            spelling: item[key]
            for spelling in spellings
            if isinstance(spelling, str) and spelling != item[key]
        }
    return names, aliases
