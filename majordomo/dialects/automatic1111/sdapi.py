"""AUTOMATIC1111's `/sdapi/v1` routes, as A1111 and its forks speak them and as sd-server and llama-swap do.

Sources: AUTOMATIC1111/stable-diffusion-webui 1.6 to 1.10 `modules/api`, stable-diffusion.cpp at 97d2990, llama-swap at 0bdb372.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from majordomo.dialects.errors import build_error, error_value
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    base64_text,
    describe_image,
    drop_fields,
    first_size,
    parse_base64_image,
    parse_preview,
    reported_count,
    reported_seed,
    resolve_size,
)
from majordomo.dialects.image_jobs import JobProgress
from majordomo.dialects.request_body import json_request
from majordomo.dialects.samplers import A1111, SDCPP, SamplerCatalog
from majordomo.dialects.stable_diffusion_cpp.prompt_tag import clamp_steps, with_neutralized_text
from majordomo.errors import BadResponseError, CallWarning, NoImageError, UnsupportedError
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.buffered_body import BufferedBody
from majordomo.framing.json import decode_json, decode_object
from majordomo.imagegen import ImageDetails, Request, Result
from majordomo.imagegen.geometry import local_geometry
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

CURRENT = "current"  # the model id that leaves A1111 with the checkpoint it has loaded
ORIGINAL = 1  # inpainting_fill: begin with what is there; the API's default 0 blurs it away, A1111's own page sends 1
CROP = 1  # resize_mode: crop and resize; 0 would stretch


@dataclass(frozen=True, slots=True)
class SDAPICodec:
    """Client door of txt2img and img2img."""

    sdcpp: bool = False  # sd-server's subset: its own names, no mini-language, PNG only, 8 at once, no progress
    path: str = "/sdapi/v1"
    names_model: bool = False  # llama-swap finds the model in the body; sd-server has one

    def input_format(self, model: str) -> ImageInputFormat:
        return ImageInputFormat(rgb_png=True, mask="luminance")

    def max_per_call(self, model: str, request: Request) -> int:
        return 8 if self.sdcpp else 100

    def adapt(
        self, model: str, request: Request, lists: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        warnings: list[CallWarning] = []
        backend = SDCPP.backend if self.sdcpp else A1111.backend
        if not self.sdcpp:
            request = _joined(request, lists)
        request = (SDCPP if self.sdcpp else A1111).translate(request, lists)
        lacking = ["quality", "background"]
        if not request.images:
            request, lost = drop_fields(request, ("strength",), "it needs images")
            warnings += lost
        elif len(request.images) > 1 and not self.sdcpp:
            raise UnsupportedError(
                "AUTOMATIC1111 begins with one image; several need an extension", field="images"
            )
        if self.sdcpp:
            request, tagged = with_neutralized_text(request)
            request, cut = clamp_steps(request)
            warnings += tagged + cut
            lacking.append("previews")
            if request.output_format != "png":
                lacking.append("output_format")
        else:
            lacking.append("output_format")
        reason = {"output_format": "this server answers in its own format"}
        for name in lacking:
            request, lost = drop_fields(
                request, (name,), reason.get(name, f"{backend} has no such setting")
            )
            warnings += lost
        geometry = local_geometry(model)
        if not self.sdcpp and request.size:
            geometry = replace(
                geometry, multiple=8, min_side=8
            )  # the latent's grid; anything else fails or is floored
        request, more = resolve_size(request, geometry, exactly=not self.sdcpp)
        return request, [*warnings, *more]

    def encode_request(self, model: str, request: Request, task: str = "") -> HTTPRequest:
        splices = Splices()
        body: dict[str, Any] = {"prompt": request.prompt}
        if self.names_model:
            body["model"] = model
        elif not self.sdcpp and model != CURRENT:
            body["override_settings"] = {"sd_model_checkpoint": model}
        size = request.pixels if self.sdcpp else first_size(request)
        if size is not None:
            # sd-server takes the input's size by itself; A1111 would take 512x512
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
            # one after the other: n at once would need n times the memory. Seeds count up either way
            ("batch_size" if self.sdcpp else "n_iter", request.n or None),
            ("force_task_id", task or None),
        )
        body.update({name: value for name, value in settings if value is not None})
        if request.images:
            body["init_images"] = [splices.base64(request.images[0])]
            if self.sdcpp and len(request.images) > 1:
                body["extra_images"] = [splices.base64(image) for image in request.images[1:]]
            if not self.sdcpp:
                body["resize_mode"] = CROP
            if request.mask is not None:
                body["mask"] = splices.base64(request.mask)
                body["inpainting_mask_invert"] = 0
                if not self.sdcpp:
                    body["inpainting_fill"] = ORIGINAL
                    body["inpaint_full_res"] = (
                        False  # else only the masked part is drawn, at full size, and put back
                    )
        route = "img2img" if request.images else "txt2img"
        return json_request(f"{self.path}/{route}", body, request.extra, splices)

    def encode_task(self, model: str, request: Request, task: str) -> HTTPRequest:
        return self.encode_request(model, request, task)

    def encode_progress(self, *, preview: bool) -> HTTPRequest:
        return HTTPRequest(
            "GET", f"{self.path}/progress?skip_current_image={'false' if preview else 'true'}"
        )

    def encode_interrupt(self) -> HTTPRequest:
        """Stops whatever runs, whoever began it."""
        return HTTPRequest("POST", f"{self.path}/interrupt")

    def decode_progress(self, body: bytes, limits: Limits) -> JobProgress:
        return decode_progress(body, limits)

    def reply_decoder(self, limits: Limits) -> BufferedBody:
        return BufferedBody(limits.max_image_reply_bytes)

    def decode_reply(self, reply: BufferedBody, request: Request, limits: Limits) -> Result:
        """The images, without the contact sheet that some servers put first. Raises NoImageError when there is none."""
        document = decode_object(reply.body(), limits.max_json_depth)
        if "error" in document and not document.get("images"):
            raise build_error(200, error_value(document), {})
        texts = document.get("images")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise BadResponseError('the answer has no list "images"')
        info = _info(document.get("info"), limits)
        first = info.get("index_of_first_image")
        if isinstance(first, int) and 0 < first < len(
            texts
        ):  # option return_grid: the sheet has an infotext too, but no seed
            texts = texts[first:]
            info = {
                **info,
                "infotexts": infotexts[first:]
                if isinstance(infotexts := info.get("infotexts"), list)
                else None,
            }
        images = [parse_base64_image(text, limits) for text in texts if text]
        if not images:
            raise NoImageError("the answer holds no image")
        details = tuple(_details(image, index, info, request) for index, image in enumerate(images))
        told = info.get("sd_model_name")
        raw = {
            **document,
            "images": [describe_image(image) for image in images],
            "parameters": _short(document.get("parameters")),
        }
        return Result(
            tuple(images),
            details,
            model=told if isinstance(told, str) and not self.sdcpp else "",
            raw=raw,
        )

    def is_other(self, model: str, told: str) -> bool:
        """Whether another checkpoint drew: A1111 keeps its own, silently, when it does not know the one asked for."""
        return bool(told) and model != CURRENT and told.lower() not in model.lower()


def _joined(request: Request, lists: SamplerCatalog | None) -> Request:
    """Before 1.9 there were no schedulers: the name of a sampler carried it, "DPM++ 2M Karras"."""
    if lists is None or lists.schedulers != () or not request.scheduler:
        return request
    bare, old = SamplerCatalog(), lists.samplers or ()
    spelt = A1111.translate(replace(request, sampler=request.sampler or "Euler"), bare)
    joined = f"{spelt.sampler} {spelt.scheduler}"
    return replace(request, sampler=joined, scheduler="") if joined in old else request


def _info(value: Any, limits: Limits) -> dict[str, Any]:
    """`info` is JSON within JSON; older sd-server builds leave it empty."""
    if not isinstance(value, str) or not value.strip():
        return {}
    try:
        info = decode_json(value.encode(), limits.max_json_depth)
    except BadResponseError:
        return {}
    return info if isinstance(info, dict) else {}


def _details(image: ImagePart, index: int, info: dict[str, Any], request: Request) -> ImageDetails:
    texts = base64_text(image)
    seeds, infotexts = info.get("all_seeds"), info.get("infotexts")
    seed = _at(seeds, index, int)
    if seed is None:
        seed = reported_seed(texts)
    if seed is None and request.seed is not None:
        seed = request.seed + index
    settings: dict[str, Any] = dict(texts)
    if "parameters" not in settings and (text := _at(infotexts, index, str)):
        settings["parameters"] = text
    return ImageDetails(seed=seed, settings=settings)


def _at(values: Any, index: int, kind: type) -> Any:
    value = values[index] if isinstance(values, list) and index < len(values) else None
    return value if isinstance(value, kind) and not isinstance(value, bool) else None


def _short(parameters: Any) -> Any:
    """The echo of our own body, without its images."""
    if isinstance(parameters, dict):
        return {name: _short(value) for name, value in parameters.items()}
    if isinstance(parameters, list):
        return [_short(value) for value in parameters]
    return "<elided>" if isinstance(parameters, str) and len(parameters) > 20_000 else parameters


def decode_progress(body: bytes, limits: Limits) -> JobProgress:
    """`GET /sdapi/v1/progress`. Steps count through all images of a job."""
    document = decode_object(body, limits.max_json_depth)
    found = document.get("state")
    state: dict[str, Any] = found if isinstance(found, dict) else {}
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
    """The names in one of the list routes, and their other spellings (aliases, labels, titles) to them."""
    items = decode_json(body, limits.max_json_depth)
    if not isinstance(items, list):
        raise BadResponseError("the answer is no list")
    names: list[str] = []
    aliases: dict[str, str] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get(key), str):
            continue
        names.append(item[key])
        others: Sequence[Any] = [
            *(item["aliases"] if isinstance(item.get("aliases"), list) else []),
            item.get("name"),
        ]
        aliases |= {
            other: item[key] for other in others if isinstance(other, str) and other != item[key]
        }
    return names, aliases
