"""Conversations for the tests of OpenAI's providers."""

from __future__ import annotations

import majordomo as md
from majordomo import llm
from majordomo.llm import ThinkingPart

# Like the ids of vLLM, and longer.
LONG_ID = "chatcmpl-tool-" + "0123456789abcdef" * 8


def look(at: str) -> str:
    """Looks."""
    return f"looked at {at}"


def foreign_history(image: md.ImagePart) -> list[llm.Message]:
    """Return a history from other providers, which breaks the rules of OpenAI's APIs.

    It has the thinking of other providers, tool call ids that are long, unusual or duplicate, and
    messages in an order that the APIs reject.
    """
    odd = [md.ToolCallPart("a:b/c", "draw", '{"x":1}'), md.ToolCallPart("a:b/c", "draw", "")]
    long = [
        md.ToolCallPart(LONG_ID + "1", "look", "{}"),
        md.ToolCallPart(LONG_ID + "2", "look", "{}"),
    ]
    return [
        md.user(),
        llm.assistant(ThinkingPart("private", "gemini", {"signature": "s3cret"}), "sure", *odd),
        md.system("be brief"),
        md.tool_result(odd[0], "done", image),
        md.tool_result(odd[1], "no", is_error=True),
        llm.assistant(ThinkingPart("private", "anthropic", {"signature": "s3cret"}), *long),
        md.tool_result(long[1], image),
        md.tool_result(long[0], ""),
        llm.assistant(ThinkingPart("private", "ollama"), "here", image, ""),
        md.user("thanks", md.FilePart(b"%PDF-1.4 x", "application/pdf", "a.pdf")),
    ]
