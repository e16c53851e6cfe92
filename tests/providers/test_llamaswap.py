from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import majordomo as md
from majordomo import imagegen, llm
from majordomo.dialects.openai.image_families import compatible_family
from majordomo.dialects.openai.images import OpenAIImagesCodec
from majordomo.dialects.stable_diffusion_cpp.prompt_tag import (
    CLOSING,
    OPENING,
    encode_tag,
    neutralize,
)
from tests.support.loopback import (
    Handler,
    Loopback,
    Peer,
    chat_completion,
    delta,
    http_response,
    images_reply,
    reply_with,
)
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
ImageFactory = Callable[..., md.ImagePart]


def body(request: imagegen.Request, tag: bool = True) -> dict[str, Any]:
    codec = OpenAIImagesCodec() if tag else OpenAIImagesCodec(compatible_family, tag=False)
    http_request = codec.encode_request("sdxl", codec.adapt("sdxl", request)[0])
    assert isinstance(http_request.body, bytes)
    value: dict[str, Any] = json.loads(http_request.body)
    return value


def test_settings_are_sent_as_fields_and_in_the_prompt_tag() -> None:
    sent = body(
        imagegen.Request(
            "a cat",
            steps=8,
            cfg_scale=4.5,
            negative_prompt="<dogs>\n",
            sampler="euler_a",
            scheduler="karras",
            seed=7,
        )
    )
    tag_json, _, rest = sent["prompt"].removeprefix(OPENING).partition(CLOSING)
    assert rest == "a cat"
    assert "\n" not in tag_json
    assert "<" not in tag_json
    assert json.loads(tag_json) == {
        "seed": 7,
        "negative_prompt": "<dogs>\n",
        "steps": 8,
        "cfg_scale": 4.5,
        "sample_method": "euler_a",
        "scheduler": "karras",
        "sample_params": {
            "sample_steps": 8,
            "guidance": {"txt_cfg": 4.5},
            "sample_method": "euler_a",
            "scheduler": "karras",
        },
    }
    for name in ("steps", "cfg_scale", "negative_prompt", "sample_method", "seed"):
        assert name in sent


def test_sampler_names_are_translated_for_the_engine() -> None:
    sent = body(imagegen.Request("a", sampler="dpmpp_2m", scheduler="normal"))
    assert (sent["sample_method"], sent["scheduler"]) == ("dpm++2m", "discrete")
    assert '"sample_method":"dpm++2m"' in sent["prompt"]
    assert body(imagegen.Request("a", sampler="dpmpp_2m"), tag=False)["sample_method"] == "dpmpp_2m"
    assert body(imagegen.Request("a", sampler="dpm++2m"))["sample_method"] == "dpm++2m"


def test_too_many_steps_are_a_warning() -> None:
    _, warnings = OpenAIImagesCodec().adapt("m", imagegen.Request("a", steps=101, seed=1))
    assert [(w.code, w.field) for w in warnings] == [("UNSUPPORTED_FIELD", "steps")]


def test_zero_values_are_sent() -> None:
    assert json.loads(
        encode_tag(imagegen.Request("a", seed=0, cfg_scale=0))[len(OPENING) : -len(CLOSING)]
    ) == {
        "seed": 0,
        "cfg_scale": 0.0,
        "sample_params": {"guidance": {"txt_cfg": 0.0}},
    }


def test_without_the_tag_nothing_is_added_to_the_prompt() -> None:
    sent = body(imagegen.Request("a cat", steps=8, seed=7, quality="high"), tag=False)
    assert sent == {
        "model": "sdxl",
        "prompt": "a cat",
        "steps": 8,
        "seed": 7,
        "quality": "high",
        "response_format": "b64_json",
    }


@given(
    st.lists(
        st.sampled_from(
            [
                OPENING,
                CLOSING,
                "<",
                "sd_cpp_extra_args>",
                "< ",
                "</",
                "<SD_CPP_EXTRA_ARGS>",
                "{}",
                "a",
                " ",
            ]
        )
    ).map("".join)
)
def test_neutralizing_is_a_fixed_point_and_leaves_no_tag(text: str) -> None:
    once, changed = neutralize(text)
    assert OPENING not in once
    assert OPENING not in once.lower()
    assert neutralize(once) == (once, False)
    assert changed == (once != text)
    assert once.replace("< ", "<") == text.replace("< ", "<"), "nothing is lost"


@pytest.mark.parametrize("fields", [{}, {"steps": 3}])
@pytest.mark.parametrize("tag", [True, False])
def test_a_tag_in_an_untrusted_prompt_is_neutralized_with_a_warning(
    fields: dict[str, Any], tag: bool
) -> None:
    hostile = f'a {OPENING}{{"width":9999}}{CLOSING}{OPENING} cat'
    codec = OpenAIImagesCodec() if tag else OpenAIImagesCodec(compatible_family, tag=False)
    request, warnings = codec.adapt("m", imagegen.Request(hostile, **fields))
    http_request = codec.encode_request("m", request)
    assert isinstance(http_request.body, bytes)
    prompt = json.loads(http_request.body)["prompt"]
    assert prompt.count(OPENING) == (1 if tag and fields else 0)
    assert "TAG_NEUTRALIZED" in [warning.code for warning in warnings]


def test_unsupported_fields_are_warnings_or_errors_when_strict() -> None:
    request = imagegen.Request("a", quality="high", background="transparent", previews=2, seed=1)
    _, warnings = OpenAIImagesCodec().adapt("m", request)
    assert [(w.code, w.field) for w in warnings] == [
        ("UNSUPPORTED_FIELD", name) for name in ("quality", "background", "previews")
    ]
    with pytest.raises(md.UnsupportedError) as caught:
        md.LlamaSwap(strict=True).image_model("m").generate_sync(request)
    assert caught.value.field == "quality"


def test_an_unset_seed_is_one_warning() -> None:
    _, warnings = OpenAIImagesCodec().adapt("m", imagegen.Request("a"))
    assert [w.code for w in warnings] == ["SEED_DEFAULT"]


pytestmark = pytest.mark.anyio


async def test_seeds_count_up_and_seeds_in_image_metadata_take_precedence(
    serve: Serve, image: ImageFactory
) -> None:
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(
        "parameters", "a cat, Seed: 1\nNegative prompt: Seed: 2\nSteps: 20, Seed: 99, Size: 8x8"
    )
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    server = serve(
        reply_with(http_response(images_reply(image().data, image().data, buffer.getvalue())))
    )
    async with md.LlamaSwap(server.url) as provider:
        result = await provider.image_model("m").generate("a", seed=5, n=3)
        unset = await provider.image_model("m").generate("a")
        random = await provider.image_model("m").generate("a", md.with_random_seed(lambda n: n - 1))
    assert [detail.seed for detail in result.details] == [5, 6, 99]
    assert [detail.seed for detail in unset.details] == [None, None, 99]
    assert random.details[0].seed == 2**31 - 1 == server.requests[-1].json["seed"]
    assert result.details[2].settings["parameters"].startswith("a cat, Seed: 1")


async def test_the_raw_reply_contains_no_image_bytes(serve: Serve, image: ImageFactory) -> None:
    async with md.LlamaSwap(
        serve(
            reply_with(
                http_response(
                    images_reply(image().data, usage={"input_tokens": 3, "output_tokens": 9})
                )
            )
        ).url
    ) as provider:
        result = await provider.image_model("m").generate("a")
    assert image().to_base64() not in json.dumps(result.raw)
    assert result.raw["data"][0]["b64_json"] == f"<image/png, {len(image().data)} bytes>"
    assert result.usage == imagegen.Usage(3, 9, images=1, pixels=64 * 48)


def llamaswap_server(peer: Peer) -> None:
    """Answer the free queries of llama-swap."""
    while (request := peer.request()) is not None:
        match request.method, request.path:
            case "GET", "/v1/models":
                peer.reply(
                    {
                        "object": "list",
                        "data": [
                            {
                                "id": "sdxl",
                                "status": {"value": "loaded"},
                                "capabilities": {"image_generation": True, "image_to_image": True},
                            },
                            {
                                "id": "qwen3",
                                "status": {"value": "loaded"},
                                "architecture": {
                                    "input_modalities": ["text", "image"],
                                    "output_modalities": ["text"],
                                },
                            },
                            {"id": "other", "name": "Another"},
                        ],
                    }
                )
            case "GET", "/running":
                peer.reply(
                    {
                        "running": [
                            {"model": "sdxl", "state": "ready"},
                            {"model": "qwen3", "state": "starting"},
                        ]
                    }
                )
            case "GET", "/health":
                peer.reply("OK", headers={"content-type": "text/plain"})
            case "POST", "/api/models/unload" | "/api/models/unload/author/sd%20xl":
                peer.reply("OK")
            case _:
                peer.reply("404 page not found", 404, {"content-type": "text/plain"})


async def test_models_are_listed_with_their_load_state(serve: Serve) -> None:
    async with md.LlamaSwap(serve(llamaswap_server).url) as provider:
        models = {model.id: model for model in await provider.models()}
        assert (models["sdxl"].loaded, models["sdxl"].state, models["sdxl"].capabilities) == (
            True,
            "ready",
            {"image", "edit"},
        )
        assert (models["qwen3"].loaded, models["qwen3"].state, models["qwen3"].capabilities) == (
            False,
            "starting",
            {"chat", "vision"},
        )
        assert (
            models["other"].loaded,
            models["other"].capabilities,
            models["other"].description,
        ) == (False, frozenset(), "Another")
        assert [(model.id, model.loaded) for model in await provider.running()] == [
            ("sdxl", True),
            ("qwen3", False),
        ]
        assert (await provider.health()).ok


async def test_one_or_all_models_are_unloaded(serve: Serve) -> None:
    server = serve(llamaswap_server)
    async with md.LlamaSwap(server.url) as provider:
        await provider.unload()
        await provider.unload("author/sd xl")
        with pytest.raises(md.NotFoundError):
            await provider.unload("unknown")
        with pytest.raises(md.InvalidRequestError):
            await provider.unload("../x")
    assert [request.path for request in server.requests] == [
        "/api/models/unload",
        "/api/models/unload/author/sd%20xl",
        "/api/models/unload/unknown",
    ]


async def test_health_reports_a_failure_instead_of_raising(serve: Serve) -> None:
    server = serve(reply_with(http_response(b"", 502)))
    async with md.LlamaSwap(server.url) as provider:
        health = await provider.health()
    assert not health.ok
    assert health.message


async def test_llamaswap_loading_text_is_an_event(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.begin()
        peer.chunk(b'data: {"choices":[{"delta":{"reasoning_content":"loading..."}}]}\n\n')
        peer.chunk(delta("hi") + delta({}, "stop") + b"data: [DONE]\n\n")
        peer.end()

    async with (
        md.LlamaSwap(serve(handler).url) as provider,
        provider.model("m").stream("x") as stream,
    ):
        events = [event async for event in stream]
    assert isinstance(events[0], llm.Loading)
    assert stream.reply.thinking == ""


async def test_loading_time_does_not_count_against_the_first_byte_limit(serve: Serve) -> None:
    """The first byte may take 2 s and the load 30 s: a load of 3 s does not time out."""
    state = {"model": "m", "state": "starting"}

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path == "/running":
                peer.reply({"running": [state]})
            else:
                peer.closed_by_client.wait(3)
                state["state"] = "ready"
                peer.reply(chat_completion("at last"))

    async with md.LlamaSwap(
        serve(handler).url, timeout=md.Timeout(first_byte=2, load=30)
    ) as provider:
        assert (await provider.model("m").generate("x")).text == "at last"


async def test_a_first_byte_limit_shorter_than_the_check_interval_lets_a_model_load(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the limit has passed, the load state is queried once more before the call gives up.

    The reply begins only after that query, and the query may take long on a slow machine.
    """
    monkeypatch.setattr("majordomo.transport_types.GRACE_SECONDS", 10.0)
    queried = threading.Event()

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path == "/running":
                peer.reply({"running": [{"model": "m", "state": "starting"}]})
                queried.set()
            else:
                assert queried.wait(20)
                peer.reply(chat_completion("at last"))

    async with md.LlamaSwap(
        serve(handler).url, timeout=md.Timeout(first_byte=0.3, load=30)
    ) as provider:
        assert (await provider.model("m").generate("x")).text == "at last"


async def test_a_stalled_stream_is_not_reported_as_loading(serve: Serve) -> None:
    server = serve(
        lambda peer: (peer.request(), peer.begin(), peer.chunk(delta("x")), peer.wait_for_close())
    )
    async with md.LlamaSwap(server.url, timeout=md.Timeout(idle=1.3)) as provider:
        with anyio.fail_after(4), pytest.raises(md.DeadlineExceededError) as caught:
            async with provider.model("m").stream("x") as stream:
                async for _ in stream:
                    pass
    assert caught.value.phase == "idle"
    assert [request.path for request in server.requests] == ["/v1/chat/completions"]


async def test_a_load_that_exceeds_its_limit_names_the_load_phase(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path == "/running":
                peer.reply({"running": [{"model": "m", "state": "starting"}]})
            else:
                peer.wait_for_close()

    async with md.LlamaSwap(
        serve(handler).url, timeout=md.Timeout(first_byte=30, load=0.5)
    ) as provider:
        with pytest.raises(md.DeadlineExceededError) as caught:
            await provider.model("m").generate("x")
    assert caught.value.phase == "load"


@pytest.mark.parametrize(("state", "phase"), [("ready", "first_byte"), ("starting", "load")])
async def test_an_alias_loads_when_its_model_does(serve: Serve, state: str, phase: str) -> None:
    """`/running` lists real ids only; in a resource group the model of an alias is known."""
    listed = {"id": "m", "meta": {"llamaswap": {"type": "model", "aliases": ["small"]}}}
    running = [{"model": "m", "state": state}, {"model": "other", "state": "starting"}]

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path == "/running":
                peer.reply({"running": running})
            elif request.path == "/v1/models":
                peer.reply({"data": [listed]})
            else:
                peer.wait_for_close()

    timeout = md.Timeout(first_byte=0.3, load=0.3)
    async with md.LlamaSwap(serve(handler).url, timeout=timeout, gpu="an alias") as provider:
        with pytest.raises(md.DeadlineExceededError) as caught:
            await provider.model("small").generate("x")
    assert caught.value.phase == phase


async def test_a_cancelled_chat_stream_closes_its_socket(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.json.get("stream"):
                peer.begin()
                peer.chunk(delta("x"))
                peer.wait_for_close()
                return
            peer.reply(chat_completion("fine"))

    server = serve(handler)
    async with md.LlamaSwap(server.url, max_concurrency=1) as provider:
        with anyio.CancelScope() as scope:
            async with provider.model("m").stream("x") as stream:
                async for _ in stream:
                    # The next chunk never arrives.
                    scope.cancel()
        assert scope.cancelled_caught
        await wait_until(lambda: server.peers[0].closed_by_client.is_set(), seconds=1)
        assert (await provider.model("m").generate("x")).text == "fine"
        assert len(server.requests) == 2


async def test_the_server_version_is_reported_where_available(serve: Serve) -> None:
    server = serve(
        reply_with(
            http_response({"version": "v250", "commit": "abc"}),
            http_response({"version": None}),
            http_response(b"404 page not found", 404),
        )
    )
    async with md.LlamaSwap(server.url) as provider:
        assert [await provider.server() for _ in range(3)] == ["llama-swap v250", "llama-swap", ""]
    assert {request.path for request in server.requests} == {"/api/version"}
