"""The bot of `bot_on_a_platform.py` on Discord: it draws, can be stopped, and answers when it is mentioned.

pip install discord.py && DISCORD_TOKEN=... python examples/discord_bot.py

Switch the "message content intent" on in Discord's developer portal. MAJORDOMO_IMAGE_MODEL and MAJORDOMO_CHAT_MODEL name the models
(default: offline).
"""

from __future__ import annotations

import io
import os
import sys

try:
    import discord
except ModuleNotFoundError:
    sys.exit("this example needs discord.py: pip install discord.py")

import majordomo as md
from majordomo.bots import Splitter, UserQueue, fit_upload, safe_text, throttle, throttle_image

UPLOAD_LIMIT = 10 * 1024 * 1024  # without boosts
TURNS_KEPT = 20

intents = discord.Intents.default()
intents.message_content = True
client = discord.Client(intents=intents, allowed_mentions=discord.AllowedMentions.none())
image_model = md.image_model(
    os.environ.get("MAJORDOMO_IMAGE_MODEL", "offline"), md.with_random_seed()
)
chat = md.model(os.environ.get("MAJORDOMO_CHAT_MODEL", "offline"))
queue = UserQueue(max_concurrency=2, per_user=2, cooldown=3)
histories: dict[int, list[md.Message]] = {}  # by channel


@client.event
async def on_message(message: discord.Message) -> None:
    """discord.py runs each message in a task of its own."""
    if message.author.bot:
        return
    user_id = f"discord-{message.author.id}"
    if message.content == "!cancel":
        await message.reply(f"{queue.cancel(user_id)} stopped")
    elif message.content.startswith("!draw "):
        await serve(message, user_id, draw)
    elif client.user in message.mentions:
        await serve(message, user_id, answer)


async def serve(message: discord.Message, user_id: str, work) -> None:  # type: ignore[no-untyped-def]
    """One request, from its place in the line to its end. Whatever goes wrong is one line in the chat."""
    try:
        await queue.run(
            user_id,
            lambda: work(message, user_id),
            lambda place: message.reply(f"you are number {place}"),
        )
    except md.JobCancelledError:
        pass  # `!cancel` has said so
    except md.MajordomoError as error:
        await message.reply(safe_text(f"sorry, {error}")[:2000])


async def draw(message: discord.Message, user_id: str) -> None:
    prompt = message.content.removeprefix("!draw ")
    shown = await message.reply("one moment")
    try:
        async with throttle_image(
            image_model.stream(prompt, md.with_user_id(user_id), previews=2)
        ) as live:
            async for snapshot in live:
                images = (
                    []
                    if snapshot.preview is None
                    else [await upload(snapshot.preview, "unfinished")]
                )
                if snapshot.result is not None:
                    images = [await upload(image, "image") for image in snapshot.result.images]
                    histories.setdefault(message.channel.id, []).extend(
                        [md.user(prompt), md.assistant(*snapshot.result.images)]
                    )
                text = "" if snapshot.result is not None else snapshot.status or "one moment"
                await shown.edit(content=text, attachments=images or shown.attachments)
    except BaseException:
        await shown.delete()
        raise


async def answer(message: discord.Message, user_id: str) -> None:
    """The channel's history goes along, and so do the images attached to the question."""
    images = [
        md.ImagePart(await file.read())
        for file in message.attachments
        if (file.content_type or "").startswith("image/")
    ]
    turns = [*histories.get(message.channel.id, []), md.user(message.clean_content, *images)]
    splitter, messages = Splitter(2000), []
    async with (
        message.channel.typing(),
        throttle(chat.stream(turns, md.with_user_id(user_id))) as live,
    ):
        async for snapshot in live:
            for change in splitter.update(safe_text(snapshot.shown)):
                if change.new:
                    messages.append(await message.channel.send(change.text))
                elif change.text:
                    await messages[change.index].edit(content=change.text)
                else:
                    await messages.pop().delete()
    if snapshot.reply is not None:
        histories[message.channel.id] = [*turns, *snapshot.reply.new_messages][-TURNS_KEPT:]


async def upload(image: md.ImagePart, name: str) -> discord.File:
    fitted = await fit_upload(image, UPLOAD_LIMIT)
    return discord.File(io.BytesIO(fitted.data), f"{name}.{fitted.mime.removeprefix('image/')}")


if __name__ == "__main__":
    if not (token := os.environ.get("DISCORD_TOKEN")):
        sys.exit("set DISCORD_TOKEN to your bot's token")
    client.run(token)
