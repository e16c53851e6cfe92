"""The doctor with backends that work, load, refuse, are absent, or are another server."""

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
from tests.support.loopback import Handler, Loopback, Peer, http_response, reply_with

Serve = Callable[[Handler], Loopback]
pytestmark = pytest.mark.anyio
LIST = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "llamacpp"}]}
LOADING = http_response(
    {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503
)


@pytest.fixture(autouse=True)
def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """The URL of a closed port."""
    server = Loopback(lambda peer: None)
    server.close()
    return server.url


def messages(report: DoctorReport) -> str:
    return "\n".join(
        hint.message
        for hint in [
            *report.hints,
            *(hint for finding in report.findings for hint in finding.hints),
        ]
    )


async def run_doctor(config: dict[str, Any], **more: Any) -> DoctorReport:
    return await examine(config, default_servers=more.pop("default_servers", ()), **more)


def box_config(kind: str, url: str, **more: Any) -> dict[str, Any]:
    return {"providers": {"box": {"type": kind, "base_url": url, **more}}}


async def examine_one(config: dict[str, Any]) -> tuple[BackendReport, DoctorReport]:
    report = await run_doctor(config)
    (finding,) = report.findings
    return finding, report


async def test_a_working_configuration_is_ok(serve: Serve) -> None:
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
    report = await run_doctor(config)
    findings = {finding.name: finding for finding in report.findings}
    assert report.ok, messages(report)
    assert {name: finding.status for name, finding in findings.items()} == dict.fromkeys(
        [*boxes, "offline"], "ready"
    )
    assert findings["comfy"].server == "ComfyUI 0.3.0"
    assert findings["ollama"].server.startswith("Ollama 0.")
    assert findings["box"].server == "llama-swap"
    assert {model.id for model in findings["box"].models} == {"sdxl", "qwen3"}
    assert findings["box"].latency is not None
    assert [hint.message for hint in findings["box"].hints if "checkEndpoint: /" in hint.message], (
        "the hint for sd-server"
    )
    assert not any(findings[name].hints for name in boxes if name != "box"), messages(report)
    assert swap.loads == []
    assert {request.method for server in boxes.values() for request in server.requests} == {
        "GET"
    }, "only free requests"


async def test_a_loading_model_is_not_a_fault(serve: Serve) -> None:
    swap = LlamaSwap({"sdxl": StableDiffusion()}, instant=False)
    server = serve(swap)
    with other_client_waiting(server, swap, "sdxl"):
        finding, report = await examine_one(
            {**box_config("llamaswap", server.url), "defaults": {"image": "box/sdxl"}}
        )
    assert (finding.status, report.ok) == ("loading", True)
    assert finding.models[0].state == "starting"
    assert "sd-server has no /health" in messages(report)


async def test_a_server_that_loads_its_only_model_is_not_a_fault(serve: Serve) -> None:
    finding, report = await examine_one(
        box_config("openaicompatible", serve(reply_with(LOADING)).url)
    )
    assert (finding.status, report.ok) == ("loading", True)
    assert "calls wait for it" in messages(report)


async def test_an_unreachable_server_gets_a_start_hint(closed: str) -> None:
    finding, report = await examine_one(box_config("llamaswap", closed))
    assert (finding.status, report.ok, finding.address) == ("unreachable", False, closed)
    assert f"no server answers at {closed}" in messages(report)
    assert messages(report).endswith(
        "start it with `llama-swap --config config.yaml`, or set providers.box.base_url"
    )
    _, report = await examine_one(box_config("openaicompatible", closed, preset="vllm"))
    assert "`vllm serve MODEL`" in messages(report)
    _, report = await examine_one({"defaults": {"chat": f"ollama://{closed.partition('//')[2]}/x"}})
    assert messages(report).endswith(
        "start it with `ollama serve`, or correct the URL in defaults.chat"
    )


async def test_a_server_that_never_responds_times_out(serve: Serve) -> None:
    server = serve(lambda peer: (peer.request(), peer.wait_for_close(20)))
    report = await run_doctor(box_config("llamaswap", server.url), timeout=0.3)
    assert report.findings[0].status == "unreachable"
    assert "no response within 0.3 s" in messages(report)
    assert server.peers[0].closed_by_client.wait(2)


async def test_a_missing_or_wrong_key_gets_a_hint(serve: Serve) -> None:
    url = serve(LlamaSwap({"a": StableDiffusion()}, keys=["right"])).url
    finding, report = await examine_one(box_config("llamaswap", url))
    assert (finding.status, report.ok) == ("refused", False)
    assert messages(report).startswith("401: ")
    assert messages(report).endswith('set api_key = "${BOX_API_KEY}" in [providers.box]')
    _, report = await examine_one(box_config("llamaswap", url, api_key="wrong-key-123"))
    assert messages(report).endswith("the server does not accept the key in providers.box.api_key")
    assert "wrong-key-123" not in f"{report} {report.to_dict()}"


async def test_a_model_that_is_not_listed_gets_a_hint(serve: Serve) -> None:
    url = serve(OllamaChat()).url
    _, report = await examine_one(
        {
            **box_config("ollama", url),
            "defaults": {"chat": "box/gema3", "image": "box/gemma3"},
            "aliases": {"big": "box/mixtral:8x22b"},
        }
    )
    assert not report.ok
    assert "model gema3 in defaults.chat is not listed; the server lists " in messages(report)
    assert "did you mean gemma3" in messages(report)
    assert "model mixtral:8x22b in aliases.big is not listed" in messages(report)
    assert "download it with `ollama pull mixtral:8x22b`" in messages(report)
    assert (
        "model gemma3 in defaults.image cannot generate images: it is listed with chat"
        in messages(report)
    )


async def test_a_name_that_llama_swap_does_not_list_may_be_an_alias(serve: Serve) -> None:
    _, report = await examine_one(
        {
            **box_config("llamaswap", serve(LlamaSwap({"a": StableDiffusion()})).url),
            "defaults": {"chat": "box/b"},
        }
    )
    assert report.ok
    assert "llama-swap does not list the aliases of its own configuration; they work" in messages(
        report
    )


async def test_another_kind_of_server_gets_a_hint(serve: Serve) -> None:
    web = serve(
        reply_with(http_response("<html>hello</html>", headers={"content-type": "text/html"}))
    ).url
    finding, report = await examine_one(box_config("ollama", web))
    assert (finding.status, report.ok) == ("unexpected", False)
    assert f"a server answers at {web}, but not like ollama" in messages(report)
    assert "check providers.box.type and providers.box.base_url" in messages(report)
    lost = serve(reply_with(http_response({"detail": "Not Found"}, 404))).url
    assert "start the web UI with --api" in messages(
        (await examine_one(box_config("automatic1111", lost)))[1]
    )
    assert "providers.box.base_url usually ends in /v1" in messages(
        (await examine_one(box_config("openaicompatible", lost)))[1]
    )


async def test_a_broken_provider_does_not_hide_the_others(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = box_config("ollama", serve(OllamaChat()).url)
    config["providers"]["hosted"] = {"type": "openai", "api_key": "${NO_SUCH_KEY}"}
    config["providers"]["odd"] = {"type": "llamaswap", "base_ulr": "http://x"}
    config["defaults"] = {"image": "bx/sdxl"}
    report = await run_doctor(config)
    assert {finding.name: finding.status for finding in report.findings} == {
        "box": "ready",
        "hosted": "broken",
        "odd": "broken",
    }
    assert "providers.hosted.api_key: the variable NO_SUCH_KEY is not set" in messages(report)
    assert "providers.odd.base_ulr: is unknown; did you mean base_url?" in messages(report)
    assert "defaults.image: there is no provider 'bx'; did you mean box?" in messages(report)
    assert not report.ok


async def test_an_invalid_configuration_is_a_fault(closed: str) -> None:
    report = await run_doctor(
        {"provider": {}}, default_servers=[DefaultServer("Ollama", "ollama", {"base_url": closed})]
    )
    assert not report.ok
    assert "provider: is unknown; did you mean providers?" in messages(report)
    assert report.findings[0].status == "unreachable"


async def test_default_models_of_environment_variables_are_checked(
    closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAJORDOMO_CHAT_MODEL", f"ollama://{closed.partition('//')[2]}/x")
    report = await run_doctor({})
    assert "or correct the URL in MAJORDOMO_CHAT_MODEL" in messages(report)
    assert not report.ok


async def test_an_absent_default_server_is_not_a_fault(serve: Serve, closed: str) -> None:
    here = serve(OllamaChat()).url
    report = await run_doctor(
        {},
        default_servers=[
            DefaultServer("Ollama", "ollama", {"base_url": here}),
            DefaultServer("ComfyUI", "comfyui", {"base_url": closed}),
        ],
    )
    assert [(finding.name, finding.status, finding.configured) for finding in report.findings] == [
        ("Ollama", "ready", False),
        ("ComfyUI", "unreachable", False),
    ]
    assert report.ok
    assert messages(report) == "not running; start it with `python main.py`"


async def test_of_default_servers_at_one_address_the_recognized_one_is_reported(
    serve: Serve,
) -> None:
    def llama_cpp(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            known = request.path in ("/health", "/v1/models")
            peer.reply(
                LIST
                if known
                else {
                    "error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}
                },
                200 if known else 404,
            )

    def servers(url: str) -> list[DefaultServer]:
        return [
            DefaultServer("llama-swap", "llamaswap", {"base_url": url}),
            DefaultServer(
                "llama.cpp", "openaicompatible", {"base_url": f"{url}/v1", "preset": "llamacpp"}
            ),
        ]

    report = await run_doctor({}, default_servers=servers(serve(llama_cpp).url))
    assert [(finding.name, finding.status, finding.server) for finding in report.findings] == [
        ("llama.cpp", "ready", "llamacpp")
    ]
    swap = serve(LlamaSwap({"a": StableDiffusion()})).url
    assert [
        finding.name for finding in (await run_doctor({}, default_servers=servers(swap))).findings
    ] == ["llama-swap"]
    assert [
        finding.name
        for finding in (
            await run_doctor(box_config("llamaswap", swap), default_servers=servers(swap))
        ).findings
    ] == ["box"], "not named twice"


async def test_a_report_converts_to_plain_json(serve: Serve, closed: str) -> None:
    report = await run_doctor(
        {**box_config("ollama", serve(OllamaChat()).url), "defaults": {"chat": "box/none"}},
        default_servers=[DefaultServer("x", "comfyui", {"base_url": closed})],
    )
    values = report.to_dict()
    assert values["ok"] is False
    assert values["findings"][0]["models"][0]["id"]
    assert values["findings"][0]["hints"][0]["fault"] is True
    assert [finding["configured"] for finding in values["findings"]] == [True, False]


async def test_health_has_the_error(closed: str) -> None:
    async with md.Ollama(closed) as ollama:
        health = await ollama.health()
    assert isinstance(health.error, md.ConnectionFailedError)
    async with md.Offline() as offline:
        assert ((await offline.health()).error, await offline.server()) == (None, "")
