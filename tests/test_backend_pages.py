"""Compare text and tables of the backend pages with the code.

`test_docs_blocks.py` runs their code blocks.
"""

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
    "fal": md.Fal,
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
    """Return the arguments that not every provider has, with their defaults."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is not parameter.VAR_KEYWORD
        and parameter.name not in {"self", *CommonSettings.__annotations__}
    }


def rows(text: str, head: str) -> dict[str, str]:
    """Return the rows of the table whose first heading is `head`, by their first column."""
    table = text.partition(f"| {head} |")[2].partition("\n\n")[0]
    cells = [line.strip("| ").split(" | ", 1) for line in table.splitlines()[2:]]
    return {name.strip(" `"): rest for name, rest in cells}


def test_every_provider_has_a_page() -> None:
    kinds = {
        module.name for module in pkgutil.iter_modules(providers.__path__) if module.name != "base"
    }
    assert {kind.name for kind in PAGES.values()} == kinds
    assert {file.stem for file in FOLDER.glob("*.md")} == {"index", *PAGES}
    assert set(re.findall(r"\(([\w-]+)\.md\)", INDEX)) == set(PAGES)


def test_documented_arguments_match_the_constructor(page: str) -> None:
    documented = rows(text_of(page), "argument")
    arguments = own_arguments(PAGES[page])
    if page == "llama-cpp":  # lists only the relevant arguments
        assert set(documented) - {"max_concurrency"} < set(arguments)
    else:
        named = {name for key in documented for name in re.findall(r"\w+", key)}
        assert named - set(CommonSettings.__annotations__) == set(arguments)
    for name, default in arguments.items():
        if isinstance(default, (str, bool)) and name in documented and page != "llama-cpp":
            text = (
                default
                if name == "base_url"
                else f'"{default}"'
                if isinstance(default, str)
                else str(default)
            )
            assert f"`{text}`" in documented[name], name


def test_documented_key_variables_match_the_code(page: str) -> None:
    file = inspect.getsourcefile(PAGES[page])
    assert file is not None
    read = set(re.findall(r'env\.variable\("(\w+)"\)', Path(file).read_text()))
    documented = set(re.findall(r"`(\w+_KEY)`", rows(text_of(page), "argument").get("api_key", "")))
    if PAGES[page] is md.OpenAICompatible:
        read = (
            {PRESETS["llamacpp"].key_variable}
            if page == "llama-cpp"
            else {"OPENAI_COMPATIBLE_API_KEY"}
        )
    assert documented == read


def test_index_documents_every_common_setting() -> None:
    assert set(rows(INDEX, "keyword")) == set(CommonSettings.__annotations__)


def test_documented_time_limits_match_the_code() -> None:
    documented = rows(INDEX, "phase")
    for name, cells in documented.items():
        local, hosted = (
            re.match(r"[\d,]+|none|–", cell)[0].replace(",", "") for cell in cells.split(" | ")[:2]
        )  # type: ignore[index]
        for text, limits in ((local, LOCAL), (hosted, HOSTED)):
            limit = getattr(limits, name)
            assert text in ({"none", "–"} if math.isinf(limit) else {str(limit)}), name
    assert set(documented) == {"connect", "queue", "load", "first_byte", "idle", "total"}


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


def test_every_page_has_the_required_sections(page: str) -> None:
    text = text_of(page)
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert {"Construct the provider", "Supported fields", "Pitfalls", "Troubleshooting"} <= set(
        headings
    )
    assert "Start the server" in headings or "Get a key" in headings
    assert "```toml" in text
    assert "```sh" in text


def test_links_lead_to_existing_sections() -> None:
    for file in [
        *FOLDER.glob("*.md"),
        ROOT / "docs" / "chat-backends.md",
        ROOT / "docs" / "image-backends.md",
    ]:
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", file.read_text()):
            path, _, anchor = target.partition("#")
            linked = (file.parent / path).resolve()
            assert linked.is_file(), f"{file.name}: {target}"
            headings = {
                re.sub(r"[^\w -]", "", head).lower().replace(" ", "-")
                for head in re.findall(r"^#+ (.*)", linked.read_text(), re.MULTILINE)
            }
            assert not anchor or anchor in headings, f"{file.name}: {target}"
