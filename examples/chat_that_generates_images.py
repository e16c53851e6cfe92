"""A chat model that draws with a tool, looks something up with another, and goes on with the same conversation."""

import asyncio
from typing import Annotated

from pydantic import BaseModel, Field

import majordomo as md
from majordomo.llm import ImageReady, TextDelta, ToolReturned


class Size(BaseModel):
    width: int
    height: int


def opening_hours(
    place: Annotated[str, Field(description="Name of the place")], about: md.ToolContext
) -> str:
    """When a place is open."""
    return f"{place} is open from 9 to 17, {about.value}"


async def main() -> None:
    chat = md.Offline().model(
        "rules"
    )  # or md.Ollama().model("qwen3-vl"), md.Anthropic().model("claude-opus-4-8"), ...
    draw = md.image_tool(
        md.Offline().image_model("renderer"), md.with_image_size("256x192"), md.with_seed(7)
    )

    history = [md.user("draw_image of a lighthouse at dusk")]
    async with md.stream_tools(chat, history, tools=[draw, opening_hours]) as stream:
        async for event in stream:
            match event:
                case ImageReady(image):
                    print(f"drawn: {image!r}")
                case ToolReturned(call, result):
                    print(f"{call.name} gave {len(result.parts)} parts")
                case TextDelta(text):
                    print(text, end="")
    print()

    history.extend(stream.reply.new_messages)
    reply = await md.run_tools(
        chat,
        [*history, md.user("opening_hours of the lighthouse?")],
        tools=[opening_hours],
        context="dear guest",
    )
    print(reply.text)

    sized = await chat.generate([*history, md.user("How large is the image?")], output=Size)
    print(sized.output)


asyncio.run(main())
