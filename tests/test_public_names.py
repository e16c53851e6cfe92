"""The public names. A name that is added or removed is a decision and is in the changelog."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import majordomo as md
from majordomo import imagegen, llm

ROOT = [
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
    "with_aspect",
    "with_background",
    "with_user_id",
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
    "with_previews",
    "with_quality",
    "with_random_seed",
    "with_output_retries",
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
]
LLM = [
    "CallWarning",
    "ChatEvent",
    "ChatSource",
    "Done",
    "EmbeddingModel",
    "Embeddings",
    "FilePart",
    "FinishReason",
    "ImagePart",
    "ImageReady",
    "Loading",
    "Message",
    "Model",
    "ModelInfo",
    "Option",
    "Overrides",
    "Part",
    "Provider",
    "Queued",
    "Reply",
    "Request",
    "Stream",
    "SyncStream",
    "TextDelta",
    "TextPart",
    "ThinkingDelta",
    "ThinkingPart",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallPart",
    "ToolCallStarted",
    "ToolContext",
    "ToolResultPart",
    "ToolReturned",
    "Usage",
    "assistant",
    "dump_messages",
    "load_messages",
    "system",
    "tool_result",
    "user",
    "user_parts",
    "with_user_id",
    "with_extra",
    "with_max_tokens",
    "with_output",
    "with_output_retries",
    "with_reasoning",
    "with_seed",
    "with_stop",
    "with_temperature",
    "with_tool_choice",
    "with_tools",
    "with_top_k",
    "with_top_p",
]
IMAGEGEN = [
    "CallWarning",
    "Done",
    "Image",
    "ImageDetails",
    "ImageEvent",
    "ImageSource",
    "Loading",
    "Model",
    "ModelInfo",
    "Option",
    "Overrides",
    "Preview",
    "Provider",
    "Queued",
    "Request",
    "Result",
    "Step",
    "Stream",
    "SyncStream",
    "Usage",
    "with_aspect",
    "with_background",
    "with_user_id",
    "with_cfg_scale",
    "with_extra",
    "with_image_count",
    "with_image_size",
    "with_images",
    "with_mask",
    "with_megapixels",
    "with_negative_prompt",
    "with_output_format",
    "with_previews",
    "with_quality",
    "with_random_seed",
    "with_sampler",
    "with_scheduler",
    "with_seed",
    "with_steps",
    "with_strength",
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
