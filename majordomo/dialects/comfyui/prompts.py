"""ComfyUI's prompt API: graphs in, tickets, places in the queue, history entries and files out.

Sources: comfyanonymous/ComfyUI `server.py` at 005f3ba and d4b5097, and newer copies up to 2026. It has no keys: never expose it.
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
from majordomo.framing.base64_placeholders import Splices
from majordomo.framing.json import decode_object, encode_json
from majordomo.framing.multipart import FormField, MultipartBody
from majordomo.imagegen import Request, Result
from majordomo.imagegen.geometry import local_geometry
from majordomo.media.image_part import ImagePart
from majordomo.settings import Limits
from majordomo.transport_types import HTTPRequest

CURRENT = "current"  # the model id for a workflow's own checkpoint, else for the first on the server's disk
NO_UPLOADS = UploadedInputs()
BATCH = 64  # RepeatLatentBatch takes no more
_FIELDS = ("negative_prompt", "seed", "steps", "cfg_scale", "sampler", "scheduler", "strength")


@dataclass(frozen=True, slots=True)
class ComfyUICodec:
    """Client door: a workflow of the caller's, or built-in ones chosen by the request."""

    given: Workflow | None = None

    greeting: ClassVar[str] = GREETING

    def input_format(self, model: str) -> ImageInputFormat:
        return ImageInputFormat(
            rgb_png=True, mask=self.given.mask_form if self.given is not None else "luminance"
        )

    def workflow(self, request: Request) -> Workflow:
        if self.given is not None:
            return self.given
        scaled = bool(request.size or request.aspect or request.megapixels is not None)
        return template(image=bool(request.images), mask=request.mask is not None, scaled=scaled)

    @property
    def mask_in_image(self) -> bool:
        """Whether the workflow takes the mask from the alpha channel of its first image."""
        return self.given is not None and self.given.mask_in_image

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
        return BATCH if "n" in self.workflow(request).slots else 1

    def adapt(
        self, model: str, request: Request, lists: SamplerCatalog | None = None
    ) -> tuple[Request, list[CallWarning]]:
        request, warnings = drop_fields(
            COMFYUI.translate(request, lists),
            ("quality", "background"),
            "ComfyUI has no such setting",
        )
        if request.output_format != "png":
            request, lost = drop_fields(
                request, ("output_format",), "the workflow's own node decides; SaveImage writes PNG"
            )
            warnings += lost
        if not request.images:
            request, lost = drop_fields(request, ("strength",), "it needs images")
            warnings += lost
        slots = self.workflow(request).slots
        self._check_images(request)
        _with_extra(self.workflow(request).graph, request)  # said now, before an image is sent
        request, lost = drop_fields(
            request,
            [name for name in _FIELDS if name not in slots],
            "the workflow has no slot for it",
        )
        warnings += lost
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
                    "no seed was set: the workflow's own is used, the same every time",
                    "seed",
                )
            )
        if not {"width", "height"} <= slots.keys():
            request, lost = drop_fields(
                request,
                ("size", "aspect", "megapixels"),
                "the workflow has no slots for width and height",
            )
            return request, warnings + lost
        # The grid of latents; ComfyUI floors what is between
        geometry = replace(local_geometry(model), multiple=8, min_side=16, max_side=16_384)
        if (
            self.given is None
            and not request.images
            and not (request.size or request.aspect or request.megapixels)
        ):
            width, height = geometry.resolve(None, None)
            request = replace(request, size=f"{width}x{height}")
        request, lost = resolve_size(request, geometry)
        return request, warnings + lost

    def _check_images(self, request: Request) -> None:
        """Raises UnsupportedError for images that the workflow has no place for."""
        slots = self.workflow(request).slots
        places = len(slots.get("images", ()))
        if request.images and not places:
            raise UnsupportedError(
                "the workflow has no slot for images: no LoadImage leads to its sampler",
                field="images",
            )
        if len(request.images) > places:
            raise UnsupportedError(
                f"the workflow takes {places} image{'s'[: places > 1]}, not {len(request.images)}",
                field="images",
            )
        if request.mask is not None and "mask" not in slots:
            raise UnsupportedError("the workflow has no slot for a mask", field="mask")

    def encode_upload(self, image: ImagePart) -> HTTPRequest:
        """The server renames what is there already: only `decode_upload` knows the name."""
        fields = [
            FormField("image", image.data, f"majordomo-{image.sha256[:16]}.png", image.mime),
            FormField("type", b"input"),
        ]
        return _form("/upload/image", fields)

    def encode_mask(self, mask: ImagePart, original: UploadedFile) -> HTTPRequest:
        """Gives a copy of an uploaded image the alpha of this mask."""
        reference = encode_json(
            {"filename": original.name, "subfolder": original.subfolder, "type": "input"}
        )
        fields = [
            FormField("image", mask.data, f"majordomo-mask-{mask.sha256[:16]}.png", mask.mime),
            FormField("type", b"input"),
            FormField("original_ref", reference),
        ]
        return _form("/upload/mask", fields)

    def decode_upload(self, body: bytes, limits: Limits) -> UploadedFile:
        document = decode_object(body, limits.max_json_depth)
        name, subfolder = document.get("name"), document.get("subfolder", "")
        if not isinstance(name, str) or not name or not isinstance(subfolder, str):
            raise BadResponseError("the answer to an upload names no file")
        return UploadedFile(name, subfolder)

    def encode_request(
        self, model: str, request: Request, uploads: UploadedInputs = NO_UPLOADS, id: str = ""
    ) -> HTTPRequest:
        """`id`: the job's id (a newer server takes it), the websocket's, and what makes the file names, and so the graph, this call's own:
        a graph seen before is not drawn again, and an older server then answers without an image."""
        body = {"prompt": self.graph(model, request, uploads, id), "client_id": id, "prompt_id": id}
        return json_request("/prompt", body, {}, Splices())

    def graph(self, model: str, request: Request, uploads: UploadedInputs, id: str) -> Graph:
        """The workflow with all that the request sets. Raises InvalidRequestError (field `extra`)."""
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
                for node, place in workflow.slots.get(name, ()):
                    graph[node]["inputs"][place] = value
        for (node, place), file in zip(
            workflow.slots.get("images", ()), uploads.images, strict=False
        ):
            graph[node]["inputs"][place] = file.path
        if uploads.mask is not None:
            for node, place in workflow.slots.get("mask", ()):
                graph[node]["inputs"][place] = uploads.mask.path
        graph = _with_extra(graph, request)
        for (
            name,
            node,
        ) in graph.items():  # nodes of the caller's own may be among them: they stay as they are
            if isinstance(prefix := node["inputs"].get("filename_prefix"), str) and id:
                graph[name] = {
                    **node,
                    "inputs": {**node["inputs"], "filename_prefix": f"{prefix}_{id[:8]}"},
                }
        return graph

    def decode_submitted(self, body: bytes, limits: Limits) -> SubmittedJob:
        document = decode_object(body, limits.max_json_depth)
        job = document.get("prompt_id")
        if not isinstance(job, str) or not job:
            raise BadResponseError("the answer names no job")
        faults = document.get("node_errors")
        names = (
            ", ".join(plain_text(str(name), 40) for name in list(faults)[:5])
            if isinstance(faults, dict)
            else ""
        )
        warning = CallWarning(
            "OUTPUTS_SKIPPED",
            f"the server draws only a part of the workflow: node {names} is at fault",
            None,
        )
        return SubmittedJob(job, (warning,) if names else ())

    def encode_history(self, job: str) -> HTTPRequest:
        return HTTPRequest("GET", f"/history/{quote(job, safe='')}")

    def encode_queue(self) -> HTTPRequest:
        return HTTPRequest("GET", "/queue")

    def encode_delete(self, job: str) -> HTTPRequest:
        """Takes a job that waits out of the queue."""
        return json_request("/queue", {"delete": [job]}, {}, Splices())

    def encode_interrupt(self, job: str) -> HTTPRequest:
        """A server before autumn 2025 does not look whose job runs."""
        return json_request("/interrupt", {"prompt_id": job}, {}, Splices())

    def encode_view(self, image: StoredFile) -> HTTPRequest:
        query = urlencode(
            {"filename": image.filename, "subfolder": image.subfolder, "type": image.folder},
            quote_via=quote,
        )
        return HTTPRequest("GET", f"/view?{query}", accept="image/*")

    def decode_queue_position(self, body: bytes, job: str, limits: Limits) -> QueueEntry | None:
        """Where the job is that has this id, or came from a client with this id; None: not in the queue. The list comes as a heap, so the
        numbers count."""
        document = decode_object(body, limits.max_json_depth)
        for _, found, client in _items(document.get("queue_running")):
            if job in (found, client):
                return QueueEntry(0, found)
        waiting = sorted(_items(document.get("queue_pending")), key=lambda item: item[0])
        for position, (_, found, client) in enumerate(waiting, 1):
            if job in (found, client):
                return QueueEntry(position, found)
        return None

    def decode_history(self, body: bytes, job: str, limits: Limits) -> JobOutputs | None:
        """None while the job waits or runs. Raises BackendError (GPU_OOM, GENERATION_FAILED), JobCancelledError, NoImageError."""
        entry = decode_object(body, limits.max_json_depth).get(job)
        if not isinstance(entry, dict):
            return None
        status = entry.get("status")
        if isinstance(status, dict) and (
            status.get("status_str") == "error" or status.get("completed") is False
        ):
            raise _failure(status)
        images = list(_stored(entry.get("outputs")))
        kept = [image for image in images if image.folder == "output"] or images
        if not kept:
            raise NoImageError(
                "the finished job names no image; a graph that was drawn before is not drawn again: change the seed"
            )
        return JobOutputs(tuple(kept), {"outputs": entry.get("outputs"), "status": status})

    def decode_reply(
        self,
        files: Sequence[bytes],
        finished: JobOutputs,
        model: str,
        request: Request,
        warnings: Sequence[CallWarning],
        limits: Limits,
    ) -> Result:
        images = tuple(parse_image(data, limits) for data in files)
        details = tuple(details_of(image, request.seed) for image in images)
        if model == CURRENT and (places := self.workflow(request).slots.get("model")):
            node, place = places[0]
            model = str(self.workflow(request).graph[node]["inputs"][place])
        raw = {**finished.raw, "images": [describe_image(image) for image in images]}
        return Result(images, details, tuple(warnings), model=model, raw=raw)


def _with_extra(graph: Graph, request: Request) -> Graph:
    """The graph with `extra` merged in; `graph` itself stays. Raises InvalidRequestError (field `extra`) when it is no graph then."""
    whole = deep_merge(graph, request.extra)
    if (trouble := graph_error(whole)) is not None:
        raise InvalidRequestError(
            f"extra is merged into the graph by node id, and then {trouble}", field="extra"
        )
    return whole


def _form(path: str, fields: Sequence[FormField]) -> HTTPRequest:
    body = MultipartBody(fields)
    return HTTPRequest("POST", path, body, body.content_type)


def _items(value: Any) -> list[tuple[float, str, str]]:
    """(number, job, client) of the entries of a queue; what is none is left out."""
    found = []
    for item in value if isinstance(value, list) else ():
        if (
            isinstance(item, list)
            and len(item) > 1
            and isinstance(item[0], (int, float))
            and isinstance(item[1], str)
        ):
            extra = item[3] if len(item) > 3 and isinstance(item[3], dict) else {}
            found.append((item[0], item[1], str(extra.get("client_id") or "")))
    return found


def _stored(outputs: Any) -> list[StoredFile]:
    found: list[StoredFile] = []
    for output in outputs.values() if isinstance(outputs, dict) else ():
        items = output.get("images") if isinstance(output, dict) else None
        for item in items if isinstance(items, list) else ():
            name = item.get("filename") if isinstance(item, dict) else None
            if isinstance(name, str) and name:
                found.append(
                    StoredFile(
                        name, str(item.get("subfolder") or ""), str(item.get("type") or "output")
                    )
                )
    return found


def _failure(status: dict[str, Any]) -> BackendError | JobCancelledError:
    """An interrupt also has status "error": the messages tell."""
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
            words = str(data.get("exception_message") or exception).strip()
            return BackendError(
                f"{node} failed: {words}", code=code, details={"backend_code": exception}
            )
    return BackendError("the job failed without a reason", code="GENERATION_FAILED")


def decode_choices(body: bytes, node: str, limits: Limits) -> dict[str, tuple[str, ...]]:
    """`GET /object_info/NODE`: what each input of the node can be, for inputs that are a choice; {} for a node the server lacks."""
    document = decode_object(body, limits.max_json_depth).get(node)
    inputs = document.get("input") if isinstance(document, dict) else None
    found: dict[str, tuple[str, ...]] = {}
    for group in ("required", "optional"):
        entries = inputs.get(group) if isinstance(inputs, dict) else None
        for name, spec in entries.items() if isinstance(entries, dict) else ():
            if not isinstance(spec, list) or not spec:
                continue
            choices = spec[0]
            if choices == "COMBO" and len(spec) > 1 and isinstance(spec[1], dict):  # since 2025
                choices = spec[1].get("options")
            if isinstance(choices, list):
                found[name] = tuple(choice for choice in choices if isinstance(choice, str))
    return found


def decode_server_version(body: bytes, limits: Limits) -> str:
    """The version in `GET /system_stats`; "" before 2025, when it was not told."""
    system = decode_object(body, limits.max_json_depth).get("system")
    version = system.get("comfyui_version") if isinstance(system, dict) else None
    return version if isinstance(version, str) else ""


def lists_from(choices: dict[str, tuple[str, ...]]) -> SamplerCatalog:
    return SamplerCatalog(choices.get("sampler_name"), choices.get("scheduler"))
