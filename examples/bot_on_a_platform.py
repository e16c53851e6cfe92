"""A whole bot on a chat platform: it draws, shows how far it is, can be stopped, talks about its images, streams long answers as several
messages, serves everybody in turn and goes on when a backend is dead.

python examples/bot_on_a_platform.py [IMAGE_MODEL [CHAT_MODEL]]

Models are named there, or in MAJORDOMO_IMAGE_MODEL and MAJORDOMO_CHAT_MODEL; without a name the first one asked is a dead server, so that
the offline models take over.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

import anyio
from chat_platform import (
    MESSAGE_LIMIT,
    UPLOAD_LIMIT,
    Channel,
    Message,
    Platform,
    PlatformError,
    PretendClock,
    slowly,
)

import majordomo as md
from majordomo.bots import (
    Clock,
    Splitter,
    ThrottledStream,
    UserQueue,
    fit_upload,
    safe_text,
    throttle,
    throttle_image,
)

NAME = "bot"


class Bot:
    """Listens to `!draw PROMPT`, `!cancel` and questions to "bot: ..."; one history per channel."""

    def __init__(
        self,
        image_model: md.ImageModel,
        chat: md.llm.Model,
        clock: Clock,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self.painter = image_model
        self.chat = chat
        self.clock = clock
        self.tasks = tasks
        self.queue = UserQueue(max_concurrency=1, per_user=2, clock=clock)
        self.histories: dict[str, list[md.Message]] = {}
        self.serving = 0  # requests that have no answer yet, those in the line too

    async def hear(self, message: Message, verb: str) -> None:
        """Called by the platform. Answers take long, so each is a task of its own."""
        if message.author == NAME or verb != "says":
            return
        if message.text == "!cancel":
            count = self.queue.cancel(message.author)
            await message.channel.send(
                NAME,
                f"{message.author}: {count} stopped"
                if count
                else f"{message.author}: nothing to stop",
            )
        elif message.text.startswith(("!draw ", "bot: ")):
            self.serving += 1
            self.tasks.start_soon(self.serve, message)

    async def serve(self, message: Message) -> None:
        """One request, from its place in the line to its end. Whatever goes wrong is one line in the chat."""
        work = self.draw if message.text.startswith("!draw ") else self.answer

        async def emit(position: int) -> None:
            await message.channel.send(NAME, f"{message.author}: you are number {position}")

        try:
            await self.queue.run(message.author, lambda: work(message), emit)
        except md.JobCancelledError:
            pass  # `!cancel` has said so
        except md.MajordomoError as error:
            await message.channel.send(
                NAME, safe_text(f"{message.author}: sorry, {error}")[:MESSAGE_LIMIT]
            )
        finally:
            self.serving -= 1

    async def draw(self, message: Message) -> None:
        channel, prompt = message.channel, message.text.removeprefix("!draw ")
        shown = await channel.send(NAME, "one moment")
        stream = self.painter.stream(
            prompt, md.with_user_id(message.author), size="256x192", steps=8, seed=7
        )
        try:
            async with throttle_image(
                slowly(stream, self.clock, 0.7), interval=2, clock=self.clock
            ) as live:
                async for snapshot in live:
                    if snapshot.result is None:
                        await edit(live, shown, snapshot.status)
                    else:
                        image = await fit_upload(
                            snapshot.result.image, UPLOAD_LIMIT, ("png", "jpeg")
                        )
                        await edit(
                            live,
                            shown,
                            f"{prompt}, for {message.author} by {snapshot.result.provider}",
                            image,
                        )
                        self.history(channel).extend(
                            [
                                md.user(message.text),
                                md.assistant("here it is", snapshot.result.image),
                            ]
                        )
        except BaseException:
            with anyio.CancelScope(shield=True):
                await shown.delete()  # half a progress line helps nobody
            raise

    async def answer(self, message: Message) -> None:
        turns = [
            *self.history(message.channel),
            md.user(message.text.removeprefix("bot: "), *message.attachments),
        ]
        splitter, messages = Splitter(MESSAGE_LIMIT), list[Message]()
        stream = self.chat.stream(turns, md.with_user_id(message.author))
        async with throttle(slowly(stream, self.clock, 0.3), interval=2, clock=self.clock) as live:
            async for snapshot in live:
                for change in splitter.update(safe_text(snapshot.shown)):
                    if change.new:
                        messages.append(await message.channel.send(NAME, change.text))
                    elif change.text:
                        await edit(live, messages[change.index], change.text)
                    else:
                        await messages.pop().delete()
        assert snapshot.reply is not None
        self.histories[message.channel.name] = [*turns, *snapshot.reply.new_messages]

    def history(self, channel: Channel) -> list[md.Message]:
        return self.histories.setdefault(channel.name, [md.system("be brief")])


async def edit(
    live: ThrottledStream[Any], message: Message, text: str, *images: md.ImagePart
) -> None:
    """Edit until the platform lets us, and tell the stream to be more patient."""
    while True:
        try:
            return await message.edit(text, images or None)
        except PlatformError as error:
            if not error.retry_after:
                raise
            live.pause_for(2 * error.retry_after)
            await live.clock.sleep(error.retry_after)


def models() -> tuple[md.ImageModel, md.llm.Model, Clock]:
    """By name where one is given; else a dead server and behind it the offline models."""
    named = [*sys.argv[1:], "", ""]
    image = named[0] or os.environ.get("MAJORDOMO_IMAGE_MODEL")
    chat = named[1] or os.environ.get("MAJORDOMO_CHAT_MODEL")
    dead = md.LlamaSwap("http://127.0.0.1:9", retries=md.Retries(attempts=1))
    offline = md.Offline()
    image_model = (
        md.image_model(image)
        if image
        else md.ImageChain([dead.image_model("sdxl"), offline.image_model("renderer")])
    )
    talker = md.model(chat) if chat else md.Chain([dead.model("qwen3"), offline.model("rules")])
    return image_model, talker, Clock() if image or chat else PretendClock()


async def main() -> None:
    image_model, chat, clock = models()
    platform = Platform(clock)
    harbour, quay = platform.channel("harbour"), platform.channel("quay")

    async def until(there: Callable[[], bool]) -> None:
        """What a patient user does."""
        while not there():
            await (clock.idle() if isinstance(clock, PretendClock) else anyio.sleep(0.1))

    def quiet() -> bool:
        return not bot.serving

    def read(*words: str) -> Callable[[], bool]:
        """Whether the harbour shows one of these, or nothing more is to come."""
        return lambda: (
            quiet() or any(word in message.text for message in harbour.messages for word in words)
        )

    async with anyio.create_task_group() as tasks:
        bot = Bot(image_model, chat, clock, tasks)
        platform.listeners.append(bot.hear)
        await harbour.send("ann", "!draw a lighthouse at dusk")
        await harbour.send("bob", "!draw a cat on a wall")
        await until(read("for ann by", "ann: sorry"))
        await until(read("step "))  # bob's image gets somewhere, and he thinks better of it
        await harbour.send("bob", "!cancel")
        await harbour.send("ann", "bot: what mood is it?")
        await until(quiet)
        await quay.send("cid", f"bot: @everyone {'rowing on the quiet lake ' * 11}")
        await until(quiet)
    print("\n".join(platform.transcript))


if __name__ == "__main__":
    asyncio.run(main())
