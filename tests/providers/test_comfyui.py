"""Images, workflows and queries of the ComfyUI provider.

The loopback server really runs graphs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import majordomo as md
from majordomo import imagegen
from tests.servers.comfyui import ComfyUI, color
from tests.servers.hashed_images import fingerprint
from tests.servers.http_helpers import Response
from tests.servers.plain_client import halves, png
from tests.support.comfyui_calls import (
    FOX,
    custom_workflow,
)
from tests.support.loopback import Handler, Loopback, Peer
from tests.support.sample_images import rgb_pixel

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]


async def test_settings_reach_the_sampler(serve: Serve) -> None:
    server = ComfyUI(checkpoints=["a.safetensors", "b c.safetensors"])
    async with md.ComfyUI(serve(server).url) as provider:
        result = await provider.image_model("b c.safetensors").generate(
            "a fox",
            negative_prompt="blurry",
            seed=7,
            steps=3,
            cfg_scale=4.5,
            sampler="euler_a",
            scheduler="karras",
            size="64x72",
            n=2,
        )
    settings = {
        "ckpt_name": "b c.safetensors",
        "positive": "a fox",
        "negative": "blurry",
        "seed": 7,
        "steps": 3,
        "cfg": 4.5,
        "sampler_name": "euler_ancestral",
        "scheduler": "karras",
        "width": 64,
        "height": 72,
    }
    assert [rgb_pixel(image) for image in result.images] == [color(settings), color(settings, 1)]
    assert [detail.seed for detail in result.details] == [7, 7]
    assert result.details[0].actual_size == result.details[0].requested_size == (64, 72)
    assert (result.provider, result.model, result.warnings) == ("comfyui", "b c.safetensors", ())
    assert result.raw["images"][0].startswith("<image/png")


def test_sync_methods_work_like_async_ones(serve: Serve) -> None:
    with md.ComfyUI(serve(ComfyUI()).url) as provider:
        result = provider.image_model("current").generate_sync(
            "a fox", seed=7, size="64x64", steps=3
        )
        with provider.image_model("current").stream_sync(
            "a fox", seed=8, size="64x64", steps=3
        ) as stream:
            events = list(stream)
        assert "euler" in provider.samplers_sync()
        assert "karras" in provider.schedulers_sync()
    assert rgb_pixel(result.image) == color(FOX)
    assert result.model == "model.safetensors"
    assert isinstance(events[-1], imagegen.Done)


async def test_image_to_image(serve: Serve) -> None:
    server = ComfyUI()
    input_image = md.ImagePart(png((9, 8, 7), (64, 64)))
    async with md.ComfyUI(serve(server).url) as provider:
        model = provider.image_model("current")
        again = await model.generate(
            "a fox", seed=7, steps=3, images=[input_image], strength=0.5, n=2
        )
        other = await model.generate("a fox", seed=7, steps=3, images=[input_image])
        larger = await model.generate("a fox", seed=7, steps=3, images=[input_image], size="128x64")
    facts = FOX | {"init": fingerprint(input_image.data)}
    assert [rgb_pixel(image) for image in again.images] == [
        color(facts | {"denoise": 0.5}, index) for index in (0, 1)
    ]
    assert rgb_pixel(other.image) == color(facts | {"denoise": 0.75})
    assert (larger.image.width, larger.image.height) == (128, 64)
    assert sorted(server.inputs)[0].count(" (") == 1, (
        "the server renames what is there already, and its name is used"
    )


async def test_only_white_areas_of_a_mask_are_repainted(serve: Serve) -> None:
    input_image = md.ImagePart(png((9, 8, 7), (64, 64)))
    mask = md.ImagePart(halves(0, 255, (64, 64)))
    async with md.ComfyUI(serve(ComfyUI()).url) as provider:
        result = await provider.image_model("current").generate(
            "a fox", seed=7, steps=3, images=[input_image], mask=mask, strength=1
        )
    assert rgb_pixel(result.image, (2, 2)) == (9, 8, 7)
    assert rgb_pixel(result.image, (60, 2)) == color(FOX | {"init": fingerprint(input_image.data)})


@pytest.mark.parametrize("own_loader", [True, False])
async def test_a_mask_is_stored_in_the_alpha_channel_if_the_workflow_needs_it(
    serve: Serve, own_loader: bool
) -> None:
    workflow = custom_workflow(latent_image=["12", 0])
    workflow |= {
        "10": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "11": {"class_type": "LoadImage", "inputs": {"image": "y.png"}},
        "12": {
            "class_type": "VAEEncodeForInpaint",
            "inputs": {
                "pixels": ["10", 0],
                "vae": ["4", 2],
                "mask": ["11" if own_loader else "10", 1],
                "grow_mask_by": 6,
            },
        },
    }
    if not own_loader:
        del workflow["11"]
    input_image = md.ImagePart(png((9, 8, 7), (64, 64)))
    mask = md.ImagePart(halves(0, 255, (64, 64)))
    async with md.ComfyUI(serve(ComfyUI()).url, workflow=workflow) as provider:
        result = await provider.image_model("current").generate(
            "a fox", seed=7, images=[input_image], mask=mask
        )
    assert rgb_pixel(result.image, (2, 2)) == (9, 8, 7)
    assert rgb_pixel(result.image, (60, 2)) == color(FOX | {"init": fingerprint(input_image.data)})


async def test_a_custom_workflow(serve: Serve, tmp_path: Path) -> None:
    server = ComfyUI(checkpoints=["model.safetensors", "other.safetensors"])
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(custom_workflow(seed=5, cfg=3.0)))
    url = serve(server).url
    async with (
        md.ComfyUI(url, workflow=file) as provider,
        md.ComfyUI(url, workflow=str(file)) as second,
    ):
        own = await provider.image_model("current").generate("a fox", size="64x64")
        set_ = await second.image_model("other.safetensors").generate(
            "a fox", size="64x64", seed=6, extra={"comfyui": {"3": {"inputs": {"cfg": 2.0}}}}
        )
    assert rgb_pixel(own.image) == color(FOX | {"seed": 5, "cfg": 3.0})
    assert own.details[0].seed == 5
    assert (own.model, set_.model) == ("model.safetensors", "other.safetensors")
    assert [warning.code for warning in own.warnings] == ["SEED_DEFAULT"]
    assert rgb_pixel(set_.image) == color(
        FOX | {"seed": 6, "cfg": 2.0, "ckpt_name": "other.safetensors"}
    )
    assert set(server.submitted[-1]) == {"prompt", "client_id", "prompt_id"}


async def test_without_a_slot_for_n_several_calls_are_made(serve: Serve) -> None:
    server = ComfyUI()
    slots = {"prompt": ("6", "text"), "seed": ("3", "seed")}
    workflow = custom_workflow()
    workflow["5"]["inputs"] |= {"width": 64, "height": 64}
    workflow["16"] = {
        "class_type": "RepeatLatentBatch",
        "inputs": {"samples": ["5", 0], "amount": 1},
    }
    workflow["3"]["inputs"]["latent_image"] = ["16", 0]
    async with md.ComfyUI(serve(server).url, workflow=workflow, slots=slots) as provider:
        result = await provider.image_model("current").generate("a fox", seed=7, n=2)
    assert [rgb_pixel(image) for image in result.images] == [
        color(FOX | {"seed": seed}) for seed in (7, 8)
    ]
    assert [detail.seed for detail in result.details] == [7, 8]


@pytest.mark.parametrize("wrong", ["nowhere.json", {"nodes": [], "links": []}])
def test_an_invalid_workflow_is_refused_by_the_constructor(wrong: Any) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        md.ComfyUI(workflow=wrong)
    assert caught.value.details["field"] == "workflow"
    with pytest.raises(md.ConfigurationError) as caught:
        md.ComfyUI(slots={"prompt": ("6", "text")})
    assert caught.value.details["field"] == "slots"


async def test_strict_refuses_a_field_without_a_slot(serve: Serve) -> None:
    server = serve(ComfyUI())
    async with md.ComfyUI(server.url, strict=True) as provider:
        with pytest.raises(md.UnsupportedError) as caught:
            await provider.image_model("current").generate("a fox", quality="high", seed=1)
    assert caught.value.field == "quality"
    assert not [request for request in server.requests if request.method == "POST"]


@pytest.mark.parametrize("old", [True, False])
async def test_a_repeated_request_generates_a_new_image(serve: Serve, old: bool) -> None:
    """An old server returns no image for a graph that it has run already."""
    server = ComfyUI(old=old)
    async with md.ComfyUI(serve(server).url) as provider:
        model = provider.image_model("current")
        first, second = [
            await model.generate("a fox", seed=7, size="64x64", steps=3) for _ in range(2)
        ]
    assert rgb_pixel(first.image) == rgb_pixel(second.image)
    assert len(set(server.files)) == 2


async def test_a_job_without_an_image_raises_no_image_error(serve: Serve) -> None:
    """PreviewImage has no file name that could make the graph unique."""
    workflow = custom_workflow()
    workflow["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    async with md.ComfyUI(serve(ComfyUI(old=True)).url, workflow=workflow) as provider:
        model = provider.image_model("current")
        result = await model.generate("a fox", seed=7, size="64x64")
        with pytest.raises(md.NoImageError, match="seed"):
            await model.generate("a fox", seed=7, size="64x64")
    assert rgb_pixel(result.image) == color(FOX)


# Queries


async def test_checkpoints_samplers_and_schedulers_are_listed(serve: Serve) -> None:
    server = ComfyUI(checkpoints=["a.safetensors", "b.safetensors"])
    for combo in (False, True):
        server.combo = combo
        async with md.ComfyUI(serve(server).url) as provider:
            assert [model.id for model in await provider.models()] == [
                "a.safetensors",
                "b.safetensors",
            ]
            assert "dpmpp_2m" in await provider.samplers()
            assert "beta" in await provider.schedulers()
            assert (await provider.health()).ok
            with pytest.raises(md.InvalidRequestError) as caught:
                await provider.image_model("current").generate("a", sampler="nonsense")
            assert caught.value.field == "sampler"
            with pytest.raises(md.UnsupportedError):
                await provider.image_model("current").generate("a", sampler="tcd")


async def test_a_model_string_sets_address_checkpoint_and_steps(serve: Serve) -> None:
    address = serve(ComfyUI()).url.removeprefix("http://")
    async with md.image_model(f"comfyui+http://{address}/model.safetensors?steps=3") as model:
        result = await model.generate("a fox", seed=7, size="64x64")
    assert rgb_pixel(result.image) == color(FOX)


async def test_the_base_url_may_have_a_path(serve: Serve) -> None:
    async with md.ComfyUI(f"{serve(ComfyUI()).url}/api") as provider:
        assert (
            await provider.image_model("current").generate("a fox", size="64x64", seed=1)
        ).images


async def test_a_missing_checkpoint_raises_not_found_error(serve: Serve) -> None:
    async with (
        md.ComfyUI(serve(ComfyUI()).url) as provider,
        md.ComfyUI(serve(ComfyUI(checkpoints=[])).url) as empty,
    ):
        with pytest.raises(md.NotFoundError, match=r"none\.safetensors") as caught:
            await provider.image_model("none.safetensors").generate("a", size="64x64")
        assert caught.value.code == "MODEL_NOT_FOUND"
        with pytest.raises(md.NotFoundError):
            await empty.image_model("current").generate("a", size="64x64")


async def test_a_refused_graph_names_the_node_and_the_reason(serve: Serve) -> None:
    async with md.ComfyUI(serve(ComfyUI()).url) as provider:
        with pytest.raises(
            md.InvalidRequestError, match=r"node 3: Value 200\.0 bigger than max of 100\.0"
        ):
            await provider.image_model("current").generate("a", cfg_scale=200, size="64x64")


async def test_an_output_that_is_skipped_is_a_warning(serve: Serve) -> None:
    workflow = custom_workflow() | {
        "20": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["8"]}}
    }
    async with md.ComfyUI(serve(ComfyUI()).url, workflow=workflow) as provider:
        result = await provider.image_model("current").generate("a fox", seed=7, size="64x64")
    assert [warning.code for warning in result.warnings] == ["OUTPUTS_SKIPPED"]


async def test_images_beyond_the_limit_are_not_downloaded(serve: Serve) -> None:
    async with md.ComfyUI(serve(ComfyUI()).url, limits=md.Limits(max_images=2)) as provider:
        workflow_of_four = {"5": {"inputs": {"batch_size": 4}}}
        result = await provider.image_model("current").generate(
            "a fox", seed=7, size="64x64", extra={"comfyui": workflow_of_four}
        )
    assert len(result.images) == 2
    assert [warning.code for warning in result.warnings] == ["IMAGES_NOT_FETCHED"]


async def test_extra_settings_of_other_providers_are_not_merged(serve: Serve) -> None:
    server = ComfyUI()
    async with md.ComfyUI(serve(server).url) as provider:
        model = provider.image_model("current")
        await model.generate(
            "a fox", seed=7, size="64x64", extra={"automatic1111": {"3": {"inputs": {"cfg": 1.0}}}}
        )
        with pytest.raises(md.InvalidRequestError) as caught:
            await model.generate(
                "a fox", seed=7, images=[md.ImagePart(png())], extra={"comfyui": {"client_id": "x"}}
            )
    assert server.inputs == {}, "refused before anything was sent"
    assert caught.value.field == "extra"
    assert server.jobs[0]["cfg"] == 7.0
    assert len(server.submitted) == 1


async def test_without_a_list_of_samplers_the_built_in_table_is_used(serve: Serve) -> None:
    server = ComfyUI()

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            peer.send(
                (
                    Response(404, b"", None)
                    if request.path.endswith("/KSampler")
                    else server.answer(request)
                ).sent
            )

    async with md.ComfyUI(serve(handler).url) as provider:
        await provider.image_model("current").generate(
            "a fox", seed=7, size="64x64", sampler="euler_a"
        )
    assert server.jobs[0]["sampler_name"] == "euler_ancestral"
