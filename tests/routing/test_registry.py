"""Models by name under a configuration: when providers are constructed, and what closes them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo.providers.base import BaseProvider
from majordomo.routing.config_file import ConfigFile
from majordomo.routing.provider_options import construct
from majordomo.routing.registry import Registry, embedding_model
from tests.support.loopback import (
    Handler,
    Loopback,
    chat_completion,
    http_response,
    images_reply,
    reply_with,
)

Serve = Callable[[Handler], Loopback]
Image = Callable[..., md.ImagePart]
pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory and a home directory without a configuration."""
    for variable in (
        "MAJORDOMO_CONFIG",
        "XDG_CONFIG_HOME",
        "MAJORDOMO_CHAT_MODEL",
        "MAJORDOMO_IMAGE_MODEL",
        "MAJORDOMO_EMBEDDING_MODEL",
    ):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def write_config(text: str) -> None:
    Path("majordomo.toml").write_text(text)


def box(url: str = "http://gpu-box:8080", **more: Any) -> dict[str, Any]:
    return {
        "providers": {"box": {"type": "llamaswap", "base_url": url, "retries": {"attempts": 1}}},
        **more,
    }


async def test_a_configured_provider_answers(serve: Serve) -> None:
    server = serve(reply_with(http_response(chat_completion("hello"))))
    async with Registry(
        box(
            server.url,
            aliases={"small": "box/qwen3-4b?temperature=0.5"},
            defaults={"chat": "small"},
        )
    ) as registry:
        assert (await registry.model("box/qwen3").generate("hi")).text == "hello"
        assert (await registry.model("box:qwen3").generate("hi")).text == "hello"
        await registry.model().generate("hi")
        await registry.model("small?temperature=1&max_tokens=7").generate("hi", top_p=0.9)
    assert [request.json["model"] for request in server.requests] == [
        "qwen3",
        "qwen3",
        "qwen3-4b",
        "qwen3-4b",
    ]
    assert server.requests[2].json["temperature"] == 0.5
    last = server.requests[3].json
    assert (last["temperature"], last["max_tokens"], last["top_p"]) == (1, 7, 0.9)


def test_the_blocking_api_works(serve: Serve) -> None:
    server = serve(reply_with(http_response(chat_completion("hello"))))
    with Registry(box(server.url)) as registry:
        model = registry.model("box/qwen3")
        assert model.generate_sync("hi").text == "hello"
    with pytest.raises(md.ConfigurationError, match="closed"):
        model.generate_sync("hi")


async def test_a_provider_is_constructed_once_and_closed_with_the_registry(serve: Serve) -> None:
    server = serve(reply_with(http_response(chat_completion("hello"))))
    registry = Registry(box(server.url))
    async with registry.model("box/a") as model:
        await model.generate("hi")
    await model.generate("closing a model leaves the provider of the registry open")
    assert registry.provider("box") is registry.provider("box/b") is registry.provider("BOX")
    assert (
        registry.provider("llamaswap")
        is registry.provider("llama-swap/x")
        is not registry.provider("box")
    )
    dsn = "llamaswap://key@gpu:1/x"
    assert (
        registry.provider(dsn)
        is registry.provider(dsn)
        is not registry.provider("llamaswap://other@gpu:1/x")
    )
    await registry.aclose()
    with pytest.raises(md.ConfigurationError, match="closed"):
        await model.generate("hi")
    for create in (lambda: registry.provider("box"), lambda: registry.model("ollama/x")):
        with pytest.raises(md.ConfigurationError, match="the registry is closed") as caught:
            create()
        assert caught.value.code == "CLOSED"
    await registry.aclose()


async def test_all_providers_are_closed_when_closing_one_fails() -> None:
    registry = Registry({})
    first, second = registry.provider("offline"), registry.provider("ollama")

    async def broken() -> None:
        raise OSError("no")

    first.aclose = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no"):
        await registry.aclose()
    with pytest.raises(md.ConfigurationError, match="closed"):
        await second.model("x").generate("hi")


def test_threads_share_one_provider() -> None:
    registry = Registry(box())
    start = threading.Barrier(8)
    returned: list[BaseProvider] = []

    def get_provider() -> None:
        start.wait()
        returned.append(registry.provider("box"))

    threads = [threading.Thread(target=get_provider) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, returned))) == 1


def test_a_table_named_like_a_kind_configures_that_kind() -> None:
    registry = Registry({"providers": {"ollama": {"base_url": "http://gpu-box:1"}}})
    for name in ("ollama/x", "Ollama:x", "ollama"):
        provider: Any = registry.provider(name)
        assert provider.address.origin == "http://gpu-box:1"
    elsewhere: Any = registry.provider("ollama://other:2/x")
    assert elsewhere.address.origin == "http://other:2", "a DSN names its own address"


def test_defaults_come_from_a_variable_then_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("majordomo.toml").write_text(
        "[defaults]\nchat='offline'\nimage='ollama/z'\nembedding='ollama/e'\n"
    )
    registry = Registry()
    assert registry.source == "majordomo.toml"
    assert (registry.model().id, registry.image_model().id, registry.embedding_model().id) == (
        "rules",
        "z",
        "e",
    )
    assert (md.model().id, md.image_model().id, embedding_model().id) == ("rules", "z", "e")
    for variable in ("MAJORDOMO_CHAT_MODEL", "MAJORDOMO_IMAGE_MODEL", "MAJORDOMO_EMBEDDING_MODEL"):
        monkeypatch.setenv(variable, "ollama/other")
    assert {registry.model().id, md.image_model().id, embedding_model().id} == {"other"}
    monkeypatch.setenv("MAJORDOMO_CHAT_MODEL", "olama/x")
    with pytest.raises(
        md.ConfigurationError,
        match="MAJORDOMO_CHAT_MODEL: there is no provider 'olama'; did you mean ollama",
    ):
        md.model()


def test_a_missing_default_is_an_error_that_says_where_to_set_it() -> None:
    with pytest.raises(
        md.ConfigurationError,
        match=r"there is no default image model; name one, "
        r"set defaults\.image in majordomo\.toml or .*MAJORDOMO_IMAGE_MODEL",
    ):
        md.image_model()
    with pytest.raises(
        md.ConfigurationError, match=r"box has no default chat model; write box/MODEL"
    ):
        Registry(box()).model("box")


async def test_module_functions_use_the_configuration_file(serve: Serve, image: Image) -> None:
    server = serve(reply_with(http_response(images_reply(image().data))))
    write_config(
        f"[providers.box]\ntype='llamaswap'\nbase_url='{server.url}'\nimages='openai'\n[aliases]\nimages='box/sdxl?steps=20'\n"
    )
    async with md.image_model("images", md.with_seed(3)) as image_model:
        assert (image_model.provider, image_model.id) == ("llamaswap", "sdxl")
        await image_model.generate("a cat")
    assert server.requests[0].json["model"] == "sdxl"
    with pytest.raises(md.ConfigurationError, match="closed"):
        await image_model.generate("a cat")


async def test_an_embedding_model_by_name(serve: Serve) -> None:
    server = serve(
        reply_with(
            http_response(
                {"object": "list", "data": [{"index": 0, "embedding": [1.0, 2.0]}], "model": "e"}
            )
        )
    )
    async with embedding_model(f"openaicompatible://127.0.0.1:{server.port}/e") as model:
        assert (await model.embed("a")).vector == (1.0, 2.0)
    with pytest.raises(md.ConfigurationError, match="closed"):
        await model.embed("a")
    async with (
        Registry({}) as registry,
        registry.embedding_model(f"openaicompatible://127.0.0.1:{server.port}/e") as model,
    ):
        await model.embed("a")
    for name, expected in {
        "ollama/e?dimensions=3": "must not have options",
        "ollama/a,ollama/b": "a chain of embedding models is not supported",
    }.items():
        with pytest.raises(md.ConfigurationError, match=expected):
            embedding_model(name)
    with pytest.raises(md.UnsupportedError):
        embedding_model("offline/x")


async def test_an_image_chain_by_name(serve: Serve, image: Image) -> None:
    dead, alive = (
        serve(reply_with(http_response({"error": "no"}, 500))),
        serve(reply_with(http_response(images_reply(image().data)))),
    )
    config = box(
        dead.url,
        chains={"safe": {"models": ["box/sdxl", "images"]}},
        aliases={"images": "second/flux?steps=9"},
    )
    config["providers"]["second"] = {"type": "llamaswap", "base_url": alive.url, "images": "openai"}
    async with Registry(config) as registry:
        for name in ("safe", "box/sdxl,images", "box/sdxl, second/flux"):
            result = await registry.image_model(name, md.with_seed(7)).generate("a cat")
            assert result.model == "flux"
            assert dead.requests[-1].json["model"] == "sdxl"
            assert dead.requests[-1].json["seed"] == alive.requests[-1].json["seed"] == 7
        both = await registry.image_model("safe?cfg_scale=3").generate("a cat")
        assert both.model == "flux"
        assert dead.requests[-1].json["cfg_scale"] == 3
    nested = Registry(
        {"chains": {"a": {"models": ["offline/x", "b"]}, "b": {"models": ["offline/y"]}}}
    ).image_model("a")
    assert nested.id == "offline/x,chain/offline/y"
    assert (await nested.generate("a", size="32x32")).model == "x"


async def test_a_chain_by_name_closes_its_provider(serve: Serve, image: Image) -> None:
    server = serve(reply_with(http_response(images_reply(image().data))))
    dsn = f"llamaswap://127.0.0.1:{server.port}/x"
    async with md.image_model(f"{dsn},{dsn}y") as image_model:
        await image_model.generate("a cat")
    members: Any = image_model
    assert len({id(member._owned_provider) for member in members.members}) == 1, (
        "one provider serves both"
    )
    with pytest.raises(md.ConfigurationError, match="closed"):
        await image_model.generate("a cat")


async def test_a_chat_chain_by_name(serve: Serve) -> None:
    dead, alive = (
        serve(reply_with(http_response({"error": "no"}, 500))),
        serve(reply_with(http_response(chat_completion("hello")))),
    )
    config = box(
        dead.url,
        chains={
            "safe": {
                "models": ["box/a", "second/b"],
                "cooldown": 5,
                "fallback_on": ["NotFoundError"],
            }
        },
        defaults={"chat": "safe"},
    )
    config["providers"]["second"] = {"type": "llamaswap", "base_url": alive.url}
    async with Registry(config) as registry:
        for name in ("safe", "box/a,second/b", None):
            assert (await registry.model(name).generate("hi")).text == "hello"


async def test_chains_of_one_name_share_their_health_records(serve: Serve) -> None:
    dead, alive = (
        serve(reply_with(*[http_response({"error": "no"}, 503)] * 20)),
        serve(reply_with(*[http_response(chat_completion("hello"))] * 20)),
    )
    config = box(dead.url, chains={"safe": {"models": ["box/a", "second/b"], "cooldown": 60}})
    config["providers"]["box"]["retries"] = {"attempts": 1}
    config["providers"]["second"] = {"type": "llamaswap", "base_url": alive.url}
    async with Registry(config) as registry:
        for _ in range(8):
            assert (await registry.model("safe").generate("hi")).text == "hello"
        chain: Any = registry.model("safe")
        assert [member.state for member in chain.status()] == ["open", "closed"]
    assert len(dead.requests) == 5, (
        "five failures in a row start a cooldown in every chain of that name"
    )


async def test_a_gpu_in_the_file_is_one_resource_group_for_its_providers(serve: Serve) -> None:
    settings = {
        "slots": 2,
        "max_queue": 5,
        "unload": True,
        "max_batch_calls": 8,
        "max_batch_seconds": 2.5,
    }
    config = box("http://127.0.0.1:9", gpus={"big": settings})
    config["providers"]["box"]["gpu"] = "big"
    config["providers"]["other"] = {"type": "ollama", "gpu": "big"}
    async with Registry(config) as registry:
        first: Any = registry.provider("box")
        second: Any = registry.provider("other")
        group = first._client.admission._resource_group
        assert group is second._client.admission._resource_group
        assert (group.name, {name: getattr(group, name) for name in settings}) == ("big", settings)


async def test_a_registry_passes_observers_and_prices(serve: Serve) -> None:
    reply = chat_completion("hello", usage={"prompt_tokens": 1000, "completion_tokens": 100})
    config = box(
        serve(reply_with(http_response(reply))).url,
        prices={"llamaswap/*": {"input_per_million": 1, "output_per_million": 10}},
    )
    async with Registry(
        config, observers=[ledger := md.Ledger(Registry(config).prices)]
    ) as registry:
        await registry.model("box/a").generate("hi", user_id="ann")
    account = ledger.by_user()["ann"]
    assert (account.calls, account.input_tokens, account.output_tokens) == (1, 1000, 100)
    assert account.money == Decimal("0.002")
    with pytest.raises(md.ConfigurationError, match="prices"):
        Registry({"prices": {"a/b": {"input_per_million": -1}}}).prices  # noqa: B018
    with pytest.raises(md.ConfigurationError):
        Registry(config, observers=[object()])  # type: ignore[list-item]


def test_options_closer_to_the_call_override_others() -> None:
    aliases = {"plain": "box/sdxl?steps=10&cfg_scale=2", "quick": "plain?steps=8&seed=1"}
    image_model: Any = Registry(box(aliases=aliases)).image_model(
        "quick?seed=2", md.with_sampler("euler")
    )
    request = image_model._build_request("a", (), {})
    assert (request.cfg_scale, request.steps, request.seed, request.sampler) == (2, 8, 2, "euler")


def test_a_chain_has_a_maximum_number_of_models() -> None:
    aliases = {"a0": "offline", **{f"a{n}": f"a{n - 1},a{n - 1}" for n in range(1, 40)}}
    with pytest.raises(md.ConfigurationError, match="at most 64 models"):
        Registry({"aliases": aliases}).image_model("a39")


def test_a_loop_through_a_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXT", "a")
    with pytest.raises(md.ConfigurationError, match=r"aliases\.b: a refers to itself: a -> b -> a"):
        Registry({"aliases": {"a": "b", "b": "${NEXT}"}}).model("a")


def test_a_chain_of_several_providers_has_no_provider() -> None:
    registry = Registry(box(aliases={"same": "box/a,box/b", "two": "box/a,ollama/b"}))
    assert registry.provider("same") is registry.provider("box")
    with pytest.raises(
        md.ConfigurationError,
        match="several providers is ambiguous here; name one of box/a, ollama/b",
    ):
        registry.provider("two")


UNKNOWN_NAMES = {
    "bx/qwen": "there is no provider 'bx'; did you mean box?",
    "smal": "there is no provider 'smal'; did you mean small?",
    "saffe": "did you mean safe?",
    "small/x": "'small' is an alias; write it without a model",
    "safe/x": "'safe' is a chain; write it without a model",
    "box://host/x": "there is no provider 'box' that takes a URL; write box/MODEL",
    "zzzz": "choose one of anthropic, automatic1111, box, comfyui",
    "box/a,": "must not have an empty member between commas",
    "small?stpes=3": "unknown option stpes",
    "small?steps": "name=value",
}


@pytest.mark.parametrize(("name", "expected"), UNKNOWN_NAMES.items(), ids=UNKNOWN_NAMES.keys())
def test_an_unknown_name_gets_a_suggestion(name: str, expected: str) -> None:
    registry = Registry(
        box(aliases={"small": "box/qwen3-4b"}, chains={"safe": {"models": ["small"]}})
    )
    with pytest.raises(md.ConfigurationError) as caught:
        registry.image_model(name)
    assert expected in str(caught.value)


@dataclass(frozen=True)
class RequestRate:
    requests_per_minute: float | None = None

    def __post_init__(self) -> None:
        if self.requests_per_minute is not None and self.requests_per_minute < 1:
            raise md.ConfigurationError(
                "the rate must be at least 1", details={"field": "requests_per_minute"}
            )


class ProviderWithSettings(BaseProvider):
    """A provider with keywords that only some providers have."""

    name = "withsettings"

    def __init__(
        self,
        *,
        rate: RequestRate | None = None,
        gpu: str | None = None,
        max_queue: int | None = None,
        names: list[str] | None = None,
    ) -> None:
        self.arguments = (rate, gpu, max_queue, names)

    async def models(self) -> list[md.ModelInfo]:
        return []

    async def health(self) -> md.Health:
        return md.Health(True)

    async def aclose(self) -> None:
        pass


def test_keywords_are_read_from_the_constructor() -> None:
    path = ("providers", "x")
    table = {"rate": {"requests_per_minute": 30}, "gpu": "box", "max_queue": 4, "names": ["a"]}
    provider: Any = construct(ProviderWithSettings, table, ConfigFile(), path)
    assert provider.arguments == (RequestRate(30), "box", 4, ["a"])
    with pytest.raises(
        md.ConfigurationError,
        match=r"providers\.x\.rate\.requests_per_minute: the rate must be at least 1",
    ):
        construct(ProviderWithSettings, {"rate": {"requests_per_minute": 0}}, ConfigFile(), path)
    with pytest.raises(
        md.ConfigurationError, match=r"providers\.x\.names: must be a list of text; got a list"
    ):
        construct(ProviderWithSettings, {"names": [1]}, ConfigFile(), path)
    with pytest.raises(
        md.ConfigurationError,
        match=r"providers\.x\.strict: is unknown; choose one of gpu, max_queue, names, rate",
    ):
        construct(ProviderWithSettings, {"strict": True}, ConfigFile(), path)


def test_without_a_file_tomllib_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys, majordomo; before = set(sys.modules)\n"
        "assert majordomo.model('offline').id == 'rules'\n"
        "assert 'majordomo.routing.config_file' in sys.modules and 'tomllib' not in sys.modules\n"
        "import pathlib\n"
        "pathlib.Path('majordomo.toml').write_text('[aliases]\\nsmall=\"offline\"')\n"
        "assert majordomo.model('small').id == 'rules' and 'tomllib' in sys.modules\n"
    )
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (process.returncode, process.stderr) == (0, "")
