"""Chat and image generation over any backend, through one interface.

Importing this module is cheap: each public name is loaded when it is first used.

Example:
    ```python
    import majordomo as md

    image = md.Offline().image_model("renderer").generate_sync("a lighthouse at dusk").image
    image.save("lighthouse.png")
    ```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The module that defines each public name. A test pins this table.
_HOME = {
    "majordomo.errors": (
        "AuthenticationError BackendError BadResponseError CallWarning ChainExhaustedError "
        "ConfigurationError ConnectionFailedError ContentRefusedError DeadlineExceededError "
        "FailedAttempt InvalidRequestError JobCancelledError JobLostError MajordomoError "
        "NoImageError NotFoundError OverloadedError PermissionDeniedError RateLimitError "
        "StorageError StreamBrokenError UnsupportedError"
    ),
    "majordomo.settings": "Limits Rate Retries Timeout",
    "majordomo.backend_status": "Health ModelInfo",
    "majordomo.llm": (
        "FilePart ImagePart Message Reply TextPart ThinkingPart Tool ToolCallPart ToolContext "
        "ToolResultPart assistant dump_messages load_messages system tool_result user "
        "user_parts"
    ),
    "majordomo.models.tool_loop": (
        "image_tool run_tools run_tools_sync stream_tools stream_tools_sync"
    ),
    "majordomo.routing.registry": "Registry embedding_model image_model model",
    "majordomo.providers.fal": "Fal",
    "majordomo.providers.gemini": "Gemini",
    "majordomo.providers.llamaswap": "LlamaSwap",
    "majordomo.offline.provider": "Offline",
    "majordomo.providers.openaicompatible": "OpenAICompatible",
    "majordomo.providers.anthropic": "Anthropic",
    "majordomo.providers.automatic1111": "Automatic1111",
    "majordomo.providers.comfyui": "ComfyUI",
    "majordomo.providers.openai": "OpenAI",
    "majordomo.providers.ollama.provider": "Ollama",
    "majordomo.providers.stablediffusion": "StableDiffusion",
    "majordomo.routing.chain": "Chain ImageChain",
    "majordomo.queueing.resource_group": "ResourceGroup",
    "majordomo.routing.health": "ChainHealth HealthChanged MemberStatus",
    "majordomo.observability": "Observer",
    "majordomo.observability.logging_observer": "LoggingObserver",
    "majordomo.observability.opentelemetry": "OpenTelemetryObserver",
    "majordomo.observability.ledger": "Ledger",
    "majordomo.observability.costs": "cost",
    "majordomo.observability.prices": "Cost Price",
}
# Written by scripts/request-options, as are the names in `__all__` that begin with "with_".
_OPTIONS = {
    "majordomo.llm.options": (
        "with_max_tokens with_output with_output_retries with_reasoning with_stop with_temperature "
        "with_tool_choice with_tools with_top_k with_top_p"
    ),
    "majordomo.imagegen.options": (
        "with_aspect with_background with_cfg_scale with_image_count with_image_size with_images "
        "with_mask with_megapixels with_negative_prompt with_output_format with_previews "
        "with_quality with_sampler with_scheduler with_steps with_strength"
    ),
    "majordomo.options": "with_extra with_random_seed with_seed with_user_id",
}
_NAMES = {
    name: (home, name) for home, names in {**_HOME, **_OPTIONS}.items() for name in names.split()
}
_NAMES |= {
    "ImageModel": ("majordomo.imagegen", "Model"),
    "ImageOption": ("majordomo.imagegen", "Option"),
    "ImageProvider": ("majordomo.imagegen", "Provider"),
    "ImageRequest": ("majordomo.imagegen", "Request"),
    "ImageResult": ("majordomo.imagegen", "Result"),
}
_PACKAGES = ("bots", "imagegen", "imaging", "llm", "studio", "testing")

__all__ = [
    "Anthropic",
    "AuthenticationError",
    "Automatic1111",
    "BackendError",
    "BadResponseError",
    "CallWarning",
    "Chain",
    "ChainExhaustedError",
    "ChainHealth",
    "ComfyUI",
    "ConfigurationError",
    "ConnectionFailedError",
    "ContentRefusedError",
    "Cost",
    "DeadlineExceededError",
    "FailedAttempt",
    "Fal",
    "FilePart",
    "Gemini",
    "Health",
    "HealthChanged",
    "ImageChain",
    "ImageModel",
    "ImageOption",
    "ImagePart",
    "ImageProvider",
    "ImageRequest",
    "ImageResult",
    "InvalidRequestError",
    "JobCancelledError",
    "JobLostError",
    "Ledger",
    "Limits",
    "LlamaSwap",
    "LoggingObserver",
    "MajordomoError",
    "MemberStatus",
    "Message",
    "ModelInfo",
    "NoImageError",
    "NotFoundError",
    "Observer",
    "Offline",
    "Ollama",
    "OpenAI",
    "OpenAICompatible",
    "OpenTelemetryObserver",
    "OverloadedError",
    "PermissionDeniedError",
    "Price",
    "Rate",
    "RateLimitError",
    "Registry",
    "Reply",
    "ResourceGroup",
    "Retries",
    "StableDiffusion",
    "StorageError",
    "StreamBrokenError",
    "TextPart",
    "ThinkingPart",
    "Timeout",
    "Tool",
    "ToolCallPart",
    "ToolContext",
    "ToolResultPart",
    "UnsupportedError",
    "assistant",
    "bots",
    "cost",
    "dump_messages",
    "embedding_model",
    "image_model",
    "image_tool",
    "imagegen",
    "imaging",
    "llm",
    "load_messages",
    "model",
    "run_tools",
    "run_tools_sync",
    "stream_tools",
    "stream_tools_sync",
    "studio",
    "system",
    "testing",
    "tool_result",
    "user",
    "user_parts",
    "with_aspect",
    "with_background",
    "with_cfg_scale",
    "with_extra",
    "with_image_count",
    "with_image_size",
    "with_images",
    "with_mask",
    "with_max_tokens",
    "with_megapixels",
    "with_negative_prompt",
    "with_output",
    "with_output_format",
    "with_output_retries",
    "with_previews",
    "with_quality",
    "with_random_seed",
    "with_reasoning",
    "with_sampler",
    "with_scheduler",
    "with_seed",
    "with_steps",
    "with_stop",
    "with_strength",
    "with_temperature",
    "with_tool_choice",
    "with_tools",
    "with_top_k",
    "with_top_p",
    "with_user_id",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from majordomo import bots, imagegen, imaging, llm, studio, testing
    from majordomo.backend_status import Health, ModelInfo
    from majordomo.errors import (
        AuthenticationError,
        BackendError,
        BadResponseError,
        CallWarning,
        ChainExhaustedError,
        ConfigurationError,
        ConnectionFailedError,
        ContentRefusedError,
        DeadlineExceededError,
        FailedAttempt,
        InvalidRequestError,
        JobCancelledError,
        JobLostError,
        MajordomoError,
        NoImageError,
        NotFoundError,
        OverloadedError,
        PermissionDeniedError,
        RateLimitError,
        StorageError,
        StreamBrokenError,
        UnsupportedError,
    )
    from majordomo.imagegen import Model as ImageModel
    from majordomo.imagegen import Option as ImageOption
    from majordomo.imagegen import Provider as ImageProvider
    from majordomo.imagegen import Request as ImageRequest
    from majordomo.imagegen import Result as ImageResult
    from majordomo.imagegen.options import (
        with_aspect,
        with_background,
        with_cfg_scale,
        with_image_count,
        with_image_size,
        with_images,
        with_mask,
        with_megapixels,
        with_negative_prompt,
        with_output_format,
        with_previews,
        with_quality,
        with_sampler,
        with_scheduler,
        with_steps,
        with_strength,
    )
    from majordomo.llm import (
        FilePart,
        ImagePart,
        Message,
        Reply,
        TextPart,
        ThinkingPart,
        Tool,
        ToolCallPart,
        ToolContext,
        ToolResultPart,
        assistant,
        dump_messages,
        load_messages,
        system,
        tool_result,
        user,
        user_parts,
    )
    from majordomo.llm.options import (
        with_max_tokens,
        with_output,
        with_output_retries,
        with_reasoning,
        with_stop,
        with_temperature,
        with_tool_choice,
        with_tools,
        with_top_k,
        with_top_p,
    )
    from majordomo.models.tool_loop import (
        image_tool,
        run_tools,
        run_tools_sync,
        stream_tools,
        stream_tools_sync,
    )
    from majordomo.observability import Observer
    from majordomo.observability.costs import cost
    from majordomo.observability.ledger import Ledger
    from majordomo.observability.logging_observer import LoggingObserver
    from majordomo.observability.opentelemetry import OpenTelemetryObserver
    from majordomo.observability.prices import Cost, Price
    from majordomo.offline.provider import Offline
    from majordomo.options import (
        with_extra,
        with_random_seed,
        with_seed,
        with_user_id,
    )
    from majordomo.providers.anthropic import Anthropic
    from majordomo.providers.automatic1111 import Automatic1111
    from majordomo.providers.comfyui import ComfyUI
    from majordomo.providers.fal import Fal
    from majordomo.providers.gemini import Gemini
    from majordomo.providers.llamaswap import LlamaSwap
    from majordomo.providers.ollama.provider import Ollama
    from majordomo.providers.openai import OpenAI
    from majordomo.providers.openaicompatible import OpenAICompatible
    from majordomo.providers.stablediffusion import StableDiffusion
    from majordomo.queueing.resource_group import ResourceGroup
    from majordomo.routing.chain import Chain, ImageChain
    from majordomo.routing.health import ChainHealth, HealthChanged, MemberStatus
    from majordomo.routing.registry import Registry, embedding_model, image_model, model
    from majordomo.settings import Limits, Rate, Retries, Timeout
else:
    # Type checkers do not see this function, so that they reject a misspelled name.
    def __getattr__(name: str) -> Any:
        if name in _PACKAGES:
            return importlib.import_module(f"majordomo.{name}")
        if name not in _NAMES:
            raise AttributeError(f"module 'majordomo' has no attribute {name!r}")
        home, real_name = _NAMES[name]
        value = getattr(importlib.import_module(home), real_name)
        globals()[name] = value
        return value
