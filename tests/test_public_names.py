"""The public names. A name that is added or removed is a decision and is in the changelog."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import majordomo as md
from majordomo import imagegen, llm
from majordomo.requests.base import BaseRequest, declaration


def option_names(kind: type[BaseRequest]) -> set[str]:
    """Return the option of each field; a random seed is a second option for `seed`."""
    declared = declaration(kind)
    return {f"with_{declared.fields[name].option or name}" for name, _ in declared.settings} | {
        "with_random_seed"
    }


ROOT = [
    *(option_names(llm.Request) | option_names(imagegen.Request)),
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
    "FailedAttempt",
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
]
LLM = [
    *(kind.__name__ for kind in get_args(llm.ChatEvent)),
    "ChatEvent",
    *option_names(llm.Request),
    "CallWarning",
    "EmbeddingModel",
    "Embeddings",
    "EventSource",
    "FilePart",
    "FinishReason",
    "ImagePart",
    "Message",
    "Model",
    "ModelInfo",
    "Option",
    "Overrides",
    "Part",
    "Provider",
    "Reply",
    "Request",
    "Stream",
    "SyncStream",
    "TextPart",
    "ThinkingPart",
    "Tool",
    "ToolCallPart",
    "ToolContext",
    "ToolResultPart",
    "Usage",
    "assistant",
    "dump_messages",
    "load_messages",
    "system",
    "tool_result",
    "user",
    "user_parts",
]
IMAGEGEN = [
    *(kind.__name__ for kind in get_args(imagegen.ImageEvent)),
    "ImageEvent",
    *option_names(imagegen.Request),
    "CallWarning",
    "Image",
    "ImageDetails",
    "EventSource",
    "Model",
    "ModelInfo",
    "Option",
    "Overrides",
    "Provider",
    "Request",
    "Result",
    "Stream",
    "SyncStream",
    "Usage",
]


@pytest.mark.parametrize(
    ("module", "names"),
    [(md, ROOT), (llm, LLM), (imagegen, IMAGEGEN)],
    ids=["majordomo", "llm", "imagegen"],
)
def test_each_module_exports_exactly_its_public_names(module: object, names: list[str]) -> None:
    assert sorted(module.__all__) == sorted(names)  # type: ignore[attr-defined]
    for name in names:
        assert getattr(module, name) is not None
    assert set(names) <= set(dir(module))


def test_shared_types_are_identical() -> None:
    assert imagegen.Image is llm.ImagePart is md.ImagePart
    assert imagegen.Loading is llm.Loading
    assert imagegen.Queued is llm.Queued
    assert imagegen.with_seed is llm.with_seed is md.with_seed


def test_type_checking_imports_match_all() -> None:
    tree = ast.parse(Path(md.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == set(md.__all__)


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="unknown"):
        md.unknown  # noqa: B018 - the attribute access is tested


PLAIN_INSTALL = """
import importlib, inspect, sys

EXTRAS = {
    "_pytest", "genai_prices", "httptools", "httpx2", "opentelemetry", "pybase64", "pytest", "rich",
    "typer", "wsproto",
}

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
from majordomo import *
import majordomo as md

for name in ["", ".bots", ".errors", ".imagegen", ".imaging", ".llm", ".studio", ".testing"]:
    inspect.getmembers(importlib.import_module(f"majordomo{name}"))
assert not EXTRAS & set(sys.modules)
try:
    md.OpenTelemetryObserver()
except md.ConfigurationError as error:
    print(error.code, error)
"""


def test_every_public_name_can_be_imported_without_extras() -> None:
    process = subprocess.run(
        [sys.executable, "-c", PLAIN_INSTALL], capture_output=True, text=True, check=False
    )
    assert process.stderr == ""
    assert process.stdout.startswith("MISSING_EXTRA ")
    assert "pip install 'majordomo-client[otel]'" in process.stdout


@pytest.mark.parametrize("package", ["", ".imaging", ".studio", ".testing"])
def test_type_checkers_do_not_see_the_import_on_first_use(package: str) -> None:
    """A module with a visible `__getattr__` would accept every misspelled name."""
    module = importlib.import_module(f"majordomo{package}")
    tree = ast.parse(Path(str(module.__file__)).read_text())
    hidden = next(
        node.orelse
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    assert "__getattr__" in {node.name for node in hidden if isinstance(node, ast.FunctionDef)}
    assert "__getattr__" not in {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef)
    }


HEAVY = (
    "httpx",
    "h11",
    "pydantic",
    "pydantic_core",
    "anyio",
    "asyncio",
    "PIL",
    "trio",
    "typer",
    "rich",
    "wsproto",
    "majordomo.providers",
)


def loaded_by(code: str) -> set[str]:
    check = f"import sys; {code}; print(' '.join(sys.modules))"
    return set(
        subprocess.run(
            [sys.executable, "-c", check], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_importing_majordomo_loads_no_heavy_module() -> None:
    assert not loaded_by("import majordomo") & set(HEAVY)


def test_creating_a_provider_loads_neither_httpx_nor_pillow_nor_another_provider() -> None:
    loaded = loaded_by("import majordomo as md; md.LlamaSwap('http://x').image_model('m')")
    assert not loaded & {
        "httpx",
        "PIL",
        "pydantic",
        "typer",
        "rich",
        "majordomo.offline.provider",
        "majordomo.imaging",
    }


def test_creating_a_provider_loads_no_event_loop() -> None:
    """Loading one costs 20 ms at startup; a program that makes async calls has loaded it anyway."""
    loaded = loaded_by("import majordomo as md; md.LlamaSwap('http://x').image_model('m')")
    assert not loaded & {"asyncio.base_events", "trio", "difflib", "pkgutil"}
