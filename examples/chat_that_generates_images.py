"""A chat model that calls an image tool and another tool, and continues the conversation."""

import asyncio
from typing import Annotated

from pydantic import BaseModel, Field

import majordomo as md
from majordomo.llm import ImageReady, TextDelta, ToolReturned


class Size(BaseModel):
    width: int
    height: int


def opening_hours(
    name: Annotated[str, Field(description="Name of the place")], tool_context: md.ToolContext
) -> str:
    """Return when a place is open."""
    return f"{name} is open from 9 to 17, {tool_context.value}"


async def main() -> None:
    # Or md.Ollama().model("qwen3-vl"), md.Anthropic().model("claude-opus-4-8"), ...
    chat = md.Offline().model("rules")
    draw = md.image_tool(
        md.Offline().image_model("renderer"), md.with_image_size("256x192"), md.with_seed(7)
    )

    history = [md.user("draw_image of a lighthouse at dusk")]
    async with md.stream_tools(chat, history, tools=[draw, opening_hours]) as stream:
        async for event in stream:
            match event:
                case ImageReady(image):
                    print(f"image: {image!r}")
                case ToolReturned(call, result):
                    print(f"{call.name} returned {len(result.parts)} parts")
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

    reply_with_size = await chat.generate(
        [*history, md.user("How large is the image?")], output=Size
    )
    print(reply_with_size.output)


asyncio.run(main())
