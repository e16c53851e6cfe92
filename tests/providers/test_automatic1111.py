"""A1111, against a server that the independent client `webuiapi` accepts (tests/servers)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import to_thread

import majordomo as md
from majordomo import imagegen
from majordomo.dialects.automatic1111.sdapi import SDAPICodec
from majordomo.settings import Limits
from majordomo.testing import plain_image
from tests.servers.automatic1111 import Automatic1111
from tests.servers.held_jobs import pixels
from tests.servers.plain_client import halves
from tests.support.loopback import Handler, Loopback, Peer, http_response, reply_with
from tests.support.sample_images import rgb_pixel

Serve = Callable[[Handler], Loopback]
PIXEL = base64.b64encode(plain_image(8, 8).data).decode()
Image = Callable[..., md.ImagePart]
pytestmark = pytest.mark.anyio
SMALL: dict[str, Any] = {"size": "64x64", "steps": 6}


@pytest.fixture
def engine() -> Iterator[Automatic1111]:
    server = Automatic1111()
    yield server
    server.release()


@pytest.fixture
def server(engine: Automatic1111, serve: Serve) -> Loopback:
    return serve(engine)


@pytest.fixture
def provider(server: Loopback) -> Iterator[md.Automatic1111]:
    with md.Automatic1111(server.url, retries=md.Retries(attempts=1)) as provider:
        yield provider


@pytest.fixture
def image_model(provider: md.Automatic1111) -> imagegen.Model:
    return provider.image_model("current")


def image_requests(server: Loopback) -> list[Any]:
    return [request for request in server.requests if request.path.endswith("2img")]


async def test_every_setting_reaches_the_server(
    image_model: imagegen.Model, engine: Automatic1111
) -> None:
    result = await image_model.generate(
        "a red fox",
        size="96x64",
        steps=9,
        cfg_scale=2.5,
        negative_prompt="rain",
        sampler="dpmpp_2m",
        scheduler="karras",
        seed=0,
    )
    job = engine.jobs[0]
    expected = {
        "prompt": "a red fox",
        "negative_prompt": "rain",
        "steps": 9,
        "cfg_scale": 2.5,
        "seed": 0,
        "width": 96,
        "height": 64,
    }
    assert expected.items() <= job.items()
    assert (job["sampler"], job["scheduler"]) == ("DPM++ 2M", "Karras")
    assert rgb_pixel(result.image) == engine.color(job)
    assert result.details[0].seed == 0
    assert result.warnings == ()
    assert result.image.parameters["sampler"] == "DPM++ 2M"


async def test_several_images_are_generated_in_sequence(
    image_model: imagegen.Model, engine: Automatic1111
) -> None:
    result = await image_model.generate("a", n=3, seed=5, **SMALL)
    assert (engine.jobs[0]["n_iter"], engine.jobs[0]["batch_size"]) == (3, 1)
    assert [detail.seed for detail in result.details] == [5, 6, 7]
    assert [rgb_pixel(image) for image in result.images] == [
        engine.color(engine.jobs[0], index) for index in range(3)
    ]


async def test_the_servers_random_seed_is_reported(
    image_model: imagegen.Model, engine: Automatic1111
) -> None:
    result = await image_model.generate("a", **SMALL)
    assert result.details[0].seed == engine.jobs[0]["seed"]


async def test_a_size_off_the_grid_is_rounded_with_a_warning(
    image_model: imagegen.Model, engine: Automatic1111
) -> None:
    result = await image_model.generate("a", size="100x61", steps=2)
    assert (engine.jobs[0]["width"], engine.jobs[0]["height"]) == (96, 64)
    assert [w.field for w in result.warnings] == ["size"]
    detail = result.details[0]
    assert (detail.requested_size, detail.sent_size, detail.actual_size) == (
        (100, 61),
        (96, 64),
        (96, 64),
    )


async def test_image_to_image(
    image_model: imagegen.Model, engine: Automatic1111, image: Image
) -> None:
    input_image = image(64, 48, "white", kind="WEBP", mode="L")
    await image_model.generate("a", images=[input_image], strength=0.4, seed=1, steps=4)
    job = engine.jobs[0]
    assert (job["route"], job["denoising_strength"], job["width"], job["height"]) == (
        "img2img",
        0.4,
        64,
        48,
    )
    assert job["init_images"] == [pixels(input_image.to_pil().convert("RGB"))]
    with pytest.raises(md.UnsupportedError) as caught:
        await image_model.generate("a", images=[input_image, input_image])
    assert caught.value.field == "images"


async def test_black_areas_of_a_mask_are_kept(
    image_model: imagegen.Model, engine: Automatic1111, image: Image
) -> None:
    mask = md.ImagePart(halves(0, 255, (64, 64)))
    result = await image_model.generate(
        "a", images=[image(64, 64, "red")], mask=mask, strength=1.0, steps=2, seed=1
    )
    assert rgb_pixel(result.image, (2, 32)) == (255, 0, 0)
    assert rgb_pixel(result.image, (61, 32)) == engine.color(engine.jobs[0])
    assert (engine.jobs[0]["inpainting_fill"], engine.jobs[0]["inpaint_full_res"]) == (1, False)


async def test_an_unknown_sampler_is_refused_before_sending(
    image_model: imagegen.Model, server: Loopback
) -> None:
    for name in ("euler_b", "tcd"):
        with pytest.raises(md.InvalidRequestError) as caught:
            await image_model.generate("a", sampler=name)
        assert caught.value.field == "sampler"
        assert "Euler a" in caught.value.details["known"]
    assert image_requests(server) == []
    # Not in the built-in table, but in the server's list.
    await image_model.generate("a", sampler="DPM adaptive", **SMALL)
    assert image_requests(server)[0].json["sampler_name"] == "DPM adaptive"


async def test_before_1_9_the_sampler_name_includes_the_scheduler(serve: Serve) -> None:
    engine = Automatic1111(old=True)
    async with md.Automatic1111(serve(engine).url) as provider:
        assert await provider.schedulers() == []
        await provider.image_model("current").generate(
            "a", sampler="dpmpp_2m", scheduler="karras", **SMALL
        )
        assert engine.jobs[0]["body"]["sampler_name"] == "DPM++ 2M Karras"
        with pytest.raises(md.UnsupportedError):
            await provider.image_model("current").generate("a", sampler="euler", scheduler="karras")


async def test_steps_and_previews_are_events(
    image_model: imagegen.Model, engine: Automatic1111
) -> None:
    engine.hold_at = 3
    events: list[Any] = []
    async with image_model.stream("a", previews=1, **SMALL) as stream:
        async for event in stream:
            events.append(event)
            if any(isinstance(e, imagegen.Preview) for e in events):
                engine.release()
    kinds = [type(event).__name__ for event in events]
    assert kinds[-1] == "Done"
    assert imagegen.Step(3, 6) in events
    assert kinds.count("Preview") == 1
    assert isinstance(
        next(e for e in events if isinstance(e, imagegen.Preview)).image, md.ImagePart
    )


async def test_the_steps_of_several_images_are_added_up(
    image_model: imagegen.Model, engine: Automatic1111
) -> None:
    engine.hold_at = 2
    steps: list[imagegen.Step] = []
    async with image_model.stream("a", n=2, **SMALL) as stream:
        async for event in stream:
            if isinstance(event, imagegen.Step):
                steps.append(event)
                # A poll may come before the step at which the engine waits.
                if event == imagegen.Step(2, 12):
                    engine.release()
    assert imagegen.Step(2, 12) in steps
    assert {step.total for step in steps} == {12}


@pytest.mark.parametrize("current_task", ["id", "null", "absent"])
async def test_another_users_job_is_reported_as_queued_not_as_progress(
    serve: Serve, current_task: Any
) -> None:
    """Two clients of one server.

    The other's progress is not reported as ours, and its job is not interrupted.
    """
    engine = Automatic1111(current_task=current_task)
    engine.hold_at = 3
    url = serve(engine).url
    other, ours = md.Automatic1111(url), md.Automatic1111(url)
    events: list[Any] = []
    async with other, ours, anyio.create_task_group() as group:
        group.start_soon(partial(other.image_model("current").generate, "theirs", **SMALL))
        await to_thread.run_sync(engine.reached.wait, 5)
        with anyio.CancelScope() as scope:
            async with ours.image_model("current").stream("mine", **SMALL) as stream:
                async for event in stream:
                    events.append(event)
                    scope.cancel()
        assert events == [imagegen.Queued(None)]
        assert engine.interrupts == 0
        engine.release()
    assert next(job["prompt"] for job in engine.jobs) == "theirs"


@pytest.mark.parametrize(
    ("current_task", "exclusive", "interrupts"),
    [("id", False, 1), ("null", False, 0), ("absent", False, 0), ("null", True, 1)],
)
async def test_a_cancelled_call_interrupts_its_own_job_only(
    serve: Serve, current_task: Any, exclusive: bool, interrupts: int
) -> None:
    engine = Automatic1111(current_task=current_task)
    engine.hold_at = 3
    async with md.Automatic1111(serve(engine).url, exclusive=exclusive) as provider:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(provider.image_model("current").generate, "a", **SMALL))
            await to_thread.run_sync(engine.reached.wait, 5)
            group.cancel_scope.cancel()
        assert engine.interrupts == interrupts
        engine.release()


async def test_leaving_a_stream_early_interrupts(
    image_model: imagegen.Model, engine: Automatic1111
) -> None:
    engine.hold_at = 3
    async with image_model.stream("a", **SMALL) as stream:
        async for event in stream:
            assert isinstance(event, imagegen.Step)
            break
    assert engine.interrupts == 1


async def test_an_interrupted_image_has_a_warning(
    image_model: imagegen.Model, engine: Automatic1111
) -> None:
    engine.hold_at = 3
    async with anyio.create_task_group() as group:
        results: list[imagegen.Result] = []

        async def draw() -> None:
            results.append(await image_model.generate("a", **SMALL))

        group.start_soon(draw)
        await to_thread.run_sync(engine.reached.wait, 5)
        with engine.changed:
            engine.state.interrupted = True
            engine.changed.notify_all()
    assert [warning.code for warning in results[0].warnings] == ["INTERRUPTED"]


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
async def test_every_image_format_of_the_server_is_read(serve: Serve, kind: str) -> None:
    engine = Automatic1111(samples_format=kind, return_grid=True)
    async with md.Automatic1111(serve(engine).url) as provider:
        result = await provider.image_model("current").generate("a", n=2, seed=3, **SMALL)
    assert len(result.images) == 2, "the contact sheet is no image"
    assert {image.mime for image in result.images} == {
        {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}[kind]
    }
    assert [detail.seed for detail in result.details] == [3, 4]


async def test_failures_are_typed(
    engine: Automatic1111, image_model: imagegen.Model, serve: Serve
) -> None:
    engine.failure = "oom"
    with pytest.raises(md.BackendError, match="out of memory") as caught:
        await image_model.generate("a", **SMALL)
    assert caught.value.code == "GPU_OOM"
    engine.failure = "nan"
    with pytest.raises(md.BackendError, match="NaN"):
        await image_model.generate("a", **SMALL)
    async with md.Automatic1111(serve(Automatic1111(api=False)).url) as provider:
        with pytest.raises(md.NotFoundError):
            await provider.image_model("current").generate("a")
        assert not (await provider.health()).ok
    async with md.Automatic1111(
        serve(reply_with(http_response({"images": [], "info": ""}))).url
    ) as provider:
        with pytest.raises(md.NoImageError):
            await provider.image_model("current").generate("a")


async def test_basic_auth_is_sent_and_redacted(serve: Serve) -> None:
    url = serve(Automatic1111(auth=("bob", "secret-word"))).url
    async with md.Automatic1111(url, api_key="bob:secret-word") as provider:
        await provider.image_model("current").generate("a", **SMALL)
        assert "secret-word" not in repr(vars(provider))
    async with md.Automatic1111(
        url, api_key="bob:wrong-word", retries=md.Retries(attempts=1)
    ) as provider:
        with pytest.raises(md.AuthenticationError) as caught:
            await provider.image_model("current").generate("a", **SMALL)
        token = base64.b64encode(b"bob:wrong-word").decode()
        assert "wrong-word" not in repr(caught.value) + json.dumps(caught.value.to_dict())
        assert token not in json.dumps(caught.value.to_dict())


async def test_a_checkpoint_is_selected_and_a_different_one_is_a_warning(
    provider: md.Automatic1111, engine: Automatic1111
) -> None:
    titles = [info.id for info in await provider.models()]
    assert [info.loaded for info in await provider.models()] == [True, False]
    result = await provider.image_model(titles[1]).generate("a", **SMALL)
    assert engine.jobs[0]["model"] == "sd_xl_base_1.0"
    assert result.warnings == ()
    assert result.model == titles[1]
    result = await provider.image_model("an-unknown-model").generate("a", **SMALL)
    assert [warning.code for warning in result.warnings] == ["MODEL_DIFFERS"]


async def test_extra_settings_are_sent_to_this_provider_only(
    image_model: imagegen.Model, engine: Automatic1111
) -> None:
    extra = {
        "automatic1111": {
            "subseed_strength": 0.5,
            "override_settings": {"CLIP_stop_at_last_layers": 2},
        },
        "openai": {"width": 8},
    }
    await image_model.generate("a", extra=extra, **SMALL)
    assert (
        engine.jobs[0]["subseed_strength"],
        engine.jobs[0]["clip_skip"],
        engine.jobs[0]["width"],
    ) == (0.5, 2, 64)


async def test_the_server_lists_its_samplers_loras_and_options(
    provider: md.Automatic1111, engine: Automatic1111, image: Image
) -> None:
    assert "Euler a" in await provider.samplers()
    assert "Karras" in await provider.schedulers()
    assert await provider.loras() == ["ink-wash", "pixel-art"]
    assert "Lanczos" in await provider.upscalers()
    assert (await provider.options())["samples_format"] == "png"
    await provider.set_options(jpeg_quality=50)
    assert engine.options["jpeg_quality"] == 50
    large = await provider.upscale(image(16, 8), 2, "Lanczos")
    assert (large.width, large.height) == (32, 16)
    for arguments, field in (((image(16, 8), 99), "scale"), ((b"x",), "image")):
        with pytest.raises(md.InvalidRequestError) as caught:
            await provider.upscale(*arguments)  # type: ignore[arg-type]
        assert caught.value.field == field
    assert engine.jobs == []


def test_sync_methods_work_like_async_ones(
    provider: md.Automatic1111, engine: Automatic1111, image: Image
) -> None:
    with provider.image_model("current").stream_sync("a", **SMALL) as stream:
        assert type(list(stream)[-1]).__name__ == "Done"
    assert provider.upscale_sync(image(8, 8), 2, "Nearest").width == 16
    assert provider.samplers_sync()
    assert provider.loras_sync()
    assert provider.upscalers_sync()
    assert provider.schedulers_sync()
    provider.set_options_sync(jpeg_quality=10)
    assert provider.options_sync()["jpeg_quality"] == 10


# Requests and the bodies that they are encoded as
BODIES: dict[str, tuple[SDAPICodec, str, imagegen.Request, str, dict[str, Any]]] = {
    "nothing set": (SDAPICodec(), "current", imagegen.Request("a"), "txt2img", {"prompt": "a"}),
    "a checkpoint": (
        SDAPICodec(),
        "sdxl",
        imagegen.Request("a", n=2),
        "txt2img",
        {"prompt": "a", "override_settings": {"sd_model_checkpoint": "sdxl"}, "n_iter": 2},
    ),
    "zeros are values": (
        SDAPICodec(),
        "current",
        imagegen.Request("a", seed=0, cfg_scale=0),
        "txt2img",
        {"prompt": "a", "cfg_scale": 0.0, "seed": 0},
    ),
    "all": (
        SDAPICodec(),
        "current",
        imagegen.Request(
            "a",
            size="64x48",
            steps=8,
            negative_prompt="b",
            sampler="euler_a",
            scheduler="karras",
            seed=7,
        ),
        "txt2img",
        {
            "prompt": "a",
            "width": 64,
            "height": 48,
            "negative_prompt": "b",
            "steps": 8,
            "sampler_name": "Euler a",
            "scheduler": "Karras",
            "seed": 7,
        },
    ),
    "sd-server": (
        SDAPICodec(sdcpp=True),
        "x",
        imagegen.Request("a", n=2, sampler="dpmpp_2m", scheduler="normal", seed=1),
        "txt2img",
        {
            "prompt": "a",
            "sampler_name": "dpm++2m",
            "scheduler": "discrete",
            "seed": 1,
            "batch_size": 2,
        },
    ),
    "llama-swap": (
        SDAPICodec(sdcpp=True, names_model=True),
        "sdxl",
        imagegen.Request("a", seed=1),
        "txt2img",
        {"prompt": "a", "model": "sdxl", "seed": 1},
    ),
}


@pytest.mark.parametrize(
    ("codec", "model", "request_", "route", "body"), BODIES.values(), ids=BODIES.keys()
)
def test_a_request_is_encoded_as_expected(
    codec: SDAPICodec, model: str, request_: imagegen.Request, route: str, body: dict[str, Any]
) -> None:
    http_request = codec.encode_request(model, codec.adapt(model, request_)[0])
    assert (http_request.method, http_request.path, http_request.content_type) == (
        "POST",
        f"/sdapi/v1/{route}",
        "application/json",
    )
    assert isinstance(http_request.body, bytes)
    assert json.loads(http_request.body) == body


def test_a_reply_without_info_is_decoded(image: Image) -> None:
    codec = SDAPICodec(sdcpp=True)
    reply = codec.reply_decoder(Limits())
    reply.feed(
        json.dumps(
            {
                "images": [image().to_base64()],
                "parameters": {"init_images": ["x" * 30_000]},
                "info": "",
            }
        ).encode()
    )
    result = codec.decode_reply(reply, imagegen.Request("a", seed=9), Limits())
    assert result.details[0].seed == 9
    assert result.raw["parameters"] == {"init_images": ["<elided>"]}


async def test_an_image_of_another_aspect_is_cropped_not_stretched(
    image_model: imagegen.Model, engine: Automatic1111, image: Image
) -> None:
    await image_model.generate("a", images=[image(64, 48)], size="64x64", steps=2)
    assert (engine.jobs[0]["resize_mode"], engine.jobs[0]["width"], engine.jobs[0]["height"]) == (
        1,
        64,
        64,
    )


@pytest.mark.anyio
@pytest.mark.parametrize("streamed", [False, True])
async def test_progress_queries_end_with_the_total_limit_of_the_call(
    serve: Serve, streamed: bool
) -> None:
    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if "progress" in request.path:
                peer.wait_for_close(10)
            else:
                peer.reply({"images": [PIXEL], "info": "{}", "parameters": {}})

    async with md.Automatic1111(serve(handler).url, timeout=md.Timeout(total=0.4)) as provider:
        model = provider.image_model("m")
        with anyio.move_on_after(3) as scope:
            if streamed:
                # The server is asked whether it is idle, and that takes all of the time.
                async with model.stream("a fox") as stream:
                    with pytest.raises(md.DeadlineExceededError):
                        await anext(stream)
            else:
                await model.generate("a fox")
        assert not scope.cancelled_caught
