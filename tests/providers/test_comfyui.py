"""ComfyUI through the loopback server, which really runs graphs.

On both event loops and with the sync API, with and without the websocket.
"""

from __future__ import annotations

import copy
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio import to_thread

import majordomo as md
from majordomo import imagegen
from majordomo.dialects.comfyui.templates import template
from tests.servers.comfyui import ComfyUI, color
from tests.servers.hashed_images import fingerprint
from tests.servers.http_helpers import Response, json_response
from tests.servers.plain_client import halves, png
from tests.support.loopback import Handler, Loopback, Peer

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
CUSTOM_WORKFLOW = template().graph | {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "model.safetensors"}}
}
FOX: dict[str, Any] = {"positive": "a fox", "seed": 7, "width": 64, "height": 64, "steps": 3}


def custom_workflow(**inputs: Any) -> dict[str, Any]:
    """Return a custom workflow with these inputs of its sampler."""
    workflow = copy.deepcopy(CUSTOM_WORKFLOW)
    workflow["3"]["inputs"] |= {"steps": 3, **inputs}
    return workflow


def dot(image: md.ImagePart, x: int = 0, y: int = 0) -> Any:
    return image.to_pil().convert("RGB").getpixel((x, y))


async def wait_until(done: Callable[..., bool], *args: Any) -> None:
    assert await to_thread.run_sync(done, *args)


@asynccontextmanager
async def running_call(
    model: imagegen.Model, **fields: Any
) -> AsyncIterator[tuple[list[Any], anyio.CancelScope]]:
    """Run a call in the background.

    Yields its outcome, which is filled after the block, and its cancel scope.
    """
    outcome: list[Any] = []

    async def call() -> None:
        try:
            outcome.append(await model.generate("a fox", seed=7, size="64x64", steps=3, **fields))
        except md.MajordomoError as error:
            outcome.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        yield outcome, group.cancel_scope


# Images


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
    assert [dot(image) for image in result.images] == [color(settings), color(settings, 1)]
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
    assert dot(result.image) == color(FOX)
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
    assert [dot(image) for image in again.images] == [
        color(facts | {"denoise": 0.5}, index) for index in (0, 1)
    ]
    assert dot(other.image) == color(facts | {"denoise": 0.75})
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
    assert dot(result.image, 2, 2) == (9, 8, 7)
    assert dot(result.image, 60, 2) == color(FOX | {"init": fingerprint(input_image.data)})


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
    assert dot(result.image, 2, 2) == (9, 8, 7)
    assert dot(result.image, 60, 2) == color(FOX | {"init": fingerprint(input_image.data)})


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
    assert dot(own.image) == color(FOX | {"seed": 5, "cfg": 3.0})
    assert own.details[0].seed == 5
    assert (own.model, set_.model) == ("model.safetensors", "other.safetensors")
    assert [warning.code for warning in own.warnings] == ["SEED_DEFAULT"]
    assert dot(set_.image) == color(FOX | {"seed": 6, "cfg": 2.0, "ckpt_name": "other.safetensors"})
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
    assert [dot(image) for image in result.images] == [
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
    assert dot(first.image) == dot(second.image)
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
    assert dot(result.image) == color(FOX)


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
    assert dot(result.image) == color(FOX)


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


# How jobs end


@pytest.mark.parametrize(
    ("kind", "code"), [("torch.OutOfMemoryError", "GPU_OOM"), ("RuntimeError", "GENERATION_FAILED")]
)
async def test_a_failed_job_raises_backend_error(serve: Serve, kind: str, code: str) -> None:
    server = ComfyUI()
    server.failing = (kind, "CUDA out of memory")
    async with md.ComfyUI(serve(server).url) as provider:
        with pytest.raises(
            md.BackendError, match=r"node 3 \(KSampler\) failed: CUDA out of memory"
        ) as caught:
            await provider.image_model("current").generate("a", size="64x64")
    assert (caught.value.code, caught.value.provider, caught.value.model) == (
        code,
        "comfyui",
        "current",
    )
    assert len(server.submitted) == 1, "a job is not sent twice"


async def test_a_job_interrupted_on_the_server_raises_job_cancelled_error(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    handler = serve(server)
    async with (
        md.ComfyUI(handler.url) as provider,
        running_call(provider.image_model("current")) as (outcome, _),
    ):
        await wait_until(server.reached)
        async with httpx.AsyncClient() as client:
            await client.post(f"{handler.url}/interrupt")
    assert isinstance(outcome[0], md.JobCancelledError)


async def test_a_restarted_server_raises_job_lost_error(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    async with (
        md.ComfyUI(serve(server).url) as provider,
        running_call(provider.image_model("current")) as (outcome, _),
    ):
        await wait_until(server.reached)
        server.lose_jobs()
    assert isinstance(outcome[0], md.JobLostError)


async def test_a_history_entry_without_a_status_is_accepted(serve: Serve) -> None:
    server = ComfyUI()
    server.history_without_status = True
    async with md.ComfyUI(serve(server).url) as provider:
        assert (
            await provider.image_model("current").generate("a fox", size="64x64", seed=7)
        ).images


@pytest.mark.parametrize("old", [True, False])
async def test_a_canceled_call_interrupts_its_own_job(serve: Serve, old: bool) -> None:
    server = ComfyUI(old=old)
    server.hold_at(1)
    async with md.ComfyUI(serve(server).url) as provider:
        async with running_call(provider.image_model("current")) as (outcome, scope):
            await wait_until(server.reached)
            scope.cancel()
        await wait_until(server.idle)
    assert outcome == []
    assert [entry["status"]["messages"][-1][0] for entry in server.history.values()] == [
        "execution_interrupted"
    ]


@pytest.mark.parametrize("old", [True, False])
async def test_a_canceled_queued_call_leaves_the_queue_and_interrupts_no_other_job(
    serve: Serve, old: bool
) -> None:
    server = ComfyUI(old=old)
    server.hold_at(1)
    other_job = server.submit(custom_workflow())
    async with md.ComfyUI(serve(server).url) as provider:
        await wait_until(server.reached)
        async with running_call(provider.image_model("current")) as (_, scope):
            await wait_until(server.pending)
            scope.cancel()
        await wait_until(server.pending, 0)
        assert server.running == other_job
    assert server.interrupts == 0


async def test_a_timeout_cancels_the_job(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    async with md.ComfyUI(serve(server).url, timeout=md.Timeout(first_byte=0.3)) as provider:
        with pytest.raises(md.DeadlineExceededError):
            await provider.image_model("current").generate("a", size="64x64")
        await wait_until(server.idle)
    assert server.interrupts == 1


async def test_a_refused_upload_raises_invalid_request_error(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path == "/upload/image":
                peer.send(Response(413, b"Maximum request body size 1 exceeded", "text/plain").sent)
            else:
                peer.send(ComfyUI().answer(request).sent)

    server = serve(handler)
    async with md.ComfyUI(server.url) as provider:
        with pytest.raises(md.InvalidRequestError) as caught:
            await provider.image_model("current").generate("a", images=[md.ImagePart(png())])
    assert caught.value.code == "TOO_LARGE"
    assert "/prompt" not in [request.path for request in server.requests]


@pytest.mark.parametrize(
    ("path", "answer", "kind"),
    [
        ("/prompt", json_response({}), md.BadResponseError),
        ("/prompt", json_response({"prompt_id": 5}), md.BadResponseError),
        ("/prompt", Response(200, b""), md.BadResponseError),
        (
            "/prompt",
            json_response({"error": "no prompt", "node_errors": []}, 400),
            md.InvalidRequestError,
        ),
        ("/prompt", Response(403, b"", None), md.PermissionDeniedError),
        ("/prompt", Response(500, b"500 Internal Server Error", "text/plain"), md.BackendError),
        ("/history/", json_response([]), md.BadResponseError),
        ("/view", Response(404, b"", None), md.NoImageError),
        ("/view", Response(200, b"<html>", "text/html"), md.BadResponseError),
        ("/view", Response(200, png()[:-20], "image/png"), md.BadResponseError),
        (
            "/object_info/CheckpointLoaderSimple",
            json_response({"CheckpointLoaderSimple": 5}),
            md.NotFoundError,
        ),
    ],
)
async def test_invalid_replies_raise_typed_errors(
    serve: Serve, path: str, answer: Response, kind: type[Exception]
) -> None:
    server = ComfyUI()

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            peer.send((answer if request.path.startswith(path) else server.answer(request)).sent)

    async with md.ComfyUI(serve(handler).url, retries=md.Retries(attempts=1)) as provider:
        with pytest.raises(kind):
            await provider.image_model("current").generate("a", size="64x64")


# Streams without a websocket


async def stream_events(model: imagegen.Model, **fields: Any) -> list[imagegen.ImageEvent]:
    async with model.stream(
        "a fox", **({"seed": 7, "size": "64x64", "steps": 3} | fields)
    ) as stream:
        return [event async for event in stream]


async def test_the_queue_position_is_an_event(serve: Serve) -> None:
    server = ComfyUI()
    server.websocket = False
    server.hold_at(1)
    for seed in (1, 2):
        server.submit(custom_workflow(seed=seed))
    async with (
        md.ComfyUI(serve(server).url) as provider,
        provider.image_model("current").stream("a fox", size="64x64", seed=7) as stream,
    ):
        events = []
        async for event in stream:
            events.append(event)
            if event == imagegen.Queued(2):
                server.release()
    assert events[0] == imagegen.Queued(2)
    assert isinstance(events[-1], imagegen.Done)
    assert all(isinstance(event, imagegen.Queued) for event in events[:-1])


async def test_previews_without_a_websocket_are_a_warning(serve: Serve) -> None:
    server = ComfyUI()
    server.websocket = False
    async with md.ComfyUI(serve(server).url) as provider:
        done = (await stream_events(provider.image_model("current"), previews=2))[-1]
    assert isinstance(done, imagegen.Done)
    assert [(warning.code, warning.field) for warning in done.result.warnings] == [
        ("UNSUPPORTED_FIELD", "previews")
    ]


async def test_a_custom_transport_works_without_a_websocket(serve: Serve) -> None:
    server = ComfyUI()
    async with (
        httpx.AsyncClient() as client,
        md.ComfyUI(serve(server).url, transport=client) as provider,
    ):
        events = await stream_events(
            provider.image_model("current"), images=[md.ImagePart(png(size=(64, 64)))]
        )
    assert [type(event) for event in events] == [imagegen.Done]


async def test_leaving_a_stream_cancels_its_job(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    async with md.ComfyUI(serve(server).url) as provider:
        finished = threading.Event()
        async with anyio.create_task_group() as group:

            async def listen() -> None:
                async with provider.image_model("current").stream("a fox", size="64x64") as stream:
                    async for _ in stream:
                        pass
                finished.set()

            group.start_soon(listen)
            await wait_until(server.reached)
            group.cancel_scope.cancel()
        await wait_until(server.idle)
    assert not finished.is_set()
    assert server.interrupts == 1


# Streams over a websocket


async def held_events(
    provider: md.ComfyUI, server: ComfyUI, **fields: Any
) -> list[imagegen.ImageEvent]:
    """Return the events of a stream whose job is held at its second step.

    It is released once that step, or the preview of it, has been emitted.
    """
    server.hold_at(2)
    last: type = imagegen.Preview if fields.get("previews") else imagegen.Step
    events: list[imagegen.ImageEvent] = []
    async with provider.image_model("current").stream(
        "a fox", **({"seed": 7, "size": "64x64", "steps": 3} | fields)
    ) as stream:
        async for event in stream:
            events.append(event)
            if isinstance(event, last) and imagegen.Step(2, 3) in events:
                server.release()
    return events


@pytest.mark.parametrize("old", [True, False])
async def test_steps_and_previews_are_events(serve: Serve, old: bool) -> None:
    server = ComfyUI(old=old)
    handler = serve(server)
    async with md.ComfyUI(handler.url, api_key="user-key") as provider:
        events = await held_events(provider, server, previews=1)
        progress_events = [event for event in events if not isinstance(event, imagegen.Queued)]
        assert progress_events[:2] == [imagegen.Step(1, 3), imagegen.Step(2, 3)]
        assert isinstance(progress_events[2], imagegen.Preview)
        assert (progress_events[2].image.mime, progress_events[2].image.width) == ("image/jpeg", 8)
        assert isinstance(progress_events[-1], imagegen.Done)
        assert progress_events[3:-1] in ([imagegen.Step(3, 3)], [])
        assert dot(progress_events[-1].result.image) == color(FOX)
        assert progress_events[-1].result.warnings == ()
        await wait_until(server.listening, 0)
    paths = [request.path.partition("?")[0] for request in handler.requests]
    assert paths.index("/ws") < paths.index("/prompt")
    (handshake,) = [request for request in handler.requests if request.path.startswith("/ws")]
    assert handshake.path == f"/ws?clientId={server.submitted[0]['client_id']}"
    assert handshake.headers["authorization"] == "Bearer user-key"
    assert "origin" not in handshake.headers


async def test_without_a_listener_no_websocket_is_opened(serve: Serve) -> None:
    handler = serve(ComfyUI())
    async with md.ComfyUI(handler.url) as provider:
        await provider.image_model("current").generate("a fox", size="64x64", seed=7)
    assert not [request for request in handler.requests if request.path.startswith("/ws")]


def test_a_sync_stream_yields_steps(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(2)
    events = []
    with (
        md.ComfyUI(serve(server).url) as provider,
        provider.image_model("current").stream_sync(
            "a fox", seed=7, size="64x64", steps=3
        ) as stream,
    ):
        for event in stream:
            events.append(event)
            if event == imagegen.Step(2, 3):
                server.release()
    assert imagegen.Step(1, 3) in events
    assert isinstance(events[-1], imagegen.Done)


@pytest.mark.parametrize("old", [True, False])
async def test_events_of_other_jobs_are_ignored(serve: Serve, old: bool) -> None:
    """The events of a job without a client id, and every interrupt, are sent to all clients."""
    server = ComfyUI(old=old)
    server.hold_at(1)
    other = server.submit(custom_workflow(steps=1))
    await wait_until(server.reached)
    events: list[Any] = []
    async with (
        md.ComfyUI(serve(server).url) as provider,
        provider.image_model("current").stream(
            "a fox", seed=7, size="64x64", steps=3, previews=3
        ) as stream,
    ):
        async for event in stream:
            events.append(event)
            if event == imagegen.Queued(1):
                server.say("executing", {"node": "3", "prompt_id": other})
                for step in (2, 3):
                    server.say(
                        "progress",
                        {"value": step, "max": 9}
                        | ({} if old else {"prompt_id": other, "node": "3"}),
                    )
                server.show(b"\0\0\0\1\0\0\0\2" + png())
                server.say(
                    "execution_interrupted",
                    {"prompt_id": other, "node_id": "3", "node_type": "KSampler", "executed": []},
                )
                server.say("executing", {"node": None, "prompt_id": other})
                # The other job ends, and this one begins.
                server.hold_at(2)
            if event == imagegen.Step(2, 3):
                server.release()
    steps = [event for event in events if isinstance(event, imagegen.Step)]
    assert {step.total for step in steps} == {3}
    assert steps[:2] == [imagegen.Step(1, 3), imagegen.Step(2, 3)]
    assert all(
        event.image.mime == "image/jpeg" for event in events if isinstance(event, imagegen.Preview)
    )
    assert isinstance(events[-1], imagegen.Done)


def broken_frame(server: ComfyUI) -> None:
    server.send_raw(b"\xff\xff\xff\xff")


def huge_message(server: ComfyUI) -> None:
    server.show(b"\0" * 3000)


def invalid_json(server: ComfyUI) -> None:
    server.show(b"")
    server.say("progress", "nonsense")
    server.say("progress_state", {"nodes": [], "prompt_id": None})


@pytest.mark.parametrize(
    "break_websocket", [ComfyUI.drop_sockets, broken_frame, huge_message, invalid_json]
)
async def test_a_broken_websocket_does_not_lose_the_image(
    serve: Serve, break_websocket: Callable[[ComfyUI], None]
) -> None:
    server = ComfyUI()
    server.hold_at(2)
    events = []
    async with (
        md.ComfyUI(serve(server).url, limits=md.Limits(max_image_bytes=2000)) as provider,
        provider.image_model("current").stream("a fox", seed=7, size="64x64", steps=3) as stream,
    ):
        async for event in stream:
            events.append(event)
            if event == imagegen.Step(2, 3):
                break_websocket(server)
                server.release()
    assert isinstance(events[-1], imagegen.Done)
    assert dot(events[-1].result.image) == color(FOX)


async def test_a_silent_websocket_does_not_lose_the_image(serve: Serve) -> None:
    server = ComfyUI()
    server.silent = True
    async with md.ComfyUI(serve(server).url) as provider:
        events = await stream_events(provider.image_model("current"))
    assert isinstance(events[-1], imagegen.Done)


async def test_without_wsproto_the_image_arrives_without_events(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "majordomo.transport.websocket", None)
    server = ComfyUI()
    async with md.ComfyUI(serve(server).url) as provider:
        events = await stream_events(provider.image_model("current"))
    assert [type(event) for event in events] == [imagegen.Done]


async def test_pings_are_answered(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    async with (
        md.ComfyUI(serve(server).url) as provider,
        provider.image_model("current").stream("a fox", seed=7, size="64x64", steps=3) as stream,
    ):
        async for event in stream:
            if event == imagegen.Step(1, 3):
                server.ping()
                await wait_until(server.ponged)
                server.release()


@pytest.mark.parametrize("websocket", [True, False])
async def test_a_failure_of_a_stream_is_typed(serve: Serve, websocket: bool) -> None:
    server = ComfyUI()
    server.websocket = websocket
    server.failing = ("torch.OutOfMemoryError", "CUDA out of memory")
    async with md.ComfyUI(serve(server).url) as provider:
        with pytest.raises(md.BackendError) as caught:
            await stream_events(provider.image_model("current"))
    assert caught.value.code == "GPU_OOM"
    await wait_until(server.listening, 0)


@pytest.mark.parametrize("websocket", [True, False])
async def test_an_interrupted_stream_raises_job_cancelled_error(
    serve: Serve, websocket: bool
) -> None:
    server = ComfyUI()
    server.websocket = websocket
    server.hold_at(1)
    outcome: list[Any] = []
    handler = serve(server)
    async with md.ComfyUI(handler.url) as provider, anyio.create_task_group() as group:

        async def call() -> None:
            try:
                outcome.append(await stream_events(provider.image_model("current")))
            except md.MajordomoError as error:
                outcome.append(error)

        group.start_soon(call)
        await wait_until(server.reached)
        async with httpx.AsyncClient() as client:
            await client.post(f"{handler.url}/interrupt")
    assert isinstance(outcome[0], md.JobCancelledError)


async def test_leaving_a_stream_closes_its_websocket(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    async with md.ComfyUI(serve(server).url) as provider:
        async with provider.image_model("current").stream(
            "a fox", seed=7, size="64x64", steps=3
        ) as stream:
            async for event in stream:
                if isinstance(event, imagegen.Step):
                    break
        await wait_until(server.idle)
        await wait_until(server.listening, 0)
    assert server.interrupts == 1


async def test_a_job_whose_id_has_not_arrived_is_canceled(serve: Serve) -> None:
    """An old server chooses the job's id, but it knows which client submitted the job."""
    server = ComfyUI(old=True)
    server.hold_at(1)
    other_job = server.submit(custom_workflow())
    await wait_until(server.reached)
    queued = threading.Event()

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            answer = server.answer(request)
            if request.path == "/prompt":
                queued.set()
                peer.wait_for_close()
                return
            peer.send(answer.sent)

    async with md.ComfyUI(serve(handler).url) as provider:
        async with running_call(provider.image_model("current")) as (_, scope):
            await wait_until(queued.wait, 5)
            scope.cancel()
        assert server.pending(0, 0)
    assert server.running == other_job
    assert server.interrupts == 0


async def test_images_beyond_the_limit_are_not_downloaded(serve: Serve) -> None:
    async with md.ComfyUI(serve(ComfyUI()).url, limits=md.Limits(max_images=2)) as provider:
        workflow_of_four = {"5": {"inputs": {"batch_size": 4}}}
        result = await provider.image_model("current").generate(
            "a fox", seed=7, size="64x64", extra={"comfyui": workflow_of_four}
        )
    assert len(result.images) == 2
    assert [warning.code for warning in result.warnings] == ["IMAGES_NOT_FETCHED"]


async def test_a_queue_too_large_to_decode_does_not_lose_the_image(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    queue_was_read = threading.Event()

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.path == "/queue" and request.method == "GET":
                peer.send(Response(200, b" " * 40_000 + b"{}").sent)
                queue_was_read.set()
            else:
                peer.send(server.answer(request).sent)

    async with (
        md.ComfyUI(serve(handler).url, limits=md.Limits(max_reply_bytes=20_000)) as provider,
        running_call(provider.image_model("current")) as (outcome, _),
    ):
        await wait_until(queue_was_read.wait, 5)
        server.release()
    assert dot(outcome[0].image) == color(FOX)


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
