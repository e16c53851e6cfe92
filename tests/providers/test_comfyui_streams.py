"""Streams of the ComfyUI provider, with and without a websocket."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

import majordomo as md
from majordomo import imagegen
from tests.servers.comfyui import ComfyUI, color
from tests.servers.plain_client import png
from tests.support.comfyui_calls import (
    FOX,
    custom_workflow,
    running_call,
    wait_in_thread,
)
from tests.support.loopback import Handler, Loopback, Peer
from tests.support.sample_images import rgb_pixel

pytestmark = pytest.mark.anyio
Serve = Callable[[Handler], Loopback]


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
            await wait_in_thread(server.reached)
            group.cancel_scope.cancel()
        await wait_in_thread(server.idle)
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
        assert rgb_pixel(progress_events[-1].result.image) == color(FOX)
        assert progress_events[-1].result.warnings == ()
        await wait_in_thread(server.listening, 0)
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
    await wait_in_thread(server.reached)
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
    assert rgb_pixel(events[-1].result.image) == color(FOX)


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
                await wait_in_thread(server.ponged)
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
    await wait_in_thread(server.listening, 0)


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
        await wait_in_thread(server.reached)
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
        await wait_in_thread(server.idle)
        await wait_in_thread(server.listening, 0)
    assert server.interrupts == 1


async def test_a_job_whose_id_has_not_arrived_is_cancelled(serve: Serve) -> None:
    """An old server chooses the job's id, but it knows which client submitted the job."""
    server = ComfyUI(old=True)
    server.hold_at(1)
    other_job = server.submit(custom_workflow())
    await wait_in_thread(server.reached)
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
            await wait_in_thread(queued.wait, 5)
            scope.cancel()
        assert server.pending(0, 0)
    assert server.running == other_job
    assert server.interrupts == 0
