"""Prepare a conversation for any dialect: tool call ids, order of results, system messages.

Backends number their tool calls differently or not at all, and each API has its own rules about
where results may be. The functions here make a history from any backend valid for another one.
"""

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

# The roles under which OpenAI's models accept system messages. A model that does not know a role
# answers 400 "unsupported_value"; o1-mini knows neither "system" nor "developer".
SystemRole = Literal["system", "developer", "user"]


def _default_id(call_id: str, number: int) -> str:
    """Return the id unchanged, or one made from the call's number if there is none."""
    return call_id or f"call_{number}"


def id_shortener(max_characters: int) -> Callable[[str, int], str]:
    """Return a function for `normalize_tool_ids` that limits the length of ids.

    A longer id keeps its beginning and ends with a hash of the full id, so that different ids stay
    different.
    """

    def shorten(call_id: str, number: int) -> str:
        if len(call_id) <= max_characters:
            return _default_id(call_id, number)
        return f"{call_id[: max_characters - 17]}_{sha256(call_id.encode()).hexdigest()[:16]}"

    return shorten


def normalize_tool_ids(
    messages: Iterable[Message], format_id: Callable[[str, int], str] = _default_id
) -> list[Message]:
    """Return the messages with tool call ids that are unique in the conversation.

    `format_id(id, number)` makes the ids; `number` counts the calls from 1. Each result keeps
    referring to its call. Needed because backends restart their numbering in each reply or send no
    ids at all, so that a history may hold an id twice.
    """
    normalized: list[Message] = []
    used_ids: set[str] = set()
    # Calls without a result so far, each with its new id.
    open_calls: list[tuple[ToolCallPart, str]] = []
    number = 0
    for message in messages:
        # Fast path: most messages of a long conversation have no tool parts.
        if not any(isinstance(part, (ToolCallPart, ToolResultPart)) for part in message.parts):
            normalized.append(message)
            continue
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                number += 1
                call_id = format_id(part.id, number)
                if call_id in used_ids:
                    call_id = format_id(f"{part.id}_{number}", number)
                used_ids.add(call_id)
                open_calls.append((part, call_id))
                parts.append(replace(part, id=call_id))
            elif isinstance(part, ToolResultPart):
                entry = next((entry for entry in open_calls if entry[0].id == part.call_id), None)
                if entry is not None:
                    open_calls.remove(entry)
                    call, new_id = entry
                    parts.append(replace(part, call_id=new_id, name=part.name or call.name))
                else:
                    parts.append(part)
            else:
                parts.append(part)
        normalized.append(Message(message.role, tuple(parts)))
    return normalized


def order_tool_results(messages: Iterable[Message]) -> list[Message]:
    """Return the messages with tool results directly after the calls that they answer.

    Messages between a call and its result come after the result. The ids must be unique, as
    `normalize_tool_ids` makes them.
    """
    history = list(messages)
    if all(message.role != "tool" for message in history):
        return history
    results: dict[str, ToolResultPart] = {}
    for part in (
        part for message in history if message.role == "tool" for part in tool_results(message)
    ):
        results.setdefault(part.call_id, part)
    ordered: list[Message] = []
    moved_parts: set[int] = set()
    for message in history:
        if message.role == "tool":
            remaining = tuple(part for part in message.parts if id(part) not in moved_parts)
            ordered += [Message("tool", remaining)] if remaining else []
            continue
        ordered.append(message)
        answers = tuple(
            results.pop(part.id)
            for part in message.parts
            if isinstance(part, ToolCallPart) and part.id in results
        )
        if answers:
            moved_parts.update(id(part) for part in answers)
            ordered.append(Message("tool", answers))
    return ordered


def tool_results(message: Message) -> list[ToolResultPart]:
    """Return the results in a message with the role `tool`.

    Raises InvalidRequestError for any other part in it.
    """
    results = [part for part in message.parts if isinstance(part, ToolResultPart)]
    if len(results) != len(message.parts):
        raise InvalidRequestError(
            'a message with the role "tool" must contain tool results only; got '
            + ", ".join(sorted({type(part).__name__ for part in message.parts})),
            field="messages",
        )
    return results


def refuse_misplaced(part: Part) -> None:
    """Raise InvalidRequestError for a tool call or tool result in a message of another role."""
    if isinstance(part, (ToolCallPart, ToolResultPart)):
        raise InvalidRequestError(
            'tool calls belong in "assistant" messages and tool results in "tool" messages; got '
            f"a {type(part).__name__} in a message of another role",
            field="messages",
        )


def own_thinking(part: ThinkingPart, provider: str, model: str = "") -> bool:
    """Return whether a thinking part may be sent back to this provider.

    If its opaque data names a model, it may only be sent back to that model.
    """
    return bool(provider) and part.provider == provider and part.opaque.get("model", model) == model


def merge_system_messages(messages: Iterable[Message]) -> list[CallWarning]:
    """Return the warning of an API that accepts system messages only before the conversation.

    The list is empty when no system message comes later.
    """
    conversation_started = False
    for message in messages:
        if conversation_started and message.role == "system":
            return [
                CallWarning(
                    "HISTORY_CHANGED",
                    "this API accepts system messages only before the conversation: a later one "
                    "was moved to the start",
                    "messages",
                )
            ]
        conversation_started = conversation_started or message.role != "system"
    return []


def arguments_of(call: ToolCallPart) -> dict[str, Any]:
    """Return the arguments of a call for a dialect that sends them as a JSON object.

    A history keeps what the model wrote. Text that is not a JSON object, or that holds values
    which JSON cannot express, goes back to the model as text within an object ("wrap it in a JSON
    object", Anthropic's fine-grained tool streaming).
    """
    try:
        arguments = call.arguments
        encode_json(arguments)
    except (BadResponseError, InvalidRequestError):
        return {"INVALID_JSON": call.arguments_json}
    return arguments


def text_of(parts: Iterable[Part]) -> str:
    """Return the joined text of the text parts."""
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def attachments(parts: Iterable[Part]) -> list[ImagePart | FilePart]:
    """Return the images and files among the parts."""
    return [part for part in parts if isinstance(part, (ImagePart, FilePart))]


def undeclared_tools(request_tools: Iterable[Tool], messages: Iterable[Message]) -> list[Tool]:
    """Return a tool for each name that the history calls and the request does not offer.

    Some backends refuse a history with calls of tools that the request does not declare.
    """
    offered = {tool.name for tool in request_tools}
    missing: dict[str, Tool] = {}
    for message in messages:
        for part in message.parts:
            if (
                isinstance(part, ToolCallPart)
                and part.name not in offered
                and part.name not in missing
            ):
                missing[part.name] = Tool(part.name, "no longer offered")
    return list(missing.values())
