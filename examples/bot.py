"""The handler of a chat bot: history as JSON, images in and out, one clear line on failure."""

import asyncio

import majordomo as md

chat = md.model("offline")
image_model = md.image_model("offline", md.with_image_size("256x256"), md.with_steps(6))


async def answer(
    saved: str, text: str, attachments: list[bytes]
) -> tuple[str, str, list[md.ImagePart]]:
    """Return the new history, the text and the images to post.

    Text and attachments are untrusted input.
    """
    history = md.load_messages(saved) if saved else [md.system("be brief")]
    try:
        if text.startswith("/draw "):
            result = await image_model.generate(text.removeprefix("/draw "), md.with_random_seed())
            history += [md.user(text), md.assistant("here it is", result.image)]
            return md.dump_messages(history), f"seed {result.details[0].seed}", list(result.images)
        history.append(md.user(text, *(md.ImagePart(data) for data in attachments)))
        reply = await chat.generate(history)
    except md.MajordomoError as error:
        return saved, f"sorry: {error}", []
    return md.dump_messages([*history, *reply.new_messages]), reply.text, list(reply.images)


async def main() -> None:
    saved, text, images = await answer("", "/draw a red house under an old tree", [])
    print(text, images)
    saved, text, _ = await answer(saved, "which colors does it have?", [])
    print(text)
    _, text, _ = await answer(saved, "and this?", [b"<html>no image</html>"])
    print(text)


asyncio.run(main())
