"""A complete bot on a chat platform.

It generates images, shows progress, can be stopped, talks about its images, streams long replies as
several messages, serves users in turn and keeps working when a backend is down.

python examples/bot_on_a_platform.py [IMAGE_MODEL [CHAT_MODEL]]

The models can also be set in MAJORDOMO_IMAGE_MODEL and MAJORDOMO_CHAT_MODEL. By default the first
model of each chain is a server that is down, so that the offline models take over.
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
    SimulatedClock,
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
    """Handles `!draw PROMPT`, `!cancel` and questions to "bot: ..."; one history per channel."""

    def __init__(
        self,
        image_model: md.ImageModel,
        chat: md.llm.Model,
        clock: Clock,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self.image_model = image_model
        self.chat = chat
        self.clock = clock
        self.tasks = tasks
        self.queue = UserQueue(max_concurrency=1, per_user=2, clock=clock)
        self.histories: dict[str, list[md.Message]] = {}
        # Requests without an answer, including queued ones.
        self.serving = 0

    async def on_message(self, message: Message, verb: str) -> None:
        """Handle a message; start a task for each request, because it takes long."""
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
        """Run one request, including its time in the queue; report a failure in one line."""
        handler = self.draw if message.text.startswith("!draw ") else self.answer

        async def on_position(position: int) -> None:
            await message.channel.send(NAME, f"{message.author}: you are number {position}")

        try:
            await self.queue.run(message.author, lambda: handler(message), on_position)
        except md.JobCancelledError:
            # The reply to `!cancel` has reported it.
            pass
        except md.MajordomoError as error:
            await message.channel.send(
                NAME, safe_text(f"{message.author}: sorry, {error}")[:MESSAGE_LIMIT]
            )
        finally:
            self.serving -= 1

    async def draw(self, message: Message) -> None:
        channel, prompt = message.channel, message.text.removeprefix("!draw ")
        status = await channel.send(NAME, "one moment")
        stream = self.image_model.stream(
            prompt, md.with_user_id(message.author), size="256x192", steps=8, seed=7
        )
        try:
            async with throttle_image(
                slowly(stream, self.clock, 0.7), interval=2, clock=self.clock
            ) as live:
                async for snapshot in live:
                    if snapshot.result is None:
                        await edit(live, status, snapshot.status)
                    else:
                        image = await fit_upload(
                            snapshot.result.image, UPLOAD_LIMIT, ("png", "jpeg")
                        )
                        await edit(
                            live,
                            status,
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
                # Remove the unfinished progress message.
                await status.delete()
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
                for change in splitter.update(safe_text(snapshot.display_text)):
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
    """Edit when the platform allows it, and slow the stream down after a rate limit."""
    while True:
        try:
            return await message.edit(text, images or None)
        except PlatformError as error:
            if not error.retry_after:
                raise
            live.pause_for(2 * error.retry_after)
            await live.clock.sleep(error.retry_after)


def models() -> tuple[md.ImageModel, md.llm.Model, Clock]:
    """Return the configured models, or chains of a server that is down and the offline models."""
    names = [*sys.argv[1:], "", ""]
    image = names[0] or os.environ.get("MAJORDOMO_IMAGE_MODEL")
    chat = names[1] or os.environ.get("MAJORDOMO_CHAT_MODEL")
    unreachable = md.LlamaSwap("http://127.0.0.1:9", retries=md.Retries(attempts=1))
    offline = md.Offline()
    image_model = (
        md.image_model(image)
        if image
        else md.ImageChain([unreachable.image_model("sdxl"), offline.image_model("renderer")])
    )
    chat_model = (
        md.model(chat) if chat else md.Chain([unreachable.model("qwen3"), offline.model("rules")])
    )
    return image_model, chat_model, Clock() if image or chat else SimulatedClock()


async def main() -> None:
    image_model, chat, clock = models()
    platform = Platform(clock)
    harbor, quay = platform.channel("harbor"), platform.channel("quay")

    async def wait_until(condition: Callable[[], bool]) -> None:
        """Wait until a condition holds."""
        while not condition():
            await (clock.idle() if isinstance(clock, SimulatedClock) else anyio.sleep(0.1))

    def is_idle() -> bool:
        return not bot.serving

    def posted(*texts: str) -> Callable[[], bool]:
        """Return whether the harbor channel has one of the texts, or the bot is idle."""
        return lambda: (
            is_idle() or any(text in message.text for message in harbor.messages for text in texts)
        )

    async with anyio.create_task_group() as tasks:
        bot = Bot(image_model, chat, clock, tasks)
        platform.listeners.append(bot.on_message)
        await harbor.send("ann", "!draw a lighthouse at dusk")
        await harbor.send("bob", "!draw a cat on a wall")
        await wait_until(posted("for ann by", "ann: sorry"))
        # Bob cancels his request while his image is being generated.
        await wait_until(posted("step "))
        await harbor.send("bob", "!cancel")
        await harbor.send("ann", "bot: what mood is it?")
        await wait_until(is_idle)
        await quay.send("cid", f"bot: @everyone {'rowing on the quiet lake ' * 11}")
        await wait_until(is_idle)
    print("\n".join(platform.transcript))


if __name__ == "__main__":
    asyncio.run(main())
