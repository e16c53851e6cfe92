"""ComfyUI's prompt API: submit graphs, poll queue and history, download files.

Sources: comfyanonymous/ComfyUI `server.py` at 005f3ba and d4b5097, and newer copies up to 2026.
The API has no authentication: never expose it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from majordomo.dialects.comfyui.events import GREETING, ComfyEventParser
from majordomo.dialects.comfyui.templates import template
from majordomo.dialects.comfyui.workflow import Graph, Workflow, graph_error
from majordomo.dialects.image_fields import (
    ImageInputFormat,
    describe_image,
    details_of,
    drop_fields,
    drop_other_fields,
    parse_image,
    resolve_size,
)
from majordomo.dialects.image_jobs import (
    JobOutputs,
    QueueEntry,
    StoredFile,
    SubmittedJob,
    UploadedFile,
    UploadedInputs,
)
from majordomo.dialects.request_body import UNSUPPORTED, deep_merge, json_request
from majordomo.dialects.samplers import COMFYUI, SamplerCatalog
from majordomo.errors import (
    BackendError,
    BadResponseError,
    CallWarning,
    InvalidRequestError,
    JobCancelledError,
    NoImageError,
    UnsupportedError,
    plain_text,
)
from majordomo.framing.base64_placeholders import Base64Placeholders
from majordomo.framing.json import decode_object, encode_json
from majordomo.framing.multipart import FormField, MultipartBody
from majordomo.imagegen import Request, Result
from majordomo.imagegen.geometry import local_geometry
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

# The model id for a workflow's own checkpoint; for a built-in workflow, the first checkpoint on the
# server's disk.
CURRENT = "current"
NO_UPLOADS = UploadedInputs()

# The maximum of RepeatLatentBatch.
MAX_BATCH = 64
_FIELDS = ("negative_prompt", "seed", "steps", "cfg_scale", "sampler", "scheduler", "strength")
_REASONS = {
    "output_format": "the workflow's output node decides the format; SaveImage writes PNG",
    "strength": "it needs input images",
}


@dataclass(frozen=True, slots=True)
class ComfyUICodec:
    """Client-side codec for ComfyUI."""

    custom_workflow: Workflow | None = None
    """The user's workflow; None chooses a built-in one for each request."""

    greeting: ClassVar[str] = GREETING
    """The first message to send on the websocket."""

    def input_format(self, model: str) -> ImageInputFormat:
        """Return the format of input images: RGB PNG, with the mask that the workflow expects."""
        custom = self.custom_workflow
        return ImageInputFormat(
            rgb_png=True, mask=custom.mask_format if custom is not None else "luminance"
        )

    def workflow(self, request: Request) -> Workflow:
        """Return the workflow for a request."""
        if self.custom_workflow is not None:
            return self.custom_workflow
        scaled = bool(request.size or request.aspect or request.megapixels is not None)
        return template(image=bool(request.images), mask=request.mask is not None, scaled=scaled)

    @property
    def mask_in_image(self) -> bool:
        """Whether the workflow takes the mask from the alpha channel of its first image."""
        return self.custom_workflow is not None and self.custom_workflow.mask_in_image

    def websocket_path(self, job: str) -> str:
        """Return the path of the websocket that reports on jobs of this client id."""
        return f"/ws?clientId={job}"

    def event_parser(self, job: str, request: Request, limits: Limits) -> ComfyEventParser:
        """Return a parser of the websocket's messages about one job."""
        workflow = self.workflow(request)
        return ComfyEventParser(
            job, list(workflow.graph), workflow.samplers, request.previews, limits
        )

    def max_per_call(self, model: str, request: Request) -> int:
        """Return the maximum number of images per job."""
        return MAX_BATCH if "n" in self.workflow(request).slots else 1

    def adapt(
        self, model: str, request: Request, catalog: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        """Return the request as the workflow can honor it, and a warning for each dropped field.

        Raises:
            UnsupportedError: The workflow has no slot for an image or the mask, or the server
                lacks the sampler or the scheduler.
            InvalidRequestError: The sampler or the scheduler is unknown, or `extra` makes the
                graph invalid.
        """
        request = COMFYUI.translate(request, catalog)
        supported = {*_FIELDS, "previews"}
        if not request.images:
            supported.remove("strength")
        if request.output_format == "png":
            supported.add("output_format")
        request, warnings = drop_other_fields(
            request, supported, "ComfyUI has no such setting", _REASONS
        )
        slots = self.workflow(request).slots
        self._check_images(request)
        # Check `extra` now, before an image is uploaded.
        _merge_extra(self.workflow(request).graph, request)
        request, dropped = drop_fields(
            request,
            [name for name in _FIELDS if name not in slots],
            "the workflow has no slot for it",
        )
        warnings += dropped
        if model != CURRENT and "model" not in slots:
            warnings.append(
                CallWarning(
                    UNSUPPORTED, "model has no effect: the workflow has no slot for it", "model"
                )
            )
        if request.seed is None and "seed" in slots:
            warnings.append(
                CallWarning(
                    "SEED_DEFAULT",
                    "no seed is set: the workflow's own is used, the same every time; set seed to "
                    "vary the image",
                    "seed",
                )
            )
        if not {"width", "height"} <= slots.keys():
            request, dropped = drop_fields(
                request,
                ("size", "aspect", "megapixels"),
                "the workflow has no slots for width and height",
            )
            return request, warnings + dropped
        # The grid of latents. ComfyUI rounds other sizes down.
        geometry = replace(local_geometry(model), multiple=8, min_side=16, max_side=16_384)
        if (
            self.custom_workflow is None
            and not request.images
            and not (request.size or request.aspect or request.megapixels)
        ):
            width, height = geometry.resolve(None, None)
            request = replace(request, size=f"{width}x{height}")
        request, size_warnings = resolve_size(request, geometry)
        return request, warnings + size_warnings

    def _check_images(self, request: Request) -> None:
        """Raise UnsupportedError for images that the workflow has no slot for."""
        slots = self.workflow(request).slots
        max_images = len(slots.get("images", ()))
        if request.images and not max_images:
            raise UnsupportedError(
                "the workflow has no slot for images: no LoadImage leads to its sampler",
                field="images",
            )
        if len(request.images) > max_images:
            raise UnsupportedError(
                f"the workflow accepts at most {max_images} image{'s'[: max_images > 1]}; "
                f"got {len(request.images)}",
                field="images",
            )
        if request.mask is not None and "mask" not in slots:
            raise UnsupportedError("the workflow has no slot for a mask", field="mask")

    def encode_upload(self, image: ImagePart) -> HTTPRequest:
        """Return the request that uploads an image.

        The server renames a file whose name is taken; `decode_upload` returns the final name.
        """
        fields = [
            FormField("image", image.data, f"majordomo-{image.sha256[:16]}.png", image.mime),
            FormField("type", b"input"),
        ]
        return _form_request("/upload/image", fields)

    def encode_mask(self, mask: ImagePart, original: UploadedFile) -> HTTPRequest:
        """Return the request that creates a copy of an uploaded image with the alpha of a mask."""
        reference = encode_json(
            {"filename": original.name, "subfolder": original.subfolder, "type": "input"}
        )
        fields = [
            FormField("image", mask.data, f"majordomo-mask-{mask.sha256[:16]}.png", mask.mime),
            FormField("type", b"input"),
            FormField("original_ref", reference),
        ]
        return _form_request("/upload/mask", fields)

    def decode_upload(self, body: bytes, limits: Limits) -> UploadedFile:
        """Return the uploaded file. Raises BadResponseError when the response names none."""
        document = decode_object(body, limits.max_json_depth)
        name, subfolder = document.get("name"), document.get("subfolder", "")
        if not isinstance(name, str) or not name or not isinstance(subfolder, str):
            raise BadResponseError('the response to an upload has no file "name"')
        return UploadedFile(name, subfolder)

    def encode_request(
        self, model: str, request: Request, uploads: UploadedInputs = NO_UPLOADS, id: str = ""
    ) -> HTTPRequest:
        """Return the request that submits a job.

        Args:
            model: A checkpoint, or `CURRENT` for the one in the workflow.
            request: The adapted request.
            uploads: The uploaded images and mask.
            id: The job id (used by newer servers) and the client id of the websocket. It is also
                put into the file names, which makes the graph unique: the server does not
                generate a graph again that it has seen, and an older server then returns no image.
        """
        body = {"prompt": self.graph(model, request, uploads, id), "client_id": id, "prompt_id": id}
        return json_request("/prompt", body, {}, Base64Placeholders())

    def graph(self, model: str, request: Request, uploads: UploadedInputs, id: str) -> Graph:
        """Return the workflow's graph with the values of the request.

        Raises:
            InvalidRequestError: `extra` makes the graph invalid (field `extra`).
        """
        workflow = self.workflow(request)
        graph = workflow.copied()
        width, height = request.pixels or (None, None)
        values: dict[str, Any] = {name: getattr(request, name) for name in _FIELDS}
        values |= {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt or None,
            "sampler": request.sampler or None,
            "scheduler": request.scheduler or None,
            "width": width,
            "height": height,
            "n": request.n or None,
            "model": model if model != CURRENT else None,
        }
        values |= {
            name: float(values[name])
            for name in ("cfg_scale", "strength")
            if values[name] is not None
        }
        for name, value in values.items():
            if value is not None:
                for node_id, input_name in workflow.slots.get(name, ()):
                    graph[node_id]["inputs"][input_name] = value
        for (node_id, input_name), file in zip(
            workflow.slots.get("images", ()), uploads.images, strict=False
        ):
            graph[node_id]["inputs"][input_name] = file.path
        if uploads.mask is not None:
            for node_id, input_name in workflow.slots.get("mask", ()):
                graph[node_id]["inputs"][input_name] = uploads.mask.path
        graph = _merge_extra(graph, request)
        # Replace nodes instead of changing them: some may be the user's own objects from `extra`.
        for node_id, node in graph.items():
            if isinstance(prefix := node["inputs"].get("filename_prefix"), str) and id:
                graph[node_id] = {
                    **node,
                    "inputs": {**node["inputs"], "filename_prefix": f"{prefix}_{id[:8]}"},
                }
        return graph

    def decode_submitted(self, body: bytes, limits: Limits) -> SubmittedJob:
        """Return the submitted job. Raises BadResponseError when the response names none."""
        document = decode_object(body, limits.max_json_depth)
        job = document.get("prompt_id")
        if not isinstance(job, str) or not job:
            raise BadResponseError('the response has no "prompt_id"')
        errors = document.get("node_errors")
        names = (
            ", ".join(plain_text(str(name), 40) for name in list(errors)[:5])
            if isinstance(errors, dict)
            else ""
        )
        warning = CallWarning(
            "OUTPUTS_SKIPPED",
            f"the server runs only a part of the workflow, because of errors in node {names}",
            None,
        )
        return SubmittedJob(job, (warning,) if names else ())

    def encode_history(self, job: str) -> HTTPRequest:
        """Return the request for the history of a job."""
        return HTTPRequest("GET", f"/history/{quote(job, safe='')}")

    def encode_queue(self) -> HTTPRequest:
        """Return the request for the queue."""
        return HTTPRequest("GET", "/queue")

    def encode_delete(self, job: str) -> HTTPRequest:
        """Return the request that removes a waiting job from the queue."""
        return json_request("/queue", {"delete": [job]}, {}, Base64Placeholders())

    def encode_interrupt(self, job: str) -> HTTPRequest:
        """Return the request that interrupts a job.

        A server before autumn 2025 ignores the job id and interrupts whatever runs.
        """
        return json_request("/interrupt", {"prompt_id": job}, {}, Base64Placeholders())

    def encode_view(self, image: StoredFile) -> HTTPRequest:
        """Return the request that downloads an image."""
        query = urlencode(
            {"filename": image.filename, "subfolder": image.subfolder, "type": image.folder},
            quote_via=quote,
        )
        return HTTPRequest("GET", f"/view?{query}", accept="image/*")

    def decode_queue_position(self, body: bytes, job: str, limits: Limits) -> QueueEntry | None:
        """Return the queue entry with this job id or client id, None when there is none.

        The server lists its queue in heap order, so the entries are sorted by their numbers.
        """
        document = decode_object(body, limits.max_json_depth)
        for _, job_id, client_id in _queue_items(document.get("queue_running")):
            if job in (job_id, client_id):
                return QueueEntry(0, job_id)
        waiting = sorted(_queue_items(document.get("queue_pending")), key=lambda item: item[0])
        for position, (_, job_id, client_id) in enumerate(waiting, 1):
            if job in (job_id, client_id):
                return QueueEntry(position, job_id)
        return None

    def decode_history(self, body: bytes, job: str, limits: Limits) -> JobOutputs | None:
        """Return the outputs of a finished job, None while it waits or runs.

        Raises:
            BackendError: The job failed (code GPU_OOM or GENERATION_FAILED).
            JobCancelledError: The job was interrupted.
            NoImageError: The finished job has no image.
        """
        entry = decode_object(body, limits.max_json_depth).get(job)
        if not isinstance(entry, dict):
            return None
        status = entry.get("status")
        if isinstance(status, dict) and (
            status.get("status_str") == "error" or status.get("completed") is False
        ):
            raise _job_error(status)
        files = list(_output_files(entry.get("outputs")))
        images = [file for file in files if file.folder == "output"] or files
        if not images:
            raise NoImageError(
                "the finished job has no image; ComfyUI does not generate an unchanged graph "
                "again, so change the seed"
            )
        return JobOutputs(tuple(images), {"outputs": entry.get("outputs"), "status": status})

    def decode_reply(
        self,
        files: Sequence[bytes],
        finished: JobOutputs,
        model: str,
        request: Request,
        warnings: Sequence[CallWarning],
        limits: Limits,
    ) -> Result:
        """Return the result of a finished job with its downloaded files."""
        images = tuple(parse_image(data, limits) for data in files)
        details = tuple(details_of(image, request.seed) for image in images)
        workflow = self.workflow(request)
        if model == CURRENT and (model_inputs := workflow.slots.get("model")):
            node_id, input_name = model_inputs[0]
            model = str(workflow.graph[node_id]["inputs"][input_name])
        raw = {**finished.raw, "images": [describe_image(image) for image in images]}
        return Result(images, details, tuple(warnings), model=model, raw=raw)


def _merge_extra(graph: Graph, request: Request) -> Graph:
    """Return a graph with the request's `extra` merged in; `graph` itself is not changed.

    Raises:
        InvalidRequestError: The merged graph is invalid (field `extra`).
    """
    merged = deep_merge(graph, request.extra)
    if (problem := graph_error(merged)) is not None:
        raise InvalidRequestError(
            f"extra is merged into the workflow by node id and makes it invalid: {problem}",
            field="extra",
        )
    return merged


def _form_request(path: str, fields: Sequence[FormField]) -> HTTPRequest:
    body = MultipartBody(fields)
    return HTTPRequest("POST", path, body, body.content_type)


def _queue_items(value: Any) -> list[tuple[float, str, str]]:
    """Return (number, job id, client id) of the valid entries of a queue."""
    items = []
    for item in value if isinstance(value, list) else ():
        if (
            isinstance(item, list)
            and len(item) > 1
            and isinstance(item[0], (int, float))
            and isinstance(item[1], str)
        ):
            extra = item[3] if len(item) > 3 and isinstance(item[3], dict) else {}
            items.append((item[0], item[1], str(extra.get("client_id") or "")))
    return items


def _output_files(outputs: Any) -> list[StoredFile]:
    files: list[StoredFile] = []
    for output in outputs.values() if isinstance(outputs, dict) else ():
        items = output.get("images") if isinstance(output, dict) else None
        for item in items if isinstance(items, list) else ():
            name = item.get("filename") if isinstance(item, dict) else None
            if isinstance(name, str) and name:
                files.append(
                    StoredFile(
                        name, str(item.get("subfolder") or ""), str(item.get("type") or "output")
                    )
                )
    return files


def _job_error(status: dict[str, Any]) -> BackendError | JobCancelledError:
    """Return the error of a failed job. An interrupt has the status "error" too."""
    messages = status.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if not isinstance(message, list) or len(message) != 2 or not isinstance(message[1], dict):
            continue
        kind, data = message
        node = f"node {data.get('node_id')} ({data.get('node_type')})"
        if kind == "execution_interrupted":
            return JobCancelledError(f"the job was interrupted at {node}")
        if kind == "execution_error":
            exception = str(data.get("exception_type") or "")
            code = "GPU_OOM" if "OutOfMemoryError" in exception else "GENERATION_FAILED"
            reason = str(data.get("exception_message") or exception).strip()
            return BackendError(
                f"{node} failed: {reason}", code=code, details={"backend_code": exception}
            )
    return BackendError("the job failed; the server gives no reason", code="GENERATION_FAILED")


def decode_choices(body: bytes, node: str, limits: Limits) -> dict[str, tuple[str, ...]]:
    """Return the choices of each input of a node that is a choice.

    The body is the response of `GET /object_info/NODE`. Returns {} for a node that the server
    lacks.
    """
    document = decode_object(body, limits.max_json_depth).get(node)
    inputs = document.get("input") if isinstance(document, dict) else None
    choices_by_input: dict[str, tuple[str, ...]] = {}
    for group in ("required", "optional"):
        entries = inputs.get(group) if isinstance(inputs, dict) else None
        for name, spec in entries.items() if isinstance(entries, dict) else ():
            if not isinstance(spec, list) or not spec:
                continue
            choices = spec[0]
            # The form of servers since 2025.
            if choices == "COMBO" and len(spec) > 1 and isinstance(spec[1], dict):
                choices = spec[1].get("options")
            if isinstance(choices, list):
                choices_by_input[name] = tuple(
                    choice for choice in choices if isinstance(choice, str)
                )
    return choices_by_input


def decode_server_version(body: bytes, limits: Limits) -> str:
    """Return the version in `GET /system_stats`, "" for servers before 2025, which lack it."""
    system = decode_object(body, limits.max_json_depth).get("system")
    version = system.get("comfyui_version") if isinstance(system, dict) else None
    return version if isinstance(version, str) else ""


def sampler_catalog(choices: dict[str, tuple[str, ...]]) -> SamplerCatalog:
    """Return the samplers and schedulers in the choices of the node KSampler."""
    return SamplerCatalog(choices.get("sampler_name"), choices.get("scheduler"))
