"""`GET /v1/models`, as OpenAI, llama-swap, llama.cpp, OpenRouter, Mistral and Together answer it, and llama-swap's `GET /running` and
`GET /api/events`.

What a model can do is taken from what the list declares, in whatever words; OpenAI declares nothing, and its names must do.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from majordomo.backend_status import Capability, ModelInfo
from majordomo.dialects.chat_accumulator import as_objects, as_text
from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_json, decode_object
from majordomo.settings import Limits

ModelKind = Callable[[str], frozenset[Capability]]


def decode_models(
    body: bytes,
    limits: Limits,
    running: dict[str, str] | None = None,
    named: ModelKind | None = None,
) -> list[ModelInfo]:
    """The models listed. `running` (id to state) is truer than what the list says: there a model that still starts counts as loaded.

    `named` says what a model can do by its id, where the list says nothing.
    """
    document = (
        decode_json(body, limits.max_json_depth)
        if body.lstrip().startswith(b"[")
        else decode_object(body, limits.max_json_depth)
    )
    data = (
        document if isinstance(document, list) else document.get("data")
    )  # Together's list stands bare
    if not isinstance(data, list):
        raise BadResponseError('the model list has no list "data"')
    beside = {} if isinstance(document, list) else _beside(document)
    return [
        _model(item, running, beside.get(item["id"], frozenset()), named)
        for item in as_objects(data)
        if isinstance(item.get("id"), str)
    ]


def _beside(document: dict[str, Any]) -> dict[str, frozenset[Capability]]:
    """llama.cpp: beside `data` stands a list in Ollama's form. Its "multimodal" may be eyes or ears, so it proves neither."""
    found: dict[str, frozenset[Capability]] = {}
    for item in as_objects(document.get("models")):
        words = item.get("capabilities")
        if (
            (name := as_text(item.get("name")))
            and isinstance(words, list)
            and "completion" in words
        ):
            found[name] = frozenset({"chat"})
    return found


def _model(
    item: dict[str, Any],
    running: dict[str, str] | None,
    beside: frozenset[Capability],
    named: ModelKind | None,
) -> ModelInfo:
    state = ""
    loaded: bool | None = None
    status = item.get("status")
    if isinstance(status, dict) and isinstance(status.get("value"), str):
        state = status["value"]
        loaded = state == "loaded"
    if running is not None:
        state = running.get(item["id"], state if state != "loaded" else "unloaded")
        loaded = running.get(item["id"]) == "ready"
    description = item.get("description") or item.get("name")
    capabilities = _declared(item) | beside or (named(item["id"]) if named else frozenset())
    return ModelInfo(
        item["id"],
        capabilities,
        loaded,
        state,
        description if isinstance(description, str) else "",
        item,
    )


# The words of the lists. llama-swap and Mistral: keys of `capabilities`
_ABLE: dict[str, Capability] = {
    "image_generation": "image",
    "image_to_image": "edit",
    "completion_chat": "chat",
    "function_calling": "tools",
    "vision": "vision",
    "reasoning": "thinking",
}
# OpenRouter: `supported_parameters`
_TAKES: dict[str, Capability] = {
    "tools": "tools",
    "reasoning": "thinking",
    "include_reasoning": "thinking",
}
# Together: `type`. A "language" or "code" model only continues a text
_TYPES: dict[str, Capability] = {"chat": "chat", "image": "image", "embedding": "embed"}


def _declared(item: dict[str, Any]) -> frozenset[Capability]:
    """What the operator declared."""
    found: set[Capability] = set()
    declared = item.get("capabilities")
    if isinstance(declared, dict):
        found |= {able for word, able in _ABLE.items() if declared.get(word) is True}
    architecture = item.get("architecture")
    if isinstance(architecture, dict):
        found |= _modalities(
            architecture.get("input_modalities"), architecture.get("output_modalities")
        )
    taken = item.get("supported_parameters")
    if isinstance(taken, list):
        found |= {able for word, able in _TAKES.items() if word in taken}
    kind = item.get("type")
    if isinstance(kind, str) and kind in _TYPES:
        found.add(_TYPES[kind])
    return frozenset(found)


def _modalities(taken: Any, given: Any) -> set[Capability]:
    """llama-swap, llama.cpp and OpenRouter: what goes in and what comes out."""
    found: set[Capability] = set()
    if isinstance(given, list) and "text" in given:
        found.add("chat")
        if isinstance(taken, list) and "image" in taken:
            found.add("vision")
    if isinstance(given, list) and "image" in given:
        found.add("image")
    if isinstance(given, list) and "embeddings" in given:
        found.add("embed")
    return found


# OpenAI's names. Of those that chat, some only hear, speak or continue a text
_OTHER = re.compile(r"transcribe|tts|realtime|audio|instruct|moderation|-live|translate")
_CHATS = re.compile(r"(ft:)?(gpt-[3-9]|chatgpt-|o[1-9](-|$))")


def openai_family(name: str) -> frozenset[Capability]:
    """What an OpenAI model can do, as far as its name tells; whether it sees or calls tools, it does not."""
    if name.startswith(("gpt-image-", "chatgpt-image-")) or name == "dall-e-2":
        return frozenset({"image", "edit"})
    if name == "dall-e-3":
        return frozenset({"image"})
    if name.startswith("text-embedding-"):
        return frozenset({"embed"})
    return frozenset({"chat"}) if _CHATS.match(name) and not _OTHER.search(name) else frozenset()


def decode_running(body: bytes, limits: Limits) -> dict[str, str]:
    """Id to state (starting, ready, stopping) of what llama-swap has in memory."""
    running = decode_object(body, limits.max_json_depth).get("running")
    if not isinstance(running, list):
        raise BadResponseError('the answer has no list "running"')
    return {
        item["model"]: item["state"] if isinstance(item.get("state"), str) else ""
        for item in running
        if isinstance(item, dict) and isinstance(item.get("model"), str)
    }


def decode_change(data: bytes, limits: Limits) -> list[ModelInfo] | None:
    """The models of llama-swap after a change, from one event of its feed; None for an event about something else (logs, metrics).

    Each event is `{"type": "modelStatus", "data": "[{id, name, description, state, aliases, …}]"}`, the inner JSON as text; states are
    stopped, starting, ready, stopping, shutdown (llama-swap's API handlers, 2026).
    """
    try:
        event = decode_object(data, limits.max_json_depth)
        listed = (
            decode_json(event["data"].encode(), limits.max_json_depth)
            if event.get("type") == "modelStatus"
            else None
        )
    except (BadResponseError, KeyError, AttributeError):
        return None
    if not isinstance(listed, list):
        return None
    return [
        _changed(item)
        for item in listed
        if isinstance(item, dict) and isinstance(item.get("id"), str)
    ]


def _changed(item: dict[str, Any]) -> ModelInfo:
    state = item.get("state") if isinstance(item.get("state"), str) else ""
    said = item.get("description") or item.get("name")
    return ModelInfo(
        item["id"],
        loaded=state == "ready",
        state=state or "",
        description=said if isinstance(said, str) else "",
        raw=item,
    )
