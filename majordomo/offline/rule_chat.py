"""The rule-based chat of the offline provider. It reads the last turn, really looks at the images in it, and answers in plain words."""

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
    """What the clerk says: text, or a call of a tool."""

    text: str = ""
    call: ToolCallPart | None = None


def answer(request: Request) -> RuleAnswer:
    """Deterministic: the same conversation gives the same answer. Raises InvalidRequestError for an image that cannot be decoded."""
    last = request.messages[-1]
    question = _question(request.messages)
    results = [part for part in last.parts if isinstance(part, ToolResultPart)]
    if (
        request.tools
        and not results
        and request.tool_choice != "none"
        and (tool := _tool_meant(request, question))
    ):
        arguments = fill(tool.parameters, _after(question, tool.name), {})
        return RuleAnswer(
            call=ToolCallPart(
                f"call_{len(request.messages)}",
                tool.name,
                json.dumps(arguments, ensure_ascii=False),
            )
        )
    looks = [analyze(image) for image in _images(request.messages)]
    if request.output is not None:
        return RuleAnswer(
            json.dumps(
                fill(output_schema(request.output), question, _facts(looks)), ensure_ascii=False
            )
        )
    if results:
        return RuleAnswer(" ".join(_told(result) for result in results))
    if looks:
        return RuleAnswer(
            " ".join(
                describe(look, question, number if len(looks) > 1 else 0)
                for number, look in enumerate(looks, 1)
            )
        )
    return RuleAnswer(_small_talk(question))


def describe(look: ImageAnalysis, question: str, number: int = 0) -> str:
    """What was asked about one image; everything when nothing in particular was."""
    asked = question.lower()
    start = f"Image {number}" if number else "The image"
    said = []
    if re.search(r"\b(mood|feel|feeling|atmosphere|vibe)\b", asked):
        said.append(f"{start} looks {look.mood}.")
    if re.search(r"\b(size|big|large|wide|tall|pixels|dimensions|resolution|format)\b", asked):
        said.append(
            f"{start} is {look.width} x {look.height} pixels, {look.mime.removeprefix('image/').upper()}."
        )
    if re.search(r"\b(colou?rs?|palette)\b", asked):
        said.append(f"{start}'s main colors are {_palette(look)}.")
    if re.search(r"\b(bright|dark|light|brightness|contrast)\b", asked):
        said.append(
            f"{start}'s brightness is {look.brightness:.0%}, its contrast {look.contrast:.0%}."
        )
    if (
        re.search(r"\b(prompt|drawn|show|shows|see|subject|what is|what's)\b", asked)
        and look.prompt
    ):
        said.append(f'It was drawn from the prompt "{look.prompt}".')
    if re.search(r"\b(seed|settings|parameters|steps)\b", asked):
        said.append(
            f"Its seed is {look.seed}." if look.seed is not None else "No seed is stored in it."
        )
    if not said:
        said.append(
            f"{start} is {look.width} x {look.height} pixels and looks {look.mood}; its main colors are {_palette(look)}."
        )
        if look.prompt:
            said.append(f'It was drawn from the prompt "{look.prompt}".')
    return " ".join(said)


def _palette(look: ImageAnalysis) -> str:
    return ", ".join(f"{name} ({share:.0%})" for name, share in look.palette[:3])


def _facts(looks: Sequence[ImageAnalysis]) -> dict[str, Any]:
    if not looks:
        return {}
    look = looks[-1]
    colors = [name for name, _ in look.palette]
    return {
        "width": look.width,
        "height": look.height,
        "brightness": look.brightness,
        "contrast": look.contrast,
        "mood": look.mood,
        "palette": colors,
        "colors": colors,
        "colours": colors,  # schemas may use either spelling
        "color": colors[0] if colors else "none",
        "colour": colors[0] if colors else "none",
        "format": look.mime.removeprefix("image/"),
        "description": describe(look, ""),
        **({"prompt": look.prompt} if look.prompt else {}),
        **({"seed": look.seed} if look.seed is not None else {}),
    }


def _question(messages: Sequence[Message]) -> str:
    """The text of the last user's turn."""
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def _images(messages: Sequence[Message]) -> list[ImagePart]:
    """Those of the last turn that has any; images of tools count."""
    for message in reversed(messages):
        found = [part for part in message.parts if isinstance(part, ImagePart)]
        for part in message.parts:
            if isinstance(part, ToolResultPart):
                found += [piece for piece in part.parts if isinstance(piece, ImagePart)]
        if found:
            return found
    return []


def _tool_meant(request: Request, question: str) -> Tool | None:
    """The tool that must be called, or that the text names (its name, or the words of its name)."""
    by_name = {tool.name: tool for tool in request.tools}
    if request.tool_choice in by_name:
        return by_name[request.tool_choice]
    for tool in request.tools:
        words = re.sub(r"[_-]+", " ", tool.name)
        if re.search(rf"\b({re.escape(tool.name)}|{re.escape(words)})\b", question, re.IGNORECASE):
            return tool
    return request.tools[0] if request.tool_choice == "required" else None


def _after(question: str, name: str) -> str:
    """What stands behind the tool's name, else the whole question."""
    words = re.sub(r"[_-]+", " ", name)
    found = re.search(
        rf"\b(?:{re.escape(name)}|{re.escape(words)})\b[\s:,]*(.*)",
        question,
        re.IGNORECASE | re.DOTALL,
    )
    return (found[1] if found else "") or question


def _told(result: ToolResultPart) -> str:
    text = "".join(part.text for part in result.parts if isinstance(part, TextPart))
    images = [analyze(part) for part in result.parts if isinstance(part, ImagePart)]
    shown = "".join(
        f"It {'also ' if text else ''}gave an image: {describe(look, '')} " for look in images
    )
    return f"{result.name or 'The tool'} {'failed' if result.is_error else 'answered'}: {text}{' ' if text else ''}{shown}".rstrip()


def _small_talk(question: str) -> str:
    said = " ".join(question.split())
    if not said:
        return "I am majordomo's offline clerk: I answer by rules, not by a model. Show me an image, or name a tool."
    shown = said if len(said) <= 200 else said[:199] + "…"
    return f'You said: "{shown}". I am majordomo\'s offline clerk and answer by rules, not by a model; I can look at images and call tools.'
