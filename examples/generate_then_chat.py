"""Generate an image, then talk about it.

Runs offline. To switch backends, change one constructor or one model string.
"""

import asyncio
import sys

import majordomo as md


async def main(prompt: str) -> None:
    image_model = md.Offline().image_model("renderer")
    chat = md.Offline().model("rules")

    result = await image_model.generate(prompt, md.with_random_seed(), size="384x256", steps=12)
    print(f"generated with seed {result.details[0].seed}: {result.image!r}")

    reply = await chat.generate([md.user("What mood is this?", result.image)])
    print(reply.text)


asyncio.run(main(" ".join(sys.argv[1:]) or "a lighthouse at dusk"))
