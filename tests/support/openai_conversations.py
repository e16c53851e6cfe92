"""Conversations that OpenAI's providers are tested with."""

from __future__ import annotations

import majordomo as md
from majordomo import llm
from majordomo.llm import ThinkingPart

LONG_ID = "chatcmpl-tool-" + "0123456789abcdef" * 8  # as vLLM makes them, and longer


def look(at: str) -> str:
    """Looks."""
    return f"looked at {at}"


def foreign_history(image: md.ImagePart) -> list[llm.Message]:
    """A history made with others: their thoughts, ids that are long, odd, or twice the same, and turns where no rule here allows them."""
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
