"""A Discord bot that generates images, can be stopped, and answers when it is mentioned.

pip install discord.py && DISCORD_TOKEN=... python examples/discord_bot.py

Enable the "message content intent" in Discord's developer portal. MAJORDOMO_IMAGE_MODEL and
MAJORDOMO_CHAT_MODEL name the models (default: offline).
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

# The limit of servers without boosts, in bytes.
UPLOAD_LIMIT = 10 * 1024 * 1024
# Messages of a channel's history.
MAX_HISTORY = 20

intents = discord.Intents.default()
intents.message_content = True
client = discord.Client(intents=intents, allowed_mentions=discord.AllowedMentions.none())
image_model = md.image_model(
    os.environ.get("MAJORDOMO_IMAGE_MODEL", "offline"), md.with_random_seed()
)
chat = md.model(os.environ.get("MAJORDOMO_CHAT_MODEL", "offline"))
queue = UserQueue(max_concurrency=2, per_user=2, cooldown=3)
# By channel.
histories: dict[int, list[md.Message]] = {}


@client.event
async def on_message(message: discord.Message) -> None:
    """Handle a message; discord.py runs each one in a task of its own."""
    if message.author.bot:
        return
    user_id = f"discord-{message.author.id}"
    if message.content == "!cancel":
        await message.reply(f"{queue.cancel(user_id)} stopped")
    elif message.content.startswith("!draw "):
        await serve(message, user_id, draw)
    elif client.user in message.mentions:
        await serve(message, user_id, answer)


async def serve(message: discord.Message, user_id: str, handler) -> None:  # type: ignore[no-untyped-def]
    """Run one request, including its time in the queue; report a failure in one line."""
    try:
        await queue.run(
            user_id,
            lambda: handler(message, user_id),
            lambda position: message.reply(f"you are number {position}"),
        )
    except md.JobCancelledError:
        # The reply to `!cancel` has reported it.
        pass
    except md.MajordomoError as error:
        await message.reply(safe_text(f"sorry, {error}")[:2000])


async def draw(message: discord.Message, user_id: str) -> None:
    prompt = message.content.removeprefix("!draw ")
    status = await message.reply("one moment")
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
                await status.edit(content=text, attachments=images or status.attachments)
    except BaseException:
        await status.delete()
        raise


async def answer(message: discord.Message, user_id: str) -> None:
    """Answer with the channel's history and the images attached to the question."""
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
            for change in splitter.update(safe_text(snapshot.display_text)):
                if change.new:
                    messages.append(await message.channel.send(change.text))
                elif change.text:
                    await messages[change.index].edit(content=change.text)
                else:
                    await messages.pop().delete()
    if snapshot.reply is not None:
        histories[message.channel.id] = [*turns, *snapshot.reply.new_messages][-MAX_HISTORY:]


async def upload(image: md.ImagePart, name: str) -> discord.File:
    fitted = await fit_upload(image, UPLOAD_LIMIT)
    return discord.File(io.BytesIO(fitted.data), f"{name}.{fitted.mime.removeprefix('image/')}")


if __name__ == "__main__":
    if not (token := os.environ.get("DISCORD_TOKEN")):
        sys.exit("set DISCORD_TOKEN to your bot's token")
    client.run(token)
