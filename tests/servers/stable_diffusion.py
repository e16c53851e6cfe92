"""A test server for sd-server of stable-diffusion.cpp: one process, one model.

It follows `sd-server.md` and the runs in `local-engines.md`. The three families of routes
(`/v1/images/*`, `/sdapi/v1/*`, `/sdcpp/v1/*`) read different fields of a request and silently
drop the others. An image has one color, the hash of the settings in effect, so that a test can
compare it with `color()` to see whether a setting has reached the engine.

    server = StableDiffusion()
    url = serve(server).url
    ...
    assert server.jobs[-1]["steps"] == 20
    assert image_color == color({"prompt": "a red fox", "seed": 7})
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from tests.servers.hashed_images import (
    Color,
    b64,
    decode_image,
    encode_image,
    fingerprint,
    hash_color,
    leading_base64,
    repaint_masked,
    solid_image,
)
from tests.servers.http_helpers import (
    Crash,
    Part,
    Response,
    empty_response,
    json_response,
    parse_form,
    route,
    text_response,
)
from tests.support.loopback import Peer, ReceivedRequest

_SAMPLERS = (
    "euler euler_a heun dpm2 dpm++2s_a dpm++2m dpm++2mv2 ipndm ipndm_v lcm ddim_trailing tcd "
    "res_multistep res_2s er_sde euler_cfg_pp euler_a_cfg_pp euler_ge dpm++2m_sde dpm++2m_sde_bt "
    "lms"
)
_SCHEDULERS = (
    "discrete normal karras exponential ays gits sgm_uniform simple smoothstep kl_optimal lcm "
    "bong_tangent ltx2 logit_normal flux2 flux beta"
)
SAMPLERS, SCHEDULERS = _SAMPLERS.split(), _SCHEDULERS.split()
FEATURES = (
    "init_image",
    "mask_image",
    "control_image",
    "ref_images",
    "lora",
    "vae_tiling",
    "hires",
    "cache",
    "cancel_queued",
)

# README.md, sampler vocabulary: the names that `/sdapi` accepts in upper and lower case.
# No alias leads to euler_a_cfg_pp or dpm++2s_a.
ALIASES = {
    "euler a": "euler_a",
    "k_euler_a": "euler_a",
    "euler": "euler",
    "k_euler": "euler",
    "heun": "heun",
    "k_heun": "heun",
    "dpm2": "dpm2",
    "k_dpm_2": "dpm2",
    "lcm": "lcm",
    "ddim": "ddim_trailing",
    "dpm++ 2m": "dpm++2m",
    "k_dpmpp_2m": "dpm++2m",
    "dpm++ 2m sde": "dpm++2m_sde",
    "k_dpmpp_2m_sde": "dpm++2m_sde",
    "dpm++ 2m sde gpu": "dpm++2m_sde_bt",
    "k_dpmpp_2m_sde_gpu": "dpm++2m_sde_bt",
    "res multistep": "res_multistep",
    "k_res_multistep": "res_multistep",
    "res 2s": "res_2s",
    "k_res_2s": "res_2s",
    "euler_cfg_pp": "euler_cfg_pp",
    "k_euler_cfg_pp": "euler_cfg_pp",
    "euler_a_cfg_pp": "euler_cfg_pp",
    "k_euler_a_cfg_pp": "euler_cfg_pp",
}
UPSCALERS = [
    "None",
    "Lanczos",
    "Nearest",
    "Latent",
    "Latent (nearest)",
    "Latent (nearest-exact)",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
]

OPEN_TAG, CLOSE_TAG = "<sd_cpp_extra_args>", "</sd_cpp_extra_args>"
TAG = re.compile(rf"{OPEN_TAG}([^\r\n]*?){CLOSE_TAG}")
# sd-server.md section 3: the regex recurses per character, and this many crash the process.
FATAL_TAG_LENGTH = 50_000
MAX_BATCH = 8
MAX_QUEUED_JOBS = 64
JOB_KEPT_SECONDS = 600

# The settings that decide the color of an image, with the defaults of sd-server.md section 6.
COLOR_DEFAULTS: dict[str, Any] = {
    "prompt": "",
    "negative_prompt": "",
    "seed": 42,
    "steps": 20,
    "cfg_scale": 7.0,
    "guidance": 3.5,
    "sampler": "euler_a",
    "scheduler": "discrete",
    "clip_skip": -1,
    "strength": None,
    "width": 512,
    "height": 512,
    "init": None,
    "references": [],
    "loras": {},
    "hires": None,
    "custom_sigmas": [],
}


def color(settings: Mapping[str, Any], index: int = 0) -> Color:
    """Return the color of image `index` of these settings.

    A missing setting has the server's default; other keys are ignored. `init` and `references`
    are `fingerprint()`s of the uploaded images, and `strength` counts only with an init image.
    """
    facts = {name: settings.get(name, default) for name, default in COLOR_DEFAULTS.items()}
    facts["seed"] += index
    facts["cfg_scale"], facts["guidance"] = float(facts["cfg_scale"]), float(facts["guidance"])
    strength = settings.get("strength")
    facts["strength"] = float(0.75 if strength is None else strength) if facts["init"] else None
    return hash_color(facts)


class _Refused(Exception):
    """An error response.

    Status 500 always has the error `server_error` and the text of a C++ exception.
    """

    def __init__(self, error: str, status: int = 400) -> None:
        super().__init__(error)
        self.answer = json_response(
            {"error": "server_error", "message": error} if status == 500 else {"error": error},
            status,
        )


@dataclass
class _Generation:
    """A request as the engine gets it."""

    route: str
    seed: int
    steps: int
    cfg_scale: float
    sampler: str
    scheduler: str
    strength: float
    prompt: str = ""
    negative_prompt: str = ""
    guidance: float = 3.5
    clip_skip: int = -1
    width: int = -1
    height: int = -1
    batch_count: int = 1
    init: Image.Image | None = None
    references: list[Image.Image] = field(default_factory=list)
    mask: Image.Image | None = None
    loras: dict[str, float] = field(default_factory=dict)
    hires: dict[str, Any] = field(default_factory=dict)
    custom_sigmas: list[float] = field(default_factory=list)
    embed: bool = True
    output_format: str = "png"
    output_compression: int = 100

    @property
    def sized(self) -> bool:
        """Whether width and height are set."""
        return self.width > 0 and self.height > 0

    def size_if_unset(self, size: tuple[int, int]) -> None:
        """Set width and height unless they are set."""
        if not self.sized:
            self.width, self.height = size

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in effect, as JSON values."""
        return {
            "route": self.route,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "seed": self.seed,
            "steps": self.steps,
            "cfg_scale": float(self.cfg_scale),
            "guidance": float(self.guidance),
            "sampler": self.sampler,
            "scheduler": self.scheduler,
            "clip_skip": self.clip_skip,
            "strength": float(self.strength) if self.init is not None else None,
            "width": self.width,
            "height": self.height,
            "batch_count": self.batch_count,
            "init": fingerprint(self.init) if self.init is not None else None,
            "references": [fingerprint(image) for image in self.references],
            "mask": fingerprint(self.mask.convert("L")) if self.mask is not None else None,
            "loras": dict(self.loras),
            "hires": dict(self.hires) if self.hires.get("enabled") else None,
            "custom_sigmas": list(self.custom_sigmas),
            "output_format": self.output_format,
            "output_compression": self.output_compression,
        }


@dataclass
class _Job:
    """A job of the native routes."""

    id: str
    created: int
    generation: _Generation
    status: str = "queued"
    started: int | None = None
    completed: int | None = None
    images: list[str] = field(default_factory=list)
    error: dict[str, str] | None = None


class _Process:
    """What a restart loses: jobs, the cached list of LoRAs, and the lock of the engine."""

    def __init__(self) -> None:
        self.engine = threading.Lock()
        self.dead = False
        self.busy = False
        self.jobs: dict[str, _Job] = {}
        self.expired: dict[str, int] = {}
        self.queue: list[str] = []
        self.known_loras: Sequence[str] = ()
        # The connections that are between two requests.
        self.peers: list[Peer] = []


class StableDiffusion:
    """A handler for `serve()`.

    `jobs` lists the settings in effect of all accepted requests, in order. The arguments are the
    model, its limits, and the default settings of the server.

    These attributes may be changed while it runs: `empty_data` (200 without an image), `failing`
    (500, or a failed job), `crash` (the next image kills the process), `video_only`, `layers`
    (images per item of a batch), `flat_tag` (the schema of builds before 2026-04-11), `patience`
    (how many seconds a POST without Content-Length waits), `clock` (the wall clock).
    """

    def __init__(
        self,
        *,
        model: str = "tiny-image.safetensors",
        multiple: int = 8,
        formats: Sequence[str] = ("png", "jpeg", "webp"),
        loras: Sequence[str] = (),
        size: tuple[int, int] = (512, 512),
        seed: int = 42,
        steps: int = 20,
        cfg_scale: float = 7.0,
        sampler: str = "euler_a",
        scheduler: str = "discrete",
        strength: float = 0.75,
    ) -> None:
        self.model, self.multiple, self.formats, self.loras, self.size = (
            model,
            multiple,
            tuple(formats),
            tuple(loras),
            size,
        )
        self.seed, self.steps, self.cfg_scale = seed, steps, cfg_scale
        self.sampler, self.scheduler, self.strength = sampler, scheduler, strength
        self.jobs: list[dict[str, Any]] = []
        self.empty_data = self.failing = self.crash = self.video_only = self.flat_tag = False
        self.layers = 1
        self.patience = 5.0
        self.clock: Callable[[], float] = time.time
        self._aged_seconds = 0
        self._next_job_number = 0
        self._hold_status = ""
        self._waiting = 0
        self._changed = threading.Condition(threading.RLock())
        self._process = _Process()

    # Controls for tests

    def hold(self, at: str = "generating") -> None:
        """Finish no image until `release()`; `hold("queued")` starts no job either."""
        with self._changed:
            self._hold_status = at

    def release(self) -> None:
        """Continue all held images and jobs."""
        with self._changed:
            self._hold_status = ""
            self._start_next_job(self._process)
            self._changed.notify_all()

    def reached(self, count: int = 1, seconds: float = 5) -> bool:
        """Return whether `count` requests and jobs are at the engine within `seconds`.

        Those that wait for the engine count as well.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting >= count, seconds)

    def ended(self, job: str, seconds: float = 5) -> bool:
        """Return whether a native job has ended, or is forgotten, within `seconds`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self.status(job) not in ("queued", "generating"), seconds
            )

    def status(self, job: str) -> str | None:
        """Return the status of a native job without sending a request; None for an unknown job."""
        with self._changed:
            job_state = self._process.jobs.get(job)
            return job_state.status if job_state else None

    def lose_jobs(self) -> None:
        """Restart the process: its connections close, and all jobs are lost."""
        with self._changed:
            old, self._process = self._process, _Process()
            old.dead = True
            self._changed.notify_all()
        for peer in old.peers[:]:
            peer.close()

    def age(self, seconds: int) -> None:
        """Advance the clock of the jobs.

        A job is 410 from 600 seconds after its end, and 404 after another 600 seconds.
        """
        with self._changed:
            self._aged_seconds += seconds

    # HTTP

    def __call__(self, peer: Peer) -> None:
        process = self._process
        while not process.dead:
            process.peers.append(peer)
            request = peer.request()
            process.peers.remove(peer)
            if request is None:
                return
            self._await_body(peer, request)
            try:
                answer = self.answer(request)
            except Crash:
                return
            peer.send(answer.sent)

    def _await_body(self, peer: Peer, request: ReceivedRequest) -> None:
        """Wait for the body of a POST without a length (sd-server.md section 5)."""
        if request.method == "POST" and "content-length" not in request.headers:
            peer.socket.settimeout(self.patience)
            with contextlib.suppress(OSError):
                peer.socket.recv(1, socket.MSG_PEEK)
            peer.socket.settimeout(None)

    def answer(self, request: ReceivedRequest) -> Response:
        """Return the response to a request; raise Crash if the request kills the process.

        A proxy calls this instead of opening a connection.
        """
        path, _ = route(request)
        process = self._process
        try:
            return self._answer(process, request, path)
        except _Refused as refused:
            return refused.answer

    def _answer(self, process: _Process, request: ReceivedRequest, path: str) -> Response:
        if request.method == "POST":
            if path == "/v1/images/generations":
                return self._openai(process, self._read_generation(request))
            if path == "/v1/images/edits":
                return self._openai(process, self._read_edit(request))
            if path in ("/sdapi/v1/txt2img", "/sdapi/v1/img2img"):
                return self._sdapi(process, request, path.rpartition("/")[2])
            if path == "/sdcpp/v1/img_gen":
                return self._submit(process, request)
            if job := re.fullmatch(r"/sdcpp/v1/jobs/([^/]+)/cancel", path):
                return self._cancel(process, job[1])
        if request.method == "GET":
            if job := re.fullmatch(r"/sdcpp/v1/jobs/([^/]+)", path):
                with self._changed:
                    return json_response(
                        self._describe_job(process, self._find_job(process, job[1]))
                    )
            if path == "/sdcpp/v1/capabilities":
                process.known_loras = self.loras
                return json_response(self.capabilities)
            if path == "/":
                return text_response("Stable Diffusion Server is running")
            return self._discovery(process, path)
        return empty_response(404)

    # Discovery

    def _discovery(self, process: _Process, path: str) -> Response:
        stem = self.model.rpartition(".")[0]
        if path == "/sdapi/v1/loras":
            process.known_loras = self.loras
        bodies: dict[str, Any] = {
            "/v1/models": {
                "data": [{"id": "sd-cpp-local", "object": "model", "owned_by": "local"}]
            },
            "/sdapi/v1/loras": self._lora_list,
            "/sdapi/v1/upscalers": [
                {
                    "name": name,
                    "model_name": None,
                    "model_path": None,
                    "model_url": None,
                    "scale": 4,
                }
                for name in UPSCALERS[:3]
            ],
            "/sdapi/v1/latent-upscale-modes": [{"name": name} for name in UPSCALERS[3:]],
            "/sdapi/v1/samplers": [
                {"name": name, "aliases": [name], "options": {}} for name in ("default", *SAMPLERS)
            ],
            "/sdapi/v1/schedulers": [
                {"name": name, "label": name} for name in ("default", *SCHEDULERS)
            ],
            "/sdapi/v1/sd-models": [
                {
                    "title": stem,
                    "model_name": stem,
                    "filename": self.model,
                    "hash": "8" * 10,
                    "sha256": "8" * 64,
                    "config": None,
                }
            ],
            "/sdapi/v1/options": {"samples_format": "png", "sd_model_checkpoint": stem},
        }
        return json_response(bodies[path]) if path in bodies else empty_response(404)

    @property
    def _lora_list(self) -> list[dict[str, str]]:
        return [
            {"name": path.rpartition("/")[2].rpartition(".")[0], "path": path}
            for path in self.loras
        ]

    @property
    def capabilities(self) -> dict[str, Any]:
        """The body of `/sdcpp/v1/capabilities`."""
        mode = "vid_gen" if self.video_only else "img_gen"
        defaults = {
            "prompt": "",
            "negative_prompt": "",
            "clip_skip": -1,
            "width": self.size[0],
            "height": self.size[1],
            "strength": self.strength,
            "seed": self.seed,
            "batch_count": 1,
            "sample_params": {
                "scheduler": self.scheduler,
                "sample_method": self.sampler,
                "sample_steps": self.steps,
                "guidance": {"txt_cfg": self.cfg_scale, "img_cfg": None, "distilled_guidance": 3.5},
            },
            "output_format": self.formats[0],
            "output_compression": 100,
        }
        return {
            "model": {
                "name": self.model,
                "stem": self.model.rpartition(".")[0],
                "path": f"/models/{self.model}",
            },
            "current_mode": mode,
            "supported_modes": [mode],
            "defaults_by_mode": {mode: defaults},
            "output_formats_by_mode": {mode: list(self.formats)},
            "features_by_mode": {
                mode: dict.fromkeys(FEATURES, True) | {"cancel_generating": False}
            },
            "samplers": list(SAMPLERS),
            "schedulers": list(SCHEDULERS),
            "loras": self._lora_list,
            "upscalers": [{"name": name} for name in UPSCALERS],
            "limits": {
                "min_width": 64,
                "max_width": 4096,
                "min_height": 64,
                "max_height": 4096,
                "max_batch_count": MAX_BATCH,
                "max_queue_size": MAX_QUEUED_JOBS,
            },
        }

    # Reading requests

    def _new_generation(self, path: str) -> _Generation:
        return _Generation(
            path, self.seed, self.steps, self.cfg_scale, self.sampler, self.scheduler, self.strength
        )

    def _check_mode(self) -> None:
        if self.video_only:
            raise _Refused("loaded model does not support img_gen")

    def _set_output(
        self, generation: _Generation, kind: str, compression: int, webp: bool = True
    ) -> None:
        allowed = [name for name in self.formats if webp or name != "webp"]
        generation.output_format, generation.output_compression = (
            kind.lower(),
            min(max(compression, 0), 100),
        )
        if generation.output_format not in allowed:
            raise _Refused(f"invalid output_format, must be one of [{', '.join(allowed)}]")

    def _read_generation(self, request: ReceivedRequest) -> _Generation:
        """Read a generation request (sd-server.md section 2).

        All fields except prompt, n, size and the output fields are ignored.
        """
        self._check_mode()
        if not request.body:
            raise _Refused("empty body")
        body = _parse_json(request.body)
        prompt, count, size = (
            _field(body, "prompt", ""),
            max(1, _field(body, "n", 1)),
            _field(body, "size", ""),
        )
        kind, compression = (
            _field(body, "output_format", "png"),
            _field(body, "output_compression", 100),
        )
        generation = self._new_generation("/v1/images/generations")
        generation.width, generation.height = _parse_size(size, self.size)
        if not prompt:
            raise _Refused("prompt required")
        self._set_output(generation, kind, compression)
        generation.prompt, generation.batch_count = prompt, count
        self._read_tag(generation)
        return self._resolve(generation, "invalid params")

    def _read_edit(self, request: ReceivedRequest) -> _Generation:
        """Read the form of an edit (sd-server.md section 2).

        Every upload that can be decoded is a reference, and the first one is the init image as
        well; others are skipped.
        """
        self._check_mode()
        kind = request.headers.get("content-type", "")
        if not kind.lower().startswith("multipart/form-data"):
            raise _Refused("Content-Type must be multipart/form-data")
        try:
            parts = parse_form(kind, request.body)
        except ValueError:
            parts = []
        fields: dict[str, str] = {}
        for part in parts:
            if part.filename is None:
                fields.setdefault(part.name, part.content.decode("utf-8", "replace"))
        if not fields.get("prompt"):
            raise _Refused("prompt required")
        uploads = _uploads(parts, "image[]") or _uploads(parts, "image")[:1]
        if not uploads:
            raise _Refused("at least one image[] required")
        generation = self._new_generation("/v1/images/edits")
        generation.width, generation.height = _parse_size(fields.get("size", ""), (-1, -1))
        self._set_output(
            generation,
            fields.get("output_format", "png"),
            _stoi(fields.get("output_compression", ""), 100),
            webp=False,
        )
        generation.prompt, generation.batch_count = fields["prompt"], _stoi(fields.get("n", ""), 1)
        for data in uploads:
            if (image := _as_rgb(decode_image(data))) is not None:
                generation.size_if_unset(image.size)
                generation.references.append(image)
        if generation.references:
            generation.init = generation.references[0]
        for data in _uploads(parts, "mask")[:1]:
            if (mask := decode_image(data)) is not None:
                generation.mask = mask.convert("L")
                generation.size_if_unset(mask.size)
        self._read_tag(generation)
        return self._resolve(generation, "invalid params")

    def _read_tag(self, generation: _Generation) -> None:
        """Apply the tag of a prompt (sd-server.md section 3).

        The leftmost complete tag is parsed, and all complete tags are deleted in one pass.
        """
        for start in re.finditer(re.escape(OPEN_TAG), generation.prompt):
            run = re.match(rf"[^\r\n]*?(?={CLOSE_TAG}|[\r\n]|\Z)", generation.prompt[start.end() :])
            if run and len(run[0]) >= FATAL_TAG_LENGTH:
                self.lose_jobs()
                raise Crash
        match = TAG.search(generation.prompt)
        if match is None:
            return
        generation.prompt = TAG.sub("", generation.prompt)
        if not match[1]:
            return
        try:
            values = json.loads(match[1], parse_constant=_reject_constant)
        except ValueError:
            raise _Refused("invalid sd_cpp_extra_args") from None
        if not self._apply(generation, values, lambda path: path):
            raise _Refused("invalid sd_cpp_extra_args")

    def _apply(
        self, generation: _Generation, values: Any, lora: Callable[[str], str | None]
    ) -> bool:
        """Apply the generation parameters of a tag or of a native request.

        Scalars of a wrong type are dropped. Returns False for an invalid LoRA or image.
        """
        if not isinstance(values, dict):
            return True
        text_fields = {"prompt": "prompt", "negative_prompt": "negative_prompt"}
        int_fields = {
            "clip_skip": "clip_skip",
            "width": "width",
            "height": "height",
            "batch_count": "batch_count",
            "seed": "seed",
        }
        float_fields = {"strength": "strength"}
        _apply_scalars(generation, values, text_fields, int_fields, float_fields)
        if isinstance(values.get("embed_image_metadata"), bool):
            generation.embed = values["embed_image_metadata"]
        sampling = values.get("sample_params")
        if self.flat_tag:
            _apply_scalars(
                generation,
                values,
                {},
                {"steps": "steps"},
                {"cfg_scale": "cfg_scale", "guidance": "guidance"},
            )
            _apply_sampler(generation, values)
        elif isinstance(sampling, dict):
            _apply_scalars(generation, sampling, {}, {"sample_steps": "steps"}, {})
            _apply_sampler(generation, sampling)
            if isinstance(sampling.get("custom_sigmas"), list):
                generation.custom_sigmas = [
                    _array_number(item) for item in sampling["custom_sigmas"]
                ]
            if isinstance(sampling.get("guidance"), dict):
                _apply_scalars(
                    generation,
                    sampling["guidance"],
                    {},
                    {},
                    {"txt_cfg": "cfg_scale", "distilled_guidance": "guidance"},
                )
        if isinstance(values.get("hires"), dict):
            generation.hires = dict(values["hires"])
        return _apply_loras(generation, values, lora) and _apply_images(generation, values)

    def _resolve(self, generation: _Generation, complaint: str) -> _Generation:
        """Apply the final defaults, clamps and checks (sd-server.md sections 1, 2 and 6)."""
        if generation.seed < 0:
            generation.seed = int(self.clock()) % (1 << 31)
        generation.batch_count, generation.steps = (
            min(max(generation.batch_count, 1), MAX_BATCH),
            min(max(generation.steps, 1), 100),
        )
        if generation.cfg_scale < 0 or not 0 <= generation.strength <= 1:
            raise _Refused(complaint)
        if (
            generation.hires.get("enabled")
            and generation.hires.get("upscaler", "Latent") not in UPSCALERS
        ):
            raise _Refused(complaint)
        generation.size_if_unset(self.size)
        return generation

    # The synchronous routes

    def _openai(self, process: _Process, generation: _Generation) -> Response:
        images = self._generate(process, generation)
        if not images and not self.empty_data:
            return json_response({"error": "generate_image returned no results"}, 500)
        data = [{"b64_json": b64(image)} for image in images]
        return json_response(
            {"created": self._now(), "data": data, "output_format": generation.output_format}
        )

    def _sdapi(self, process: _Process, request: ReceivedRequest, kind: str) -> Response:
        if not request.body:
            raise _Refused("empty body")
        self._check_mode()
        body = _parse_json(request.body)
        generation = self._read_sdapi(process, body, kind == "img2img")
        images = self._generate(process, generation)
        if not images and not self.empty_data:
            return json_response({"error": "generate_image returned no results"}, 500)
        seeds = [generation.seed + index for index in range(len(images))]
        info = {
            "prompt": generation.prompt,
            "seed": generation.seed,
            "cfg_scale": generation.cfg_scale,
            "width": generation.width,
            "height": generation.height,
            "steps": generation.steps,
            "sampler_name": generation.sampler,
            "extra_generation_params": {"Schedule type": generation.scheduler},
            "sd_model_name": self.model,
            "version": "stable-diffusion.cpp",
            "infotexts": [self._parameters(generation, seed) for seed in seeds],
            "all_prompts": [generation.prompt] * len(seeds),
            "all_negative_prompts": [generation.negative_prompt] * len(seeds),
            "all_seeds": seeds,
        }
        if generation.negative_prompt:
            info["negative_prompt"] = generation.negative_prompt
        if kind == "img2img":
            info["denoising_strength"] = generation.strength
        return json_response(
            {
                "images": [b64(image) for image in images],
                "parameters": body,
                "info": json.dumps(info),
            }
        )

    def _read_sdapi(self, process: _Process, body: Any, img2img: bool) -> _Generation:
        """Read a request of `/sdapi` (sd-server.md section 4).

        The tag is applied over the top-level fields read before it; the ones read after it
        override it.
        """
        generation = self._new_generation(f"/sdapi/v1/{'img2img' if img2img else 'txt2img'}")
        prompt, negative = _field(body, "prompt", ""), _field(body, "negative_prompt", "")
        width, height = _field(body, "width", 512), _field(body, "height", 512)
        generation.steps, generation.cfg_scale = (
            _field(body, "steps", generation.steps),
            _field(body, "cfg_scale", float(generation.cfg_scale)),
        )
        generation.seed, generation.batch_count = (
            _wrap_int32(_field(body, "seed", -1)),
            _field(body, "batch_size", 1),
        )
        clip_skip = _field(body, "clip_skip", -1)
        sampler, scheduler = _field(body, "sampler_name", ""), _field(body, "scheduler", "")
        if width <= 0 or height <= 0:
            raise _Refused("width and height must be positive")
        if not prompt:
            raise _Refused("prompt required")
        generation.prompt, generation.negative_prompt = prompt, negative
        generation.width, generation.height = _field(body, "width", -1), _field(body, "height", -1)
        if not img2img:
            if _field(body, "enable_hr", False):
                generation.hires = {
                    "enabled": True,
                    "scale": _field(body, "hr_scale", 2.0),
                    "target_width": _field(body, "hr_resize_x", 0),
                    "target_height": _field(body, "hr_resize_y", 0),
                    "steps": _field(body, "hr_steps", 0),
                    "denoising_strength": _field(body, "denoising_strength", 0.7),
                    "upscaler": _field(body, "hr_upscaler", "Latent"),
                }
            generation.width = generation.width if generation.width > 0 else self.size[0]
            generation.height = generation.height if generation.height > 0 else self.size[1]
        self._read_tag(generation)
        if clip_skip > 0:
            generation.clip_skip = clip_skip
        generation.sampler = (
            sampler if sampler in SAMPLERS else ALIASES.get(sampler.lower(), generation.sampler)
        )
        generation.scheduler = _known_scheduler(scheduler) or generation.scheduler
        if isinstance(body.get("lora"), list):
            self._top_level_loras(process, generation, body["lora"])
        if img2img:
            self._read_input_images(generation, body)
        if isinstance(body.get("extra_images"), list):
            for item in body["extra_images"]:
                if isinstance(item, str) and (image := _decode_base64_image(item)) is not None:
                    generation.size_if_unset(image.size)
                    generation.references.append(image)
        return self._resolve(generation, "invalid params")

    def _top_level_loras(
        self, process: _Process, generation: _Generation, items: list[Any]
    ) -> None:
        """Check LoRAs against the known ones.

        Only an earlier GET of the list, or a native request, makes LoRAs known.
        """
        generation.loras = {}
        for item in items:
            if not isinstance(item, dict):
                continue
            path, multiplier = _field(item, "path", ""), _field(item, "multiplier", 1.0)
            if not path:
                raise _Refused("lora.path required")
            if path not in process.known_loras:
                raise _Refused(f"invalid lora path: {path}")
            generation.loras[path] = generation.loras.get(path, 0.0) + multiplier

    def _read_input_images(self, generation: _Generation, body: dict[str, Any]) -> None:
        """Read the images of img2img; with an unreadable init image it becomes text-to-image."""
        if isinstance(body.get("init_images"), list) and body["init_images"]:
            first = body["init_images"][0]
            if not isinstance(first, str):
                raise _Refused(
                    "[json.exception.type_error.302] type must be string, "
                    f"but is {_json_type(first)}",
                    500,
                )
            generation.init = _decode_base64_image(first) or generation.init
            if generation.init is not None:
                generation.size_if_unset(generation.init.size)
        if isinstance(body.get("mask"), str):
            mask = decode_image(leading_base64(body["mask"]))
            if mask is not None:
                flat = mask.convert("L")
                generation.mask = (
                    flat.point(lambda level: 255 - level)
                    if _field(body, "inpainting_mask_invert", 0)
                    else flat
                )
                generation.size_if_unset(mask.size)
        else:
            generation.mask = None
        strength = _field(body, "denoising_strength", -1.0)
        if strength >= 0:
            generation.strength = min(strength, 1.0)

    # The native routes

    def _submit(self, process: _Process, request: ReceivedRequest) -> Response:
        if not request.body:
            raise _Refused("empty body")
        self._check_mode()
        try:
            body = _parse_json(request.body)
        except _Refused as refused:
            return json_response({"error": "invalid json", "message": str(refused)}, 400)
        process.known_loras = self.loras
        generation = self._new_generation("/sdcpp/v1/img_gen")
        if not self._apply(generation, body, lambda path: path if path in self.loras else None):
            raise _Refused("invalid generation parameters")
        self._set_output(
            generation,
            _field(body, "output_format", "png"),
            _field(body, "output_compression", 100),
        )
        self._resolve(generation, "invalid generation parameters")
        with self._changed:
            self._forget_old_jobs(process)
            if sum(job.completed is None for job in process.jobs.values()) >= MAX_QUEUED_JOBS:
                raise _Refused("job queue is full", 429)
            job = _Job(f"job_{self._now():x}_{self._next_job_number:08x}", self._now(), generation)
            self._next_job_number += 1
            process.jobs[job.id] = job
            process.queue.append(job.id)
            self.jobs.append(generation.settings)
            accepted = {
                "id": job.id,
                "kind": "img_gen",
                "status": "queued",
                "created": job.created,
                "poll_url": f"/sdcpp/v1/jobs/{job.id}",
            }
            self._start_next_job(process)
        return json_response(accepted, 202)

    def _find_job(self, process: _Process, name: str) -> _Job:
        self._forget_old_jobs(process)
        if name in process.expired:
            raise _Refused("job expired", 410)
        if name not in process.jobs:
            raise _Refused("job not found", 404)
        return process.jobs[name]

    def _describe_job(self, process: _Process, job: _Job) -> dict[str, Any]:
        """Return a job as the native routes describe it.

        `result` and `error` are missing until the job has ended, as observed on a running server.
        """
        position = process.queue.index(job.id) + 1 if job.status == "queued" else 0
        body: dict[str, Any] = {
            "id": job.id,
            "kind": "img_gen",
            "status": job.status,
            "created": job.created,
            "started": job.started,
            "completed": job.completed,
            "queue_position": position,
        }
        if job.status == "completed":
            images = [{"index": index, "b64_json": image} for index, image in enumerate(job.images)]
            body |= {
                "result": {"output_format": job.generation.output_format, "images": images},
                "error": None,
            }
        elif job.error is not None:
            body |= {"result": None, "error": job.error}
        return body

    def _cancel(self, process: _Process, name: str) -> Response:
        with self._changed:
            job = self._find_job(process, name)
            if job.status == "generating":
                raise _Refused("job is currently generating and cannot be interrupted yet", 409)
            if job.status == "queued":
                process.queue.remove(job.id)
                job.status, job.completed = "cancelled", self._now()
                job.error = {"code": "cancelled", "message": "job cancelled by client"}
                self._changed.notify_all()
            return json_response(self._describe_job(process, job))

    def _forget_old_jobs(self, process: _Process) -> None:
        now = self._now()
        process.expired = {name: until for name, until in process.expired.items() if until > now}
        for job in list(process.jobs.values()):
            if job.completed is not None and now - job.completed >= JOB_KEPT_SECONDS:
                del process.jobs[job.id]
                if job.completed + 2 * JOB_KEPT_SECONDS > now:
                    process.expired[job.id] = job.completed + 2 * JOB_KEPT_SECONDS

    def _start_next_job(self, process: _Process) -> None:
        """Start the next job if the worker is idle."""
        if process.dead or process.busy or not process.queue or self._hold_status == "queued":
            return
        job = process.jobs[process.queue.pop(0)]
        job.status, job.started, process.busy = "generating", self._now(), True
        threading.Thread(target=self._run_job, args=(process, job), daemon=True).start()

    def _run_job(self, process: _Process, job: _Job) -> None:
        try:
            images = self._generate(process, job.generation, listed=True)
        except Crash:
            return
        with self._changed:
            job.completed, process.busy = self._now(), False
            if images or self.empty_data:
                job.status, job.images = "completed", [b64(image) for image in images]
            else:
                job.status = "failed"
                job.error = {
                    "code": "generation_failed",
                    "message": "generate_image returned no results",
                }
            self._start_next_job(process)
            self._changed.notify_all()

    # The engine

    def _generate(
        self, process: _Process, generation: _Generation, listed: bool = False
    ) -> list[bytes]:
        """Generate the images of one request at a time.

        A client that disconnects does not stop its images.
        """
        with self._changed:
            if not listed:
                self.jobs.append(generation.settings)
            self._waiting += 1
            self._changed.notify_all()
        try:
            with process.engine:
                with self._changed:
                    self._changed.wait_for(lambda: process.dead or not self._hold_status)
                    if process.dead:
                        raise Crash
                    if self.crash:
                        self.lose_jobs()
                        raise Crash
                    if self.failing or self.empty_data:
                        return []
                return [
                    self._render(generation, index)
                    for index in range(generation.batch_count)
                    for _ in range(self.layers)
                ]
        finally:
            with self._changed:
                self._waiting -= 1
                self._changed.notify_all()

    def _render(self, generation: _Generation, index: int) -> bytes:
        image = solid_image(color(generation.settings, index), self._pixel_size(generation))
        if generation.init is not None and generation.mask is not None:
            image = repaint_masked(generation.init, image, generation.mask)
        parameters = (
            self._parameters(generation, generation.seed + index) if generation.embed else None
        )
        return encode_image(
            image, generation.output_format, parameters, generation.output_compression
        )

    def _pixel_size(self, generation: _Generation) -> tuple[int, int]:
        """Return the size with each side rounded up to the model's multiple."""
        width, height = generation.width, generation.height
        if generation.hires.get("enabled"):
            scale = generation.hires.get("scale", 2.0)
            width, height = (
                generation.hires.get("target_width") or int(width * scale),
                generation.hires.get("target_height") or int(height * scale),
            )
        return -(-width // self.multiple) * self.multiple, -(
            -height // self.multiple
        ) * self.multiple

    def _parameters(self, generation: _Generation, seed: int) -> str:
        """Return the text chunk of a PNG.

        The seed is reported nowhere else. The size is the requested one.
        """
        negative = (
            f"Negative prompt: {generation.negative_prompt}\n" if generation.negative_prompt else ""
        )
        block = json.dumps(
            {"seed": seed, "prompt": generation.prompt, "steps": generation.steps},
            ensure_ascii=False,
        )
        return (
            f"{generation.prompt}\n{negative}"
            f"Steps: {generation.steps}, CFG scale: {generation.cfg_scale:f}, "
            f"Guidance: {generation.guidance:f}, Eta: 0.000000, "
            f"Seed: {seed}, Size: {generation.width}x{generation.height}, "
            f"Model: {self.model}, RNG: cuda, "
            f"Sampler: {generation.sampler} {generation.scheduler}, "
            f"Version: stable-diffusion.cpp, SDCPP: {block}"
        )

    def _now(self) -> int:
        return int(self.clock()) + self._aged_seconds


def _reject_constant(name: str) -> None:
    raise ValueError(name)


def _parse_json(body: bytes) -> Any:
    """Return the JSON of a body.

    Invalid JSON is a 500 here; the native route turns it into a 400.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_reject_constant)
        # The C++ parser rejects an unpaired surrogate.
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError as problem:
        raise _Refused(f"[json.exception.parse_error.101] parse error: {problem}", 500) from None
    return value


def _json_type(value: Any) -> str:
    names = {
        dict: "object",
        list: "array",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
        type(None): "null",
    }
    return names[type(value)]


def _field(body: Any, name: str, default: Any) -> Any:
    """Read a field as nlohmann's `value()` does.

    Null and a wrong type raise an error; all numbers are interchangeable, and a boolean is
    accepted as a number.
    """
    if not isinstance(body, dict):
        raise _Refused(
            f"[json.exception.type_error.306] cannot use value() with {_json_type(body)}", 500
        )
    if name not in body:
        return default
    value = body[name]
    expected = (
        "string"
        if isinstance(default, str)
        else "boolean"
        if isinstance(default, bool)
        else "number"
    )
    if _json_type(value) != expected and not (expected == "number" and isinstance(value, bool)):
        raise _Refused(
            f"[json.exception.type_error.302] type must be {expected}, but is {_json_type(value)}",
            500,
        )
    return type(default)(value)


def _array_number(value: Any) -> float:
    """Return an element of an array of numbers."""
    if _json_type(value) not in ("number", "boolean"):
        raise _Refused(
            f"[json.exception.type_error.302] type must be number, but is {_json_type(value)}", 500
        )
    return float(value)


def _wrap_int32(number: int) -> int:
    """Return the number in 32 bits, in which `/sdapi` stores a seed."""
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


def _stoi(text: str, default: int) -> int:
    """Parse as C++ `stoi`.

    The leading digits count and what follows is ignored; a number out of range gives the default.
    """
    match = re.match(r"\s*[+-]?\d+", text)
    return int(match[0]) if match and abs(int(match[0])) < 1 << 31 else default


def _parse_size(size: str, default: tuple[int, int]) -> tuple[int, int]:
    """Parse `WxH`, split at a lower-case x.

    An invalid width gives the default size, an invalid height only the default height, and a side
    that is not positive the default size.
    """
    width, separator, height = size.partition("x")
    if not separator or _stoi(width, 0) == 0:
        return default
    parsed = _stoi(width, default[0]), _stoi(height, default[1])
    return parsed if min(parsed) > 0 else default


def _uploads(parts: list[Part], name: str) -> list[bytes]:
    return [part.content for part in parts if part.name == name and part.filename is not None]


def _as_rgb(image: Image.Image | None) -> Image.Image | None:
    """Return the image in RGB; images of one or two channels are treated as unreadable."""
    return (
        image.convert("RGB")
        if image is not None and image.mode in ("RGB", "RGBA", "P", "CMYK")
        else None
    )


def _decode_base64_image(text: str) -> Image.Image | None:
    return _as_rgb(decode_image(leading_base64(text)))


def _apply_scalars(
    generation: _Generation,
    values: dict[str, Any],
    text_fields: dict[str, str],
    int_fields: dict[str, str],
    float_fields: dict[str, str],
) -> None:
    """Set the fields of `generation` that these values name, each only from a value of its type."""
    for name, target in text_fields.items():
        if isinstance(values.get(name), str):
            setattr(generation, target, values[name])
    for name, target in int_fields.items():
        if type(values.get(name)) is int:
            setattr(generation, target, values[name])
    for name, target in float_fields.items():
        if type(values.get(name)) in (int, float):
            setattr(generation, target, values[name])


def _apply_sampler(generation: _Generation, values: dict[str, Any]) -> None:
    """Set sampler and scheduler; unknown names, and known ones in another case, are dropped."""
    if values.get("sample_method") in SAMPLERS:
        generation.sampler = values["sample_method"]
    generation.scheduler = _known_scheduler(values.get("scheduler")) or generation.scheduler


def _known_scheduler(name: Any) -> str | None:
    """Return a scheduler by its exact name; `normal` is an alias of `discrete`."""
    return ("discrete" if name == "normal" else str(name)) if name in SCHEDULERS else None


def _apply_loras(
    generation: _Generation, values: dict[str, Any], known: Callable[[str], str | None]
) -> bool:
    """Set the LoRAs; return False for an invalid one."""
    if "lora" not in values:
        return True
    if not isinstance(values["lora"], list):
        return False
    generation.loras = {}
    for item in values["lora"]:
        if not isinstance(item, dict):
            return False
        path = known(_field(item, "path", ""))
        if not path:
            return False
        generation.loras[path] = generation.loras.get(path, 0.0) + _field(item, "multiplier", 1.0)
    return True


def _apply_images(generation: _Generation, values: dict[str, Any]) -> bool:
    """Set the images: null means no image, and anything except readable base64 is an error."""
    for name in ("init_image", "mask_image"):
        value = values.get(name)
        if name not in values:
            continue
        image = decode_image(leading_base64(value)) if isinstance(value, str) else None
        if name == "init_image":
            image = _as_rgb(image)
        if value is not None and image is None:
            return False
        if name == "init_image":
            generation.init = image
        else:
            generation.mask = image.convert("L") if image is not None else None
    if values.get("ref_images") is not None:
        if not isinstance(values["ref_images"], list):
            return False
        images = [
            _decode_base64_image(item) if isinstance(item, str) else None
            for item in values["ref_images"]
        ]
        if None in images:
            return False
        generation.references = [image for image in images if image is not None]
    return True
