"""How jobs of the ComfyUI provider end: failed, cancelled, lost, or with invalid replies."""

from __future__ import annotations

import threading
from collections.abc import Callable

import httpx
import pytest

import majordomo as md
from tests.servers.comfyui import ComfyUI, color
from tests.servers.http_helpers import Response, json_response
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
        await wait_in_thread(server.reached)
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
        await wait_in_thread(server.reached)
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
async def test_a_cancelled_call_interrupts_its_own_job(serve: Serve, old: bool) -> None:
    server = ComfyUI(old=old)
    server.hold_at(1)
    async with md.ComfyUI(serve(server).url) as provider:
        async with running_call(provider.image_model("current")) as (outcome, scope):
            await wait_in_thread(server.reached)
            scope.cancel()
        await wait_in_thread(server.idle)
    assert outcome == []
    assert [entry["status"]["messages"][-1][0] for entry in server.history.values()] == [
        "execution_interrupted"
    ]


@pytest.mark.parametrize("old", [True, False])
async def test_a_cancelled_queued_call_leaves_the_queue_and_interrupts_no_other_job(
    serve: Serve, old: bool
) -> None:
    server = ComfyUI(old=old)
    server.hold_at(1)
    other_job = server.submit(custom_workflow())
    async with md.ComfyUI(serve(server).url) as provider:
        await wait_in_thread(server.reached)
        async with running_call(provider.image_model("current")) as (_, scope):
            await wait_in_thread(server.pending)
            scope.cancel()
        await wait_in_thread(server.pending, 0)
        assert server.running == other_job
    assert server.interrupts == 0


async def test_a_timeout_cancels_the_job(serve: Serve) -> None:
    server = ComfyUI()
    server.hold_at(1)
    async with md.ComfyUI(serve(server).url, timeout=md.Timeout(first_byte=0.3)) as provider:
        with pytest.raises(md.DeadlineExceededError):
            await provider.image_model("current").generate("a", size="64x64")
        await wait_in_thread(server.idle)
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
        await wait_in_thread(queue_was_read.wait, 5)
        server.release()
    assert rgb_pixel(outcome[0].image) == color(FOX)
