"""A conversation made ready for any dialect: tool calls and their results find each other whatever ids they came with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from typing import Any, Literal

from majordomo.errors import BadResponseError, CallWarning, InvalidRequestError
from majordomo.framing.json import encode_json
from majordomo.llm import (
    FilePart,
    ImagePart,
    Message,
    Part,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)

# What OpenAI calls the turns of the system: 400 "unsupported_value" where a model does not know the word, and o1-mini knows neither
SystemRole = Literal["system", "developer", "user"]


def _as_it_is(identity: str, number: int) -> str:
    return identity or f"call_{number}"


def id_shortener(longest: int) -> Callable[[str, int], str]:
    """Ids of at most so many characters; a longer one keeps its beginning, and differs where the whole did."""

    def spell(identity: str, number: int) -> str:
        if len(identity) <= longest:
            return _as_it_is(identity, number)
        return f"{identity[: longest - 17]}_{sha256(identity.encode()).hexdigest()[:16]}"

    return spell


def normalize_tool_ids(
    messages: Iterable[Message], spell: Callable[[str, int], str] = _as_it_is
) -> list[Message]:
    """The same turns with ids that are unique in the conversation and spelt as `spell(id, number)` says; a result keeps its call.

    Backends count their calls anew in each answer, or give no ids at all: a history made with one may hold an id twice.
    """
    made: list[Message] = []
    taken: set[str] = set()
    waiting: list[
        tuple[str, str, str]
    ] = []  # (id as it came, id as it goes, name) of calls without a result
    number = 0
    for message in messages:
        if not any(isinstance(part, (ToolCallPart, ToolResultPart)) for part in message.parts):
            made.append(message)  # most turns of a long conversation
            continue
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                number += 1
                identity = spell(part.id, number)
                if identity in taken:
                    identity = spell(f"{part.id}_{number}", number)
                taken.add(identity)
                waiting.append((part.id, identity, part.name))
                parts.append(replace(part, id=identity))
            elif isinstance(part, ToolResultPart):
                found = next((call for call in waiting if call[0] == part.call_id), None)
                if found is not None:
                    waiting.remove(found)
                    parts.append(replace(part, call_id=found[1], name=part.name or found[2]))
                else:
                    parts.append(part)
            else:
                parts.append(part)
        made.append(Message(message.role, tuple(parts)))
    return made


def order_tool_results(messages: Iterable[Message]) -> list[Message]:
    """The same turns, results directly behind the calls they answer, whatever stood between; for turns that are `linked`."""
    given = list(messages)
    if all(message.role != "tool" for message in given):
        return given
    results: dict[str, ToolResultPart] = {}
    for part in (
        part for message in given if message.role == "tool" for part in tool_results(message)
    ):
        results.setdefault(part.call_id, part)
    made: list[Message] = []
    moved: set[int] = set()
    for message in given:
        if message.role == "tool":
            left = tuple(part for part in message.parts if id(part) not in moved)
            made += [Message("tool", left)] if left else []
            continue
        made.append(message)
        behind = tuple(
            results.pop(part.id)
            for part in message.parts
            if isinstance(part, ToolCallPart) and part.id in results
        )
        if behind:
            moved.update(id(part) for part in behind)
            made.append(Message("tool", behind))
    return made


def tool_results(message: Message) -> list[ToolResultPart]:
    """The results of a tool's turn. Raises InvalidRequestError for anything else in it."""
    results = [part for part in message.parts if isinstance(part, ToolResultPart)]
    if len(results) != len(message.parts):
        raise InvalidRequestError("a tool's turn holds tool results only", field="messages")
    return results


def refuse_misplaced(part: Part) -> None:
    if isinstance(part, (ToolCallPart, ToolResultPart)):
        raise InvalidRequestError(
            "tool calls stand in assistant turns, tool results in tool turns", field="messages"
        )


def own_thinking(part: ThinkingPart, owner: str, model: str = "") -> bool:
    """Whether a thought may be shown to this provider; to this model only, where its opaque part names one."""
    return bool(owner) and part.provider == owner and part.opaque.get("model", model) == model


def merge_system_messages(messages: Iterable[Message]) -> list[CallWarning]:
    """The warning of a dialect with one place for what the system says, when it speaks in mid-conversation too."""
    begun = False
    for message in messages:
        if begun and message.role == "system":
            return [
                CallWarning(
                    "HISTORY_CHANGED",
                    "all system turns stand before the conversation here: one was moved there",
                    "messages",
                )
            ]
        begun = begun or message.role != "system"
    return []


def arguments_of(call: ToolCallPart) -> dict[str, Any]:
    """The arguments of a call for a dialect that has them as an object. A history keeps what its model wrote: what is no JSON object, or
    holds what JSON cannot, goes back to it as text within one ("wrap it in a JSON object", Anthropic's fine-grained tool streaming)."""
    try:
        arguments = call.arguments
        encode_json(arguments)
    except (BadResponseError, InvalidRequestError):
        return {"INVALID_JSON": call.arguments_json}
    return arguments


def text_of(parts: Iterable[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def attachments(parts: Iterable[Part]) -> list[ImagePart | FilePart]:
    return [part for part in parts if isinstance(part, (ImagePart, FilePart))]


def tools_of(request_tools: Iterable[Tool], messages: Iterable[Message]) -> list[Tool]:
    """Tools that a history calls and the request no longer offers; some backends refuse such a history without them."""
    known = {tool.name for tool in request_tools}
    found: dict[str, Tool] = {}
    for message in messages:
        for part in message.parts:
            if isinstance(part, ToolCallPart) and part.name not in known and part.name not in found:
                found[part.name] = Tool(part.name, "no longer offered")
    return list(found.values())
