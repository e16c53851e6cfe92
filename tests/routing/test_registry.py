"""Models by name under a configuration: who makes what, how often, and who closes it."""

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
from tests.support.loopback import Handler, Loopback, always, chat, images_reply, whole

Serve = Callable[[Handler], Loopback]
Image = Callable[..., md.ImagePart]
pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder and a home without a configuration."""
    for variable in (
        "MAJORDOMO_CONFIG",
        "XDG_CONFIG_HOME",
        "MAJORDOMO_CHAT_MODEL",
        "MAJORDOMO_IMAGE_MODEL",
        "MAJORDOMO_EMBEDDING_MODEL",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def say(text: str) -> None:
    Path("majordomo.toml").write_text(text)


def box(url: str = "http://gpu-box:8080", **more: Any) -> dict[str, Any]:
    return {
        "providers": {"box": {"type": "llamaswap", "base_url": url, "retries": {"attempts": 1}}},
        **more,
    }


async def test_a_named_provider_answers(serve: Serve) -> None:
    server = serve(always(whole(chat("hello"))))
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
    assert [request.json["model"] for request in server.seen] == [
        "qwen3",
        "qwen3",
        "qwen3-4b",
        "qwen3-4b",
    ]
    assert server.seen[2].json["temperature"] == 0.5
    last = server.seen[3].json
    assert (last["temperature"], last["max_tokens"], last["top_p"]) == (1, 7, 0.9)


def test_the_blocking_forms_do_the_same(serve: Serve) -> None:
    server = serve(always(whole(chat("hello"))))
    with Registry(box(server.url)) as registry:
        model = registry.model("box/qwen3")
        assert model.generate_sync("hi").text == "hello"
    with pytest.raises(md.ConfigurationError, match="closed"):
        model.generate_sync("hi")


async def test_a_provider_is_made_once_and_closed_with_the_registry(serve: Serve) -> None:
    server = serve(always(whole(chat("hello"))))
    registry = Registry(box(server.url))
    async with registry.model("box/a") as model:
        await model.generate("hi")
    await model.generate("the registry's provider is not the model's to close")
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
    for ask in (lambda: registry.provider("box"), lambda: registry.model("ollama/x")):
        with pytest.raises(md.ConfigurationError, match="the registry is closed") as caught:
            ask()
        assert caught.value.code == "CLOSED"
    await registry.aclose()


async def test_all_are_closed_even_when_one_cannot_be() -> None:
    registry = Registry({})
    first, second = registry.provider("offline"), registry.provider("ollama")

    async def broken() -> None:
        raise OSError("no")

    first.aclose = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no"):
        await registry.aclose()
    with pytest.raises(md.ConfigurationError, match="closed"):
        await second.model("x").generate("hi")


def test_threads_share_what_is_made() -> None:
    registry = Registry(box())
    start = threading.Barrier(8)
    found: list[BaseProvider] = []

    def ask() -> None:
        start.wait()
        found.append(registry.provider("box"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_a_table_named_like_a_kind_sets_that_kind_up() -> None:
    registry = Registry({"providers": {"ollama": {"base_url": "http://gpu-box:1"}}})
    for name in ("ollama/x", "Ollama:x", "ollama"):
        made: Any = registry.provider(name)
        assert made.address.origin == "http://gpu-box:1"
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


def test_without_a_default_it_says_where_to_set_one() -> None:
    with pytest.raises(
        md.ConfigurationError,
        match=r"which image model\? Say one, set defaults\.image in majordomo\.toml or .*MAJORDOMO_IMAGE_MODEL",
    ):
        md.image_model()
    with pytest.raises(md.ConfigurationError, match=r"which model of box\? Say box/MODEL"):
        Registry(box()).model("box")


async def test_the_found_configuration_counts_everywhere(serve: Serve, image: Image) -> None:
    server = serve(always(whole(images_reply(image().data))))
    say(
        f"[providers.box]\ntype='llamaswap'\nbase_url='{server.url}'\nimages='openai'\n[aliases]\npainter='box/sdxl?steps=20'\n"
    )
    async with md.image_model("painter", md.with_seed(3)) as image_model:
        assert (image_model.provider, image_model.id) == ("llamaswap", "sdxl")
        await image_model.generate("a cat")
    assert server.seen[0].json["model"] == "sdxl"
    with pytest.raises(md.ConfigurationError, match="closed"):
        await image_model.generate("a cat")


async def test_an_embedding_model_has_a_name_too(serve: Serve) -> None:
    server = serve(
        always(
            whole({"object": "list", "data": [{"index": 0, "embedding": [1.0, 2.0]}], "model": "e"})
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
    for name, words in {
        "ollama/e?dimensions=3": "takes no options",
        "ollama/a,ollama/b": "no chains of embedding models",
    }.items():
        with pytest.raises(md.ConfigurationError, match=words):
            embedding_model(name)
    with pytest.raises(md.UnsupportedError):
        embedding_model("offline/x")


async def test_a_chain_of_images_has_a_name(serve: Serve, image: Image) -> None:
    dead, alive = (
        serve(always(whole({"error": "no"}, 500))),
        serve(always(whole(images_reply(image().data)))),
    )
    config = box(
        dead.url,
        chains={"safe": {"models": ["box/sdxl", "painter"]}},
        aliases={"painter": "second/flux?steps=9"},
    )
    config["providers"]["second"] = {"type": "llamaswap", "base_url": alive.url, "images": "openai"}
    async with Registry(config) as registry:
        for name in ("safe", "box/sdxl,painter", "box/sdxl, second/flux"):
            result = await registry.image_model(name, md.with_seed(7)).generate("a cat")
            assert result.model == "flux"
            assert dead.seen[-1].json["model"] == "sdxl"
            assert dead.seen[-1].json["seed"] == alive.seen[-1].json["seed"] == 7
        both = await registry.image_model("safe?cfg_scale=3").generate("a cat")
        assert both.model == "flux"
        assert dead.seen[-1].json["cfg_scale"] == 3
    nested = Registry(
        {"chains": {"a": {"models": ["offline/x", "b"]}, "b": {"models": ["offline/y"]}}}
    ).image_model("a")
    assert nested.id == "offline/x,chain/offline/y"
    assert (await nested.generate("a", size="32x32")).model == "x"


async def test_a_chain_made_by_name_closes_what_it_made(serve: Serve, image: Image) -> None:
    server = serve(always(whole(images_reply(image().data))))
    dsn = f"llamaswap://127.0.0.1:{server.port}/x"
    async with md.image_model(f"{dsn},{dsn}y") as image_model:
        await image_model.generate("a cat")
    members: Any = image_model
    assert len({id(member._owned_provider) for member in members.members}) == 1, (
        "one provider serves both"
    )
    with pytest.raises(md.ConfigurationError, match="closed"):
        await image_model.generate("a cat")


async def test_a_chain_of_chat_models_has_a_name(serve: Serve) -> None:
    dead, alive = serve(always(whole({"error": "no"}, 500))), serve(always(whole(chat("hello"))))
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


async def test_chains_of_one_name_share_what_they_know_of_their_members(serve: Serve) -> None:
    dead, alive = (
        serve(always(*[whole({"error": "no"}, 503)] * 20)),
        serve(always(*[whole(chat("hello"))] * 20)),
    )
    config = box(dead.url, chains={"safe": {"models": ["box/a", "second/b"], "cooldown": 60}})
    config["providers"]["box"]["retries"] = {"attempts": 1}
    config["providers"]["second"] = {"type": "llamaswap", "base_url": alive.url}
    async with Registry(config) as registry:
        for _ in range(8):
            assert (await registry.model("safe").generate("hi")).text == "hello"
        resting: Any = registry.model("safe")
        assert [member.state for member in resting.status()] == ["open", "closed"]
    assert len(dead.seen) == 5, "five failures in a row, and it rests for all who name the chain"


async def test_a_gpu_of_the_file_is_one_line_for_all_its_providers(serve: Serve) -> None:
    config = box("http://127.0.0.1:9", gpus={"big": {"slots": 2, "max_queue": 5, "unload": True}})
    config["providers"]["box"]["gpu"] = "big"
    config["providers"]["other"] = {"type": "ollama", "gpu": "big"}
    async with Registry(config) as registry:
        first: Any = registry.provider("box")
        second: Any = registry.provider("other")
        group = first._client.admission._resource_group
        assert group is second._client.admission._resource_group
        assert (group.name, group.slots, group.max_queue, group.unload) == ("big", 2, 5, True)


async def test_observers_and_prices_of_a_registry_keep_the_books(serve: Serve) -> None:
    reply = chat("hello", usage={"prompt_tokens": 1000, "completion_tokens": 100})
    config = box(
        serve(always(whole(reply))).url,
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


def test_options_nearer_to_the_user_id_stand_above() -> None:
    aliases = {"plain": "box/sdxl?steps=10&cfg_scale=2", "quick": "plain?steps=8&seed=1"}
    image_model: Any = Registry(box(aliases=aliases)).image_model(
        "quick?seed=2", md.with_sampler("euler")
    )
    request = image_model._build_request("a", (), {})
    assert (request.cfg_scale, request.steps, request.seed, request.sampler) == (2, 8, 2, "euler")


def test_a_chain_does_not_grow_without_end() -> None:
    aliases = {"a0": "offline", **{f"a{n}": f"a{n - 1},a{n - 1}" for n in range(1, 40)}}
    with pytest.raises(md.ConfigurationError, match="more than 64 models"):
        Registry({"aliases": aliases}).image_model("a39")


def test_variables_may_not_lead_in_circles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXT", "a")
    with pytest.raises(
        md.ConfigurationError, match=r"aliases\.b: a leads back to itself: a -> b -> a"
    ):
        Registry({"aliases": {"a": "b", "b": "${NEXT}"}}).model("a")


def test_a_provider_of_a_chain_must_be_one() -> None:
    registry = Registry(box(aliases={"same": "box/a,box/b", "two": "box/a,ollama/b"}))
    assert registry.provider("same") is registry.provider("box")
    with pytest.raises(md.ConfigurationError, match="several providers: box/a, ollama/b"):
        registry.provider("two")


MISSES = {
    "bx/qwen": "there is no provider 'bx'; did you mean box?",
    "smal": "there is no provider 'smal'; did you mean small?",
    "saffe": "did you mean safe?",
    "small/x": "'small' is an alias, and stands alone",
    "safe/x": "'safe' is a chain, and stands alone",
    "box://host/x": "there is no provider 'box' to be given an address; say box/MODEL",
    "zzzz": "there are anthropic, automatic1111, box, comfyui",
    "box/a,": "a member between the commas",
    "small?stpes=3": "unknown option stpes",
    "small?steps": "name=value",
}


@pytest.mark.parametrize(("name", "words"), MISSES.items(), ids=MISSES.keys())
def test_a_miss_suggests_what_may_have_been_meant(name: str, words: str) -> None:
    registry = Registry(
        box(aliases={"small": "box/qwen3-4b"}, chains={"safe": {"models": ["small"]}})
    )
    with pytest.raises(md.ConfigurationError) as caught:
        registry.image_model(name)
    assert words in str(caught.value)


@dataclass(frozen=True)
class Pace:
    requests_per_minute: float | None = None

    def __post_init__(self) -> None:
        if self.requests_per_minute is not None and self.requests_per_minute < 1:
            raise md.ConfigurationError("pace is from 1", details={"field": "requests_per_minute"})


class Taker(BaseProvider):
    """Takes keywords that only some providers have."""

    name = "taker"

    def __init__(
        self,
        *,
        rate: Pace | None = None,
        gpu: str | None = None,
        max_queue: int | None = None,
        names: list[str] | None = None,
    ) -> None:
        self.given = (rate, gpu, max_queue, names)

    async def models(self) -> list[md.ModelInfo]:
        return []

    async def health(self) -> md.Health:
        return md.Health(True)

    async def aclose(self) -> None:
        pass


def test_keywords_are_those_of_the_constructor() -> None:
    where = ("providers", "x")
    table = {"rate": {"requests_per_minute": 30}, "gpu": "box", "max_queue": 4, "names": ["a"]}
    made: Any = construct(Taker, table, ConfigFile(), where)
    assert made.given == (Pace(30), "box", 4, ["a"])
    with pytest.raises(
        md.ConfigurationError, match=r"providers\.x\.rate\.requests_per_minute: pace is from 1"
    ):
        construct(Taker, {"rate": {"requests_per_minute": 0}}, ConfigFile(), where)
    with pytest.raises(
        md.ConfigurationError, match=r"providers\.x\.names: is a list of text, not a list"
    ):
        construct(Taker, {"names": [1]}, ConfigFile(), where)
    with pytest.raises(
        md.ConfigurationError,
        match=r"providers\.x\.strict: is unknown; there are gpu, max_queue, names, rate",
    ):
        construct(Taker, {"strict": True}, ConfigFile(), where)


def test_a_program_without_a_file_reads_no_toml(tmp_path: Path) -> None:
    code = (
        "import sys, majordomo; before = set(sys.modules)\n"
        "assert majordomo.model('offline').id == 'rules'\n"
        "assert 'majordomo.routing.config_file' in sys.modules and 'tomllib' not in sys.modules\n"
        "import pathlib; pathlib.Path('majordomo.toml').write_text('[aliases]\\nsmall=\"offline\"')\n"
        "assert majordomo.model('small').id == 'rules' and 'tomllib' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
