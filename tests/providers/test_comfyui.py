"""ComfyUI through the loopback server: graphs that really run, on both event loops and blocking, with and without its websocket."""

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
from tests.servers.http_helpers import Answer, said
from tests.servers.plain_client import halves, png
from tests.support.loopback import Handler, Loopback, Peer

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]
OTHERS = template().graph | {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "model.safetensors"}}
}
FOX: dict[str, Any] = {"positive": "a fox", "seed": 7, "width": 64, "height": 64, "steps": 3}


def others(**inputs: Any) -> dict[str, Any]:
    """A graph of somebody else's."""
    made = copy.deepcopy(OTHERS)
    made["3"]["inputs"] |= {"steps": 3, **inputs}
    return made


def dot(image: md.ImagePart, x: int = 0, y: int = 0) -> Any:
    return image.to_pil().convert("RGB").getpixel((x, y))


async def until(done: Callable[..., bool], *args: Any) -> None:
    assert await to_thread.run_sync(done, *args)


@asynccontextmanager
async def drawing(
    model: imagegen.Model, **fields: Any
) -> AsyncIterator[tuple[list[Any], anyio.CancelScope]]:
    """A call under way: its outcome, once the block is left, and what cancels it."""
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
    assert result.details[0].size_got == result.details[0].size_asked == (64, 72)
    assert (result.provider, result.model, result.warnings) == ("comfyui", "b c.safetensors", ())
    assert result.raw["images"][0].startswith("<image/png")


def test_the_blocking_color(serve: Serve) -> None:
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


async def test_images_begin_with_images(serve: Serve) -> None:
    server = ComfyUI()
    begun = md.ImagePart(png((9, 8, 7), (64, 64)))
    async with md.ComfyUI(serve(server).url) as provider:
        model = provider.image_model("current")
        again = await model.generate("a fox", seed=7, steps=3, images=[begun], strength=0.5, n=2)
        other = await model.generate("a fox", seed=7, steps=3, images=[begun])
        larger = await model.generate("a fox", seed=7, steps=3, images=[begun], size="128x64")
    facts = FOX | {"init": fingerprint(begun.data)}
    assert [dot(image) for image in again.images] == [
        color(facts | {"denoise": 0.5}, index) for index in (0, 1)
    ]
    assert dot(other.image) == color(facts | {"denoise": 0.75})
    assert (larger.image.width, larger.image.height) == (128, 64)
    assert sorted(server.inputs)[0].count(" (") == 1, (
        "the server renames what is there already, and its name is used"
    )


async def test_only_the_white_of_a_mask_is_repainted(serve: Serve) -> None:
    begun = md.ImagePart(png((9, 8, 7), (64, 64)))
    mask = md.ImagePart(halves(0, 255, (64, 64)))
    async with md.ComfyUI(serve(ComfyUI()).url) as provider:
        result = await provider.image_model("current").generate(
            "a fox", seed=7, steps=3, images=[begun], mask=mask, strength=1
        )
    assert dot(result.image, 2, 2) == (9, 8, 7)
    assert dot(result.image, 60, 2) == color(FOX | {"init": fingerprint(begun.data)})


@pytest.mark.parametrize("own_loader", [True, False])
async def test_a_mask_goes_into_alpha_where_the_workflow_wants_it_there(
    serve: Serve, own_loader: bool
) -> None:
    workflow = others(latent_image=["12", 0])
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
    begun = md.ImagePart(png((9, 8, 7), (64, 64)))
    mask = md.ImagePart(halves(0, 255, (64, 64)))
    async with md.ComfyUI(serve(ComfyUI()).url, workflow=workflow) as provider:
        result = await provider.image_model("current").generate(
            "a fox", seed=7, images=[begun], mask=mask
        )
    assert dot(result.image, 2, 2) == (9, 8, 7)
    assert dot(result.image, 60, 2) == color(FOX | {"init": fingerprint(begun.data)})


async def test_a_workflow_of_the_callers(serve: Serve, tmp_path: Path) -> None:
    server = ComfyUI(checkpoints=["model.safetensors", "other.safetensors"])
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(others(seed=5, cfg=3.0)))
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


async def test_without_a_slot_for_the_number_there_are_several_calls(serve: Serve) -> None:
    server = ComfyUI()
    slots = {"prompt": ("6", "text"), "seed": ("3", "seed")}
    workflow = others()
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
def test_a_workflow_that_cannot_be_used_is_said_at_once(wrong: Any) -> None:
    with pytest.raises(md.ConfigurationError) as caught:
        md.ComfyUI(workflow=wrong)
    assert caught.value.details["field"] == "workflow"
    with pytest.raises(md.ConfigurationError) as caught:
        md.ComfyUI(slots={"prompt": ("6", "text")})
    assert caught.value.details["field"] == "slots"


async def test_strict_refuses_what_has_no_slot(serve: Serve) -> None:
    server = serve(ComfyUI())
    async with md.ComfyUI(server.url, strict=True) as provider:
        with pytest.raises(md.UnsupportedError) as caught:
            await provider.image_model("current").generate("a fox", quality="high", seed=1)
    assert caught.value.field == "quality"
    assert not [seen for seen in server.seen if seen.method == "POST"]


@pytest.mark.parametrize("old", [True, False])
async def test_the_same_request_twice_is_drawn_twice(serve: Serve, old: bool) -> None:
    """An old server answers a graph it has seen without an image."""
    server = ComfyUI(old=old)
    async with md.ComfyUI(serve(server).url) as provider:
        model = provider.image_model("current")
        first, second = [
            await model.generate("a fox", seed=7, size="64x64", steps=3) for _ in range(2)
        ]
    assert dot(first.image) == dot(second.image)
    assert len(set(server.files)) == 2


async def test_an_end_without_an_image_is_an_error(serve: Serve) -> None:
    """PreviewImage has no file name to make the graph a new one."""
    workflow = others()
    workflow["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}
    async with md.ComfyUI(serve(ComfyUI(old=True)).url, workflow=workflow) as provider:
        model = provider.image_model("current")
        result = await model.generate("a fox", seed=7, size="64x64")
        with pytest.raises(md.NoImageError, match="seed"):
            await model.generate("a fox", seed=7, size="64x64")
    assert dot(result.image) == color(FOX)


# What the server says of itself


async def test_it_lists_its_checkpoints_samplers_and_schedulers(serve: Serve) -> None:
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


async def test_a_model_string(serve: Serve) -> None:
    address = serve(ComfyUI()).url.removeprefix("http://")
    async with md.image_model(f"comfyui+http://{address}/model.safetensors?steps=3") as model:
        result = await model.generate("a fox", seed=7, size="64x64")
    assert dot(result.image) == color(FOX)


async def test_a_prefix_of_routes(serve: Serve) -> None:
    async with md.ComfyUI(f"{serve(ComfyUI()).url}/api") as provider:
        assert (
            await provider.image_model("current").generate("a fox", size="64x64", seed=1)
        ).images


async def test_a_checkpoint_that_is_not_there(serve: Serve) -> None:
    async with (
        md.ComfyUI(serve(ComfyUI()).url) as provider,
        md.ComfyUI(serve(ComfyUI(checkpoints=[])).url) as empty,
    ):
        with pytest.raises(md.NotFoundError, match=r"none\.safetensors") as caught:
            await provider.image_model("none.safetensors").generate("a", size="64x64")
        assert caught.value.code == "MODEL_NOT_FOUND"
        with pytest.raises(md.NotFoundError):
            await empty.image_model("current").generate("a", size="64x64")


async def test_a_refused_graph_says_which_node_and_why(serve: Serve) -> None:
    async with md.ComfyUI(serve(ComfyUI()).url) as provider:
        with pytest.raises(
            md.InvalidRequestError, match=r"node 3: Value 200\.0 bigger than max of 100\.0"
        ):
            await provider.image_model("current").generate("a", cfg_scale=200, size="64x64")


async def test_an_output_that_is_skipped_is_a_warning(serve: Serve) -> None:
    workflow = others() | {
        "20": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["8"]}}
    }
    async with md.ComfyUI(serve(ComfyUI()).url, workflow=workflow) as provider:
        result = await provider.image_model("current").generate("a fox", seed=7, size="64x64")
    assert [warning.code for warning in result.warnings] == ["OUTPUTS_SKIPPED"]


# How jobs end


@pytest.mark.parametrize(
    ("kind", "code"), [("torch.OutOfMemoryError", "GPU_OOM"), ("RuntimeError", "GENERATION_FAILED")]
)
async def test_a_job_that_fails(serve: Serve, kind: str, code: str) -> None:
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


async def test_a_job_that_somebody_interrupts(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    handler = serve(server)
    async with (
        md.ComfyUI(handler.url) as provider,
        drawing(provider.image_model("current")) as (outcome, _),
    ):
        await until(server.reached)
        async with httpx.AsyncClient() as client:
            await client.post(f"{handler.url}/interrupt")
    assert isinstance(outcome[0], md.JobCancelledError)


async def test_a_restarted_server_has_lost_the_job(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    async with (
        md.ComfyUI(serve(server).url) as provider,
        drawing(provider.image_model("current")) as (outcome, _),
    ):
        await until(server.reached)
        server.lose_jobs()
    assert isinstance(outcome[0], md.JobLostError)


async def test_an_entry_without_a_status_is_as_good(serve: Serve) -> None:
    server = ComfyUI()
    server.nulled = True
    async with md.ComfyUI(serve(server).url) as provider:
        assert (
            await provider.image_model("current").generate("a fox", size="64x64", seed=7)
        ).images


@pytest.mark.parametrize("old", [True, False])
async def test_a_cancelled_call_interrupts_its_own_job(serve: Serve, old: bool) -> None:
    server = ComfyUI(old=old)
    server.hold_at(1)
    async with md.ComfyUI(serve(server).url) as provider:
        async with drawing(provider.image_model("current")) as (outcome, scope):
            await until(server.reached)
            scope.cancel()
        await until(server.idle)
    assert outcome == []
    assert [entry["status"]["messages"][-1][0] for entry in server.history.values()] == [
        "execution_interrupted"
    ]


@pytest.mark.parametrize("old", [True, False])
async def test_a_cancelled_call_that_waits_leaves_the_queue_and_interrupts_nobody(
    serve: Serve, old: bool
) -> None:
    server = ComfyUI(old=old)
    server.hold_at(1)
    mine = server.submit(others())
    async with md.ComfyUI(serve(server).url) as provider:
        await until(server.reached)
        async with drawing(provider.image_model("current")) as (_, scope):
            await until(server.pending)
            scope.cancel()
        await until(server.pending, 0)
        assert server.running == mine
    assert server.interrupts == 0


async def test_a_limit_withdraws_the_job_too(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    async with md.ComfyUI(serve(server).url, timeout=md.Timeout(first_byte=0.3)) as provider:
        with pytest.raises(md.DeadlineExceededError):
            await provider.image_model("current").generate("a", size="64x64")
        await until(server.idle)
    assert server.interrupts == 1


async def test_an_upload_that_is_too_large(serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            if seen.path == "/upload/image":
                peer.send(Answer(413, b"Maximum request body size 1 exceeded", "text/plain").sent)
            else:
                peer.send(ComfyUI().answer(seen).sent)

    server = serve(handler)
    async with md.ComfyUI(server.url) as provider:
        with pytest.raises(md.InvalidRequestError) as caught:
            await provider.image_model("current").generate("a", images=[md.ImagePart(png())])
    assert caught.value.code == "TOO_LARGE"
    assert "/prompt" not in [seen.path for seen in server.seen]


@pytest.mark.parametrize(
    ("path", "answer", "kind"),
    [
        ("/prompt", said({}), md.BadResponseError),
        ("/prompt", said({"prompt_id": 5}), md.BadResponseError),
        ("/prompt", Answer(200, b""), md.BadResponseError),
        ("/prompt", said({"error": "no prompt", "node_errors": []}, 400), md.InvalidRequestError),
        ("/prompt", Answer(403, b"", None), md.PermissionDeniedError),
        ("/prompt", Answer(500, b"500 Internal Server Error", "text/plain"), md.BackendError),
        ("/history/", said([]), md.BadResponseError),
        ("/view", Answer(404, b"", None), md.NoImageError),
        ("/view", Answer(200, b"<html>", "text/html"), md.BadResponseError),
        ("/view", Answer(200, png()[:-20], "image/png"), md.BadResponseError),
        (
            "/object_info/CheckpointLoaderSimple",
            said({"CheckpointLoaderSimple": 5}),
            md.NotFoundError,
        ),
    ],
)
async def test_answers_that_cannot_be(
    serve: Serve, path: str, answer: Answer, kind: type[Exception]
) -> None:
    server = ComfyUI()

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            peer.send((answer if seen.path.startswith(path) else server.answer(seen)).sent)

    async with md.ComfyUI(serve(handler).url, retries=md.Retries(attempts=1)) as provider:
        with pytest.raises(kind):
            await provider.image_model("current").generate("a", size="64x64")


# Listening, without a websocket


async def heard(model: imagegen.Model, **fields: Any) -> list[imagegen.ImageEvent]:
    async with model.stream(
        "a fox", **({"seed": 7, "size": "64x64", "steps": 3} | fields)
    ) as stream:
        return [event async for event in stream]


async def test_the_place_in_the_queue_is_told(serve: Serve) -> None:
    server = ComfyUI()
    server.websocket = False
    server.hold_at(1)
    for seed in (1, 2):
        server.submit(others(seed=seed))
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
        done = (await heard(provider.image_model("current"), previews=2))[-1]
    assert isinstance(done, imagegen.Done)
    assert [(warning.code, warning.field) for warning in done.result.warnings] == [
        ("UNSUPPORTED_FIELD", "previews")
    ]


async def test_over_a_foreign_transport(serve: Serve) -> None:
    server = ComfyUI()
    async with (
        httpx.AsyncClient() as client,
        md.ComfyUI(serve(server).url, transport=client) as provider,
    ):
        events = await heard(
            provider.image_model("current"), images=[md.ImagePart(png(size=(64, 64)))]
        )
    assert [type(event) for event in events] == [imagegen.Done]


async def test_a_stream_that_is_left_withdraws_its_job(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    async with md.ComfyUI(serve(server).url) as provider:
        left = threading.Event()
        async with anyio.create_task_group() as group:

            async def listen() -> None:
                async with provider.image_model("current").stream("a fox", size="64x64") as stream:
                    async for _ in stream:
                        pass
                left.set()

            group.start_soon(listen)
            await until(server.reached)
            group.cancel_scope.cancel()
        await until(server.idle)
    assert not left.is_set()
    assert server.interrupts == 1


# Listening, over a websocket


async def held(provider: md.ComfyUI, server: ComfyUI, **fields: Any) -> list[imagegen.ImageEvent]:
    """The events of a call that stands at its second step until that step, or the preview of it, is told."""
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
async def test_steps_and_previews_are_told(serve: Serve, old: bool) -> None:
    server = ComfyUI(old=old)
    handler = serve(server)
    async with md.ComfyUI(handler.url, api_key="user-key") as provider:
        events = await held(provider, server, previews=1)
        told = [event for event in events if not isinstance(event, imagegen.Queued)]
        assert told[:2] == [imagegen.Step(1, 3), imagegen.Step(2, 3)]
        assert isinstance(told[2], imagegen.Preview)
        assert (told[2].image.mime, told[2].image.width) == ("image/jpeg", 8)
        assert isinstance(told[-1], imagegen.Done)
        assert told[3:-1] in ([imagegen.Step(3, 3)], [])
        assert dot(told[-1].result.image) == color(FOX)
        assert told[-1].result.warnings == ()
        await until(server.listening, 0)
    paths = [seen.path.partition("?")[0] for seen in handler.seen]
    assert paths.index("/ws") < paths.index("/prompt")
    (handshake,) = [seen for seen in handler.seen if seen.path.startswith("/ws")]
    assert handshake.path == f"/ws?clientId={server.submitted[0]['client_id']}"
    assert handshake.headers["authorization"] == "Bearer user-key"
    assert "origin" not in handshake.headers


async def test_nobody_listens_no_websocket(serve: Serve) -> None:
    handler = serve(ComfyUI())
    async with md.ComfyUI(handler.url) as provider:
        await provider.image_model("current").generate("a fox", size="64x64", seed=7)
    assert not [seen for seen in handler.seen if seen.path.startswith("/ws")]


def test_the_blocking_color_hears_it_too(serve: Serve) -> None:
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
async def test_what_others_do_is_not_ours(serve: Serve, old: bool) -> None:
    """A job without a client's id is told to everybody, and so is every interrupt."""
    server = ComfyUI(old=old)
    server.hold_at(1)
    other = server.submit(others(steps=1))
    await until(server.reached)
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
                server.hold_at(2)  # the other ends, ours begins
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


def no_json(server: ComfyUI) -> None:
    server.show(b"")
    server.say("progress", "nonsense")
    server.say("progress_state", {"nodes": [], "prompt_id": None})


@pytest.mark.parametrize("trouble", [ComfyUI.drop_sockets, broken_frame, huge_message, no_json])
async def test_the_image_comes_whatever_becomes_of_the_websocket(
    serve: Serve, trouble: Callable[[ComfyUI], None]
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
                trouble(server)
                server.release()
    assert isinstance(events[-1], imagegen.Done)
    assert dot(events[-1].result.image) == color(FOX)


async def test_a_websocket_that_says_nothing(serve: Serve) -> None:
    server = ComfyUI()
    server.silent = True
    async with md.ComfyUI(serve(server).url) as provider:
        events = await heard(provider.image_model("current"))
    assert isinstance(events[-1], imagegen.Done)


async def test_without_wsproto(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "majordomo.transport.websocket", None)
    server = ComfyUI()
    async with md.ComfyUI(serve(server).url) as provider:
        events = await heard(provider.image_model("current"))
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
                await until(server.ponged)
                server.release()


@pytest.mark.parametrize("websocket", [True, False])
async def test_a_failure_is_the_same_when_somebody_listens(serve: Serve, websocket: bool) -> None:
    server = ComfyUI()
    server.websocket = websocket
    server.failing = ("torch.OutOfMemoryError", "CUDA out of memory")
    async with md.ComfyUI(serve(server).url) as provider:
        with pytest.raises(md.BackendError) as caught:
            await heard(provider.image_model("current"))
    assert caught.value.code == "GPU_OOM"
    await until(server.listening, 0)


@pytest.mark.parametrize("websocket", [True, False])
async def test_an_interrupt_is_the_same_when_somebody_listens(
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
                outcome.append(await heard(provider.image_model("current")))
            except md.MajordomoError as error:
                outcome.append(error)

        group.start_soon(call)
        await until(server.reached)
        async with httpx.AsyncClient() as client:
            await client.post(f"{handler.url}/interrupt")
    assert isinstance(outcome[0], md.JobCancelledError)


async def test_a_stream_that_is_left_closes_its_websocket(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    async with md.ComfyUI(serve(server).url) as provider:
        async with provider.image_model("current").stream(
            "a fox", seed=7, size="64x64", steps=3
        ) as stream:
            async for event in stream:
                if isinstance(event, imagegen.Step):
                    break
        await until(server.idle)
        await until(server.listening, 0)
    assert server.interrupts == 1


async def test_a_job_whose_id_is_not_known_yet_is_withdrawn(serve: Serve) -> None:
    """An old server has the job before we hear what it calls it; it knows whose it is."""
    server = ComfyUI(old=True)
    server.hold_at(1)
    mine = server.submit(others())
    await until(server.reached)
    queued = threading.Event()

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            answer = server.answer(seen)
            if seen.path == "/prompt":
                queued.set()
                peer.wait_for_close()
                return
            peer.send(answer.sent)

    async with md.ComfyUI(serve(handler).url) as provider:
        async with drawing(provider.image_model("current")) as (_, scope):
            await until(queued.wait, 5)
            scope.cancel()
        assert server.pending(0, 0)
    assert server.running == mine
    assert server.interrupts == 0


async def test_more_images_than_the_limit_are_left_there(serve: Serve) -> None:
    async with md.ComfyUI(serve(ComfyUI()).url, limits=md.Limits(max_images=2)) as provider:
        workflow_of_four = {"5": {"inputs": {"batch_size": 4}}}
        result = await provider.image_model("current").generate(
            "a fox", seed=7, size="64x64", extra={"comfyui": workflow_of_four}
        )
    assert len(result.images) == 2
    assert [warning.code for warning in result.warnings] == ["IMAGES_NOT_FETCHED"]


async def test_a_queue_too_long_to_read_costs_no_image(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    looked = threading.Event()

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            if seen.path == "/queue" and seen.method == "GET":
                peer.send(Answer(200, b" " * 40_000 + b"{}").sent)
                looked.set()
            else:
                peer.send(server.answer(seen).sent)

    async with (
        md.ComfyUI(serve(handler).url, limits=md.Limits(max_reply_bytes=20_000)) as provider,
        drawing(provider.image_model("current")) as (outcome, _),
    ):
        await until(looked.wait, 5)
        server.release()
    assert dot(outcome[0].image) == color(FOX)


async def test_extra_for_others_stays_out_of_the_graph(serve: Serve) -> None:
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
    assert server.inputs == {}, "said before anything was sent"
    assert caught.value.field == "extra"
    assert server.jobs[0]["cfg"] == 7.0
    assert len(server.submitted) == 1


async def test_without_a_list_of_samplers_our_own_table_does(serve: Serve) -> None:
    server = ComfyUI()

    def handler(peer: Peer) -> None:
        while (seen := peer.request()) is not None:
            peer.send(
                (
                    Answer(404, b"", None)
                    if seen.path.endswith("/KSampler")
                    else server.answer(seen)
                ).sent
            )

    async with md.ComfyUI(serve(handler).url) as provider:
        await provider.image_model("current").generate(
            "a fox", seed=7, size="64x64", sampler="euler_a"
        )
    assert server.jobs[0]["sampler_name"] == "euler_ancestral"
