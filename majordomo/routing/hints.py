"""Hints that say how to fix a backend, as `majordomo doctor` shows them.

This module knows what the common servers are called and how they are started. It does no I/O.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from majordomo.backend_status import ModelInfo
from majordomo.dialects.openai.presets import PRESETS
from majordomo.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    DeadlineExceededError,
    MajordomoError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
)
from majordomo.routing.report import Hint, Status

MAX_LISTED_MODELS = 8


@dataclass(frozen=True, slots=True)
class DefaultServer:
    """A common local server at its default address."""

    label: str
    """The name to show."""
    kind: str
    """The kind of provider."""
    keywords: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the provider's constructor."""


START_COMMANDS = {
    "llamaswap": "llama-swap --config config.yaml",
    "ollama": "ollama serve",
    "stablediffusion": "sd-server --model model.safetensors",
    "automatic1111": "./webui.sh --api",
    "comfyui": "python main.py",
    "llamacpp": "llama-server -m model.gguf",
    "lmstudio": "lms server start",
    "vllm": "vllm serve MODEL",
}
LABELS = {"llamacpp": "llama.cpp", "lmstudio": "LM Studio", "vllm": "vLLM"}
# Of two servers with the same default address, the one that has its own routes comes first.
DEFAULT_SERVERS = (
    DefaultServer("llama-swap", "llamaswap"),
    DefaultServer("Ollama", "ollama"),
    DefaultServer("sd-server", "stablediffusion"),
    DefaultServer("AUTOMATIC1111", "automatic1111"),
    DefaultServer("ComfyUI", "comfyui"),
    *(
        DefaultServer(LABELS.get(name, name), "openaicompatible", {"preset": name})
        for name, row in PRESETS.items()
        if row.local
    ),
)
# Kinds that list every model name that they accept. For example, llama-swap does not list its
# aliases, and llama.cpp accepts any name.
KINDS_WITH_COMPLETE_LIST = frozenset({"ollama", "openai", "anthropic", "gemini"})
REQUIRED_CAPABILITIES = {"chat": "chat", "image": "image", "embedding": "embed"}
ABILITIES = {"chat": "chat", "image": "generate images", "embedding": "create embeddings"}


@dataclass(frozen=True, slots=True)
class BackendSetup:
    """How a backend is configured."""

    kind: str
    """The kind of provider."""
    table: str = ""
    """The name of its table in the configuration; "" without one."""
    preset: str = ""
    """The preset of an OpenAI-compatible server; "" without one."""
    address: str = ""
    """The base URL, without a key."""
    has_key: bool = False
    """Whether a key is configured."""
    label: str = ""
    """The setting that names it, when it has no table."""
    is_default_server: bool = False
    """Whether it is not configured, only one of the default local servers."""

    def setting(self, keyword: str) -> str:
        """Return the path of the setting of this keyword in the configuration."""
        return f"providers.{self.table or self.kind}.{keyword}"


def status_of(error: MajordomoError) -> Status:
    """Return the status of a backend whose check raised this error."""
    match error:
        case ConnectionFailedError() | DeadlineExceededError():
            return "unreachable"
        case AuthenticationError() | PermissionDeniedError():
            return "refused"
        case OverloadedError():
            return "loading" if error.code == "MODEL_LOADING" else "busy"
        case RateLimitError():
            return "busy"
        case ConfigurationError():
            return "broken"
        case _:
            return "unexpected"


def hint_for_error(error: MajordomoError, setup: BackendSetup) -> str:
    """Return what is wrong and what to change."""
    status = status_of(error)
    if status == "unreachable":
        return _unreachable_hint(error, setup)
    if status == "refused":
        return _refused_hint(error, setup)
    if status == "loading":
        return "a model is loading; calls wait for it"
    if status == "busy":
        return f"the server asks to slow down: {error.message}"
    if status == "broken":
        return error.message
    return _unexpected_server_hint(error, setup)


def _unreachable_hint(error: MajordomoError, setup: BackendSetup) -> str:
    start = START_COMMANDS.get(setup.preset or setup.kind)
    if setup.is_default_server:
        return f"not running; start it with `{start}`" if start else "not running"
    problem = f"no server answers at {setup.address} ({error.message})"
    fix = f"correct the URL in {setup.label}" if setup.label else f"set {setup.setting('base_url')}"
    if start is None:
        return f"{problem}; check the network and any proxy, or {fix}"
    return f"{problem}; start it with `{start}`, or {fix}"


def _refused_hint(error: MajordomoError, setup: BackendSetup) -> str:
    problem = f"{error.status or 'access denied'}: {error.message}"
    name = (setup.table or setup.preset or setup.kind).upper().replace("-", "_")
    if setup.has_key:
        return f"{problem}; the server does not accept the key in {setup.setting('api_key')}"
    table = setup.table or setup.kind
    return f'{problem}; set api_key = "${{{name}_API_KEY}}" in [providers.{table}]'


def _unexpected_server_hint(error: MajordomoError, setup: BackendSetup) -> str:
    problem = (
        f"a server answers at {setup.address}, but not like {setup.preset or setup.kind} "
        f"({error.message})"
    )
    if setup.is_default_server:
        return problem
    if setup.kind == "automatic1111" and isinstance(error, NotFoundError):
        return f"{problem}; start the web UI with --api"
    if (
        setup.kind == "openaicompatible"
        and isinstance(error, NotFoundError)
        and not setup.address.endswith("/v1")
    ):
        return f"{problem}; with such servers {setup.setting('base_url')} usually ends in /v1"
    return f"{problem}; check {setup.setting('type')} and {setup.setting('base_url')}"


def hint_for_model(
    wanted: str, label: str, kind: str | None, models: Sequence[ModelInfo], setup: BackendSetup
) -> list[Hint]:
    """Return hints about a model that the configuration names.

    Args:
        wanted: The model id.
        label: The setting that names it.
        kind: What it is used for, "chat", "image" or "embedding"; None when that is not known.
        models: The models that the backend lists.
        setup: The backend.

    Returns:
        No hints when the model is listed with the capability that it needs.
    """
    model = next((model for model in models if _is_same_model(wanted, model, setup)), None)
    if model is None:
        return [_not_listed_hint(wanted, label, models, setup)]
    hints = []
    need = REQUIRED_CAPABILITIES.get(kind or "")
    if need and kind and model.capabilities and need not in model.capabilities:
        listed = ", ".join(sorted(model.capabilities))
        hints.append(
            Hint(
                f"model {wanted} in {label} cannot {ABILITIES[kind]}: it is listed with {listed}",
                kind != "embedding",
            )
        )
    generates_images = kind == "image" or "image" in model.capabilities
    if setup.kind == "llamaswap" and generates_images and model.state != "ready":
        hints.append(Hint(f"{wanted} is not loaded. {CHECK_ENDPOINT_HINT}"))
    return hints


CHECK_ENDPOINT_HINT = (
    "If llama-swap never reports it as ready: sd-server has no /health, so set "
    "`checkEndpoint: /` for it in llama-swap's configuration"
)


def _not_listed_hint(
    wanted: str, label: str, models: Sequence[ModelInfo], setup: BackendSetup
) -> Hint:
    names = [model.id for model in models]
    accepted = [name.removesuffix(":latest") for name in names] if setup.kind == "ollama" else names
    close = difflib.get_close_matches(wanted, accepted, 1)
    listed = ", ".join(names[:MAX_LISTED_MODELS]) or "no models"
    if len(names) > MAX_LISTED_MODELS:
        listed += f" and {len(names) - MAX_LISTED_MODELS} more"
    message = f"model {wanted} in {label} is not listed; the server lists {listed}"
    if close:
        message += f"; did you mean {close[0]}?"
    elif setup.kind == "ollama":
        message += f"; download it with `ollama pull {wanted}`"
    if setup.kind == "llamaswap":
        message += " (llama-swap does not list the aliases of its own configuration; they work)"
    return Hint(message, setup.kind in KINDS_WITH_COMPLETE_LIST)


def _is_same_model(wanted: str, model: ModelInfo, setup: BackendSetup) -> bool:
    """Return whether `wanted` means this model, with the short forms that the server accepts."""
    if wanted == model.id:
        return True
    if setup.kind == "ollama":
        return f"{wanted}:latest" == model.id
    # A title is "name.safetensors [hash]", and AUTOMATIC1111 accepts any part of it.
    if setup.kind == "automatic1111":
        return bool(wanted) and wanted in model.id
    return False
