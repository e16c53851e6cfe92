"""A test server with the web API of the AUTOMATIC1111 Stable Diffusion web UI.

It draws with Pillow in place of the neural network. It follows modules/api/api.py,
modules/api/models.py, modules/processing.py and modules/shared_state.py of AUTOMATIC1111/stable-
diffusion-webui: the 1.9-1.10 line, and with `old=True` the 1.6-1.8 line. It does not depend on
any client.

    engine = Automatic1111()
    server = serve(engine)          # server.url is the address
    engine.hold_at = 3              # the next job waits when `sampling_step` is 3
    engine.reached.wait(5)          # until it does
    engine.release()                # the job goes on; the interrupt route also continues it

`engine.jobs` lists the settings in effect of every started job. `engine.color(job, index)` is the
color of image number `index` of a job: two images are equal only when all settings are equal.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import io
import json
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from PIL import Image, ImageFilter, ImageOps, PngImagePlugin

from tests.servers.held_jobs import Color, Paced, color_of, flatten, pixels, resize, towards
from tests.support.loopback import Peer, ReceivedRequest, http_response

PREFIX = "/sdapi/v1/"
# An extension adds this route, and --api-auth does not guard it.
UNGUARDED = {"loras"}
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286

# modules/sd_samplers_kdiffusion.py and sd_samplers_timesteps.py: name, aliases, options
SAMPLERS: list[tuple[str, list[str], dict[str, str]]] = [
    ("DPM++ 2M", ["k_dpmpp_2m"], {"scheduler": "karras"}),
    (
        "DPM++ SDE",
        ["k_dpmpp_sde"],
        {"scheduler": "karras", "second_order": "True", "brownian_noise": "True"},
    ),
    ("DPM++ 2M SDE", ["k_dpmpp_2m_sde"], {"scheduler": "exponential", "brownian_noise": "True"}),
    (
        "DPM++ 2M SDE Heun",
        ["k_dpmpp_2m_sde_heun"],
        {"scheduler": "exponential", "brownian_noise": "True", "solver_type": "heun"},
    ),
    (
        "DPM++ 2S a",
        ["k_dpmpp_2s_a"],
        {"scheduler": "karras", "uses_ensd": "True", "second_order": "True"},
    ),
    (
        "DPM++ 3M SDE",
        ["k_dpmpp_3m_sde"],
        {
            "scheduler": "exponential",
            "discard_next_to_last_sigma": "True",
            "brownian_noise": "True",
        },
    ),
    ("Euler a", ["k_euler_a", "k_euler_ancestral"], {"uses_ensd": "True"}),
    ("Euler", ["k_euler"], {}),
    ("LMS", ["k_lms"], {}),
    ("Heun", ["k_heun"], {"second_order": "True"}),
    (
        "DPM2",
        ["k_dpm_2"],
        {"scheduler": "karras", "discard_next_to_last_sigma": "True", "second_order": "True"},
    ),
    (
        "DPM2 a",
        ["k_dpm_2_a"],
        {
            "scheduler": "karras",
            "discard_next_to_last_sigma": "True",
            "uses_ensd": "True",
            "second_order": "True",
        },
    ),
    ("DPM fast", ["k_dpm_fast"], {"uses_ensd": "True"}),
    ("DPM adaptive", ["k_dpm_ad"], {"uses_ensd": "True"}),
    ("Restart", ["restart"], {"scheduler": "karras", "second_order": "True"}),
    ("DDIM", ["ddim"], {}),
    ("PLMS", ["plms"], {}),
    ("UniPC", ["unipc"], {}),
    ("LCM", ["k_lcm"], {}),
]
# Before 1.9 the schedule was part of the sampler's name, and this was the first entry of the list.
OLD_SAMPLERS: list[tuple[str, list[str], dict[str, str]]] = [
    ("DPM++ 2M Karras", ["k_dpmpp_2m_ka"], {"scheduler": "karras"}),
    (
        "DPM++ SDE Karras",
        ["k_dpmpp_sde_ka"],
        {"scheduler": "karras", "second_order": "True", "brownian_noise": "True"},
    ),
    (
        "DPM++ 2M SDE Exponential",
        ["k_dpmpp_2m_sde_exp"],
        {"scheduler": "exponential", "brownian_noise": "True"},
    ),
    (
        "DPM++ 2M SDE Karras",
        ["k_dpmpp_2m_sde_ka"],
        {"scheduler": "karras", "brownian_noise": "True"},
    ),
    ("Euler a", ["k_euler_a", "k_euler_ancestral"], {"uses_ensd": "True"}),
    ("Euler", ["k_euler"], {}),
    ("LMS", ["k_lms"], {}),
    ("Heun", ["k_heun"], {"second_order": "True"}),
    ("DPM2", ["k_dpm_2"], {"discard_next_to_last_sigma": "True", "second_order": "True"}),
    (
        "DPM2 a",
        ["k_dpm_2_a"],
        {"discard_next_to_last_sigma": "True", "uses_ensd": "True", "second_order": "True"},
    ),
    ("DPM++ 2S a", ["k_dpmpp_2s_a"], {"uses_ensd": "True", "second_order": "True"}),
    ("DPM++ 2M", ["k_dpmpp_2m"], {}),
    ("DPM++ SDE", ["k_dpmpp_sde"], {"second_order": "True", "brownian_noise": "True"}),
    ("DPM++ 2M SDE", ["k_dpmpp_2m_sde"], {"brownian_noise": "True"}),
    (
        "DPM++ 2M SDE Heun",
        ["k_dpmpp_2m_sde_heun"],
        {"brownian_noise": "True", "solver_type": "heun"},
    ),
    (
        "DPM++ 3M SDE",
        ["k_dpmpp_3m_sde"],
        {"discard_next_to_last_sigma": "True", "brownian_noise": "True"},
    ),
    (
        "DPM++ 3M SDE Karras",
        ["k_dpmpp_3m_sde_ka"],
        {"scheduler": "karras", "discard_next_to_last_sigma": "True"},
    ),
    ("DPM fast", ["k_dpm_fast"], {"uses_ensd": "True"}),
    ("DPM adaptive", ["k_dpm_ad"], {"uses_ensd": "True"}),
    ("LMS Karras", ["k_lms_ka"], {"scheduler": "karras"}),
    (
        "DPM2 Karras",
        ["k_dpm_2_ka"],
        {"scheduler": "karras", "discard_next_to_last_sigma": "True", "second_order": "True"},
    ),
    (
        "DPM2 a Karras",
        ["k_dpm_2_a_ka"],
        {"scheduler": "karras", "discard_next_to_last_sigma": "True", "second_order": "True"},
    ),
    (
        "DPM++ 2S a Karras",
        ["k_dpmpp_2s_a_ka"],
        {"scheduler": "karras", "uses_ensd": "True", "second_order": "True"},
    ),
    ("Restart", ["restart"], {"scheduler": "karras", "second_order": "True"}),
    ("DDIM", ["ddim"], {}),
    ("PLMS", ["plms"], {}),
    ("UniPC", ["unipc"], {}),
]
# modules/sd_schedulers.py: name, label, aliases, default_rho, need_inner_model
SCHEDULERS: list[tuple[str, str, list[str] | None, float, bool]] = [
    ("automatic", "Automatic", None, -1, False),
    ("uniform", "Uniform", None, -1, True),
    ("karras", "Karras", None, 7.0, False),
    ("exponential", "Exponential", None, -1, False),
    ("polyexponential", "Polyexponential", None, 1.0, False),
    ("sgm_uniform", "SGM Uniform", ["SGMUniform"], -1, True),
    ("kl_optimal", "KL Optimal", None, -1, False),
    ("align_your_steps", "Align Your Steps", None, -1, False),
    ("simple", "Simple", None, -1, True),
    ("normal", "Normal", None, -1, True),
    ("ddim", "DDIM", None, -1, True),
    ("beta", "Beta", None, -1, True),
]
UPSCALERS: list[tuple[str, str | None, float]] = [
    ("None", None, 4),
    ("Lanczos", None, 4),
    ("Nearest", None, 4),
    ("ESRGAN_4x", "ESRGAN_4x", 4),
    ("R-ESRGAN 4x+", "R-ESRGAN 4x+", 4),
]
MODELS: list[tuple[str, str, str]] = [  # name, short hash, sha256
    (
        "v1-5-pruned-emaonly",
        "6ce0161689",
        "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
    ),
    (
        "sd_xl_base_1.0",
        "31e35c80fc",
        "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
    ),
]
LORAS: list[tuple[str, str]] = [("ink-wash", "Ink wash"), ("pixel-art", "pixel-art")]  # name, alias

# Field -> (type, default, whether null is accepted). modules/api/models.py derives the fields from
# the processing classes.
Kind = Literal["int", "float", "str", "bool", "list", "dict"]
Fields = dict[str, tuple[Kind, Any, bool]]
COMMON: Fields = {
    "prompt": ("str", "", True),
    "negative_prompt": ("str", "", True),
    "styles": ("list", None, True),
    "seed": ("int", -1, True),
    "subseed": ("int", -1, True),
    "subseed_strength": ("float", 0, True),
    "seed_resize_from_h": ("int", -1, True),
    "seed_resize_from_w": ("int", -1, True),
    "sampler_name": ("str", None, True),
    "scheduler": ("str", None, True),
    "batch_size": ("int", 1, True),
    "n_iter": ("int", 1, True),
    "steps": ("int", 50, True),
    "cfg_scale": ("float", 7.0, True),
    "width": ("int", 512, True),
    "height": ("int", 512, True),
    "restore_faces": ("bool", None, True),
    "tiling": ("bool", None, True),
    "do_not_save_samples": ("bool", False, True),
    "do_not_save_grid": ("bool", False, True),
    "eta": ("float", None, True),
    "denoising_strength": ("float", None, True),
    "s_churn": ("float", None, True),
    "s_tmax": ("float", None, True),
    "s_tmin": ("float", None, True),
    "s_noise": ("float", None, True),
    "override_settings": ("dict", None, True),
    "override_settings_restore_afterwards": ("bool", True, True),
    "sampler_index": ("str", "Euler", False),
    "script_name": ("str", None, True),
    "script_args": ("list", [], False),
    "send_images": ("bool", True, False),
    "save_images": ("bool", False, False),
    "alwayson_scripts": ("dict", {}, False),
    "force_task_id": ("str", None, True),
    "infotext": ("str", None, True),
}
TXT2IMG: Fields = COMMON | {
    "enable_hr": ("bool", False, True),
    "firstphase_width": ("int", 0, True),
    "firstphase_height": ("int", 0, True),
    "hr_scale": ("float", 2.0, True),
    "hr_upscaler": ("str", None, True),
    "hr_second_pass_steps": ("int", 0, True),
    "hr_resize_x": ("int", 0, True),
    "hr_resize_y": ("int", 0, True),
    "hr_sampler_name": ("str", None, True),
    "hr_scheduler": ("str", None, True),
    "hr_prompt": ("str", "", True),
    "hr_negative_prompt": ("str", "", True),
}
IMG2IMG: Fields = COMMON | {
    "init_images": ("list", None, True),
    "resize_mode": ("int", 0, True),
    "denoising_strength": ("float", 0.75, False),
    "image_cfg_scale": ("float", None, True),
    "mask": ("str", None, True),
    "mask_blur": ("int", 4, True),
    "inpainting_fill": ("int", 0, True),
    "inpaint_full_res": ("bool", True, True),
    "inpaint_full_res_padding": ("int", 0, True),
    "inpainting_mask_invert": ("int", 0, True),
    "initial_noise_multiplier": ("float", None, True),
    "include_init_images": ("bool", False, False),
}
EXTRAS: Fields = {
    "resize_mode": ("int", 0, False),
    "show_extras_results": ("bool", True, False),
    "gfpgan_visibility": ("float", 0, False),
    "codeformer_visibility": ("float", 0, False),
    "codeformer_weight": ("float", 0, False),
    "upscaling_resize": ("float", 2, False),
    "upscaling_resize_w": ("int", 512, False),
    "upscaling_resize_h": ("int", 512, False),
    "upscaling_crop": ("bool", True, False),
    "upscaler_1": ("str", "None", False),
    "upscaler_2": ("str", "None", False),
    "extras_upscaler_2_visibility": ("float", 0, False),
    "upscale_first": ("bool", False, False),
    "image": ("str", "", False),
}
FIELDS_SINCE_1_9 = {"scheduler", "hr_scheduler", "infotext"}
# The settings that do not change an image, and those that count under another name: `seed` as the
# seed of the image, `scheduler` as the schedule that it selects.
NOT_IN_COLOR = {
    "route",
    "task",
    "body",
    "n_iter",
    "batch_size",
    "seed",
    "all_seeds",
    "scheduler",
    "image_size",
    "sampling_steps",
}


class HTTPException(Exception):
    """FastAPI's HTTPException: the request is refused with this status and detail."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class EngineError(Exception):
    """Any other exception of the engine, with the class name that it has there."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class ValidationError(Exception):
    """FastAPI's 422 response, one entry per invalid field."""

    def __init__(self, detail: list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.detail = detail


@dataclass
class State:
    """The state in modules/shared_state.py: one for the server, shared by all clients."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


@dataclass
class Job:
    """A request while the engine processes it."""

    settings: dict[str, Any]
    sources: list[Image.Image] = field(default_factory=list)
    mask: Image.Image | None = None


class Automatic1111(Paced):
    """A handler of loopback.Loopback; all connections share this one engine.

    Args:
        old: A server before 1.9: the schedule is part of the sampler's name, there is no scheduler
            field, no /schedulers and no `current_task`, and an unknown sampler is refused with
            `unknown_sampler_status` (404; some releases send 400).
        api: False is a server without --api.
        auth: User and password.
        current_task: What newer releases send in this field: the "id" of the task, always "null"
            (the task is imported before it is set), or "absent".
        return_grid: Put a grid before several images.
        samples_format: "png", "jpg" or "webp".
        preview_interval: The number of steps between two previews; -1 for no previews.
        unknown_sampler_status: Refuse unknown samplers with this status.
        refuse_unknown_model: Send 500 for an unknown model; the 1.6-1.10 line silently keeps its
            own.
        step_seconds: The duration of a step.

    Set `failure` to "oom" or "nan" to make jobs fail at their first step.
    """

    def __init__(
        self,
        *,
        old: bool = False,
        api: bool = True,
        auth: tuple[str, str] | None = None,
        current_task: Literal["id", "null", "absent"] = "id",
        return_grid: bool = False,
        samples_format: str = "png",
        preview_interval: int = 1,
        unknown_sampler_status: int | None = None,
        refuse_unknown_model: bool = False,
        step_seconds: float = 0,
    ) -> None:
        super().__init__(step_seconds)
        self.old = old
        self.api = api
        self.auth = auth
        self.current_task: Literal["id", "null", "absent"] = "absent" if old else current_task
        self.return_grid = return_grid
        self.unknown_sampler_status = unknown_sampler_status or (404 if old else None)
        self.refuse_unknown_model = refuse_unknown_model
        self.failure: Literal["oom", "nan"] | None = None
        self.samplers = OLD_SAMPLERS if old else SAMPLERS
        self.options: dict[str, Any] = {
            "samples_format": samples_format,
            "sd_model_checkpoint": f"{MODELS[0][0]}.safetensors [{MODELS[0][1]}]",
            "sd_checkpoint_hash": MODELS[0][2],
            "sd_vae": "Automatic",
            "CLIP_stop_at_last_layers": 1,
            "jpeg_quality": 80,
            "return_grid": return_grid,
            "live_previews_enable": True,
            "show_progress_every_n_steps": preview_interval,
            "live_previews_image_format": "png",
        }
        self.jobs: list[dict[str, Any]] = []
        self.interrupts = 0
        self.skips = 0
        self.state = State()
        self.task: str | None = None
        self._started_at = 0.0
        self._preview: Image.Image | None = None
        self._latent: Image.Image | None = None
        self._preview_step = 0
        # The first ticket holds the engine; the others wait in order of arrival.
        self._queue: deque[object] = deque()
        self._routes: dict[str, dict[str, Callable[[ReceivedRequest], Any]]] = {
            "txt2img": {"POST": self._txt2img},
            "img2img": {"POST": self._img2img},
            "extra-single-image": {"POST": self._extra_single_image},
            "png-info": {"POST": self._png_info},
            "progress": {"GET": self._progress},
            "interrupt": {"POST": self._interrupt},
            "skip": {"POST": self._skip},
            "options": {"GET": lambda request: self.options, "POST": self._set_options},
            "cmd-flags": {"GET": self._cmd_flags},
            "samplers": {
                "GET": lambda request: [
                    {"name": n, "aliases": a, "options": o} for n, a, o in self.samplers
                ]
            },
            "upscalers": {"GET": self._upscalers},
            "sd-models": {"GET": self._sd_models},
            "sd-vae": {"GET": lambda request: []},
            "loras": {"GET": self._loras},
            "memory": {"GET": self._memory},
            "scripts": {
                "GET": lambda request: {
                    "txt2img": ["x/y/z plot"],
                    "img2img": ["loopback", "x/y/z plot"],
                }
            },
            "refresh-checkpoints": {"POST": lambda request: None},
            "unload-checkpoint": {"POST": lambda request: {}},
            "reload-checkpoint": {"POST": lambda request: {}},
        }
        if not old:
            self._routes["schedulers"] = {"GET": self._schedulers}

    # --- controls for tests ---

    @property
    def waiting(self) -> int:
        """How many requests wait for the engine, without the one that it works on."""
        with self.changed:
            return max(len(self._queue) - 1, 0)

    def color(self, job: dict[str, Any], index: int = 0) -> Color:
        """Return the color of image number `index` of this job, if the job is not stopped."""
        settings = {key: value for key, value in job.items() if key not in NOT_IN_COLOR}
        if "init_images" in job:
            settings["init_images"] = job["init_images"][index % len(job["init_images"])]
        return color_of(settings, job["all_seeds"][index])

    # --- HTTP ---

    def __call__(self, peer: Peer) -> None:
        while (request := peer.request()) is not None:
            peer.send(self.answer(request))

    def answer(self, request: ReceivedRequest) -> bytes:
        """Return the complete response; errors have the form that api_middleware gives them."""
        path = urlsplit(request.path).path
        try:
            if path == "/" and request.method == "GET":
                return http_response(
                    "<!doctype html><title>Stable Diffusion</title>",
                    headers={"content-type": "text/html; charset=utf-8"},
                )
            methods = (
                self._routes.get(path.removeprefix(PREFIX))
                if path.startswith(PREFIX) and self.api
                else None
            )
            if methods is None:
                return _json({"detail": "Not Found"}, 404)
            if request.method not in methods:
                return _json({"detail": "Method Not Allowed"}, 405, {"allow": ", ".join(methods)})
            if path.removeprefix(PREFIX) not in UNGUARDED:
                self._authorize(request)
            return _json(methods[request.method](request))
        except ValidationError as problem:
            return _json({"detail": problem.detail}, 422)
        except HTTPException as problem:
            return _json(
                {"error": "HTTPException", "detail": problem.detail, "body": "", "errors": ""},
                problem.status,
            )
        except EngineError as problem:
            return _json(
                {"error": problem.name, "detail": "", "body": "", "errors": str(problem)}, 500
            )
        # The web UI reports every exception; here this also shows errors in the test server itself.
        except Exception as problem:
            return _json(
                {"error": type(problem).__name__, "detail": "", "body": "", "errors": str(problem)},
                500,
            )

    def _authorize(self, request: ReceivedRequest) -> None:
        """Check --api-auth.

        The handler of HTTPException drops the WWW-Authenticate header that FastAPI would have
        sent.
        """
        if self.auth is None:
            return
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            raise HTTPException(401, "Not authenticated")
        try:
            user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
        except ValueError:
            raise HTTPException(401, "Invalid authentication credentials") from None
        if (user, password) != self.auth:
            raise HTTPException(401, "Incorrect username or password")

    # --- generation ---

    def _txt2img(self, request: ReceivedRequest) -> dict[str, Any]:
        return self._generate("txt2img", request, TXT2IMG)

    def _img2img(self, request: ReceivedRequest) -> dict[str, Any]:
        return self._generate("img2img", request, IMG2IMG)

    def _generate(self, route: str, request: ReceivedRequest, fields: Fields) -> dict[str, Any]:
        known = {
            key: value
            for key, value in fields.items()
            if not (self.old and key in FIELDS_SINCE_1_9)
        }
        body = _validate(request, known)
        task = body["force_task_id"] or f"task({route}-{random.randrange(36**7):07X})"
        settings_in_effect = {
            key: fields[key][1] if value is None else value for key, value in body.items()
        }
        mask = None
        if route == "img2img":
            if body["init_images"] is None:
                raise HTTPException(404, "Init image not found")
            if body["mask"]:
                mask = _decode_image(body["mask"])
        sampler, scheduler = self._sampler(settings_in_effect)
        self._check_scripts(settings_in_effect)
        with self._engine():
            job = self._job(route, task, settings_in_effect, sampler, scheduler, mask, request)
            try:
                self._begin(f"scripts_{route}", task)
                images, texts = self._run(job)
            finally:
                self._end()
        settings = job.settings
        first_image = 0
        if self.return_grid and len(images) > 1:
            images.insert(0, _grid(images))
            texts.insert(0, texts[0])
            first_image = 1
        if route == "img2img" and not body["include_init_images"]:
            body["init_images"] = body["mask"] = None
        encoded = (
            [self._encode(image, text) for image, text in zip(images, texts, strict=True)]
            if settings_in_effect["send_images"]
            else []
        )
        return {
            "images": encoded,
            "parameters": body,
            "info": json.dumps(self._info(settings, texts, first_image)),
        }

    def _sampler(self, fields: dict[str, Any]) -> tuple[str, str]:
        """Return sampler and schedule as get_sampler_and_scheduler of 1.9 does.

        Names are resolved before they are checked, so no name is ever refused.
        """
        name = fields["sampler_name"] or fields["sampler_index"]
        if self.old:
            if name not in [known for known, _, _ in self.samplers]:
                raise HTTPException(self.unknown_sampler_status or 404, "Sampler not found")
            return name, ""
        sampler, schedule = self._resolve_sampler(name, fields["scheduler"])
        if schedule == self._default_schedule(sampler):
            schedule = "Automatic"
        # A schedule in the request, even "Automatic", overrides the one in the sampler's name.
        return self._resolve_sampler(
            sampler, fields["scheduler"] or (schedule if schedule != "Automatic" else None)
        )

    def _resolve_sampler(self, name: str, scheduler: str | None) -> tuple[str, str]:
        """Return the sampler and the label of the schedule.

        An unknown sampler or schedule becomes the first entry of its list.
        """
        labels = {name: label for name, label, *_ in SCHEDULERS} | {
            label: label for _, label, *_ in SCHEDULERS
        }
        schedule = labels.get(scheduler or "", "Automatic")
        for internal, label, aliases, *_ in SCHEDULERS:
            for ending in (label, internal, *(aliases or [])):
                if name.endswith(f" {ending}"):
                    name, schedule = name.removesuffix(f" {ending}"), label
                    break
        if name not in [known for known, _, _ in self.samplers]:
            if self.unknown_sampler_status is not None:
                raise HTTPException(self.unknown_sampler_status, "Sampler not found")
            name = self.samplers[0][0]
        return name, schedule

    def _default_schedule(self, sampler: str) -> str:
        """Return the label of the schedule that "Automatic" means with this sampler."""
        scheduler = next(
            options.get("scheduler", "automatic")
            for name, _, options in self.samplers
            if name == sampler
        )
        return next(label for name, label, *_ in SCHEDULERS if name == scheduler)

    def _check_scripts(self, fields: dict[str, Any]) -> None:
        if fields["script_name"] and fields["script_name"].lower() not in (
            "x/y/z plot",
            "loopback",
        ):
            raise HTTPException(422, f"Script '{fields['script_name']}' not found")
        for name in fields["alwayson_scripts"]:
            raise HTTPException(422, f"always on script {name} not found")

    def _model(self, fields: dict[str, Any]) -> tuple[str, str]:
        """Return name and hash of the model, as process_images chooses it.

        An override that names no known checkpoint is ignored without a warning.
        """
        override = fields["override_settings"] or {}
        name = override.get("sd_model_checkpoint")
        checkpoint = _find_checkpoint(name) if name else None
        if name and checkpoint is None and self.refuse_unknown_model:
            raise EngineError("RuntimeError", f"model {name!r} not found")
        chosen = checkpoint or _find_checkpoint(self.options["sd_model_checkpoint"]) or MODELS[0]
        if checkpoint and not fields["override_settings_restore_afterwards"]:
            self.options["sd_model_checkpoint"] = f"{checkpoint[0]}.safetensors [{checkpoint[1]}]"
        return chosen[0], chosen[1]

    def _job(
        self,
        route: str,
        task: str,
        fields: dict[str, Any],
        sampler: str,
        scheduler: str,
        mask: Image.Image | None,
        request: ReceivedRequest,
    ) -> Job:
        """Return the settings in effect: __init__ and init() of the processing classes."""
        seed = random.randrange(4294967294) if fields["seed"] == -1 else fields["seed"]
        subseed = random.randrange(4294967294) if fields["subseed"] == -1 else fields["subseed"]
        model, model_hash = self._model(fields)
        strength = fields["denoising_strength"]
        settings: dict[str, Any] = {
            "route": route,
            "task": task,
            "body": json.loads(request.body),
            "prompt": fields["prompt"],
            "negative_prompt": fields["negative_prompt"],
            "steps": fields["steps"],
            "cfg_scale": fields["cfg_scale"],
            "sampler": sampler,
            "scheduler": scheduler,
            "schedule": self._default_schedule(sampler)
            if scheduler in ("", "Automatic")
            else scheduler,
            "width": fields["width"],
            "height": fields["height"],
            "batch_size": fields["batch_size"],
            "n_iter": fields["n_iter"],
            "seed": seed,
            "subseed": subseed if fields["subseed_strength"] else None,
            "subseed_strength": fields["subseed_strength"],
            "model": model,
            "model_hash": model_hash,
            "vae": (fields["override_settings"] or {}).get("sd_vae", self.options["sd_vae"]),
            "clip_skip": (fields["override_settings"] or {}).get(
                "CLIP_stop_at_last_layers", self.options["CLIP_stop_at_last_layers"]
            ),
            "tiling": bool(fields["tiling"]),
            "restore_faces": bool(fields["restore_faces"]),
            "styles": fields["styles"] or [],
            "sampling_steps": fields["steps"],
            "image_size": (fields["width"] // 8 * 8, fields["height"] // 8 * 8),
        }
        job = Job(settings)
        if route == "txt2img":
            self._apply_hires(settings, fields)
        else:
            job.sources = [flatten(_decode_image(source)) for source in fields["init_images"]]
            if len(job.sources) != 1:
                if len(job.sources) > fields["batch_size"]:
                    raise EngineError(
                        "RuntimeError",
                        f"bad number of images passed: {len(job.sources)}; "
                        f"expecting {fields['batch_size']} or less",
                    )
                settings["batch_size"] = len(job.sources)
            settings["init_images"] = [pixels(source) for source in job.sources]
            settings["denoising_strength"] = strength
            settings["resize_mode"] = fields["resize_mode"]
            # setup_img2img_steps: the strength decides which share of the steps is run.
            settings["sampling_steps"] = int(min(strength, 0.999) * fields["steps"]) + 1
            if mask is not None:
                self._apply_mask(job, mask, fields)
        count = settings["n_iter"] * settings["batch_size"]
        settings["all_seeds"] = [
            seed + (number if fields["subseed_strength"] == 0 else 0) for number in range(count)
        ]
        return job

    def _apply_hires(self, settings: dict[str, Any], fields: dict[str, Any]) -> None:
        """Apply calculate_target_resolution of the hires pass, without its cropping."""
        if not fields["enable_hr"]:
            return
        target_width, target_height = fields["hr_resize_x"], fields["hr_resize_y"]
        width, height = fields["width"], fields["height"]
        if not target_width and not target_height:
            target_width, target_height = (
                int(width * fields["hr_scale"]),
                int(height * fields["hr_scale"]),
            )
        elif not target_height:
            target_height = target_width * height // width
        elif not target_width:
            target_width = target_height * width // height
        settings["image_size"] = (target_width // 8 * 8, target_height // 8 * 8)
        settings["denoising_strength"] = (
            0.75 if fields["denoising_strength"] is None else fields["denoising_strength"]
        )
        for name in (
            "hr_scale",
            "hr_upscaler",
            "hr_second_pass_steps",
            "hr_resize_x",
            "hr_resize_y",
            "hr_prompt",
            "hr_negative_prompt",
        ):
            settings[name] = fields[name]

    def _apply_mask(self, job: Job, mask: Image.Image, fields: dict[str, Any]) -> None:
        """Apply create_binary_mask and the blur: white is repainted.

        A mask with transparent pixels is read from its alpha channel.
        """
        if mask.mode == "RGBA" and mask.getextrema()[-1] != (255, 255):
            gray = mask.getchannel("A").point(lambda value: 255 if value > 128 else 0)
        else:
            gray = mask.convert("L")
        if fields["inpainting_mask_invert"]:
            gray = ImageOps.invert(gray)
        if fields["inpaint_full_res"] and gray.getbbox() is None:
            # The web UI logs 'Unable to perform "Inpaint Only mask" because mask is blank,
            # switch to img2img mode.'
            return
        job.settings["mask"] = pixels(gray)
        job.settings["mask_blur"] = fields["mask_blur"]
        for name in ("inpainting_fill", "inpaint_full_res", "inpaint_full_res_padding"):
            job.settings[name] = fields[name]
        job.mask = (
            gray.filter(ImageFilter.GaussianBlur(fields["mask_blur"]))
            if fields["mask_blur"] > 0
            else gray
        )

    # --- the one engine ---

    @contextmanager
    def _engine(self) -> Iterator[None]:
        """Hold the engine: one job at a time, in order of arrival (modules/fifo_lock.py)."""
        ticket = object()
        with self.changed:
            self._queue.append(ticket)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self._queue[0] is ticket)
        try:
            yield
        finally:
            with self.changed:
                self._queue.remove(ticket)
                self.changed.notify_all()

    def _begin(self, job: str, task: str | None) -> None:
        with self.changed:
            # begin() keeps the number of the last job.
            steps = self.state.sampling_steps
            now = datetime.datetime.now().strftime("%Y%m%d%H%M%S")
            self.state = State(job=job, job_count=-1, job_timestamp=now, sampling_steps=steps)
            self._started_at = time.time()
            self._preview = self._latent = None
            self._preview_step = 0
            self.task = task

    def _end(self) -> None:
        """End the job. The state keeps its last numbers and `interrupted` until the next job."""
        with self.changed:
            self.state.job = ""
            self.state.job_count = 0
            self.task = None
            self.changed.notify_all()

    def _stopped(self) -> bool:
        return self.state.interrupted or self.state.skipped

    def _run(self, job: Job) -> tuple[list[Image.Image], list[str]]:
        """Run the batches of a job, as process_images_inner does.

        An interrupted batch is decoded at the step that it reached; later batches are not
        started.
        """
        settings = job.settings
        with self.changed:
            self.jobs.append(settings)
            self.state.job_count = settings["n_iter"]
        images: list[Image.Image] = []
        texts: list[str] = []
        for batch in range(settings["n_iter"]):
            with self.changed:
                self.state.skipped = False
                if self.state.interrupted:
                    break
                if settings["n_iter"] > 1:
                    self.state.job = f"Batch {batch + 1} out of {settings['n_iter']}"
            first = batch * settings["batch_size"]
            share = self._sample(settings, first)
            for index in range(first, first + settings["batch_size"]):
                images.append(self._image(job, index, share))
                texts.append(_infotext(settings, index))
            with self.changed:
                self.state.job_no += 1
                self.state.sampling_step = 0
                self._preview_step = 0
                self.changed.notify_all()
        return images, texts or [_infotext(settings, 0)]

    def _sample(self, settings: dict[str, Any], first: int) -> float:
        """Run the sampling loop of one batch; return the share of the steps that it finished."""
        steps = settings["sampling_steps"]
        width, height = settings["image_size"]
        with self.changed:
            self.state.sampling_steps = steps
            self.state.sampling_step = 0
        for step in range(steps):
            if self._stopped():
                return step / steps
            if self.failure == "oom":
                raise EngineError(
                    "OutOfMemoryError",
                    "CUDA out of memory. Tried to allocate 2.00 GiB. "
                    "GPU 0 has a total capacity of 8.00 GiB",
                )
            if self.failure == "nan":
                raise EngineError(
                    "NansException",
                    "A tensor with all NaNs was produced in Unet. "
                    "Use --disable-nan-check to disable this check.",
                )
            with self.changed:
                self.state.sampling_step = step
                color = towards(self.color(settings, first), (step + 1) / steps)
                self._latent = Image.new("RGB", (max(width // 8, 1), max(height // 8, 1)), color)
            self.pace(step, self._stopped)
        return 1.0

    def _image(self, job: Job, index: int, share: float) -> Image.Image:
        """Return an image in the color of the settings.

        Where a mask is black the init image remains.
        """
        settings = job.settings
        color = towards(self.color(settings, index), share)
        width, height = settings["image_size"]
        if job.mask is None:
            return Image.new("RGB", (width, height), color)
        source = job.sources[index % len(job.sources)]
        mode = settings["resize_mode"]
        # Only the masked part is repainted, and pasted into the init image in its own size.
        if settings["inpaint_full_res"]:
            mask = resize(mode, job.mask, *source.size)
            return Image.composite(Image.new("RGB", source.size, color), source, mask)
        base = resize(mode, source, settings["width"], settings["height"])
        mask = resize(mode, job.mask, settings["width"], settings["height"]).point(
            lambda value: min(value * 2, 255)
        )
        return Image.composite(Image.new("RGB", (width, height), color), base, mask)

    def _encode(self, image: Image.Image, text: str | None) -> str:
        """Encode as encode_pil_to_base64 does.

        The format is an option of the server, and the generation parameters are part of the file.
        """
        kind = self.options["samples_format"].lower()
        buffer = io.BytesIO()
        if kind == "png":
            chunks = PngImagePlugin.PngInfo()
            if text is not None:
                chunks.add_text("parameters", text)
            image.save(buffer, "PNG", pnginfo=chunks)
        elif kind in ("jpg", "jpeg", "webp"):
            exif = Image.Exif()
            exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"UNICODE\0" + (text or "").encode("utf-16-be")
            image.save(
                buffer,
                "WEBP" if kind == "webp" else "JPEG",
                exif=exif,
                quality=self.options["jpeg_quality"],
            )
        else:
            raise HTTPException(500, "Invalid image format")
        return base64.b64encode(buffer.getvalue()).decode()

    def _info(self, settings: dict[str, Any], texts: list[str], first: int) -> dict[str, Any]:
        """Return what Processed.js() returns."""
        count = len(settings["all_seeds"])
        subseed = settings["subseed"] or 0
        return {
            "prompt": settings["prompt"],
            "all_prompts": [settings["prompt"]] * count,
            "negative_prompt": settings["negative_prompt"],
            "all_negative_prompts": [settings["negative_prompt"]] * count,
            "seed": settings["seed"],
            "all_seeds": settings["all_seeds"],
            "subseed": subseed,
            "all_subseeds": [subseed + number for number in range(count)],
            "subseed_strength": settings["subseed_strength"],
            "width": settings["width"],
            "height": settings["height"],
            "sampler_name": settings["sampler"],
            "cfg_scale": settings["cfg_scale"],
            "steps": settings["steps"],
            "batch_size": settings["batch_size"],
            "restore_faces": settings["restore_faces"],
            "face_restoration_model": None,
            "sd_model_name": settings["model"],
            "sd_model_hash": settings["model_hash"],
            "sd_vae_name": None,
            "sd_vae_hash": None,
            "seed_resize_from_w": -1,
            "seed_resize_from_h": -1,
            "denoising_strength": settings.get("denoising_strength"),
            "extra_generation_params": {},
            "index_of_first_image": first,
            "infotexts": texts,
            "styles": settings["styles"],
            "job_timestamp": self.state.job_timestamp,
            "clip_skip": settings["clip_skip"],
            "is_using_inpainting_conditioning": False,
            "version": "v1.7.0" if self.old else "v1.10.1",
        }

    # --- routes that do not wait for the engine ---

    def _progress(self, request: ReceivedRequest) -> dict[str, Any]:
        """Return the engine's state, as progressapi does; every poll may update the preview."""
        query = parse_qs(urlsplit(request.path).query)
        skip = _query_bool("skip_current_image", query.get("skip_current_image", ["false"])[-1])
        with self.changed:
            state = self.state
            state_fields = asdict(state)
            if self.old:
                del state_fields["stopping_generation"]
            result: dict[str, Any] = {
                "progress": 0.0,
                "eta_relative": 0.0,
                "state": state_fields,
                "current_image": None,
                "textinfo": None,
            }
            if self.current_task != "absent":
                result["current_task"] = self.task if self.current_task == "id" else None
            if state.job_count == 0:
                return result
            progress = 0.01
            if state.job_count > 0:
                progress += state.job_no / state.job_count
            if state.sampling_steps > 0:
                progress += 1 / state.job_count * state.sampling_step / state.sampling_steps
            elapsed = time.time() - self._started_at
            result["eta_relative"] = elapsed / progress - elapsed if progress else 0.0
            result["progress"] = min(progress, 1.0)
            interval = self.options["show_progress_every_n_steps"]
            # The first preview needs `interval` steps as well.
            due = interval != -1 and state.sampling_step - self._preview_step >= interval
            if self.options["live_previews_enable"] and due and self._latent is not None:
                self._preview, self._preview_step = self._latent, state.sampling_step
            preview = self._preview
        if preview is not None and not skip:
            result["current_image"] = self._encode(preview, None)
        return result

    def _interrupt(self, request: ReceivedRequest) -> dict[str, Any]:
        """Stop the running job; without one, the next job forgets the interrupt when it begins."""
        with self.changed:
            self.interrupts += 1
            self.state.interrupted = True
            self.changed.notify_all()
        return {}

    def _skip(self, request: ReceivedRequest) -> None:
        with self.changed:
            self.skips += 1
            self.state.skipped = True
            self.changed.notify_all()

    def _set_options(self, request: ReceivedRequest) -> None:
        """Set options as set_config does.

        The checkpoint is checked first. The options stay in effect for all clients.
        """
        options = _parse_body(request)
        model = options.get("sd_model_checkpoint")
        if model is not None and _find_checkpoint(model) is None:
            raise EngineError("RuntimeError", f"model {model!r} not found")
        with self.changed:
            self.options.update(options)

    def _extra_single_image(self, request: ReceivedRequest) -> dict[str, Any]:
        """Upscale as scripts/postprocessing_upscale.py does.

        The upscaler "None" does not change the image.
        """
        body = _validate(request, EXTRAS)
        problems: list[dict[str, Any]] = []
        if body["resize_mode"] not in (0, 1):
            ctx = {"given": body["resize_mode"], "permitted": [0, 1]}
            problems.append(
                _problem("resize_mode", "unexpected value; permitted: 0, 1", "value_error.const")
                | {"ctx": ctx}
            )
        if body["upscaling_resize"] <= 0:
            problems.append(
                _problem(
                    "upscaling_resize",
                    "ensure this value is greater than 0",
                    "value_error.number.not_gt",
                )
                | {"ctx": {"limit_value": 0}}
            )
        if problems:
            raise ValidationError(problems)
        image = _decode_image(body["image"])
        with self._engine():
            try:
                self._begin("extras", None)
                result = self._upscale(flatten(image), body)
            finally:
                self._end()
        text = (
            f"Postprocess upscale by: {body['upscaling_resize']}, "
            f"Postprocess upscaler: {body['upscaler_1']}"
        )
        return {"html_info": "<div class='error'></div>", "image": self._encode(result, text)}

    def _upscale(self, image: Image.Image, body: dict[str, Any]) -> Image.Image:
        for name in (body["upscaler_1"], body["upscaler_2"]):
            if name not in [known for known, *_ in UPSCALERS]:
                raise EngineError("AssertionError", f"could not find upscaler named {name}")
        if body["upscaler_1"] == "None":
            return image
        factor = body["upscaling_resize"]
        target_width, target_height = body["upscaling_resize_w"], body["upscaling_resize_h"]
        if body["resize_mode"] == 1:
            factor = max(target_width / image.width, target_height / image.height)
        resampling = (
            Image.Resampling.NEAREST
            if body["upscaler_1"] == "Nearest"
            else Image.Resampling.LANCZOS
        )
        size = int(image.width * factor // 8 * 8), int(image.height * factor // 8 * 8)
        result = image.resize(size, resampling)
        if body["resize_mode"] == 1 and body["upscaling_crop"]:
            cropped = Image.new("RGB", (target_width, target_height))
            cropped.paste(
                result,
                (target_width // 2 - result.width // 2, target_height // 2 - result.height // 2),
            )
            return cropped
        return result

    def _png_info(self, request: ReceivedRequest) -> dict[str, Any]:
        body = _validate(request, {"image": ("str", ..., False)})
        image = _decode_image(body["image"].strip())
        items = {key: value for key, value in image.info.items() if isinstance(value, str)}
        text = items.pop("parameters", None)
        comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT) if text is None else None
        if isinstance(comment, bytes) and comment.startswith(b"UNICODE\0"):
            text = comment[8:].decode("utf-16-be")
        return {
            "info": text or "",
            "items": items,
            "parameters": _parse_parameters(text) if text else {},
        }

    def _cmd_flags(self, request: ReceivedRequest) -> dict[str, Any]:
        return {
            "api": True,
            "api_auth": ":".join(self.auth) if self.auth else None,
            "listen": False,
            "port": None,
            "lowvram": False,
        }

    def _schedulers(self, request: ReceivedRequest) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "label": label,
                "aliases": aliases,
                "default_rho": rho,
                "need_inner_model": inner,
            }
            for name, label, aliases, rho, inner in SCHEDULERS
        ]

    def _upscalers(self, request: ReceivedRequest) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "model_name": model,
                "model_path": None,
                "model_url": None,
                "scale": scale,
            }
            for name, model, scale in UPSCALERS
        ]

    def _sd_models(self, request: ReceivedRequest) -> list[dict[str, Any]]:
        return [
            {
                "title": f"{name}.safetensors [{short}]",
                "model_name": name,
                "hash": short,
                "sha256": sha256,
                "filename": f"/srv/models/Stable-diffusion/{name}.safetensors",
                "config": None,
            }
            for name, short, sha256 in MODELS
        ]

    def _loras(self, request: ReceivedRequest) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "alias": alias,
                "path": f"/srv/models/Lora/{name}.safetensors",
                "metadata": {},
            }
            for name, alias in LORAS
        ]

    def _memory(self, request: ReceivedRequest) -> dict[str, Any]:
        counts = {"current": 2 << 30, "peak": 3 << 30}
        return {
            "ram": {"free": float(12 << 30), "used": float(4 << 30), "total": float(16 << 30)},
            "cuda": {
                "system": {"free": 5 << 30, "used": 3 << 30, "total": 8 << 30},
                "active": counts,
                "allocated": counts,
                "reserved": counts,
                "inactive": counts,
                "events": {"retries": 0, "oom": 0},
            },
        }


# --- imitation of FastAPI ---


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    return http_response(json.dumps(body), status, headers)


def _problem(name: str | None, message: str, kind: str, where: str = "body") -> dict[str, Any]:
    return {"loc": [where] if name is None else [where, name], "msg": message, "type": kind}


def _parse_body(request: ReceivedRequest) -> dict[str, Any]:
    """Return the JSON object of a request, or raise FastAPI's error (with pydantic 1)."""
    if not request.body:
        raise ValidationError([_problem(None, "field required", "value_error.missing")])
    if "json" not in request.headers.get("content-type", ""):
        raise ValidationError([_problem(None, "value is not a valid dict", "type_error.dict")])
    try:
        body = json.loads(request.body)
    except ValueError as problem:
        position = getattr(problem, "pos", 0)
        raise ValidationError(
            [{"loc": ["body", position], "msg": str(problem), "type": "value_error.jsondecode"}]
        ) from None
    if not isinstance(body, dict):
        raise ValidationError([_problem(None, "value is not a valid dict", "type_error.dict")])
    return body


def _validate(request: ReceivedRequest, fields: Fields) -> dict[str, Any]:
    """Return every known field with its value or default.

    Unknown fields are dropped, and every invalid field is reported.
    """
    body = _parse_body(request)
    result: dict[str, Any] = {}
    problems: list[dict[str, Any]] = []
    for name, (kind, default, nullable) in fields.items():
        if name not in body:
            if default is ...:
                problems.append(_problem(name, "field required", "value_error.missing"))
            result[name] = default
            continue
        try:
            result[name] = _coerce(kind, body[name], nullable)
        except ValueError as problem:
            problems.append(_problem(name, *problem.args))
    if problems:
        raise ValidationError(problems)
    return result


def _coerce(kind: Kind, value: Any, nullable: bool) -> Any:
    """Convert as pydantic 1 does: "20" is accepted as a number and 7 as a string.

    ValueError carries pydantic's message and error type.
    """
    if value is None:
        if nullable:
            return None
        raise ValueError("none is not an allowed value", "type_error.none.not_allowed")
    if kind in ("int", "float"):
        refusal = (
            ("value is not a valid integer", "type_error.integer")
            if kind == "int"
            else ("value is not a valid float", "type_error.float")
        )
        if not isinstance(value, int | float | str):
            raise ValueError(*refusal)
        try:
            return int(value) if kind == "int" else float(value)
        except (ValueError, OverflowError):
            raise ValueError(*refusal) from None
    if kind == "str":
        if not isinstance(value, str | int | float):
            raise ValueError("str type expected", "type_error.str")
        return str(value)
    if kind == "bool":
        return _parse_bool(value)
    if kind == "list" and not isinstance(value, list):
        raise ValueError("value is not a valid list", "type_error.list")
    if kind == "dict" and not isinstance(value, dict):
        raise ValueError("value is not a valid dict", "type_error.dict")
    return value


def _parse_bool(value: Any) -> bool:
    normalized = value.lower() if isinstance(value, str) else value
    if isinstance(normalized, str | int | float):
        if normalized in (1, "1", "on", "t", "true", "y", "yes"):
            return True
        if normalized in (0, "0", "off", "f", "false", "n", "no"):
            return False
    raise ValueError("value could not be parsed to a boolean", "type_error.bool")


def _query_bool(name: str, value: str) -> bool:
    try:
        return _parse_bool(value)
    except ValueError as problem:
        raise ValidationError([_problem(name, *problem.args, where="query")]) from None


# --- imitation of the web UI ---


def _decode_image(encoding: Any) -> Image.Image:
    """Decode as decode_base64_to_image, with `api_enable_requests` off: no URL is fetched."""
    if encoding.startswith(("http://", "https://")):
        raise HTTPException(500, "Requests not allowed")
    if encoding.startswith("data:image/"):
        encoding = encoding.split(";")[1].split(",")[1]
    try:
        image = Image.open(io.BytesIO(base64.b64decode(encoding)))
        image.load()
    except (binascii.Error, OSError, ValueError):
        raise HTTPException(500, "Invalid encoded image") from None
    return image


def _find_checkpoint(name: str) -> tuple[str, str, str] | None:
    """Return the checkpoint with this alias, as sd_models.checkpoint_aliases has them.

    Aliases are the title, the name with and without its suffix, and the short and the full hash.
    """
    for model in MODELS:
        plain, short, full = model
        if name in (
            plain,
            f"{plain}.safetensors",
            f"{plain}.safetensors [{short}]",
            f"{plain} [{short}]",
            short,
            full,
        ):
            return model
    return None


def _grid(images: list[Image.Image]) -> Image.Image:
    """Return a grid as square as possible, as images.image_grid."""
    columns = round(len(images) ** 0.5 + 0.4999)
    rows = -(-len(images) // columns)
    width, height = images[0].size
    result = Image.new("RGB", (columns * width, rows * height), "black")
    for number, image in enumerate(images):
        result.paste(image, (number % columns * width, number // columns * height))
    return result


def _infotext(settings: dict[str, Any], index: int) -> str:
    """Return the generation parameters, as create_infotext writes them into the PNG."""
    fields: dict[str, Any] = {
        "Steps": settings["steps"],
        "Sampler": settings["sampler"],
        "Schedule type": settings["scheduler"] or None,
        "CFG scale": settings["cfg_scale"],
        "Seed": settings["all_seeds"][index],
        "Size": f"{settings['width']}x{settings['height']}",
        "Model hash": settings["model_hash"],
        "Model": settings["model"],
        "Denoising strength": settings.get("denoising_strength"),
        "Clip skip": settings["clip_skip"] if settings["clip_skip"] > 1 else None,
        "Mask blur": settings.get("mask_blur") or None,
        "Version": "v1.10.1" if settings["scheduler"] else "v1.7.0",
    }
    negative = (
        f"\nNegative prompt: {settings['negative_prompt']}" if settings["negative_prompt"] else ""
    )
    line = ", ".join(
        f"{key}: {_quote(value)}" for key, value in fields.items() if value is not None
    )
    return f"{settings['prompt']}{negative}\n{line}".strip()


def _quote(value: Any) -> str:
    text = str(value)
    return (
        json.dumps(text, ensure_ascii=False)
        if any(character in text for character in ",\n:")
        else text
    )


def _parse_parameters(text: str) -> dict[str, str]:
    """Parse as parse_generation_parameters does, as far as this server writes parameters."""
    *lines, last = text.strip().split("\n")
    result = {"Prompt": "", "Negative prompt": ""}
    part = "Prompt"
    for line in lines:
        if line.startswith("Negative prompt:"):
            part, line = "Negative prompt", line.removeprefix("Negative prompt:").strip()
        result[part] += ("\n" if result[part] else "") + line
    for key, value in re.findall(r'\s*([\w ]+):\s*("(?:\\.|[^"\\])+"|[^,]*)(?:,|$)', last):
        result[key] = json.loads(value) if value.startswith('"') else value
    return result
