"""Gemini's `GET /models`, which comes in pages. Source: Google's public REST reference."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from majordomo.backend_status import Capability, ModelInfo
from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_object
from majordomo.settings import Limits

PAGE_SIZE = 1000  # the most that the server gives at once


def models_path(token: str = "") -> str:
    """The path of the first page, or of the one that a page before gave the token for."""
    return f"/models?pageSize={PAGE_SIZE}" + (
        f"&pageToken={quote(token, safe='')}" if token else ""
    )


def decode_models(body: bytes, limits: Limits) -> tuple[list[ModelInfo], str]:
    """The models of a page, and the token of the next one, "" on the last. Raises BadResponseError for what is no page."""
    document = decode_object(body, limits.max_json_depth)
    found = document.get("models", [])  # an empty list is left out
    if not isinstance(found, list) or not ("models" in document or not document):
        raise BadResponseError('the model list has no list "models"')
    token = document.get("nextPageToken")
    models = [
        _model(item)
        for item in found
        if isinstance(item, dict) and isinstance(item.get("name"), str)
    ]
    return models, token if isinstance(token, str) else ""


def _model(item: dict[str, Any]) -> ModelInfo:
    name = item["name"].removeprefix("models/")
    said = item.get("description") or item.get("displayName")
    return ModelInfo(
        name, _capabilities(name, item), description=said if isinstance(said, str) else "", raw=item
    )


def _capabilities(name: str, item: dict[str, Any]) -> frozenset[Capability]:
    """What the methods of a model tell, and for images its name: the list does not say who sees and who draws."""
    methods = item.get("supportedGenerationMethods")
    methods = methods if isinstance(methods, list) else []
    found: set[Capability] = set()
    # Those that speak are listed with the method of those that write
    if "generateContent" in methods and not any(word in name for word in ("tts", "audio", "live")):
        found.add("chat")
        if name.startswith(
            "gemini-"
        ):  # all of them take images; others of the list (gemma) may not
            found.add("vision")
    if item.get("thinking") is True:
        found.add("thinking")
    if "embedContent" in methods:
        found.add("embed")
    # All that draw are named so, and all of them begin with images too. Imagen is listed in places and is gone
    if "image" in name and not name.startswith("imagen-"):
        found |= {"image", "edit"}
    return frozenset(found)
