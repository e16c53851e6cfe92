"""Process images for the web: strip metadata, resize, watermark, and make a contact sheet.

Without FILES one image is generated offline.

python examples/process_images.py [FILES]
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import majordomo as md
from majordomo import imaging

STAMPED = imaging.Recipe.parse(
    "strip,resize=640:fast,watermark=© me:anchor=bottom-left,convert=jpeg:quality=85"
)
FILES = [
    imaging.Derivative(
        "thumbnail",
        imaging.Sanitize() + imaging.Crop(aspect="1:1", how="smart"),
        size=128,
        format="webp",
    ),
    imaging.Derivative("stamped", STAMPED),
    imaging.Derivative("original", imaging.Sanitize()),
]


async def main(*paths: str) -> None:
    if paths:
        images = {Path(path).stem: md.ImagePart.from_file(path) for path in paths}
    else:
        images = {
            "lighthouse": (
                await md.image_model("offline").generate(
                    "a lighthouse at dusk", size="512x384", seed=7
                )
            ).image
        }
    derived: list[imaging.Derived] = []
    for name, image in images.items():
        try:
            derived += await imaging.derive_async(image, FILES, stem=name)
        # A broken file does not stop the others.
        except md.InvalidRequestError as error:
            print(f"{name}: {error} ({error.code})")
    if derived:
        await imaging.in_thread(write, Path("processed"), derived)


def write(folder: Path, derived: list[imaging.Derived]) -> None:
    folder.mkdir(exist_ok=True)
    for file in derived:
        (folder / file.filename).write_bytes(file.image.data)
        print(file.filename, file.image)
    (folder / "manifest.json").write_text(
        json.dumps([file.to_dict() for file in derived], indent=2)
    )
    sheet = imaging.contact_sheet(
        [file.image for file in derived], [file.filename for file in derived]
    )
    (folder / "sheet.png").write_bytes(sheet.data)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
