"""What the pages of the backends say in words and tables, asked of the code. That their blocks run is shown by test_docs_blocks.py."""

from __future__ import annotations

import inspect
import math
import pkgutil
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo import providers
from majordomo.dialects.openai.presets import PRESETS
from majordomo.providers.base import CommonSettings
from majordomo.settings import HOSTED, LOCAL

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "backends"
INDEX = (FOLDER / "index.md").read_text()
PAGES = {
    "anthropic": md.Anthropic,
    "automatic1111": md.Automatic1111,
    "comfyui": md.ComfyUI,
    "compatible": md.OpenAICompatible,
    "gemini": md.Gemini,
    "llama-cpp": md.OpenAICompatible,
    "llama-swap": md.LlamaSwap,
    "offline": md.Offline,
    "ollama": md.Ollama,
    "openai": md.OpenAI,
    "sd-server": md.StableDiffusion,
}


@pytest.fixture(params=PAGES)
def page(request: pytest.FixtureRequest) -> Any:
    return request.param


def text_of(page: str) -> str:
    return (FOLDER / f"{page}.md").read_text()


def own_arguments(kind: type) -> dict[str, Any]:
    """What the constructor takes that not every provider does, with its default."""
    found = inspect.signature(kind.__init__).parameters.values()
    return {
        each.name: each.default
        for each in found
        if each.kind is not each.VAR_KEYWORD
        and each.name not in {"self", *CommonSettings.__annotations__}
    }


def rows(text: str, head: str) -> dict[str, str]:
    """The table that begins with `head`: what stands in its first column, to the rest of the row."""
    table = text.partition(f"| {head} |")[2].partition("\n\n")[0]
    cells = [line.strip("| ").split(" | ", 1) for line in table.splitlines()[2:]]
    return {name.strip(" `"): rest for name, rest in cells}


def test_every_provider_and_no_other_has_a_page() -> None:
    kinds = {
        found.name for found in pkgutil.iter_modules(providers.__path__) if found.name != "base"
    }
    assert {kind.name for kind in PAGES.values()} == kinds
    assert {file.stem for file in FOLDER.glob("*.md")} == {"index", *PAGES}
    assert set(re.findall(r"\(([\w-]+)\.md\)", INDEX)) == set(PAGES)


def test_arguments_and_defaults_are_those_of_the_constructor(page: str) -> None:
    told = rows(text_of(page), "argument")
    own = own_arguments(PAGES[page])
    if page == "llama-cpp":  # shows what matters there
        assert set(told) - {"max_concurrency"} < set(own)
    else:
        named = {name for key in told for name in re.findall(r"\w+", key)}
        assert named - set(CommonSettings.__annotations__) == set(own)
    for name, default in own.items():
        if isinstance(default, (str, bool)) and name in told and page != "llama-cpp":
            shown = (
                default
                if name == "base_url"
                else f'"{default}"'
                if isinstance(default, str)
                else str(default)
            )
            assert f"`{shown}`" in told[name], name


def test_variables_of_keys_are_those_that_are_read(page: str) -> None:
    file = inspect.getsourcefile(PAGES[page])
    assert file is not None
    read = set(re.findall(r'env\.variable\("(\w+)"\)', Path(file).read_text()))
    told = set(re.findall(r"`(\w+_API_KEY)`", rows(text_of(page), "argument").get("api_key", "")))
    if PAGES[page] is md.OpenAICompatible:
        read = (
            {PRESETS["llamacpp"].key_variable}
            if page == "llama-cpp"
            else {"OPENAI_COMPATIBLE_API_KEY"}
        )
    assert told == read


def test_keywords_of_every_provider_are_all_there() -> None:
    assert set(rows(INDEX, "keyword")) == set(CommonSettings.__annotations__)


def test_time_limits_are_those_of_the_code() -> None:
    told = rows(INDEX, "phase")
    for name, cells in told.items():
        local, hosted = (
            re.match(r"[\d,]+|none|–", cell)[0].replace(",", "") for cell in cells.split(" | ")[:2]
        )  # type: ignore[index]
        for shown, limits in ((local, LOCAL), (hosted, HOSTED)):
            limit = getattr(limits, name)
            assert shown in ({"none", "–"} if math.isinf(limit) else {str(limit)}), name
    assert set(told) == {"connect", "queue", "load", "first_byte", "idle", "total"}


@cache
def sources() -> str:
    return "\n".join(file.read_text() for file in (ROOT / "majordomo").rglob("*.py"))


def test_errors_and_codes_exist(page: str) -> None:
    text = text_of(page)
    errors = set(re.findall(r"`(\w+Error)`", text))
    assert errors
    assert all(issubclass(getattr(md, name), md.MajordomoError) for name in errors)
    for code in re.findall(r"(?:code |warning \(|\()`([A-Z][A-Z_]+)`", text):
        assert f'"{code}"' in sources(), code


def test_every_page_says_what_starts_it_what_arrives_and_what_mends_it(page: str) -> None:
    text = text_of(page)
    heads = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert {"Construct the provider", "Supported fields", "Pitfalls", "Troubleshooting"} <= set(heads)
    assert "Start the server" in heads or "Get a key" in heads
    assert "```toml" in text
    assert "```sh" in text


def test_links_lead_to_what_is_there() -> None:
    for file in [
        *FOLDER.glob("*.md"),
        ROOT / "docs" / "chat-backends.md",
        ROOT / "docs" / "image-backends.md",
    ]:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", file.read_text()):
            path, _, anchor = target.partition("#")
            linked = (file.parent / path).resolve()
            assert linked.is_file(), f"{file.name}: {target}"
            heads = {
                re.sub(r"[^\w -]", "", head).lower().replace(" ", "-")
                for head in re.findall(r"^#+ (.*)", linked.read_text(), re.MULTILINE)
            }
            assert not anchor or anchor in heads, f"{file.name}: {target}"
