"""A brief becomes a folder of finished files: offline, in a few seconds. Put other models in place of these two and nothing else changes.

python examples/brief_to_files.py
"""

from __future__ import annotations

import anyio

import majordomo as md
from majordomo.imaging import Derivative
from majordomo.studio import (
    Classified,
    DerivativeReady,
    ImageFailed,
    ImageFinished,
    PlanReady,
    Studio,
    WordList,
)

BRIEF = "a poster for a jazz night, portrait, with the title BLUE ROOM, two variants"


async def main() -> None:
    offline = md.Offline()
    studio = Studio(
        image_model=offline.image_model("renderer"),
        recipe="sanitize,optimize",
        derivatives=[Derivative("thumbnail", size=128, format="webp")],
        moderator=WordList({"violence": ["gore"]}),
        overlay=True,  # the title is written over the image, not left to the painter
    )
    async with studio.stream(BRIEF, size="256x384", seed=7) as stream:
        async for event in stream:
            match event:
                case Classified(read):
                    print(
                        f"read: a {read.medium} about an {read.subject}, {read.orientation}, {read.count} times, titled {read.text}"
                    )
                case PlanReady(plan):
                    print(f"planned by {plan.answered_by}: {plan.prompts[0].prompt}")
                case ImageFinished(picture):
                    print(f"ready: {picture.name}, {picture.image!r}")
                case DerivativeReady(name, derived):
                    print(f"derived from {name}: {derived.filename}")
                case ImageFailed(name, error):
                    print(
                        f"no {name}: {error.code} at {error.details['stage']}: {error.details['help']}"
                    )
    assert stream.result is not None
    for path in sorted(stream.result.save("blue-room")):
        print(path)


anyio.run(main)
