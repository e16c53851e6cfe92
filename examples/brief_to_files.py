"""Turn a brief into a folder of finished files, offline and in a few seconds.

Replace the image model with another one, or add a chat model, and the rest stays the same.

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
        # Write the title over the image instead of leaving it to the image model.
        overlay=True,
    )
    async with studio.stream(BRIEF, size="256x384", seed=7) as stream:
        async for event in stream:
            match event:
                case Classified(brief):
                    print(f"medium: {brief.medium}, subject: {brief.subject}")
                    print(f"{brief.count} images, {brief.orientation}, text: {brief.text}")
                case PlanReady(plan):
                    print(f"prompt by {plan.answered_by}: {plan.prompts[0].prompt}")
                case ImageFinished(item):
                    print(f"ready: {item.name}, {item.image!r}")
                case DerivativeReady(name, derived):
                    print(f"derived from {name}: {derived.filename}")
                case ImageFailed(name, error):
                    print(f"{name} failed at {error.details['stage']}: {error.details['help']}")
    for path in sorted(stream.result.save("blue-room")):
        print(path)


anyio.run(main)
