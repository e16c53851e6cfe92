"""The inputs of some of fal's models, as their pages and the types of fal-js describe them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PRESETS = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
RATIOS = ("21:9", "16:9", "3:2", "4:3", "5:4", "1:1", "4:5", "3:4", "2:3", "9:16")


@dataclass(frozen=True)
class Field:
    """A field of an input: its JSON type, limits, accepted values, and whether it must be sent."""

    type: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        if self.type == "image_size":
            return {
                "anyOf": [
                    {"$ref": "#/components/schemas/ImageSize"},
                    {"enum": list(PRESETS), "type": "string"},
                ]
            }
        if self.type == "urls":
            return {"type": "array", "items": {"type": "string"}}
        values = {
            "type": "string" if self.type == "url" else self.type,
            "minimum": self.low,
            "maximum": self.high,
            "enum": list(self.choices) or None,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Model:
    """A model: its category in the catalog and the fields of its input."""

    category: str
    fields: dict[str, Field]

    def openapi(self, model: str) -> dict[str, Any]:
        """Return the OpenAPI document of the model's queue, as the catalog expands it."""
        name = "".join(part.title() for part in model.replace("-", "/").split("/")) + "Input"
        owner, app = model.split("/")[:2]
        body = {
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        }
        return {
            "openapi": "3.0.4",
            "info": {"title": f"Queue OpenAPI for {model}", "version": "1.0.0"},
            "components": {
                "schemas": {
                    "QueueStatus": {"type": "object", "properties": {"status": {"type": "string"}}},
                    name: {
                        "type": "object",
                        "properties": {key: field.schema for key, field in self.fields.items()},
                        "required": [key for key, field in self.fields.items() if field.required],
                    },
                }
            },
            "paths": {
                f"/{owner}/{app}/requests/{{request_id}}/status": {"get": {"responses": {}}},
                f"/{owner}/{app}/requests/{{request_id}}/cancel": {"put": {"responses": {}}},
                f"/{model}": {"post": {"requestBody": {"required": True} | body}},
                f"/{owner}/{app}/requests/{{request_id}}": {"get": {"responses": {}}},
            },
        }


_PROMPT = {"prompt": Field("string", required=True)}
_COMMON = {
    "num_images": Field("integer", 1, 4),
    "enable_safety_checker": Field("boolean"),
    "seed": Field("integer"),
    "sync_mode": Field("boolean"),
}
_FLUX = _COMMON | {
    "num_inference_steps": Field("integer", 1, 50),
    "guidance_scale": Field("number", 1, 20),
    "output_format": Field("string", choices=("jpeg", "png")),
    "acceleration": Field("string", choices=("none", "regular", "high")),
}
_BANANA = {
    "num_images": Field("integer", 1, 4),
    "seed": Field("integer"),
    "sync_mode": Field("boolean"),
    "aspect_ratio": Field("string", choices=("auto", *RATIOS)),
    "output_format": Field("string", choices=("jpeg", "png", "webp")),
}
_SIZE = {"image_size": Field("image_size")}
_IMAGE = {"image_url": Field("url", required=True), "strength": Field("number", 0.01, 1)}
_IMAGES = {"image_urls": Field("urls", required=True)}

MODELS = {
    "fal-ai/flux/dev": Model("text-to-image", _PROMPT | _FLUX | _SIZE),
    "fal-ai/flux/dev/image-to-image": Model("image-to-image", _PROMPT | _FLUX | _IMAGE),
    "fal-ai/flux-lora/inpainting": Model(
        "text-to-image",
        _PROMPT | _FLUX | _SIZE | _IMAGE | {"mask_url": Field("url", required=True)},
    ),
    "fal-ai/nano-banana": Model("text-to-image", _PROMPT | _BANANA),
    "fal-ai/nano-banana/edit": Model("image-to-image", _PROMPT | _BANANA | _IMAGES),
    "fal-ai/fast-sdxl": Model(
        "text-to-image",
        _PROMPT
        | _COMMON
        | _SIZE
        | {
            "negative_prompt": Field("string"),
            "num_inference_steps": Field("integer", 1, 50),
            "guidance_scale": Field("number", 0, 20),
            "format": Field("string", choices=("jpeg", "png")),
        },
    ),
    "workflows/fal-ai/sdxl-sticker": Model("text-to-image", dict(_PROMPT)),
}
