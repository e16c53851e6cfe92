"""fal's model catalog: which models there are, and which fields a model accepts.

Sources, read in November 2026: fal.ai/docs/platform-apis/v1/models. "Authentication: Optional";
`expand=openapi-3.0` adds the OpenAPI document of a model, whose request body is its input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from majordomo.backend_status import Capability, ModelInfo
from majordomo.errors import BadResponseError
from majordomo.framing.json import decode_object
from majordomo.settings import Limits

PAGE_SIZE = 100
# Choices are listed in warnings, so that a long list of long values would be useless there.
_MAX_CHOICES = _MAX_CHOICE_CHARACTERS = 50
CATEGORIES: Mapping[str, frozenset[Capability]] = {
    "text-to-image": frozenset({"image"}),
    "image-to-image": frozenset({"edit"}),
}
"""The categories of image models, and what a model in each can do."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """The fields that a model accepts."""

    names: frozenset[str]
    """The names of all fields."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The accepted values of the fields that have a list of them."""
    max_images: int | None = None
    """The largest `num_images`; None when the model states none."""


def models_path(category: str, cursor: str = "") -> str:
    """Return the path of a page of the models in a category."""
    query = {"category": category, "status": "active", "limit": PAGE_SIZE}
    return "/v1/models?" + urlencode(query | ({"cursor": cursor} if cursor else {}))


def schema_path(model: str) -> str:
    """Return the path of the catalog entry of a model, with its OpenAPI document."""
    return f"/v1/models?endpoint_id={quote(model, safe='')}&expand=openapi-3.0"


def decode_models(body: bytes, limits: Limits) -> tuple[list[ModelInfo], str]:
    """Return the models of a page, and the cursor of the next page, "" on the last one.

    Raises BadResponseError when the body is not a page of models.
    """
    document = decode_object(body, limits.max_json_depth)
    cursor = document.get("next_cursor")
    return [_model_info(item) for item in _entries(document)], (
        cursor if isinstance(cursor, str) else ""
    )


def decode_model_input(body: bytes, limits: Limits) -> ModelInput | None:
    """Return the fields that a model accepts; None when the catalog does not say.

    Raises BadResponseError when the body is not a page of models.
    """
    entries = _entries(decode_object(body, limits.max_json_depth))
    schema = _input_schema(entries[0].get("openapi")) if entries else None
    properties = schema.get("properties") if schema is not None else None
    if not isinstance(properties, dict) or not properties:
        return None
    choices = {
        name: values
        for name, property_ in properties.items()
        if isinstance(property_, dict) and (values := _choices(property_))
    }
    count = properties.get("num_images")
    maximum = count.get("maximum") if isinstance(count, dict) else None
    return ModelInput(
        frozenset(properties),
        choices,
        maximum if isinstance(maximum, int) and not isinstance(maximum, bool) else None,
    )


def _entries(document: dict[str, Any]) -> list[dict[str, Any]]:
    models = document.get("models")
    if not isinstance(models, list):
        raise BadResponseError('the catalog has no list "models"')
    return [
        item
        for item in models
        if isinstance(item, dict) and isinstance(item.get("endpoint_id"), str)
    ]


def _model_info(item: dict[str, Any]) -> ModelInfo:
    value = item.get("metadata")
    metadata = value if isinstance(value, dict) else {}
    category, text = metadata.get("category"), metadata.get("description")
    return ModelInfo(
        item["endpoint_id"],
        CATEGORIES.get(category, frozenset()) if isinstance(category, str) else frozenset(),
        description=text if isinstance(text, str) else "",
        raw=item,
    )


def _input_schema(openapi: Any) -> dict[str, Any] | None:
    """Return the schema of the request body of the document's one POST."""
    paths = _member(openapi, "paths")
    for operations in paths.values():
        content = _member(_member(_member(operations, "post"), "requestBody"), "content")
        schema = _member(_member(content, "application/json"), "schema")
        if reference := schema.get("$ref"):
            name = str(reference).rpartition("/")[2]
            schema = _member(_member(_member(openapi, "components"), "schemas"), name)
        if schema:
            return schema
    return None


def _member(value: Any, name: str) -> dict[str, Any]:
    """Return a member that is an object; an empty one where there is none."""
    member = value.get(name) if isinstance(value, dict) else None
    return member if isinstance(member, dict) else {}


def _choices(schema: dict[str, Any]) -> tuple[str, ...]:
    """Return the accepted values of a field whose values are all short texts; else nothing."""
    values = schema.get("enum")
    if not isinstance(values, list) or len(values) > _MAX_CHOICES:
        return ()
    if not all(isinstance(value, str) and len(value) <= _MAX_CHOICE_CHARACTERS for value in values):
        return ()
    return tuple(values)
