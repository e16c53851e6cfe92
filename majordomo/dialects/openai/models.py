"""`GET /v1/models` of OpenAI and compatible servers; llama-swap's `/running` and `/api/events`.

The model lists of OpenAI, llama-swap, llama.cpp, OpenRouter, Mistral and Together are understood.
The capabilities of a model are those that the list declares, in the terms of each server. OpenAI
declares none, so they follow from the model's name.
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

CapabilitiesByName = Callable[[str], frozenset[Capability]]


def decode_models(
    body: bytes,
    limits: Limits,
    running: dict[str, str] | None = None,
    capabilities_by_name: CapabilitiesByName | None = None,
) -> list[ModelInfo]:
    """Decode a model list.

    `running` (model id to state) overrides the states in the list, which counts a model as loaded
    while it still starts. `capabilities_by_name` returns the capabilities of a model from its id,
    for models for which the list declares none. Raises BadResponseError.
    """
    document = (
        decode_json(body, limits.max_json_depth)
        if body.lstrip().startswith(b"[")
        else decode_object(body, limits.max_json_depth)
    )
    # Together sends the list without an object around it.
    data = document if isinstance(document, list) else document.get("data")
    if not isinstance(data, list):
        raise BadResponseError('the model list has no list "data"')
    llamacpp = {} if isinstance(document, list) else _llamacpp_capabilities(document)
    return [
        _decode_model(item, running, llamacpp.get(item["id"], frozenset()), capabilities_by_name)
        for item in as_objects(data)
        if isinstance(item.get("id"), str)
    ]


def _llamacpp_capabilities(document: dict[str, Any]) -> dict[str, frozenset[Capability]]:
    """Return capabilities by model from llama.cpp's second list, which has Ollama's format.

    Its "multimodal" may mean vision or audio, so it is ignored.
    """
    capabilities: dict[str, frozenset[Capability]] = {}
    for item in as_objects(document.get("models")):
        declared = item.get("capabilities")
        if (
            (name := as_text(item.get("name")))
            and isinstance(declared, list)
            and "completion" in declared
        ):
            capabilities[name] = frozenset({"chat"})
    return capabilities


def _decode_model(
    item: dict[str, Any],
    running: dict[str, str] | None,
    llamacpp_capabilities: frozenset[Capability],
    capabilities_by_name: CapabilitiesByName | None,
) -> ModelInfo:
    state = ""
    loaded: bool | None = None
    status = item.get("status")
    if isinstance(status, dict) and isinstance(status.get("value"), str):
        state = status["value"]
        loaded = state == "loaded"
    if running is not None:
        process = _aliased_model(item) or item["id"]
        state = running.get(process, state if state != "loaded" else "unloaded")
        loaded = running.get(process) == "ready"
    capabilities = _declared_capabilities(item) | llamacpp_capabilities
    if not capabilities and capabilities_by_name:
        capabilities = capabilities_by_name(item["id"])
    return ModelInfo(item["id"], capabilities, loaded, state, _description(item), item)


def _description(item: dict[str, Any]) -> str:
    """Return the description of a model, or else its display name."""
    description = item.get("description") or item.get("name")
    return description if isinstance(description, str) else ""


# llama-swap and Mistral: keys of `capabilities`.
_CAPABILITY_KEYS: dict[str, Capability] = {
    "image_generation": "image",
    "image_to_image": "edit",
    "completion_chat": "chat",
    "function_calling": "tools",
    "vision": "vision",
    "reasoning": "thinking",
}
# OpenRouter: entries of `supported_parameters`.
_PARAMETERS: dict[str, Capability] = {
    "tools": "tools",
    "reasoning": "thinking",
    "include_reasoning": "thinking",
}
# Together: values of `type`. A "language" or "code" model only completes text.
_TYPES: dict[str, Capability] = {"chat": "chat", "image": "image", "embedding": "embed"}


def _declared_capabilities(item: dict[str, Any]) -> frozenset[Capability]:
    """Return the capabilities that the list declares for a model."""
    capabilities: set[Capability] = set()
    declared = item.get("capabilities")
    if isinstance(declared, dict):
        capabilities |= {
            capability for key, capability in _CAPABILITY_KEYS.items() if declared.get(key) is True
        }
    architecture = item.get("architecture")
    if isinstance(architecture, dict):
        capabilities |= _modality_capabilities(
            architecture.get("input_modalities"), architecture.get("output_modalities")
        )
    parameters = item.get("supported_parameters")
    if isinstance(parameters, list):
        capabilities |= {
            capability for name, capability in _PARAMETERS.items() if name in parameters
        }
    model_type = item.get("type")
    if isinstance(model_type, str) and model_type in _TYPES:
        capabilities.add(_TYPES[model_type])
    return frozenset(capabilities)


def _modality_capabilities(inputs: Any, outputs: Any) -> set[Capability]:
    """Derive capabilities from the modalities of llama-swap, llama.cpp and OpenRouter."""
    capabilities: set[Capability] = set()
    if isinstance(outputs, list) and "text" in outputs:
        capabilities.add("chat")
        if isinstance(inputs, list) and "image" in inputs:
            capabilities.add("vision")
    if isinstance(outputs, list) and "image" in outputs:
        capabilities.add("image")
    if isinstance(outputs, list) and "embeddings" in outputs:
        capabilities.add("embed")
    return capabilities


# OpenAI's model names. Some that look like chat models only transcribe, speak or complete text.
_NOT_CHAT = re.compile(r"transcribe|tts|realtime|audio|instruct|moderation|-live|translate")
_CHAT = re.compile(r"(ft:)?(gpt-[3-9]|chatgpt-|o[1-9](-|$))")


def openai_capabilities(name: str) -> frozenset[Capability]:
    """Return the capabilities of an OpenAI model, as far as they follow from its name.

    The name does not show whether a model has vision or calls tools.
    """
    if name.startswith(("gpt-image-", "chatgpt-image-")) or name == "dall-e-2":
        return frozenset({"image", "edit"})
    if name == "dall-e-3":
        return frozenset({"image"})
    if name.startswith("text-embedding-"):
        return frozenset({"embed"})
    is_chat = _CHAT.match(name) and not _NOT_CHAT.search(name)
    return frozenset({"chat"}) if is_chat else frozenset()


def decode_aliases(body: bytes, limits: Limits) -> dict[str, str]:
    """Decode the aliases in llama-swap's model list: alias to the id of its model's process.

    The keys of `setParamsByID` are aliases too. The aliases of a model that is not listed are
    unknown. Raises BadResponseError.
    """
    data = decode_object(body, limits.max_json_depth).get("data")
    if not isinstance(data, list):
        raise BadResponseError('the model list has no list "data"')
    processes: dict[str, str] = {}
    for item in as_objects(data):
        aliases = _llamaswap_details(item).get("aliases")
        if isinstance(item.get("id"), str) and isinstance(aliases, list):
            processes.update((alias, item["id"]) for alias in aliases if isinstance(alias, str))
    return processes


def _aliased_model(item: dict[str, Any]) -> str | None:
    """Return the model of an alias, which llama-swap lists with `includeAliasesInList`."""
    details = _llamaswap_details(item)
    model = details.get("modelID")
    return model if details.get("type") == "alias" and isinstance(model, str) else None


def _llamaswap_details(item: dict[str, Any]) -> dict[str, Any]:
    """Return what llama-swap adds to an entry of its model list."""
    meta = item.get("meta")
    details = meta.get("llamaswap") if isinstance(meta, dict) else None
    return details if isinstance(details, dict) else {}


def decode_running(body: bytes, limits: Limits) -> dict[str, str]:
    """Decode llama-swap's `GET /running`: id to state (starting, ready, stopping).

    Raises BadResponseError.
    """
    running = decode_object(body, limits.max_json_depth).get("running")
    if not isinstance(running, list):
        raise BadResponseError('the response has no list "running"')
    return {
        item["model"]: item["state"] if isinstance(item.get("state"), str) else ""
        for item in running
        if isinstance(item, dict) and isinstance(item.get("model"), str)
    }


def decode_change(data: bytes, limits: Limits) -> list[ModelInfo] | None:
    """Decode one event of llama-swap's `GET /api/events`: its models after a change.

    Returns None for an event about something else (logs, metrics). Each event is `{"type":
    "modelStatus", "data": "[{id, name, description, state, aliases, …}]"}`, with the inner JSON as
    text; states are stopped, starting, ready, stopping, shutdown (llama-swap's API handlers, 2026).
    """
    try:
        event = decode_object(data, limits.max_json_depth)
        models = (
            decode_json(event["data"].encode(), limits.max_json_depth)
            if event.get("type") == "modelStatus"
            else None
        )
    except (BadResponseError, KeyError, AttributeError):
        return None
    if not isinstance(models, list):
        return None
    return [
        _decode_changed_model(item)
        for item in models
        if isinstance(item, dict) and isinstance(item.get("id"), str)
    ]


def _decode_changed_model(item: dict[str, Any]) -> ModelInfo:
    state = item.get("state") if isinstance(item.get("state"), str) else ""
    return ModelInfo(
        item["id"],
        loaded=state == "ready",
        state=state or "",
        description=_description(item),
        raw=item,
    )
