"""The HTTP server of stable-diffusion.cpp, rebuilt over the same engine's Python binding, for tests.

The engine that draws is the real one; only the HTTP around it is ours. It follows sd-server as read in stable-diffusion.cpp at commit
97d2990 (`examples/server`, `examples/common`):

* `GET /v1/models` is a constant. The request's `model` is never looked at. Unknown routes (`/health` too): 404 with an empty body.
* `POST /v1/images/generations` reads `prompt`, `n` (1 to 8, clamped), `size`, `output_format` and `output_compression` from the top
  level. `steps`, `cfg_scale`, `seed`, `negative_prompt` and the sampler there are ignored, as is any unknown key.
* Those come from the tag `<sd_cpp_extra_args>{...}</sd_cpp_extra_args>` within the prompt, and nowhere else: the leftmost complete tag is
  parsed, all complete ones are deleted in one pass. `.` matches no line end, so a tag with a newline in it stays as text. Unknown keys
  and scalars of the wrong type are ignored; a body that is no JSON is 400 `invalid sd_cpp_extra_args`.
* The default seed is 42, steps 20, cfg 7.0, size 512x512; command line options change them. Item i of a batch is drawn from seed + i.
* Malformed JSON and wrong types at the top level are 500 `server_error`; a missing or empty prompt is 400. `error` is a string.
* One lock around the engine: requests wait for each other. A client that gives up does not stop the work.
* The PNG carries a text chunk `parameters` with the prompt, the settings and `Seed: N`.

Left out: pictures as input, `/sdapi`, `/sdcpp`, loras, and all that needs a graphics card. The binding itself takes `<lora:...>` out of a
prompt; sd-server leaves it as text.

    python sd_server.py --model DIR --port N --threads 1

DIR holds `tiny-image.safetensors` and `tiny-tae.safetensors`.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from answering import Handler, Server, serve
from PIL.Image import Image
from PIL.PngImagePlugin import PngInfo
from stable_diffusion_cpp import StableDiffusion
from stable_diffusion_cpp.stable_diffusion import SAMPLE_METHOD_MAP, SCHEDULER_MAP

TAG = re.compile(r"<sd_cpp_extra_args>([^\r\n]*?)</sd_cpp_extra_args>")
FORMATS = ("png", "jpeg", "webp")


class Refusal(Exception):
    """An answer that is no picture."""

    def __init__(self, status: int, error: str, message: str | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error} if message is None else {"error": error, "message": message}


@dataclass(frozen=True)
class Settings:
    """What the engine is asked for."""

    prompt: str = ""
    negative_prompt: str = ""
    width: int = 512
    height: int = 512
    steps: int = 20
    cfg: float = 7.0
    sampler: str = "default"
    scheduler: str = "default"
    seed: int = 42
    count: int = 1
    output_format: str = "png"
    quality: int = 100


@dataclass
class Engine:
    """The one loaded model behind its lock."""

    sd: StableDiffusion
    name: str
    defaults: Settings
    lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, settings: Settings) -> list[bytes]:
        with self.lock:
            images = self.sd.generate_image(
                prompt=settings.prompt,
                negative_prompt=settings.negative_prompt,
                width=settings.width,
                height=settings.height,
                sample_steps=settings.steps,
                cfg_scale=settings.cfg,
                sample_method=settings.sampler,
                scheduler=settings.scheduler,
                seed=settings.seed,
                batch_count=settings.count,
            )
        return [self._encode(image, replace(settings, seed=settings.seed + index)) for index, image in enumerate(images)]

    def _encode(self, image: Image, settings: Settings) -> bytes:
        file = io.BytesIO()
        image = image.convert("RGB")  # the binding gives RGBA
        image.info.clear()  # and leaves all of its own arguments there
        if settings.output_format != "png":
            image.save(file, settings.output_format.upper(), quality=max(settings.quality, 1))
            return file.getvalue()
        written = PngInfo()
        written.add_text("parameters", self._parameters(image, settings))
        image.save(file, "PNG", pnginfo=written)
        return file.getvalue()

    def _parameters(self, image: Image, settings: Settings) -> str:
        lines = [settings.prompt]
        if settings.negative_prompt:
            lines.append(f"Negative prompt: {settings.negative_prompt}")
        lines.append(
            f"Steps: {settings.steps}, CFG scale: {settings.cfg:f}, Guidance: 3.500000, Eta: 0.000000, Seed: {settings.seed}, "
            f"Size: {image.width}x{image.height}, Model: {self.name}, RNG: cuda, Sampler: {settings.sampler}, "
            f"Version: stable-diffusion.cpp"
        )
        return "\n".join(lines)


def parse_json(body: bytes) -> dict[str, Any]:
    """The body. What is no JSON object becomes the 500 that sd-server makes of its parser's exceptions."""
    if not body:
        raise Refusal(400, "empty body")
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Refusal(500, "server_error", f"[json.exception.parse_error.101] parse error: {error}") from None
    if not isinstance(value, dict):
        raise Refusal(500, "server_error", f"[json.exception.type_error.306] cannot use value() with {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    kinds: dict[type, str] = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
    return kinds.get(type(value), "object")


def top_level(body: dict[str, Any], name: str, default: Any) -> Any:
    """A value of the kind the default has. A number may be a boolean or have a fraction, which is cut; anything else is a 500."""
    value = body.get(name, default)
    wanted = "string" if isinstance(default, str) else "number"
    if kind_of(value) != wanted and not (wanted == "number" and isinstance(value, bool)):
        raise Refusal(500, "server_error", f"[json.exception.type_error.302] type must be {wanted}, but is {kind_of(value)}")
    return value if wanted == "string" else int(value)


def read_size(text: str, settings: Settings) -> Settings:
    """`512x512`. No lowercase `x`, no number or a negative one: the default, silently; a missing height leaves its default."""
    width, cross, height = text.partition("x")
    numbers = [re.match(r"\s*[+-]?\d+", side) for side in (width, height)]
    if not cross or numbers[0] is None:
        return settings
    found = [int(number[0]) if number else 0 for number in numbers]
    if min(found) < 0:
        return settings
    return replace(settings, width=found[0] or settings.width, height=found[1] or settings.height)


def apply_tag(prompt: str, settings: Settings) -> Settings:
    """The settings with what the prompt's first tag says, and the prompt without any."""
    settings = replace(settings, prompt=TAG.sub("", prompt))
    found = TAG.search(prompt)
    if found is None or not found[1]:
        return settings
    try:
        given = json.loads(found[1])
    except ValueError:
        raise Refusal(400, "invalid sd_cpp_extra_args") from None
    if not isinstance(given, dict):
        return settings
    if given.get("lora"):
        raise Refusal(400, "invalid sd_cpp_extra_args")  # there is none to load
    sampling = given.get("sample_params")
    sampling = sampling if isinstance(sampling, dict) else {}
    guidance = sampling.get("guidance")
    guidance = guidance if isinstance(guidance, dict) else {}
    changes: dict[str, Any] = {
        "prompt": _text(given.get("prompt")),
        "negative_prompt": _text(given.get("negative_prompt")),
        "width": _whole(given.get("width")),
        "height": _whole(given.get("height")),
        "seed": _whole(given.get("seed")),
        "count": _whole(given.get("batch_count")),
        "steps": _whole(sampling.get("sample_steps")),
        "cfg": _number(guidance.get("txt_cfg")),
        "sampler": _one_of(sampling.get("sample_method"), SAMPLE_METHOD_MAP),
        "scheduler": _one_of(sampling.get("scheduler"), SCHEDULER_MAP),
    }
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _one_of(value: object, names: dict[str, Any]) -> str | None:
    """An unknown sampler or scheduler is ignored silently."""
    return value if isinstance(value, str) and value in names else None


def checked(settings: Settings) -> Settings:
    """Clamped as sd-server does before it draws; a random seed comes from the wall clock in seconds."""
    if settings.cfg < 0 or settings.width <= 0 or settings.height <= 0:
        raise Refusal(400, "invalid params")
    return replace(
        settings,
        count=min(max(settings.count, 1), 8),
        steps=min(max(settings.steps, 1), 100),
        seed=settings.seed if settings.seed >= 0 else int(time.time()),
    )


def read_generation(raw: bytes, defaults: Settings) -> Settings:
    """What `POST /v1/images/generations` asks for."""
    body = parse_json(raw)
    prompt = top_level(body, "prompt", "")
    if not prompt:  # tested before the tag is taken out: a prompt that is only a tag passes
        raise Refusal(400, "prompt required")
    settings = replace(defaults, count=max(top_level(body, "n", 1), 1))
    settings = read_size(top_level(body, "size", ""), settings)
    output_format = top_level(body, "output_format", "png").lower()
    quality = min(max(top_level(body, "output_compression", 100), 0), 100)
    if output_format not in FORMATS:
        raise Refusal(400, f"invalid output_format, must be one of [{', '.join(FORMATS)}]")
    return checked(apply_tag(prompt, replace(settings, output_format=output_format, quality=quality)))


class SDHandler(Handler):
    server_version = "stable-diffusion.cpp"
    engine: Engine

    def answer_request(self) -> None:
        path = self.path.partition("?")[0]
        if self.command == "POST" and "Content-Length" not in self.headers and "Transfer-Encoding" not in self.headers:
            time.sleep(5)  # as cpp-httplib, which waits for a body
        match self.command, path:
            case "GET", "/":
                self.send(200, b"Stable Diffusion Server is running", "text/plain")
            case "GET", "/v1/models":
                self.send_json(200, {"data": [{"id": "sd-cpp-local", "object": "model", "owned_by": "local"}]})
            case "POST", "/v1/images/generations":
                self._generate()
            case _:
                self.send(404)

    def _generate(self) -> None:
        created = int(time.time())
        try:
            settings = read_generation(self.body, self.engine.defaults)
            pictures = self.engine.draw(settings)
        except Refusal as refusal:
            self.send_json(refusal.status, refusal.body)
        except Exception as error:  # the engine's own
            print(f"generation failed: {error!r}", file=sys.stderr, flush=True)
            self.send_json(500, {"error": "generate_image returned no results"})
        else:
            data = [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures]
            self.send_json(200, {"created": created, "data": data, "output_format": settings.output_format})


def main() -> None:
    parser = argparse.ArgumentParser(description="sd-server's HTTP over stable-diffusion-cpp-python")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1234)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg-scale", type=float, default=7.0)
    parser.add_argument("--seed", type=int, default=42)
    given = parser.parse_args()
    model = given.model / "tiny-image.safetensors"
    sd = StableDiffusion(
        model_path=str(model), taesd_path=str(given.model / "tiny-tae.safetensors"), n_threads=given.threads, verbose=False
    )
    if not sd.model:  # a file that is no model raises nothing
        sys.exit(f"cannot load {model}")
    defaults = Settings(width=given.width, height=given.height, steps=given.steps, cfg=given.cfg_scale, seed=given.seed)
    SDHandler.engine = Engine(sd, model.stem, defaults)
    serve(Server((given.host, given.port), SDHandler))


if __name__ == "__main__":
    main()
