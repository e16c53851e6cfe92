"""Draw images with the engine itself, without any server: what an image that came over HTTP is compared with.

Standard input is a JSON object: file name to keyword arguments of `generate_image`. The files are written into OUT as PNG.

    python draw_reference.py --model DIR --out OUT < jobs.json
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
    given = parser.parse_args()
    model, decoder = given.model / "tiny-image.safetensors", given.model / "tiny-tae.safetensors"
    sd = StableDiffusion(model_path=str(model), taesd_path=str(decoder), n_threads=1, verbose=False)
    if not sd.model:
        sys.exit(f"cannot load {model}")
    for name, arguments in json.load(sys.stdin).items():
        image = sd.generate_image(**arguments)[0]
        image.info.clear()
        image.save(given.out / name, "PNG")


if __name__ == "__main__":
    main()
