"""What every image backend promises: valid results, typed errors, ordered events, no leaks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import anyio
import pytest

import majordomo as md
from majordomo import imagegen
from majordomo.providers.base import provider_names
from tests.support.image_backends import BACKENDS, Backend
from tests.support.loopback import Handler, Loopback, Peer, http_response, reply_with
from tests.support.recording_observer import RecordingObserver
from tests.support.wait_until import wait_until

Serve = Callable[[Handler], Loopback]
Image = Callable[..., md.ImagePart]
pytestmark = pytest.mark.anyio
KEY = "sk-conform/ance+key"
ONCE = md.Retries(attempts=1)
every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)


def test_every_image_provider_is_tested() -> None:
    """All but Offline, which has no server, and Anthropic, which has no images."""
    assert {backend.name.partition(" ")[0] for backend in BACKENDS} == provider_names() - {
        "offline",
        "anthropic",
    }


def rank(event: imagegen.ImageEvent) -> int:
    return {
        imagegen.Queued: 0,
        imagegen.Loading: 1,
        imagegen.Step: 2,
        imagegen.Preview: 2,
        imagegen.Done: 3,
    }[type(event)]


def check(result: imagegen.Result, count: int) -> None:
    assert len(result.images) == len(result.details) == count
    for image, detail in zip(result.images, result.details, strict=True):
        assert image.to_pil().size == detail.actual_size == (image.width, image.height)
    text = json.dumps(result.raw)
    assert not any(image.to_base64() in text for image in result.images)
    assert all(isinstance(warning, md.CallWarning) for warning in result.warnings)


@every_backend
async def test_a_result_is_valid(backend: Backend, serve: Serve) -> None:
    async with backend.connect(serve(backend.server()).url) as provider:
        model = provider.image_model(backend.model)
        result = await model.generate("a red fox", n=2, **backend.fields)
        check(result, 2)
        assert result.provider == model.provider == provider.name
        assert model.id == backend.model
        assert result.model and (result.model == model.id or model.id == "current"), (
            "the server may report the loaded model by name"
        )
        assert (await provider.health()).ok
        assert await provider.models()


@every_backend
async def test_events_are_ordered_and_done_is_the_last(backend: Backend, serve: Serve) -> None:
    provider = backend.connect(serve(backend.server()).url)
    async with (
        provider,
        provider.image_model(backend.model).stream(
            "a red fox", n=2, previews=2, **backend.fields
        ) as stream,
    ):
        with pytest.raises(RuntimeError, match="no result yet"):
            _ = stream.result
        events = [event async for event in stream]
    ranks = [rank(event) for event in events]
    assert ranks == sorted(ranks)
    assert ranks.count(3) == 1
    steps = [event.step for event in events if isinstance(event, imagegen.Step)]
    assert steps == sorted(set(steps))
    assert all(
        isinstance(event.image, md.ImagePart)
        for event in events
        if isinstance(event, imagegen.Preview)
    )
    assert stream.result is events[-1].result
    check(stream.result, 2)


@every_backend
def test_the_sync_api_returns_equivalent_results(backend: Backend, serve: Serve) -> None:
    with backend.connect(serve(backend.server()).url) as provider:
        model = provider.image_model(backend.model)
        check(model.generate_sync("a red fox", **backend.fields), 1)
        with model.stream_sync("a red fox", **backend.fields) as stream:
            assert isinstance(list(stream)[-1], imagegen.Done)


@every_backend
async def test_every_call_is_observed_once(backend: Backend, serve: Serve) -> None:
    server = serve(backend.server())
    for streamed in (False, True):
        witness = RecordingObserver()
        async with backend.connect(server.url, observers=[witness]) as provider:
            model = provider.image_model(backend.model, imagegen.with_user_id("user-42"))
            if streamed:
                async with model.stream("a red fox", n=2, **backend.fields) as stream:
                    events = [event async for event in stream]
                expected = [
                    event
                    for event in events
                    if isinstance(event, (imagegen.Queued, imagegen.Loading, imagegen.Step))
                ]
                assert [event for name, event in witness.events if name == "on_event"] == expected
            else:
                await model.generate("a red fox", n=2, **backend.fields)
        [call] = witness.calls
        assert (call.operation, call.provider, call.model, call.user_id) == (
            "image",
            provider.name,
            backend.model,
            "user-42",
        )
        assert (call.streamed, call.address, call.settings) == (
            streamed,
            server.url,
            {"n": 2, **backend.fields},
        )
        outcome = witness.outcome
        assert (outcome.images, outcome.usage.images, outcome.content) == (2, 2, None)
        assert outcome.usage.pixels
        assert outcome.seconds <= call.elapsed()


STATUSES: dict[int, type[md.MajordomoError]] = {
    400: md.InvalidRequestError,
    401: md.AuthenticationError,
    403: md.PermissionDeniedError,
    404: md.NotFoundError,
    429: md.RateLimitError,
    500: md.BackendError,
    503: md.OverloadedError,
}


@every_backend
@pytest.mark.parametrize("status", STATUSES)
async def test_a_status_maps_to_its_error_class(
    backend: Backend, serve: Serve, status: int
) -> None:
    server = serve(reply_with(http_response({"error": f"no {KEY}"}, status)))
    headers = {"x-extra": KEY}
    async with backend.connect(server.url, retries=ONCE, headers=headers) as provider:
        for ask in (
            provider.image_model(backend.model).generate("a"),
            _streamed(provider.image_model(backend.model)),
        ):
            with pytest.raises(STATUSES[status]) as caught:
                await ask
            assert caught.value.status == status
            assert caught.value.provider == provider.name
            assert caught.value.model == backend.model
            assert KEY not in repr(caught.value) + json.dumps(caught.value.to_dict())


async def _streamed(model: imagegen.Model) -> None:
    async with model.stream("a", previews=1) as stream:
        async for _ in stream:
            pass


MALFORMED: dict[str, bytes] = {
    "empty": http_response(b""),
    "no JSON": http_response(b"hello"),
    "a page": http_response(
        b"<html><title>Login</title></html>", headers={"content-type": "text/html"}
    ),
    "another shape": http_response({"hello": "world"}),
    "a list": http_response(b"[1, 2, 3]"),
    "null": http_response(b"null"),
    "deep": http_response(b"[" * 100_000),
    "cut": http_response(b'{"data": [')[:-4] + b"    ",
    "bytes": http_response(bytes(range(256))),
    "no HTTP": b"HELO\r\n\r\n",
    "redirect": http_response(b"", 302, {"location": "http://127.0.0.1:9/"}),
    "no image": http_response(
        {
            "data": [{"b64_json": "aGVsbG8="}],
            "images": ["aGVsbG8="],
            "id": "j",
            "status": "completed",
            "done": True,
        }
    ),
}


@every_backend
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_reply_is_a_typed_error(
    backend: Backend, serve: Serve, body: bytes
) -> None:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(body)
            if body.startswith(b"HELO"):
                return

    async with backend.connect(serve(handler).url, retries=ONCE, timeout=5) as provider:
        for ask in (
            provider.image_model(backend.model).generate("a"),
            _streamed(provider.image_model(backend.model)),
        ):
            with pytest.raises(md.MajordomoError) as caught:
                await ask
            assert not isinstance(
                caught.value, (md.InvalidRequestError, md.ConfigurationError)
            ) or isinstance(caught.value, md.UnsupportedError)


@every_backend
async def test_an_endless_reply_is_refused_in_time(backend: Backend, serve: Serve) -> None:
    def handler(peer: Peer) -> None:
        if peer.request() is None:
            return
        peer.begin(headers={"content-type": "application/json"})
        peer.chunk(b'{"data": [{"b64_json": "')
        while not peer.closed_by_client.is_set():
            peer.chunk(b"AAAA" * 4096)
            if peer.wait_for_close(0.001):
                return

    limits = md.Limits(
        max_reply_bytes=100_000,
        max_image_reply_bytes=200_000,
        max_image_event_bytes=150_000,
        max_image_bytes=100_000,
    )
    server = serve(handler)
    async with backend.connect(server.url, retries=ONCE, timeout=20, limits=limits) as provider:
        with pytest.raises(md.BadResponseError) as caught:
            await provider.image_model(backend.model).generate("a")
        assert caught.value.code in ("TOO_LARGE", "IMAGE_TOO_LARGE")


@every_backend
async def test_a_truncated_reply_is_a_typed_error_and_is_not_retried(
    backend: Backend, serve: Serve
) -> None:
    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request.method == "POST":
                peer.begin(headers={"content-type": "application/json"})
                peer.chunk(b'{"data": [{"b64_json": "AAAA')
                return
            peer.reply({}, 404)

    server = serve(handler)
    async with backend.connect(server.url) as provider:
        with pytest.raises(md.MajordomoError) as caught:
            await provider.image_model(backend.model).generate("a")
        assert not isinstance(caught.value, md.ConfigurationError)
    assert len([request for request in server.requests if b"prompt" in request.body]) <= 1


@every_backend
async def test_a_silent_backend_times_out_and_leaves_no_connection(
    backend: Backend, serve: Serve
) -> None:
    server = serve(lambda peer: (peer.request(), peer.wait_for_close(10)))
    async with backend.connect(server.url, timeout=0.4) as provider:
        started_at = time.monotonic()
        with pytest.raises(md.DeadlineExceededError):
            await provider.image_model(backend.model).generate("a")
        assert time.monotonic() - started_at < 3, "a clean-up is bounded"
    await _all_closed(server)


@every_backend
async def test_a_cancelled_call_leaves_no_connection(backend: Backend, serve: Serve) -> None:
    server = serve(lambda peer: (peer.request(), peer.wait_for_close(10)))
    async with backend.connect(server.url) as provider:
        model = provider.image_model(backend.model)
        for call in (lambda: model.generate("a"), lambda: _streamed(model)):
            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await wait_until(lambda: server.requests, seconds=5)
                group.cancel_scope.cancel()
            server.requests.clear()
    await _all_closed(server)


async def _all_closed(server: Loopback) -> None:
    await wait_until(
        lambda: all(peer.closed_by_client.is_set() for peer in server.peers), seconds=5
    )


@every_backend
async def test_an_exception_inside_the_stream_block_is_raised_unchanged(
    backend: Backend, serve: Serve
) -> None:
    async with backend.connect(serve(backend.server()).url) as provider:
        with pytest.raises(LookupError, match="mine"):
            async with provider.image_model(backend.model).stream("a", **backend.fields) as stream:
                async for _ in stream:
                    raise LookupError("mine")


@every_backend
async def test_oversized_input_images_are_refused_before_sending(
    backend: Backend, serve: Serve, image: Image
) -> None:
    server = serve(backend.server())
    async with backend.connect(server.url, limits=md.Limits(max_image_pixels=1000)) as provider:
        for fields, field in (
            ({"images": [image()]}, "images"),
            ({"images": [image(8, 8)], "mask": image()}, "mask"),
        ):
            with pytest.raises(md.InvalidRequestError) as caught:
                await provider.image_model(backend.model).generate("a", **fields)
            assert caught.value.field == field
    assert server.requests == []
