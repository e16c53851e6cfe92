"""`GET /v1/models`, as OpenAI and llama-swap answer it, and llama-swap's `GET /running` and `GET /api/events`."""

from __future__ import annotations

from typing import Any

from majordomo.catalog import Capability, ModelInfo
from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_json, decode_object
from majordomo.settings import Limits


def decode_models(body: bytes, limits: Limits, running: dict[str, str] | None = None) -> list[ModelInfo]:
    """The models listed. `running` (id to state) is truer than what the list says: there a model that still starts counts as loaded."""
    data = decode_object(body, limits.depth).get("data")
    if not isinstance(data, list):
        raise BadResponseError('the model list has no list "data"')
    return [_model(item, running) for item in data if isinstance(item, dict) and isinstance(item.get("id"), str)]


def _model(item: dict[str, Any], running: dict[str, str] | None) -> ModelInfo:
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
    return ModelInfo(item["id"], _capabilities(item), loaded, state, description if isinstance(description, str) else "", item)


def _capabilities(item: dict[str, Any]) -> frozenset[Capability]:
    """What the operator declared, in llama-swap's words and in llama.cpp's."""
    found: set[Capability] = set()
    declared = item.get("capabilities")
    if isinstance(declared, dict):
        if declared.get("image_generation"):
            found.add("image")
        if declared.get("image_to_image"):
            found.add("edit")
    architecture = item.get("architecture")
    if isinstance(architecture, dict):
        taken = architecture.get("input_modalities")
        given = architecture.get("output_modalities")
        if isinstance(given, list) and "text" in given:
            found.add("chat")
            if isinstance(taken, list) and "image" in taken:
                found.add("vision")
        if isinstance(given, list) and "image" in given:
            found.add("image")
    return frozenset(found)


def decode_running(body: bytes, limits: Limits) -> dict[str, str]:
    """Id to state (starting, ready, stopping) of what llama-swap has in memory."""
    running = decode_object(body, limits.depth).get("running")
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
        event = decode_object(data, limits.depth)
        listed = decode_json(event["data"].encode(), limits.depth) if event.get("type") == "modelStatus" else None
    except (BadResponseError, KeyError, AttributeError):
        return None
    if not isinstance(listed, list):
        return None
    return [_changed(item) for item in listed if isinstance(item, dict) and isinstance(item.get("id"), str)]


def _changed(item: dict[str, Any]) -> ModelInfo:
    state = item.get("state") if isinstance(item.get("state"), str) else ""
    said = item.get("description") or item.get("name")
    return ModelInfo(item["id"], loaded=state == "ready", state=state or "", description=said if isinstance(said, str) else "", raw=item)
