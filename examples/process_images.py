"""Make files for the web of images: stripped, sized, stamped, with a contact sheet. Without FILES one is drawn offline.

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
        named = {Path(path).stem: md.ImagePart.from_file(path) for path in paths}
    else:
        named = {
            "lighthouse": (
                await md.image_model("offline").generate(
                    "a lighthouse at dusk", size="512x384", seed=7
                )
            ).image
        }
    made: list[imaging.Derived] = []
    for name, image in named.items():
        try:
            made += await imaging.derive_async(image, FILES, stem=name)
        except md.InvalidRequestError as error:  # one broken file does not stop the others
            print(f"{name}: {error} ({error.code})")
    if made:
        await imaging.in_thread(write, Path("processed"), made)


def write(folder: Path, made: list[imaging.Derived]) -> None:
    folder.mkdir(exist_ok=True)
    for file in made:
        (folder / file.filename).write_bytes(file.image.data)
        print(file.filename, file.image)
    (folder / "manifest.json").write_text(json.dumps([file.to_dict() for file in made], indent=2))
    sheet = imaging.contact_sheet([file.image for file in made], [file.filename for file in made])
    (folder / "sheet.png").write_bytes(sheet.data)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
