"""sd-server's HTTP API in front of the real engine.

The routes are those of `tests/servers/stable_diffusion.py`; the images come from the Python
binding of stable-diffusion.cpp. Only the engine is real: the HTTP around it follows stable-
diffusion.cpp at 97d2990. The binding removes `<lora:...>` from a prompt; sd-server leaves it as
text.

    python sd_server.py --model DIR --port N --threads 1

DIR has `tiny-image.safetensors` and `tiny-tae.safetensors`. The process ends when its standard
input closes, if that is a pipe.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from stable_diffusion_cpp import StableDiffusion
from stable_diffusion_cpp.stable_diffusion import SAMPLE_METHOD_MAP, SCHEDULER_MAP

from tests.servers.hashed_images import encode_image
from tests.servers.http_helpers import Response, text_response
from tests.servers.stable_diffusion import StableDiffusion as Routes
from tests.support.loopback import Loopback, ReceivedRequest


class RealStableDiffusion(Routes):
    """The routes of the test server, with images of the real engine."""

    def __init__(self, engine: StableDiffusion, **settings: Any) -> None:
        super().__init__(**settings)
        self._engine = engine

    def answer(self, request: ReceivedRequest) -> Response:
        return (
            text_response("Stable Diffusion Server is running")
            if request.path == "/"
            else super().answer(request)
        )

    def _render(self, generation: Any, index: int) -> bytes:
        inputs: dict[str, Any] = {}
        if generation.init is not None:
            inputs |= {"init_image": generation.init, "strength": generation.strength}
        if generation.mask is not None:
            inputs["mask_image"] = generation.mask
        if generation.references:
            inputs["ref_images"] = generation.references
        width, height = self._pixel_size(generation)
        image = self._engine.generate_image(
            prompt=generation.prompt,
            negative_prompt=generation.negative_prompt,
            width=width,
            height=height,
            sample_steps=generation.steps,
            cfg_scale=generation.cfg_scale,
            sample_method=generation.sampler
            if generation.sampler in SAMPLE_METHOD_MAP
            else "default",
            scheduler=generation.scheduler if generation.scheduler in SCHEDULER_MAP else "default",
            seed=generation.seed + index,
            **inputs,
        )[0].convert("RGB")
        # The binding adds its own arguments as metadata.
        image.info.clear()
        return encode_image(
            image,
            generation.output_format,
            self._parameters(generation, generation.seed + index),
            generation.output_compression,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description="sd-server's HTTP over stable-diffusion-cpp-python"
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--port", type=int, default=1234)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg-scale", type=float, default=7.0)
    arguments = parser.parse_args()
    model = arguments.model / "tiny-image.safetensors"
    engine = StableDiffusion(
        model_path=str(model),
        taesd_path=str(arguments.model / "tiny-tae.safetensors"),
        n_threads=arguments.threads,
        verbose=False,
    )
    # An invalid model file raises nothing, but crashes the process when it ends.
    if not engine.model:
        sys.stderr.write(f"cannot load {model}\n")
        sys.stderr.flush()
        os._exit(1)
    size = arguments.width, arguments.height
    routes = RealStableDiffusion(
        engine,
        size=size,
        steps=arguments.steps,
        cfg_scale=arguments.cfg_scale,
        sampler="default",
        scheduler="default",
    )
    Loopback(routes, port=arguments.port)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Event().wait()


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
