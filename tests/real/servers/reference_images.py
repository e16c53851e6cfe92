"""Generate images with the engine itself, without a server, as a reference for images over HTTP.

Standard input is a JSON object that maps file names to keyword arguments of `generate_image`. The
files are written into OUT as PNG.

    python reference_images.py --model DIR --out OUT < jobs.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from stable_diffusion_cpp import StableDiffusion


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    model, decoder = (
        arguments.model / "tiny-image.safetensors",
        arguments.model / "tiny-tae.safetensors",
    )
    sd = StableDiffusion(model_path=str(model), taesd_path=str(decoder), n_threads=1, verbose=False)
    if not sd.model:
        sys.exit(f"cannot load {model}")
    for name, fields in json.load(sys.stdin).items():
        image = sd.generate_image(**fields)[0]
        image.info.clear()
        image.save(arguments.out / name, "PNG")


if __name__ == "__main__":
    main()
