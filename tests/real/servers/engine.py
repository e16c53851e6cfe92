"""stable-diffusion.cpp in process, and one call of it. Run as a script it draws reference pictures: `engine.py MODELS SETTINGS.json OUT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from stable_diffusion_cpp import StableDiffusion
from stable_diffusion_cpp.stable_diffusion import SAMPLE_METHOD_MAP, SCHEDULER_MAP


def load(models: Path) -> StableDiffusion:
    """A model that does not load raises nothing and kills the process at its end, so it is looked at here."""
    engine = StableDiffusion(
        model_path=str(models / "tiny-image.safetensors"), taesd_path=str(models / "tiny-tae.safetensors"), n_threads=1, verbose=False
    )
    if not engine.model:
        sys.exit("the model does not load")
    return engine


def draw(engine: StableDiffusion, settings: dict[str, Any]) -> list[Image.Image]:
    """`settings` in the engine's words; names of samplers and schedulers it does not know are its default, as in sd-server."""
    known = dict(settings)
    for name, names in (("sample_method", SAMPLE_METHOD_MAP), ("scheduler", SCHEDULER_MAP)):
        if known.get(name) not in names:
            known.pop(name, None)
    # Callbacks are passed on every call: the engine keeps a freed one otherwise
    return engine.generate_image(**known, progress_callback=lambda *_: None, preview_callback=lambda *_: None, preview_method="none")


if __name__ == "__main__":
    loaded = load(Path(sys.argv[1]))
    for name, settings in json.loads(Path(sys.argv[2]).read_text()).items():
        for index, image in enumerate(draw(loaded, settings)):
            image.save(Path(sys.argv[3]) / f"{name}-{index}.png")
