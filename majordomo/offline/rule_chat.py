"""The rule-based chat of the offline provider.

It reads the last user message, analyzes the images in it, and answers in plain sentences. It can
call a tool that the message names, and fill a JSON schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from majordomo.llm import ImagePart, Message, Request, TextPart, Tool, ToolCallPart, ToolResultPart
from majordomo.llm.tools import output_schema
from majordomo.offline.image_analysis import ImageAnalysis, analyze
from majordomo.offline.schema_filler import fill

NOTE = "answered by rules, not by a model"


@dataclass(frozen=True, slots=True)
class RuleAnswer:
    """An answer: text, or a tool call."""

    text: str = ""
    """The text; empty with a tool call."""
    call: ToolCallPart | None = None
    """The tool to call."""


def answer(request: Request) -> RuleAnswer:
    """Answer the last message of a conversation. Equal conversations give equal answers.

    Raises:
        InvalidRequestError: An image cannot be decoded.
    """
    last = request.messages[-1]
    question = _question(request.messages)
    results = [part for part in last.parts if isinstance(part, ToolResultPart)]
    if (
        request.tools
        and not results
        and request.tool_choice != "none"
        and (tool := _find_tool(request, question))
    ):
        arguments = fill(tool.parameters, _text_after(question, tool.name), {})
        return RuleAnswer(
            call=ToolCallPart(
                f"call_{len(request.messages)}",
                tool.name,
                json.dumps(arguments, ensure_ascii=False),
            )
        )
    analyses = [analyze(image) for image in _images(request.messages)]
    if request.output is not None:
        return RuleAnswer(
            json.dumps(
                fill(output_schema(request.output), question, _facts(analyses)), ensure_ascii=False
            )
        )
    if results:
        return RuleAnswer(" ".join(_describe_result(result) for result in results))
    if analyses:
        return RuleAnswer(
            " ".join(
                describe(analysis, question, number if len(analyses) > 1 else 0)
                for number, analysis in enumerate(analyses, 1)
            )
        )
    return RuleAnswer(_small_talk(question))


def describe(analysis: ImageAnalysis, question: str, number: int = 0) -> str:
    """Answer a question about one image, or describe the image when no rule matches.

    Args:
        analysis: The image.
        question: What the user asks.
        number: Position of the image, from 1, when there are several; 0 for a single image.
    """
    lowered = question.lower()
    start = f"Image {number}" if number else "The image"
    sentences = []
    if re.search(r"\b(mood|feel|feeling|atmosphere|vibe)\b", lowered):
        sentences.append(f"{start} looks {analysis.mood}.")
    if re.search(r"\b(size|big|large|wide|tall|pixels|dimensions|resolution|format)\b", lowered):
        sentences.append(
            f"{start} is {analysis.width} x {analysis.height} pixels, "
            f"{analysis.mime.removeprefix('image/').upper()}."
        )
    if re.search(r"\b(colou?rs?|palette)\b", lowered):
        sentences.append(f"{start}'s main colors are {_palette(analysis)}.")
    if re.search(r"\b(bright|dark|light|brightness|contrast)\b", lowered):
        sentences.append(
            f"{start}'s brightness is {analysis.brightness:.0%}, "
            f"its contrast {analysis.contrast:.0%}."
        )
    if (
        re.search(r"\b(prompt|drawn|show|shows|see|subject|what is|what's)\b", lowered)
        and analysis.prompt
    ):
        sentences.append(f'It was drawn from the prompt "{analysis.prompt}".')
    if re.search(r"\b(seed|settings|parameters|steps)\b", lowered):
        sentences.append(
            f"Its seed is {analysis.seed}."
            if analysis.seed is not None
            else "No seed is stored in it."
        )
    if not sentences:
        sentences.append(
            f"{start} is {analysis.width} x {analysis.height} pixels and looks {analysis.mood}; "
            f"its main colors are {_palette(analysis)}."
        )
        if analysis.prompt:
            sentences.append(f'It was drawn from the prompt "{analysis.prompt}".')
    return " ".join(sentences)


def _palette(analysis: ImageAnalysis) -> str:
    return ", ".join(f"{name} ({share:.0%})" for name, share in analysis.palette[:3])


def _facts(analyses: Sequence[ImageAnalysis]) -> dict[str, Any]:
    if not analyses:
        return {}
    analysis = analyses[-1]
    colors = [name for name, _ in analysis.palette]
    return {
        "width": analysis.width,
        "height": analysis.height,
        "brightness": analysis.brightness,
        "contrast": analysis.contrast,
        "mood": analysis.mood,
        "palette": colors,
        "colors": colors,
        # Schemas may use either spelling.
        "colours": colors,
        "color": colors[0] if colors else "none",
        "colour": colors[0] if colors else "none",
        "format": analysis.mime.removeprefix("image/"),
        "description": describe(analysis, ""),
        **({"prompt": analysis.prompt} if analysis.prompt else {}),
        **({"seed": analysis.seed} if analysis.seed is not None else {}),
    }


def _question(messages: Sequence[Message]) -> str:
    """Return the text of the last user message."""
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def _images(messages: Sequence[Message]) -> list[ImagePart]:
    """Return the images of the last message that has any, including those in tool results."""
    for message in reversed(messages):
        images = [part for part in message.parts if isinstance(part, ImagePart)]
        for part in message.parts:
            if isinstance(part, ToolResultPart):
                images += [inner for inner in part.parts if isinstance(inner, ImagePart)]
        if images:
            return images
    return []


def _find_tool(request: Request, question: str) -> Tool | None:
    """Return the tool that must be called, or whose name or words of the name are in the text."""
    by_name = {tool.name: tool for tool in request.tools}
    if request.tool_choice in by_name:
        return by_name[request.tool_choice]
    for tool in request.tools:
        words = re.sub(r"[_-]+", " ", tool.name)
        if re.search(rf"\b({re.escape(tool.name)}|{re.escape(words)})\b", question, re.IGNORECASE):
            return tool
    return request.tools[0] if request.tool_choice == "required" else None


def _text_after(question: str, name: str) -> str:
    """Return the text after the tool's name, or the entire question when there is none."""
    words = re.sub(r"[_-]+", " ", name)
    match = re.search(
        rf"\b(?:{re.escape(name)}|{re.escape(words)})\b[\s:,]*(.*)",
        question,
        re.IGNORECASE | re.DOTALL,
    )
    return (match[1] if match else "") or question


def _describe_result(result: ToolResultPart) -> str:
    """Return a sentence that reports the text and the images of a tool result."""
    text = "".join(part.text for part in result.parts if isinstance(part, TextPart))
    analyses = [analyze(part) for part in result.parts if isinstance(part, ImagePart)]
    descriptions = "".join(
        f"It {'also ' if text else ''}gave an image: {describe(analysis, '')} "
        for analysis in analyses
    )
    outcome = f"{result.name or 'The tool'} {'failed' if result.is_error else 'answered'}"
    return f"{outcome}: {text}{' ' if text else ''}{descriptions}".rstrip()


def _small_talk(question: str) -> str:
    """Return the answer to a message without images, tools and a schema."""
    text = " ".join(question.split())
    if not text:
        return (
            "I am majordomo's offline rule-based chat: I answer by rules, not by a model. "
            "Show me an image, or name a tool."
        )
    quote = text if len(text) <= 200 else text[:199] + "…"
    return (
        f'You said: "{quote}". I am majordomo\'s offline rule-based chat and answer by rules, '
        "not by a model; I can look at images and call tools."
    )
