"""The public API as a user sees it: names, values, requests on the network, errors."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import majordomo as md
from majordomo import imagegen, llm
from tests.contract.backend import Backend, Reply, chat_reply, chat_stream_reply, images_reply, png

IMAGES = "POST /v1/images/generations"
CHAT = "POST /v1/chat/completions"
TAG, END_TAG = "<sd_cpp_extra_args>", "</sd_cpp_extra_args>"


def test_importing_the_package_loads_no_heavy_module() -> None:
    heavy = ("httpx", "httpx2", "pydantic", "anyio", "PIL", "trio", "rich", "typer", "starlette")
    prefixes = (*heavy, "majordomo.providers.")
    code = (
        "import sys, majordomo; print([m for m in sys.modules "
        f"if (m + '.').startswith({prefixes!r}) or m in {prefixes!r}])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"


def test_both_packages_share_one_image_type() -> None:
    assert imagegen.Image is llm.ImagePart is md.ImagePart


def test_image_types_have_aliases_in_the_package() -> None:
    assert md.ImageRequest is imagegen.Request
    assert md.ImageResult is imagegen.Result
    assert md.ImageModel is imagegen.Model
    assert md.ImageProvider is imagegen.Provider
    assert md.ImageOption is imagegen.Option


def test_options_apply_in_order_and_return_a_new_request() -> None:
    request = md.ImageRequest("a cat")
    changed = request.apply(
        md.with_image_count(2), md.with_image_size("512x512"), md.with_steps(8), md.with_steps(9)
    )
    assert (request.n, request.size, request.steps) == (0, "", None)
    assert (changed.n, changed.size, changed.steps) == (2, "512x512", 9)


def test_an_image_part_reads_type_and_size_from_its_bytes() -> None:
    part = md.ImagePart(png(64, 48), mime="image/jpeg")
    assert (part.mime, part.width, part.height) == ("image/png", 64, 48)


def test_repr_of_an_image_part_hides_its_bytes() -> None:
    text = repr(md.ImagePart(png(64, 48)))
    assert len(text) < 200
    assert "\\x89" not in text


def test_an_image_part_round_trips_through_data_urls_and_base64() -> None:
    part = md.ImagePart(png(64, 48))
    assert md.ImagePart.from_data_url(part.to_data_url()) == part
    assert md.ImagePart.from_base64(part.to_base64()) == part


def test_saving_adds_the_suffix_and_never_overwrites(tmp_path: Path) -> None:
    part = md.ImagePart(png(64, 48))
    path = part.save(tmp_path / "cat")
    assert path.suffix == ".png"
    assert path.read_bytes() == part.data
    with pytest.raises(FileExistsError):
        part.save(tmp_path / "cat")


def test_bytes_that_are_not_an_image_are_rejected() -> None:
    with pytest.raises(md.InvalidRequestError):
        md.ImagePart(b"<html>not an image</html>", mime="image/png")


async def test_unset_fields_are_not_sent(backend: Backend) -> None:
    backend.on(IMAGES, images_reply(png()))
    async with md.LlamaSwap(backend.url) as provider:
        result = await provider.image_model("sdxl").generate("a cat")
    assert backend.requests[-1].json == {
        "model": "sdxl",
        "prompt": "a cat",
        "response_format": "b64_json",
    }
    assert result.image.data == png()
    assert result.raw is not None


async def test_zero_is_sent_and_later_settings_override_earlier_ones(backend: Backend) -> None:
    backend.on(IMAGES, images_reply(png()))
    async with md.LlamaSwap(backend.url) as provider:
        model = provider.image_model("sdxl", md.with_steps(4), md.with_sampler("euler"))
        request = md.ImageRequest("a cat", steps=5, seed=0)
        await model.generate(request, md.with_steps(6), steps=7)
        await model.generate("a cat", sampler=None)
    first, second = (received.json for received in backend.requests)
    assert (first["seed"], first["steps"], first["sample_method"]) == (0, 7, "euler")
    assert second["steps"] == 4
    assert "sample_method" not in second


async def test_an_unknown_keyword_is_a_type_error(backend: Backend) -> None:
    async with md.LlamaSwap(backend.url) as provider:
        with pytest.raises(TypeError):
            await provider.image_model("sdxl").generate("a cat", stpes=3)  # type: ignore[call-arg]
    assert backend.requests == []


async def test_settings_reach_stable_diffusion_cpp_as_fields_and_as_prompt_tag(
    backend: Backend,
) -> None:
    backend.on(IMAGES, images_reply(png(), png(color="red")))
    async with md.LlamaSwap(backend.url) as provider:
        result = await provider.image_model("sdxl").generate(
            md.ImageRequest("a cat", n=2, size="512x512"),
            md.with_steps(8),
            md.with_cfg_scale(4.5),
            md.with_negative_prompt("dogs"),
            md.with_sampler("euler_a"),
            md.with_seed(7),
        )
    body = backend.requests[-1].json
    expected = {"n": 2, "size": "512x512", "steps": 8, "cfg_scale": 4.5}
    expected |= {"negative_prompt": "dogs", "sample_method": "euler_a", "seed": 7}
    assert {name: body.get(name) for name in expected} == expected
    assert body["prompt"].startswith(TAG)
    tag, _, prompt = body["prompt"].removeprefix(TAG).partition(END_TAG)
    assert prompt.strip() == "a cat"
    assert "\n" not in tag
    arguments = json.loads(tag)
    assert (arguments["seed"], arguments["negative_prompt"]) == (7, "dogs")
    sampling = arguments["sample_params"]
    assert (sampling["sample_steps"], sampling["sample_method"]) == (8, "euler_a")
    assert sampling["guidance"]["txt_cfg"] == 4.5
    assert (arguments["steps"], arguments["cfg_scale"], arguments["sample_method"]) == (
        8,
        4.5,
        "euler_a",
    )
    assert len(result.images) == 2
    assert result.details[0].seed == 7


@pytest.mark.parametrize("steps", [None, 8])
async def test_prompt_text_cannot_set_parameters(backend: Backend, steps: int | None) -> None:
    backend.on(IMAGES, images_reply(png()))
    hostile = f'a cat {TAG}{{"width":9999,"lora":[{{"path":"/etc/passwd"}}]}}{END_TAG}'
    async with md.LlamaSwap(backend.url) as provider:
        await provider.image_model("sdxl").generate(hostile, steps=steps)
    sent = backend.requests[-1].json["prompt"]
    tag, prompt = sent.split(END_TAG, 1) if sent.startswith(TAG) else ("", sent)
    assert TAG not in prompt
    assert "passwd" not in tag


async def test_a_generated_image_is_valid_input_for_chat(backend: Backend) -> None:
    backend.on(IMAGES, images_reply(png()))
    backend.on(CHAT, chat_reply("calm"))
    async with md.LlamaSwap(backend.url) as provider:
        result = await provider.image_model("sdxl").generate("a lake")
        message = llm.user_parts(llm.TextPart("What mood?"), result.images[0])
        reply = await provider.model("qwen3-vl").generate([message])
    assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("calm", "stop", 2)
    text, image = backend.requests[-1].json["messages"][0]["content"]
    assert text == {"type": "text", "text": "What mood?"}
    assert image["image_url"]["url"] == result.images[0].to_data_url()


async def test_chat_streams_text_and_ends_with_done(backend: Backend) -> None:
    backend.on(CHAT, chat_stream_reply("Good ", "evening"))
    async with (
        md.OpenAICompatible(f"{backend.url}/v1") as provider,
        provider.model("m").stream("hi") as stream,
    ):
        events = [event async for event in stream]
    text = "".join(event.text for event in events if isinstance(event, llm.TextDelta))
    assert text == stream.reply.text == "Good evening"
    assert isinstance(events[-1], llm.Done)


async def test_a_stream_raises_the_exception_of_its_body_unchanged(backend: Backend) -> None:
    backend.on(CHAT, chat_stream_reply("Good ", "evening"))
    async with md.OpenAICompatible(f"{backend.url}/v1") as provider:
        with pytest.raises(ZeroDivisionError):
            async with provider.model("m").stream("hi") as stream:
                async for _ in stream:
                    1 / 0  # noqa: B018
        assert await streamed_text(provider) == "Good evening"


async def test_a_stream_may_be_left_early(backend: Backend) -> None:
    backend.on(CHAT, chat_stream_reply("Good ", "evening"))
    async with md.OpenAICompatible(f"{backend.url}/v1") as provider:
        async with provider.model("m").stream("hi") as stream:
            async for _ in stream:
                break
        assert await streamed_text(provider) == "Good evening"


async def streamed_text(provider: md.OpenAICompatible) -> str:
    """Return the text of a streamed reply."""
    async with provider.model("m").stream("hi") as stream:
        return "".join([event.text async for event in stream if isinstance(event, llm.TextDelta)])


async def test_a_truncated_stream_is_an_error_with_the_partial_reply(backend: Backend) -> None:
    complete = chat_stream_reply("Good ", "evening")
    assert isinstance(complete.body, list)
    backend.on(CHAT, Reply(body=complete.body[:1], headers=complete.headers))
    async with md.OpenAICompatible(f"{backend.url}/v1") as provider:
        with pytest.raises(md.StreamBrokenError) as caught:
            await streamed_text(provider)
    assert caught.value.partial.text == "Good "


def test_messages_round_trip_through_json() -> None:
    messages = [llm.system("be brief"), md.user("look", md.ImagePart(png())), llm.assistant("calm")]
    assert llm.load_messages(llm.dump_messages(messages)) == messages


async def test_sync_methods_work_inside_a_running_event_loop(backend: Backend) -> None:
    backend.on(IMAGES, images_reply(png()))
    with md.LlamaSwap(backend.url) as provider:
        assert provider.image_model("sdxl").generate_sync("a cat").image.width == 64


FAILURES = {
    "401": (Reply(401, {"error": {"message": "bad key"}}), md.AuthenticationError),
    "403": (Reply(403, {"error": {"message": "no"}}), md.PermissionDeniedError),
    "404": (
        Reply(404, {"src": "llama-swap", "error": "no router for requested model"}),
        md.NotFoundError,
    ),
    "400": (Reply(400, {"error": "invalid params"}), md.InvalidRequestError),
    "429": (Reply(429, {"error": "Too many requests"}, {"retry-after": "1"}), md.RateLimitError),
    "503": (Reply(503, {"error": {"message": "[sdxl] process is not ready"}}), md.OverloadedError),
    "500": (Reply(500, {"error": "generate_image returned no results"}), md.BackendError),
    "502 without a body": (Reply(502, b""), md.BackendError),
    "no images": (Reply(200, {"created": 1, "data": []}), md.NoImageError),
    "a URL": (
        Reply(200, {"created": 1, "data": [{"url": "http://127.0.0.1:9/x.png"}]}),
        md.NoImageError,
    ),
    "HTML as image": (
        Reply(200, {"created": 1, "data": [{"b64_json": "PGh0bWw+"}]}),
        md.BadResponseError,
    ),
    "HTML": (Reply(200, b"<html>hello</html>", {"content-type": "text/html"}), md.BadResponseError),
    "an empty body": (Reply(200, b""), md.BadResponseError),
}


@pytest.mark.parametrize(("reply", "error"), FAILURES.values(), ids=FAILURES.keys())
async def test_every_failure_has_a_type_and_hides_the_key(
    backend: Backend, reply: Reply, error: type[md.MajordomoError]
) -> None:
    backend.on(IMAGES, reply)
    retries = md.Retries(attempts=1)
    async with md.LlamaSwap(backend.url, api_key="sk-secret", retries=retries) as provider:
        with pytest.raises(error) as caught:
            await provider.image_model("sdxl").generate("a cat")
    failure = caught.value
    assert backend.requests[-1].headers["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in f"{failure!r} {failure} {failure.to_dict()} {provider!r}"
    assert {"error", "code", "details"} <= failure.to_dict().keys()
    assert (failure.provider, failure.model) == ("llamaswap", "sdxl")
    assert str(pickle.loads(pickle.dumps(failure))) == str(failure)


async def test_a_closed_port_is_a_connection_error() -> None:
    async with md.LlamaSwap("http://127.0.0.1:9", retries=md.Retries(attempts=1)) as provider:
        with pytest.raises(md.ConnectionFailedError):
            await provider.image_model("sdxl").generate("a cat")


async def test_the_offline_image_model_is_deterministic() -> None:
    model = md.Offline().image_model("renderer")
    first = await model.generate("a lighthouse at dusk", size="96x64", seed=7, steps=4)
    same = await model.generate("a lighthouse at dusk", size="96x64", seed=7, steps=4)
    other = await model.generate("a lighthouse at dusk", size="96x64", seed=8, steps=4)
    assert (first.image.width, first.image.height) == (96, 64)
    assert same.image == first.image
    assert other.image != first.image


async def test_the_offline_image_model_streams_steps_previews_and_the_result() -> None:
    model = md.Offline().image_model("renderer")
    image = (await model.generate("a lighthouse at dusk", size="96x64", seed=7, steps=4)).image
    async with model.stream(
        "a lighthouse at dusk", size="96x64", seed=7, steps=4, previews=1
    ) as stream:
        events = [event async for event in stream]
    steps = [(event.step, event.total) for event in events if isinstance(event, imagegen.Step)]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert any(isinstance(event, imagegen.Preview) for event in events)
    assert isinstance(events[-1], imagegen.Done)
    assert events[-1].result.image == image
