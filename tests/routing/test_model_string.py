"""Model strings: how they are parsed, and the models that they name."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import majordomo as md
from majordomo import providers
from majordomo.providers.base import provider_names
from majordomo.routing.model_string import parse, split
from majordomo.routing.registry import Registry
from tests.support.loopback import Handler, Loopback, http_response, reply_with

NAMES: dict[str, tuple[str, str, str, str | None, dict[str, Any]]] = {
    "llamaswap/qwen3": ("llamaswap", "qwen3", "", None, {}),
    "llamaswap:qwen3:8b": ("llamaswap", "qwen3:8b", "", None, {}),
    "llama-swap/author/qwen3": ("llamaswap", "author/qwen3", "", None, {}),
    "LlamaSwap/Qwen": ("llamaswap", "Qwen", "", None, {}),
    "offline": ("offline", "", "", None, {}),
    "llamaswap://gpu-box:8080/sdxl": ("llamaswap", "sdxl", "http://gpu-box:8080", None, {}),
    "llamaswap+https://gpu-box/author/sdxl:q8": (
        "llamaswap",
        "author/sdxl:q8",
        "https://gpu-box",
        None,
        {},
    ),
    "llamaswap://user-key@gpu-box:8080/sdxl": (
        "llamaswap",
        "sdxl",
        "http://gpu-box:8080",
        "user-key",
        {},
    ),
    "llamaswap://u:p%40ss@gpu-box/sdxl": ("llamaswap", "sdxl", "http://gpu-box", "u:p@ss", {}),
    "llamaswap://[::1]:8080/sdxl?steps=20&sampler=euler": (
        "llamaswap",
        "sdxl",
        "http://[::1]:8080",
        None,
        {"steps": 20, "sampler": "euler"},
    ),
    "openaicompatible://x/m?base_path=/api/v1": (
        "openaicompatible",
        "m",
        "http://x/api/v1",
        None,
        {},
    ),
    "llamaswap://x/a%20b": ("llamaswap", "a b", "http://x", None, {}),
    "llamaswap/sdxl?steps=20&sampler=euler": (
        "llamaswap",
        "sdxl",
        "",
        None,
        {"steps": 20, "sampler": "euler"},
    ),
    "ollama:gemma3:4b?temperature=0.2": ("ollama", "gemma3:4b", "", None, {"temperature": 0.2}),
    "offline?seed=3": ("offline", "", "", None, {"seed": 3}),
    'llamaswap://x/m?stop=["a","b"]': ("llamaswap", "m", "http://x", None, {"stop": ["a", "b"]}),
    "llamaswap://x/a%2Cb": ("llamaswap", "a,b", "http://x", None, {}),
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items(), ids=NAMES.keys())
def test_a_model_string_is_parsed(name: str, expected: tuple[Any, ...]) -> None:
    parsed = parse(name)
    assert (
        parsed.provider,
        parsed.model,
        parsed.base_url,
        parsed.key and parsed.key.reveal(),
        parsed.options,
    ) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "llamaswap/",
        "/x",
        "x y/z",
        "llamaswap://",
        "llamaswap://:80/x",
        "llamaswap://x:99999/m",
        "a\nb",
        "9/x",
        5,
        "a/b,c/d",
        ",",
        "a/b,",
        "a/b?x",
        "a/b?x=1&x=2",
        "a/b?",
    ],
)
def test_an_invalid_model_string_is_rejected(name: Any) -> None:
    with pytest.raises(md.ConfigurationError):
        parse(name)


@given(st.text())
def test_any_text_gives_a_name_or_a_typed_error(text: str) -> None:
    for name in (text, f"llamaswap://{text}", f"llamaswap/{text}"):
        with contextlib.suppress(md.ConfigurationError):
            assert parse(name).provider.isalnum()


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("a/b", ("a/b",)),
        ("a/b,c/d", ("a/b", "c/d")),
        (" a/b , c/d ", ("a/b", "c/d")),
        ('a://x/m?stop=["x","y"],small', ('a://x/m?stop=["x","y"]', "small")),
        ('a/m?stop="x,y",b/c', ('a/m?stop="x,y"', "b/c")),
        ("a://[::1]:8080/x,b/y [31e35c80fc]", ("a://[::1]:8080/x", "b/y [31e35c80fc]")),
        ("a/b],c/d", ("a/b]", "c/d")),
    ],
)
def test_commas_separate_the_members_of_a_chain(name: str, members: tuple[str, ...]) -> None:
    assert split(name) == members


def test_a_deeply_nested_option_is_read_as_text() -> None:
    assert parse("a/b?x=" + "[" * 1900).options["x"].startswith("[[[")


@pytest.mark.parametrize("written", ["user:pass%40word", "user%3Apass%40word"])
def test_user_and_password_are_sent_with_basic_auth(
    serve: Callable[[Handler], Loopback], written: str
) -> None:
    server = serve(reply_with(http_response("[]")))
    provider = Registry().provider(f"automatic1111://{written}@127.0.0.1:{server.port}/m")
    with pytest.raises(md.MajordomoError):
        provider.models_sync()
    provider.close()
    assert (
        server.requests[0].headers["authorization"]
        == "Basic " + base64.b64encode(b"user:pass@word").decode()
    )


@pytest.mark.parametrize(
    "provider",
    [
        "llamaswap",
        "ollama",
        "comfyui",
        "openaicompatible",
        "anthropic",
        "gemini",
        "stablediffusion",
    ],
)
def test_a_user_name_that_a_backend_cannot_use_is_an_error(provider: str) -> None:
    with pytest.raises(md.ConfigurationError, match="not user:password") as caught:
        Registry().provider(f"{provider}://user:sk-secret@gpu-box/m")
    assert caught.value.details == {"field": "model"}
    assert "sk-secret" not in str(caught.value)
    for written in ("sk%3Asecret", ":sk%3Asecret"):
        assert Registry().provider(f"{provider}://{written}@gpu-box/m").name == provider


def test_keys_are_masked() -> None:
    name = parse("llamaswap://sk-secret@gpu-box:8080/sdxl")
    assert str(name) == "llamaswap://***@gpu-box:8080/sdxl"
    assert "sk-secret" not in f"{name!r} {name}"
    assert "sk-secret" not in repr(md.image_model("llamaswap://sk-secret@gpu-box:8080/sdxl"))


def test_models_are_created_by_name() -> None:
    model = md.model("llamaswap/qwen3")
    assert (model.provider, model.id) == ("llamaswap", "qwen3")
    image_model = md.image_model(
        "llamaswap://gpu-box:8080/author/sdxl:q8?steps=20", md.with_sampler("euler")
    )
    assert (image_model.provider, image_model.id) == ("llamaswap", "author/sdxl:q8")
    assert image_model._build_request("a", (), {}).steps == 20  # type: ignore[attr-defined]
    assert image_model._build_request("a", (), {}).sampler == "euler"  # type: ignore[attr-defined]


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(md.ConfigurationError, match="did you mean llamaswap"):
        md.model("lamaswap/x")
    with pytest.raises(md.ConfigurationError, match="choose one of "):
        md.model("zzz/x")
    with pytest.raises(md.ConfigurationError, match="has no default chat model"):
        md.model("llamaswap")
    with pytest.raises(md.ConfigurationError, match="stpes"):
        md.image_model("llamaswap://x/m?stpes=3")
    with pytest.raises(md.ConfigurationError, match="takes no URL"):
        md.model("offline://x/m")


def test_providers_are_found_by_their_module_names() -> None:
    modules = {
        path.stem for path in Path(providers.__file__).parent.iterdir() if path.stem[0] != "_"
    }
    assert provider_names() == modules - {"base"}
    assert {"llamaswap", "offline", "openai"} <= provider_names()


@pytest.mark.anyio
async def test_a_model_by_name_closes_its_provider() -> None:
    async with md.model("llamaswap/x") as model:
        pass
    with pytest.raises(md.ConfigurationError, match="closed"):
        await model.generate("hi")


@pytest.mark.parametrize(
    ("name", "address", "model"),
    [
        ("openai://gpu-box:8000/some/model", "http://gpu-box:8000/v1", "some/model"),
        ("openaicompatible://gpu-box/m", "http://gpu-box/v1", "m"),
        (
            "gemini+https://key@proxy.example/gemini-3-pro-image",
            "https://proxy.example/v1beta",
            "gemini-3-pro-image",
        ),
        ("openai://gpu-box/m?base_path=/api/v2", "http://gpu-box/api/v2", "m"),
        (
            "automatic1111://gpu-box:7860/sd_xl_base_1.0.safetensors [31e35c80fc]?steps=20",
            "http://gpu-box:7860",
            "sd_xl_base_1.0.safetensors [31e35c80fc]",
        ),
        ("stablediffusion://gpu-box:1234/", "http://gpu-box:1234", "current"),
        ("comfyui", "http://localhost:8188", "current"),
        ("ollama/x/z-image-turbo", "http://localhost:11434", "x/z-image-turbo"),
    ],
)
def test_an_image_model_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, address: str, model: str
) -> None:
    for variable in ("OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(variable, "k")
    image_model: Any = md.image_model(name)
    assert image_model.id == model
    base_url = image_model._owned_provider.address
    assert base_url.origin + base_url.path == address
