"""Gemini's `GET /models`, which comes in pages. Source: Google's public REST reference."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from majordomo.catalog import ModelInfo
from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_object
from majordomo.settings import Limits

PAGE = 1000  # the most that the server gives at once


def models_path(token: str = "") -> str:
    """The path of the first page, or of the one that a page before gave the token for."""
    return f"/models?pageSize={PAGE}" + (f"&pageToken={quote(token, safe='')}" if token else "")


def decode_models(body: bytes, limits: Limits) -> tuple[list[ModelInfo], str]:
    """The models of a page, and the token of the next one, "" on the last. Raises BadResponseError for what is no page."""
    document = decode_object(body, limits.depth)
    found = document.get("models", [])  # an empty list is left out
    if not isinstance(found, list) or not ("models" in document or not document):
        raise BadResponseError('the model list has no list "models"')
    token = document.get("nextPageToken")
    models = [_model(item) for item in found if isinstance(item, dict) and isinstance(item.get("name"), str)]
    return models, token if isinstance(token, str) else ""


def _model(item: dict[str, Any]) -> ModelInfo:
    name = item["name"].removeprefix("models/")
    said = item.get("description") or item.get("displayName")
    # The list does not say who draws, but all that do are named so. Imagen is listed in places and is gone
    draws = "image" in name and not name.startswith("imagen-")
    return ModelInfo(name, frozenset({"image"}) if draws else frozenset(), description=said if isinstance(said, str) else "", raw=item)
