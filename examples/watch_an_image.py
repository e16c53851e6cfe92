"""Show progress while an image is generated, and stop after a time limit."""

import asyncio
import os
import sys

import majordomo as md
from majordomo import imagegen


async def main(prompt: str) -> None:
    async with md.image_model(os.environ.get("MAJORDOMO_IMAGE_MODEL", "offline")) as image_model:
        try:
            async with (
                asyncio.timeout(300),
                image_model.stream(prompt, steps=8, previews=2) as stream,
            ):
                async for event in stream:
                    match event:
                        case imagegen.Queued(position):
                            print(f"waiting, number {position}")
                        case imagegen.Loading():
                            print("the model is loading")
                        case imagegen.Step(step, total):
                            print(f"step {step} of {total}")
                        case imagegen.Preview(image):
                            print(f"preview: {image!r}")
            print(f"done: {stream.result.image!r}")
        except md.ContentRefusedError:
            print("the backend refuses to generate this")
        except md.MajordomoError as error:
            print(f"sorry: {error} ({error.code}{', may be retried' if error.retryable else ''})")


asyncio.run(main(" ".join(sys.argv[1:]) or "a boat on a quiet lake in the morning"))
