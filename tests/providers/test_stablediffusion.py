"""sd-server, directly and behind llama-swap: every route gives the engine the same settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import anyio
import pytest
from anyio import to_thread
from PIL import Image

import majordomo as md
from majordomo import imagegen
from tests.servers.hashed_images import fingerprint
from tests.servers.llamaswap import LlamaSwap
from tests.servers.plain_client import halves
from tests.servers.stable_diffusion import StableDiffusion, color
from tests.support.loopback import Handler, Loopback
from tests.support.sample_images import rgb_pixel
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
ImageFactory = Callable[..., md.ImagePart]
Api = Literal["native", "sdapi", "openai"]
pytestmark = pytest.mark.anyio
APIS = ["native", "sdapi", "openai"]
ROUTES = [*APIS, "swap+tag", "swap+sdapi"]
QUICK = md.Retries(attempts=1)


@pytest.fixture
def engine() -> Iterator[StableDiffusion]:
    engine = StableDiffusion(size=(64, 64))
    yield engine
    engine.release()


@pytest.fixture
def provider(
    request: pytest.FixtureRequest, engine: StableDiffusion, serve: Serve
) -> Iterator[md.StableDiffusion | md.LlamaSwap]:
    """Return a provider that reaches the engine by the route of the parameter."""
    route = request.param
    if route in APIS:
        provider: md.StableDiffusion | md.LlamaSwap = md.StableDiffusion(
            serve(engine).url, api=route, retries=QUICK
        )
    else:
        url = serve(LlamaSwap({"tiny": engine})).url
        provider = md.LlamaSwap(
            url, images="openai+tag" if route == "swap+tag" else "sdapi", retries=QUICK
        )
    yield provider
    provider.close()


@pytest.fixture
def model(provider: md.StableDiffusion | md.LlamaSwap) -> imagegen.Model:
    return provider.image_model("tiny")


every_route = pytest.mark.parametrize("provider", ROUTES, indirect=True)


@every_route
async def test_every_setting_reaches_the_engine(
    model: imagegen.Model, engine: StableDiffusion
) -> None:
    result = await model.generate(
        "a red fox",
        size="96x64",
        steps=9,
        cfg_scale=2.5,
        negative_prompt="rain",
        sampler="DPM++ 2M",
        scheduler="karras",
        seed=0,
    )
    job = engine.jobs[0]
    expected = {
        "prompt": "a red fox",
        "negative_prompt": "rain",
        "seed": 0,
        "steps": 9,
        "cfg_scale": 2.5,
        "width": 96,
        "height": 64,
    }
    assert expected.items() <= job.items()
    assert (job["sampler"], job["scheduler"]) == ("dpm++2m", "karras")
    assert rgb_pixel(result.image) == color(job)
    detail = result.details[0]
    assert (detail.seed, detail.requested_size, detail.sent_size, detail.actual_size) == (
        0,
        (96, 64),
        (96, 64),
        (96, 64),
    )
    assert result.warnings == ()
    assert (result.model, result.provider) == ("tiny", model.provider)


@every_route
async def test_an_unset_field_keeps_the_engines_default(
    model: imagegen.Model, engine: StableDiffusion
) -> None:
    result = await model.generate("a red fox")
    defaults = {"steps": 20, "cfg_scale": 7.0, "sampler": "euler_a", "negative_prompt": ""}
    assert defaults.items() <= engine.jobs[0].items()
    assert result.details[0].seed == engine.jobs[0]["seed"], "read from the image or the answer"


@every_route
async def test_the_seeds_of_a_batch_count_up(
    model: imagegen.Model, engine: StableDiffusion
) -> None:
    result = await model.generate("a", n=3, seed=5, size="64x64")
    assert [detail.seed for detail in result.details] == [5, 6, 7]
    assert [rgb_pixel(image) for image in result.images] == [
        color(engine.jobs[0], index) for index in range(3)
    ]
    assert len(engine.jobs) == 1


@every_route
async def test_more_images_than_a_batch_are_several_calls(
    model: imagegen.Model, engine: StableDiffusion
) -> None:
    result = await model.generate("a", n=11, seed=5, size="64x64")
    assert sorted((job["seed"], job["batch_count"]) for job in engine.jobs) == [(5, 8), (13, 3)]
    assert [detail.seed for detail in result.details] == list(range(5, 16))
    assert result.warnings == ()


@every_route
async def test_image_to_image_converts_the_input(
    model: imagegen.Model, engine: StableDiffusion, image: ImageFactory
) -> None:
    # The server cannot decode a grayscale image.
    input_image = image(64, 48, "white", kind="WEBP", mode="L")
    result = await model.generate("a", images=[input_image], strength=0.4, seed=1)
    job = engine.jobs[0]
    assert job["init"] == fingerprint(Image.new("RGB", (64, 48), "white"))
    assert (job["strength"], job["width"], job["height"]) == (0.4, 64, 48)
    assert (result.image.width, result.image.height) == (64, 48)


@every_route
async def test_black_areas_of_a_mask_are_kept(
    model: imagegen.Model, engine: StableDiffusion, image: ImageFactory
) -> None:
    # The left half is kept, the right one repainted. Its size is not that of the image.
    mask = md.ImagePart(halves(0, 255, (32, 32)))
    result = await model.generate(
        "a", images=[image(64, 64, "red")], mask=mask, strength=1.0, seed=1
    )
    assert rgb_pixel(result.image, (3, 32)) == (255, 0, 0)
    assert rgb_pixel(result.image, (60, 32)) == color(engine.jobs[0])


@every_route
async def test_further_images_are_references(
    model: imagegen.Model, engine: StableDiffusion, image: ImageFactory
) -> None:
    await model.generate("a", images=[image(64, 64, "red"), image(64, 64, "blue")], seed=1)
    job = engine.jobs[0]
    assert job["init"] == fingerprint(Image.new("RGB", (64, 64), "red"))
    assert fingerprint(Image.new("RGB", (64, 64), "blue")) in job["references"]


@every_route
async def test_an_ambiguous_mask_is_refused(
    model: imagegen.Model, engine: StableDiffusion, image: ImageFactory
) -> None:
    for mask in (image(64, 64, (0, 0, 0, 0), mode="RGBA"), image(64, 32, "white")):
        with pytest.raises(md.InvalidRequestError) as caught:
            await model.generate("a", images=[image(64, 64)], mask=mask)
        assert caught.value.field == "mask"
    assert engine.jobs == []


@every_route
async def test_an_unknown_sampler_is_refused_with_the_nearest_names(
    model: imagegen.Model, engine: StableDiffusion
) -> None:
    for fields, nearest in ({"sampler": "euler_b"}, "euler"), ({"scheduler": "karass"}, "karras"):
        with pytest.raises(md.InvalidRequestError) as caught:
            await model.generate("a", **fields)
        assert caught.value.field == next(iter(fields))
        assert nearest in caught.value.details["nearest"]
        assert nearest in str(caught.value)
    with pytest.raises(md.UnsupportedError):
        await model.generate("a", sampler="deis")
    assert engine.jobs == []


@every_route
async def test_an_untrusted_prompt_cannot_change_settings(
    model: imagegen.Model, engine: StableDiffusion
) -> None:
    hostile = (
        'a cat <sd_cpp_extra_args>{"sample_params":{"sample_steps":99},'
        '"negative_prompt":"mine"}</sd_cpp_extra_args>'
    )
    await model.generate(hostile, seed=3)
    assert (engine.jobs[0]["steps"], engine.jobs[0]["negative_prompt"]) == (20, "")
    assert engine.jobs[0]["prompt"].startswith("a cat <")


@every_route
async def test_aspect_and_megapixels_are_resolved_to_a_size(
    model: imagegen.Model, engine: StableDiffusion
) -> None:
    result = await model.generate("a", aspect="16:9", megapixels=0.03)
    assert (engine.jobs[0]["width"], engine.jobs[0]["height"]) == (256, 128)
    assert (result.details[0].requested_size, result.details[0].sent_size) == (None, (256, 128))


@every_route
async def test_a_size_that_the_engine_rounds_is_a_warning(model: imagegen.Model) -> None:
    result = await model.generate("a", size="65x70", seed=1)
    assert [(w.code, w.field) for w in result.warnings] == [("SIZE_DIFFERS", "size")]
    assert (result.details[0].requested_size, result.details[0].actual_size) == ((65, 70), (72, 72))


@every_route
async def test_a_failed_generation_raises_backend_error(
    model: imagegen.Model, engine: StableDiffusion
) -> None:
    engine.failing = True
    with pytest.raises(md.BackendError, match="no results"):
        await model.generate("a")
    assert len(engine.jobs) == 1, "an image job is not sent twice"


@every_route
async def test_a_reply_without_an_image_raises_no_image_error(
    model: imagegen.Model, engine: StableDiffusion
) -> None:
    engine.empty_data = True
    with pytest.raises(md.NoImageError):
        await model.generate("a")


@every_route
async def test_unsupported_fields_are_warnings(model: imagegen.Model) -> None:
    result = await model.generate(
        "a", seed=1, quality="high", background="transparent", previews=2, strength=0.5
    )
    assert {(w.code, w.field) for w in result.warnings} == {
        ("UNSUPPORTED_FIELD", name) for name in ("quality", "background", "previews", "strength")
    }


@every_route
def test_sync_methods_work_like_async_ones(model: imagegen.Model, engine: StableDiffusion) -> None:
    with model.stream_sync("a", seed=4, size="64x64") as stream:
        events = list(stream)
    assert [type(event).__name__ for event in events][-1] == "Done"
    assert rgb_pixel(model.generate_sync("a", seed=4, size="64x64").image) == rgb_pixel(
        stream.result.image
    )


async def test_extra_settings_are_sent_to_this_provider_only(
    engine: StableDiffusion, serve: Serve
) -> None:
    server = serve(engine)
    async with md.StableDiffusion(server.url) as provider:
        await provider.image_model("m").generate(
            "a",
            seed=1,
            extra={
                "stablediffusion": {"sample_params": {"eta": 0.5}},
                "automatic1111": {"width": 8},
                "clip_skip": 2,
            },
        )
    body = server.requests[0].json
    assert body["sample_params"] == {"eta": 0.5}
    assert body["clip_skip"] == 2
    assert "width" not in body
    assert "automatic1111" not in body


async def test_queue_positions_are_events_and_calls_run_in_order(
    engine: StableDiffusion, serve: Serve
) -> None:
    """One image at a time for all models of a provider; the other calls get their position."""
    engine.hold()
    events_by_model: dict[str, list[Any]] = {"one": [], "two": [], "three": []}
    provider = md.StableDiffusion(serve(engine).url)

    async def draw(name: str) -> None:
        async with provider.image_model(name).stream("a") as stream:
            async for event in stream:
                events_by_model[name].append(
                    event.position if isinstance(event, imagegen.Queued) else type(event).__name__
                )

    async with anyio.create_task_group() as group:
        for number, name in enumerate(events_by_model):
            group.start_soon(draw, name)
            if number == 0:
                await to_thread.run_sync(engine.reached)
            else:
                await wait_until(lambda name=name: events_by_model[name])
        assert len(engine.jobs) == 1
        engine.release()
    assert events_by_model["one"][-1] == "Done"
    assert events_by_model["two"] == [1, "Done"]
    assert events_by_model["three"] == [2, 1, "Done"]
    await provider.aclose()


async def test_waiting_for_a_slot_is_limited_by_the_queue_timeout(
    engine: StableDiffusion, serve: Serve
) -> None:
    engine.hold()
    async with (
        md.StableDiffusion(serve(engine).url, timeout=md.Timeout(queue=0.2)) as provider,
        anyio.create_task_group() as group,
    ):
        group.start_soon(provider.image_model("m").generate, "a")
        await to_thread.run_sync(engine.reached)
        with pytest.raises(md.DeadlineExceededError) as caught:
            await provider.image_model("m").generate("b")
        assert caught.value.phase == "queue"
        engine.release()


async def test_the_servers_queue_position_is_an_event_and_a_queued_job_is_cancelled(
    engine: StableDiffusion, serve: Serve
) -> None:
    engine.hold("queued")
    url = serve(engine).url
    # Two clients, each with a queue of its own.
    first, second = (md.StableDiffusion(url).image_model("m") for _ in range(2))
    positions: list[int | None] = []
    ids: list[str] = []

    async def follow() -> None:
        async with second.stream("b") as stream:
            async for event in stream:
                assert isinstance(event, imagegen.Queued)
                positions.append(event.position)

    async with anyio.create_task_group() as group:
        group.start_soon(first.generate, "a")
        await wait_until(lambda: len(engine.jobs) >= 1)
        group.start_soon(follow)
        await wait_until(lambda: positions)
        ids += list(engine._process.jobs)
        group.cancel_scope.cancel()
    assert positions == [2]
    assert [engine.status(job) for job in ids] == ["cancelled", "cancelled"]


async def test_cancelling_a_running_job_sends_a_cancel_request(
    engine: StableDiffusion, serve: Serve
) -> None:
    engine.hold()
    server = serve(engine)
    async with md.StableDiffusion(server.url) as provider:
        with anyio.move_on_after(5) as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(partial(provider.image_model("m").generate, "a"))
                await to_thread.run_sync(engine.reached)
                await wait_until(
                    lambda: any("/jobs/" in request.path for request in server.requests)
                )
                group.cancel_scope.cancel()
        assert not scope.cancelled_caught
    assert server.requests[-1].path.endswith("/cancel")


async def test_a_restarted_server_raises_job_lost_error(
    engine: StableDiffusion, serve: Serve
) -> None:
    engine.hold()
    async with md.StableDiffusion(serve(engine).url) as provider:
        with pytest.raises(md.JobLostError) as caught:
            async with anyio.create_task_group() as group:

                async def restart() -> None:
                    await to_thread.run_sync(engine.reached)
                    engine.lose_jobs()

                group.start_soon(restart)
                try:
                    await provider.image_model("m").generate("a")
                except md.MajordomoError as error:
                    caught_error = error
                else:
                    raise AssertionError("the job was lost")
            raise caught_error
    assert caught.value.retryable


async def test_a_full_server_queue_raises_rate_limit_error(
    serve: Serve, engine: StableDiffusion
) -> None:
    engine.hold("queued")
    url = serve(engine).url
    async with (
        md.StableDiffusion(url, max_concurrency=70, retries=QUICK) as provider,
        anyio.create_task_group() as group,
    ):
        for _ in range(64):
            group.start_soon(provider.image_model("m").generate, "a")
        await wait_until(lambda: len(engine.jobs) >= 64)
        with pytest.raises(md.RateLimitError, match="full"):
            await provider.image_model("m").generate("b")
        group.cancel_scope.cancel()


@pytest.mark.parametrize("api", APIS)
async def test_models_and_health_generate_nothing(
    engine: StableDiffusion, serve: Serve, api: Api
) -> None:
    async with md.StableDiffusion(serve(engine).url, api=api) as provider:
        assert [info.id for info in await provider.models()] == ["tiny-image"]
        assert (await provider.health()).ok
    assert engine.jobs == []


async def test_a_sampler_is_checked_against_the_servers_list(
    engine: StableDiffusion, serve: Serve
) -> None:
    server = serve(engine)
    async with md.StableDiffusion(server.url) as provider:
        assert "res_2s" in engine.capabilities["samplers"]
        await provider.image_model("m").generate("a", sampler="res_2s")
        assert engine.jobs[0]["sampler"] == "res_2s"
        with pytest.raises(md.InvalidRequestError):
            await provider.image_model("m").generate("a", sampler="unknown_sampler")
    assert "/sdcpp/v1/capabilities" in [request.path for request in server.requests]


async def test_a_loading_model_is_reported_by_the_stream(
    engine: StableDiffusion, serve: Serve
) -> None:
    swap = LlamaSwap({"tiny": engine}, instant=False)
    events: list[Any] = []
    async with md.LlamaSwap(serve(swap).url) as provider, anyio.create_task_group() as group:

        async def follow() -> None:
            async with provider.image_model("tiny").stream("a", seed=1) as stream:
                async for event in stream:
                    events.append(event)

        async def load() -> None:
            await wait_until(lambda: events)
            swap.loaded("tiny")

        group.start_soon(follow)
        group.start_soon(load)
    assert [type(event).__name__ for event in events] == ["Loading", "Done"]
    assert events[0].message == "starting"


@pytest.mark.parametrize("generation", ["old", "middle", "current"])
@pytest.mark.parametrize("images", ["openai+tag", "sdapi"])
async def test_llamaswap_errors_of_three_generations_are_typed(
    engine: StableDiffusion, serve: Serve, generation: str, images: Literal["openai+tag", "sdapi"]
) -> None:
    swap = LlamaSwap({"tiny": engine}, generation=generation)
    async with md.LlamaSwap(serve(swap).url, images=images, retries=QUICK) as provider:
        with pytest.raises(md.NotFoundError):
            await provider.image_model("absent").generate("a")
        swap.broken.add("tiny")
        with pytest.raises(md.BackendError, match="exited prematurely"):
            await provider.image_model("tiny").generate("a")
        swap.broken.clear()
        engine.crash = True
        with pytest.raises(md.BackendError) as caught:
            await provider.image_model("tiny").generate("a")
        assert caught.value.code == "UPSTREAM_DIED"
        swap.keys = {"k"}
        with pytest.raises(md.AuthenticationError):
            await provider.image_model("tiny").generate("a")


async def test_a_lora_from_the_servers_list_can_be_used(serve: Serve) -> None:
    engine = StableDiffusion(size=(64, 64), loras=("sub/one.safetensors",))
    async with md.StableDiffusion(serve(engine).url) as provider:
        (path,) = await provider.loras()
        await provider.image_model("m").generate(
            "a", seed=1, extra={"stablediffusion": {"lora": [{"path": path, "multiplier": 0.8}]}}
        )
    assert engine.jobs[0]["loras"] == {"sub/one.safetensors": 0.8}
