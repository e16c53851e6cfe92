"""What mends a backend, in plain words. Knows what the usual servers are called and how they are started; asks nobody."""

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

SHOWN = 8  # names of models in a sentence


@dataclass(frozen=True, slots=True)
class DefaultServer:
    """A server that many have on their own machine, at its default address."""

    label: str
    kind: str
    keywords: Mapping[str, Any] = field(default_factory=dict)


START = {
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
# Of two at one address, the one that is told apart by routes of its own comes first
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
# Whose list holds every name that is answered. llama-swap does not list its aliases, llama.cpp answers any name, and so on
COMPLETE = frozenset({"ollama", "openai", "anthropic", "gemini"})
FITTING = {"chat": "chat", "image": "image", "embedding": "embed"}
DOES = {"chat": "chat", "image": "draw", "embedding": "embed"}


@dataclass(frozen=True, slots=True)
class BackendSetup:
    """How a backend is set up: `table` of the configuration ("" without one), `kind`, the `preset` of an OpenAI-compatible one, `address`
    without a key, whether it `has_key` of its own, the `label` of what names it where there is no table, and whether it is only `usual`."""

    kind: str
    table: str = ""
    preset: str = ""
    address: str = ""
    has_key: bool = False
    label: str = ""
    usual: bool = False

    def setting(self, keyword: str) -> str:
        """Where this keyword is set, or can be."""
        return f"providers.{self.table or self.kind}.{keyword}"


def status_of(error: MajordomoError) -> Status:
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
            return "strange"


def hint_for_error(error: MajordomoError, place: BackendSetup) -> str:
    """What to change so that this does not happen again."""
    status = status_of(error)
    if status == "unreachable":
        return _not_running(error, place)
    if status == "refused":
        return _no_entry(error, place)
    if status == "loading":
        return "a model is being loaded; calls wait for it"
    if status == "busy":
        return f"it asks to slow down: {error.message}"
    if status == "broken":
        return error.message
    return _unknown_server(error, place)


def _not_running(error: MajordomoError, place: BackendSetup) -> str:
    start = START.get(place.preset or place.kind)
    if place.usual:
        return f"not there; `{start}` starts it" if start else "not there"
    said = f"nothing answers at {place.address} ({error.message})"
    where = (
        f"mend the address in {place.label}" if place.label else f"set {place.setting('base_url')}"
    )
    if start is None:
        return f"{said}: check the network and any proxy, or {where}"
    return f"{said}: start it with `{start}`, or {where}"


def _no_entry(error: MajordomoError, place: BackendSetup) -> str:
    said = f"{error.status or 'no entry'}: {error.message}"
    name = (place.table or place.preset or place.kind).upper().replace("-", "_")
    if place.has_key:
        return f"{said}; the key in {place.setting('api_key')} is not taken"
    return f'{said}; set api_key = "${{{name}_API_KEY}}" in [providers.{place.table or place.kind}]'


def _unknown_server(error: MajordomoError, place: BackendSetup) -> str:
    said = f"something answers at {place.address}, but not as {place.preset or place.kind} does ({error.message})"
    if place.usual:
        return said
    if place.kind == "automatic1111" and isinstance(error, NotFoundError):
        return f"{said}: start the web UI with --api"
    if (
        place.kind == "openaicompatible"
        and isinstance(error, NotFoundError)
        and not place.address.endswith("/v1")
    ):
        return f"{said}: most such servers want {place.setting('base_url')} to end in /v1"
    return f"{said}: check {place.setting('type')} and {place.setting('base_url')}"


def hint_for_model(
    wanted: str, label: str, kind: str | None, models: Sequence[ModelInfo], place: BackendSetup
) -> list[Hint]:
    """What is to be said of a model that `label` names; nothing when the list has it and it can do what it is for."""
    found = next((model for model in models if _same(wanted, model, place)), None)
    if found is None:
        return [_not_listed(wanted, label, models, place)]
    told = []
    need = FITTING.get(kind or "")
    if need and kind and found.capabilities and need not in found.capabilities:
        can = ", ".join(sorted(found.capabilities))
        told.append(
            Hint(
                f"model {wanted} of {label} does not {DOES[kind]}, by its list: it says {can}",
                kind != "embedding",
            )
        )
    draws = kind == "image" or "image" in found.capabilities
    if place.kind == "llamaswap" and draws and found.state != "ready":
        told.append(Hint(f"{wanted} is not loaded. {CHECK_ENDPOINT}"))
    return told


CHECK_ENDPOINT = "If llama-swap never gets it ready: sd-server has no /health, so its entry in llama-swap's configuration needs `checkEndpoint: /`"


def _not_listed(wanted: str, label: str, models: Sequence[ModelInfo], place: BackendSetup) -> Hint:
    names = [model.id for model in models]
    short = [name.removesuffix(":latest") for name in names] if place.kind == "ollama" else names
    near = difflib.get_close_matches(wanted, short, 1)
    has = (
        ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        if names
        else "nothing"
    )
    said = f"model {wanted} of {label} is not in its list: it has {has}"
    if near:
        said += f"; did you mean {near[0]}?"
    elif place.kind == "ollama":
        said += f"; fetch it with `ollama pull {wanted}`"
    if place.kind == "llamaswap":
        said += " (an alias in llama-swap's own configuration is not listed, and works)"
    return Hint(said, place.kind in COMPLETE)


def _same(wanted: str, model: ModelInfo, place: BackendSetup) -> bool:
    """Whether this listed model is meant, with the short forms its kind of server knows."""
    if wanted == model.id:
        return True
    if place.kind == "ollama":
        return f"{wanted}:latest" == model.id
    if (
        place.kind == "automatic1111"
    ):  # a title is "name.safetensors [hash]", and parts of it will do
        return bool(wanted) and wanted in model.id
    return False
