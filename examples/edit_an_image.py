"""Generate an image, then repaint its sky.

A mask is a grayscale image for every backend; white areas are repainted. Without MODEL the example
runs offline.

python examples/edit_an_image.py [MODEL]
"""

from __future__ import annotations

import asyncio
import sys

from PIL import Image

import majordomo as md


async def main(name: str = "offline") -> None:
    async with md.image_model(name) as image_model:
        first = (
            await image_model.generate(
                "a lighthouse at dusk", aspect="3:2", megapixels=0.25, seed=7
            )
        ).image
        mask = Image.new("L", (first.width, first.height), 0)
        mask.paste(255, (0, 0, first.width, first.height // 2))
        second = await image_model.generate(
            "a sky full of stars",
            images=[first],
            mask=md.ImagePart.from_pil(mask),
            strength=0.9,
            seed=8,
        )
    for warning in second.warnings:
        print("warning:", warning)
    print(second.image.save_in(".", "lighthouse-at-night"), second.image.parameters)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
