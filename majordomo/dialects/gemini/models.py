"""Gemini's `GET /models`, a paged list. Source: Google's public REST reference."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from majordomo.backend_status import Capability, ModelInfo
from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_object
from majordomo.settings import Limits

# The maximum that the server allows.
PAGE_SIZE = 1000


def models_path(token: str = "") -> str:
    """Return the path of a page: the first, or the one of this `nextPageToken`."""
    page_token = f"&pageToken={quote(token, safe='')}" if token else ""
    return f"/models?pageSize={PAGE_SIZE}{page_token}"


def decode_models(body: bytes, limits: Limits) -> tuple[list[ModelInfo], str]:
    """Return the models of a page, and the token of the next page, "" on the last one.

    Raises BadResponseError when the body is not a page of models.
    """
    document = decode_object(body, limits.max_json_depth)
    # The server omits an empty list.
    items = document.get("models", [])
    if not isinstance(items, list) or not ("models" in document or not document):
        raise BadResponseError('the model list has no list "models"')
    token = document.get("nextPageToken")
    models = [
        _model_info(item)
        for item in items
        if isinstance(item, dict) and isinstance(item.get("name"), str)
    ]
    return models, token if isinstance(token, str) else ""


def _model_info(item: dict[str, Any]) -> ModelInfo:
    name = item["name"].removeprefix("models/")
    description = item.get("description") or item.get("displayName")
    return ModelInfo(
        name,
        _capabilities(name, item),
        description=description if isinstance(description, str) else "",
        raw=item,
    )


def _capabilities(name: str, item: dict[str, Any]) -> frozenset[Capability]:
    """Return the capabilities of a model, from its methods and its name.

    The list does not say which models accept or generate images; only the name does.
    """
    methods = item.get("supportedGenerationMethods")
    methods = methods if isinstance(methods, list) else []
    capabilities: set[Capability] = set()
    # Speech models are listed with the same method as text models.
    if "generateContent" in methods and not any(word in name for word in ("tts", "audio", "live")):
        capabilities.add("chat")
        # All gemini models accept images; others in the list (gemma) may not.
        if name.startswith("gemini-"):
            capabilities.add("vision")
    if item.get("thinking") is True:
        capabilities.add("thinking")
    if "embedContent" in methods:
        capabilities.add("embed")
    # Every image model has "image" in its name, and every one accepts input images too. Some lists
    # still name Imagen, which has been shut down.
    if "image" in name and not name.startswith("imagen-"):
        capabilities |= {"image", "edit"}
    return frozenset(capabilities)
