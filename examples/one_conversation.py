"""One conversation with any backend: image input, an image tool, structured output, streaming.

python examples/one_conversation.py [MODEL]

MODEL is "offline" (the default), "ollama/qwen3-vl", "anthropic/claude-opus-4-8" or another model
string.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

import majordomo as md
from majordomo import llm


class Size(BaseModel):
    width: int
    height: int


@dataclass(frozen=True)
class Turn:
    """The result of one step, in terms that are the same for every backend."""

    text: str
    finish_reason: str
    # Roles of the messages that the step added.
    roles: tuple[str, ...]
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    images: tuple[tuple[int, int], ...] = ()
    output: Any = None


@dataclass
class Conversation:
    turns: list[Turn] = field(default_factory=list)
    history: list[llm.Message] = field(default_factory=list, repr=False, compare=False)

    def note(self, reply: md.Reply) -> None:
        added = reply.new_messages
        calls = tuple(
            (part.name, part.arguments)
            for message in added
            for part in message.parts
            if isinstance(part, md.ToolCallPart)
        )
        sizes = tuple((image.width, image.height) for image in reply.images)
        self.turns.append(
            Turn(
                reply.text,
                reply.finish_reason,
                tuple(m.role for m in added),
                calls,
                sizes,
                reply.output,
            )
        )
        self.history.extend(added)


async def converse(model: llm.Model) -> Conversation:
    """Run the conversation with any vision model that supports tools."""
    image_model = md.Offline().image_model("renderer")
    photo = (await image_model.generate("a boat on a lake", size="96x64", steps=1, seed=3)).image
    draw = md.image_tool(
        image_model, md.with_image_size("128x96"), md.with_steps(1), md.with_seed(7)
    )
    talk = Conversation(
        history=[md.system("Be brief."), md.user("What size has this image?", photo)]
    )

    talk.note(await model.generate(talk.history))

    talk.history.append(md.user("draw_image of a lighthouse at dusk"))
    talk.note(await md.run_tools(model, talk.history, tools=[draw]))

    talk.history.append(md.user("How large is the image that was drawn?"))
    talk.note(await model.generate(talk.history, output=Size))

    talk.history.append(md.user("And what mood has it?"))
    async with model.stream(talk.history) as stream:
        async for _ in stream:
            pass
    talk.note(stream.reply)
    return talk


async def main(name: str = "offline") -> None:
    async with md.model(name) as model:
        for turn in (await converse(model)).turns:
            print(turn)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
