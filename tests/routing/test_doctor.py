"""The doctor, among backends that are well, load, refuse, are absent, or are something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import majordomo as md
from majordomo.routing.doctor import examine
from majordomo.routing.hints import DefaultServer
from majordomo.routing.report import BackendReport, DoctorReport
from tests.servers.automatic1111 import Automatic1111
from tests.servers.comfyui import ComfyUI
from tests.servers.llamaswap import LlamaSwap, other_client_waiting
from tests.servers.ollama_chat import OllamaChat
from tests.servers.stable_diffusion import StableDiffusion
from tests.support.loopback import Handler, Loopback, Peer, always, whole

Serve = Callable[[Handler], Loopback]
pytestmark = pytest.mark.anyio
LIST = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "llamacpp"}]}
LOADING = whole(
    {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503
)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        "MAJORDOMO_CONFIG",
        "MAJORDOMO_CHAT_MODEL",
        "MAJORDOMO_IMAGE_MODEL",
        "MAJORDOMO_EMBEDDING_MODEL",
        "LLAMA_SWAP_API_KEY",
        "OLLAMA_API_KEY",
    ]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    server = Loopback(lambda peer: None)
    server.close()
    return server.url


def told(diagnosis: DoctorReport) -> str:
    return "\n".join(
        advice.message
        for advice in [
            *diagnosis.hints,
            *(advice for found in diagnosis.findings for advice in found.hints),
        ]
    )


async def look(config: dict[str, Any], **more: Any) -> DoctorReport:
    return await examine(config, usual=more.pop("usual", ()), **more)


def table(kind: str, url: str, **more: Any) -> dict[str, Any]:
    return {"providers": {"box": {"type": kind, "base_url": url, **more}}}


async def one(config: dict[str, Any]) -> tuple[BackendReport, DoctorReport]:
    diagnosis = await look(config)
    (finding,) = diagnosis.findings
    return finding, diagnosis


async def test_a_healthy_set_up(serve: Serve) -> None:
    swap = LlamaSwap(
        {"sdxl": StableDiffusion(), "qwen3": StableDiffusion()}, declared=["sdxl"], keys=["key-1"]
    )
    boxes = {
        "box": serve(swap),
        "ollama": serve(OllamaChat()),
        "comfy": serve(ComfyUI()),
        "web": serve(Automatic1111()),
        "sd": serve(StableDiffusion()),
    }
    kinds = {
        "box": "llamaswap",
        "ollama": "ollama",
        "comfy": "comfyui",
        "web": "automatic1111",
        "sd": "stablediffusion",
    }
    config: dict[str, Any] = {
        "providers": {
            name: {"type": kinds[name], "base_url": server.url} for name, server in boxes.items()
        },
        "defaults": {
            "chat": "small",
            "image": "box/sdxl?steps=20",
            "embedding": "ollama/nomic-embed-text",
        },
        "aliases": {"small": "box/qwen3", "sees": "ollama/gemma3"},
        "chains": {"safe": {"models": ["small", "sees", "offline"]}},
    }
    config["providers"]["box"]["api_key"] = "key-1"
    diagnosis = await look(config)
    found = {finding.name: finding for finding in diagnosis.findings}
    assert diagnosis.ok, told(diagnosis)
    assert {name: finding.status for name, finding in found.items()} == dict.fromkeys(
        [*boxes, "offline"], "ready"
    )
    assert found["comfy"].server == "ComfyUI 0.3.0"
    assert found["ollama"].server.startswith("Ollama 0.")
    assert found["box"].server == "llama-swap"
    assert {model.id for model in found["box"].models} == {"sdxl", "qwen3"}
    assert found["box"].latency is not None
    assert [
        advice.message for advice in found["box"].hints if "checkEndpoint: /" in advice.message
    ], "the hint for sd-server"
    assert not any(found[name].hints for name in boxes if name != "box"), told(diagnosis)
    assert swap.loads == []
    assert {seen.method for server in boxes.values() for seen in server.seen} == {"GET"}, (
        "only free questions"
    )


async def test_a_model_that_loads_is_no_fault(serve: Serve) -> None:
    swap = LlamaSwap({"sdxl": StableDiffusion()}, instant=False)
    server = serve(swap)
    with other_client_waiting(server, swap, "sdxl"):
        finding, diagnosis = await one(
            {**table("llamaswap", server.url), "defaults": {"image": "box/sdxl"}}
        )
    assert (finding.status, diagnosis.ok) == ("loading", True)
    assert finding.models[0].state == "starting"
    assert "sd-server has no /health" in told(diagnosis)


async def test_a_server_that_loads_its_only_model_is_no_fault(serve: Serve) -> None:
    finding, diagnosis = await one(table("openaicompatible", serve(always(LOADING)).url))
    assert (finding.status, diagnosis.ok) == ("loading", True)
    assert "calls wait for it" in told(diagnosis)


async def test_nothing_listens(closed: str) -> None:
    finding, diagnosis = await one(table("llamaswap", closed))
    assert (finding.status, diagnosis.ok, finding.address) == ("unreachable", False, closed)
    assert f"nothing answers at {closed}" in told(diagnosis)
    assert told(diagnosis).endswith(
        "start it with `llama-swap --config config.yaml`, or set providers.box.base_url"
    )
    _, diagnosis = await one(table("openaicompatible", closed, preset="vllm"))
    assert "`vllm serve MODEL`" in told(diagnosis)
    _, diagnosis = await one({"defaults": {"chat": f"ollama://{closed.partition('//')[2]}/x"}})
    assert told(diagnosis).endswith(
        "start it with `ollama serve`, or mend the address in defaults.chat"
    )


async def test_nobody_answers_for_ever(serve: Serve) -> None:
    server = serve(lambda peer: (peer.request(), peer.wait_for_close(20)))
    diagnosis = await look(table("llamaswap", server.url), patience=0.3)
    assert diagnosis.findings[0].status == "unreachable"
    assert "no answer within 0.3 s" in told(diagnosis)
    assert server.peers[0].closed_by_client.wait(2)


async def test_a_key_is_wanted_or_not_taken(serve: Serve) -> None:
    url = serve(LlamaSwap({"a": StableDiffusion()}, keys=["right"])).url
    finding, diagnosis = await one(table("llamaswap", url))
    assert (finding.status, diagnosis.ok) == ("refused", False)
    assert told(diagnosis).startswith("401: ")
    assert told(diagnosis).endswith('set api_key = "${BOX_API_KEY}" in [providers.box]')
    _, diagnosis = await one(table("llamaswap", url, api_key="wrong-key-123"))
    assert told(diagnosis).endswith("the key in providers.box.api_key is not taken")
    assert "wrong-key-123" not in f"{diagnosis} {diagnosis.to_dict()}"


async def test_a_model_that_is_not_there(serve: Serve) -> None:
    url = serve(OllamaChat()).url
    _, diagnosis = await one(
        {
            **table("ollama", url),
            "defaults": {"chat": "box/gema3", "image": "box/gemma3"},
            "aliases": {"big": "box/mixtral:8x22b"},
        }
    )
    assert not diagnosis.ok
    assert "model gema3 of defaults.chat is not in its list: it has " in told(diagnosis)
    assert "did you mean gemma3" in told(diagnosis)
    assert "model mixtral:8x22b of aliases.big is not in its list" in told(diagnosis)
    assert "fetch it with `ollama pull mixtral:8x22b`" in told(diagnosis)
    assert "model gemma3 of defaults.image does not draw, by its list: it says chat" in told(
        diagnosis
    )


async def test_a_name_that_llama_swap_does_not_list_may_be_an_alias(serve: Serve) -> None:
    _, diagnosis = await one(
        {
            **table("llamaswap", serve(LlamaSwap({"a": StableDiffusion()})).url),
            "defaults": {"chat": "box/b"},
        }
    )
    assert diagnosis.ok
    assert "an alias in llama-swap's own configuration is not listed, and works" in told(diagnosis)


async def test_something_else_answers(serve: Serve) -> None:
    web = serve(always(whole("<html>hello</html>", headers={"content-type": "text/html"}))).url
    finding, diagnosis = await one(table("ollama", web))
    assert (finding.status, diagnosis.ok) == ("strange", False)
    assert f"something answers at {web}, but not as ollama does" in told(diagnosis)
    assert "check providers.box.type and providers.box.base_url" in told(diagnosis)
    lost = serve(always(whole({"detail": "Not Found"}, 404))).url
    assert "start the web UI with --api" in told((await one(table("automatic1111", lost)))[1])
    assert "providers.box.base_url to end in /v1" in told(
        (await one(table("openaicompatible", lost)))[1]
    )


async def test_what_is_set_up_wrongly_is_one_fault_among_others(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = table("ollama", serve(OllamaChat()).url)
    config["providers"]["hosted"] = {"type": "openai", "api_key": "${NO_SUCH_KEY}"}
    config["providers"]["odd"] = {"type": "llamaswap", "base_ulr": "http://x"}
    config["defaults"] = {"image": "bx/sdxl"}
    diagnosis = await look(config)
    assert {finding.name: finding.status for finding in diagnosis.findings} == {
        "box": "ready",
        "hosted": "broken",
        "odd": "broken",
    }
    assert "providers.hosted.api_key: the variable NO_SUCH_KEY is not set" in told(diagnosis)
    assert "providers.odd.base_ulr: is unknown; did you mean base_url?" in told(diagnosis)
    assert "defaults.image: there is no provider 'bx'; did you mean box?" in told(diagnosis)
    assert not diagnosis.ok


async def test_a_configuration_that_cannot_be_read_is_a_fault(closed: str) -> None:
    diagnosis = await look(
        {"provider": {}}, usual=[DefaultServer("Ollama", "ollama", {"base_url": closed})]
    )
    assert not diagnosis.ok
    assert "provider: is unknown; did you mean providers?" in told(diagnosis)
    assert diagnosis.findings[0].status == "unreachable"


async def test_defaults_of_variables_are_looked_at_too(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAJORDOMO_CHAT_MODEL", f"ollama://{closed.partition('//')[2]}/x")
    diagnosis = await look({})
    assert "or mend the address in MAJORDOMO_CHAT_MODEL" in told(diagnosis)
    assert not diagnosis.ok


async def test_a_usual_server_that_is_absent_is_no_fault(serve: Serve, closed: str) -> None:
    here = serve(OllamaChat()).url
    diagnosis = await look(
        {},
        usual=[
            DefaultServer("Ollama", "ollama", {"base_url": here}),
            DefaultServer("ComfyUI", "comfyui", {"base_url": closed}),
        ],
    )
    assert [(found.name, found.status, found.configured) for found in diagnosis.findings] == [
        ("Ollama", "ready", False),
        ("ComfyUI", "unreachable", False),
    ]
    assert diagnosis.ok
    assert told(diagnosis) == "not there; `python main.py` starts it"


async def test_of_usual_servers_at_one_address_the_one_that_is_there_counts(serve: Serve) -> None:
    def llama_cpp(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            known = seen.path in ("/health", "/v1/models")
            peer.reply(
                LIST
                if known
                else {
                    "error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}
                },
                200 if known else 404,
            )

    def rows(url: str) -> list[DefaultServer]:
        return [
            DefaultServer("llama-swap", "llamaswap", {"base_url": url}),
            DefaultServer(
                "llama.cpp", "openaicompatible", {"base_url": f"{url}/v1", "preset": "llamacpp"}
            ),
        ]

    diagnosis = await look({}, usual=rows(serve(llama_cpp).url))
    assert [(found.name, found.status, found.server) for found in diagnosis.findings] == [
        ("llama.cpp", "ready", "llamacpp")
    ]
    swap = serve(LlamaSwap({"a": StableDiffusion()})).url
    assert [found.name for found in (await look({}, usual=rows(swap))).findings] == ["llama-swap"]
    assert [
        found.name for found in (await look(table("llamaswap", swap), usual=rows(swap))).findings
    ] == ["box"], "not named twice"


async def test_a_diagnosis_is_plain_json(serve: Serve, closed: str) -> None:
    diagnosis = await look(
        {**table("ollama", serve(OllamaChat()).url), "defaults": {"chat": "box/none"}},
        usual=[DefaultServer("x", "comfyui", {"base_url": closed})],
    )
    shown = diagnosis.to_dict()
    assert shown["ok"] is False
    assert shown["findings"][0]["models"][0]["id"]
    assert shown["findings"][0]["advice"][0]["fault"] is True
    assert [finding["configured"] for finding in shown["findings"]] == [True, False]


async def test_health_says_why(closed: str) -> None:
    async with md.Ollama(closed) as ollama:
        health = await ollama.health()
    assert isinstance(health.error, md.ConnectionFailedError)
    async with md.Offline() as offline:
        assert ((await offline.health()).error, await offline.server()) == (None, "")
